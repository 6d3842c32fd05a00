import itertools

import pytest
import torch

from trainer.arguments import RTDTrainingArguments
from trainer.length_groups import encode_in_groups, group_by_length


def count_tokens(groups):
    return sum((stop - start) * longest for start, stop, longest in groups)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_groups_cost_as_little_as_the_best_of_all_cuts(count):
    lengths = sorted([4, 7, 7, 8, 8, 8, 12, 15, 15, 31])
    groups = group_by_length(lengths, count)
    assert [row for start, stop, _ in groups for row in range(start, stop)] == list(range(10))
    assert all(longest == max(lengths[start:stop]) for start, stop, longest in groups)
    every = (
        [(a, b, lengths[b - 1]) for a, b in itertools.pairwise([0, *cuts, 10])]
        for cuts in itertools.combinations(range(1, 10), count - 1)
    )
    assert count_tokens(groups) == min(map(count_tokens, every))


@pytest.mark.parametrize(("lengths", "groups"), [([5, 5, 5], 2), ([2, 2, 9], 3), ([5], 1)])
def test_there_are_always_as_many_groups_as_asked_for(lengths, groups):
    # Processes that train together call their wrapped model equally often.
    assert len(group_by_length(lengths, groups)) == groups
    assert len(group_by_length(lengths, 8)) == len(lengths)


def test_groups_are_encoded_as_the_whole_batch_is(model):
    ids = torch.tensor([[1, 5, 3, 0, 0], [1, 6, 3, 0, 0], [1, 5, 6, 7, 3]])
    groups = group_by_length([3, 3, 5], 2)
    expected = model.text_model(input_ids=ids).text_embeds
    torch.testing.assert_close(encode_in_groups(model.text_model, groups, input_ids=ids), expected)
    torch.testing.assert_close(encode_in_groups(model.text_model, None, input_ids=ids), expected)


def test_nothing_but_a_number_of_groups_is_accepted():
    with pytest.raises(ValueError, match="`length_groups` must be 1 or more, got 0"):
        RTDTrainingArguments(use_cpu=True, length_groups=0)
