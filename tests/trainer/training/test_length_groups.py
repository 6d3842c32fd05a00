import itertools

import pytest

from trainer.training.arguments import RTDTrainingArguments
from trainer.training.length_groups import group_by_length


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


def test_equal_lengths_are_never_cut():
    assert group_by_length([5, 5, 5], 4) == [(0, 3, 5)]


def test_nothing_but_a_number_of_groups_is_accepted():
    with pytest.raises(ValueError, match="`length_groups` must be 1 or more, got 0"):
        RTDTrainingArguments(use_cpu=True, length_groups=0)
