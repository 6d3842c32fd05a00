import itertools

import pytest
import torch

from trainer.encoding.length_groups import group_by_length, run_in_groups
from trainer.training.arguments import RTDTrainingArguments


ENDS = [3, 4, 4, 7]  # of rows of eight tokens


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


@pytest.fixture
def inputs():
    ids = torch.tensor([[1, 4, *[6 + row] * (end - 2), 3, *[0] * (7 - end)] for row, end in enumerate(ENDS)])
    used = torch.tensor([[True, False], [True, True], [True, True], [True, False]])
    ids[2, 2] = ids[3, 2] = 4
    return {
        "input_ids": ids,
        "placeholder_mask": ids == 4,
        "pseudo_token_embeds": torch.randn(4, 2, 32),
        "pseudo_token_mask": used,
        "branch_index": torch.tensor([2, 3, 3, 5]),
    }


@pytest.mark.parametrize(
    ("implementation", "dtype", "tolerance"),
    [("eager", torch.float64, 1e-6), ("sdpa", torch.float64, 1e-10), ("sdpa", torch.float32, 1e-6)],
)
def test_groups_give_the_same_embeddings_and_gradients(model, inputs, implementation, dtype, tolerance):
    tower = model.text_model.to(dtype)
    tower.set_attn_implementation(implementation)
    inputs["pseudo_token_embeds"] = inputs["pseudo_token_embeds"].to(dtype)
    results = []
    for groups in (None, group_by_length([end + 1 for end in ENDS], 3)):
        tower.zero_grad()
        embeds = run_in_groups(tower, groups, **inputs)
        embeds.square().mean().backward()
        results.append([embeds, *(p.grad.clone() for p in tower.parameters())])
    for whole, parts in zip(*results, strict=True):
        # transformers' eager attention sums in float32, over another number of zeros.
        torch.testing.assert_close(parts, whole, atol=tolerance, rtol=tolerance)


def test_the_model_is_called_once_for_each_group(model, inputs):
    shapes = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["placeholder_mask"].shape)), with_kwargs=True
    )
    groups = [(0, 1, 4), (1, 3, 5), (3, 4, 8)]
    assert run_in_groups(model.text_model, groups, **inputs).shape == (4, 2, 24)
    assert shapes == [(1, 4), (2, 5), (1, 8)]


@pytest.mark.parametrize("groups", [None, [(0, 4, 8)]])
def test_one_group_takes_the_inputs_as_they_are(model, inputs, groups):
    seen = []
    model.text_model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    run_in_groups(model.text_model, groups, **inputs)
    assert [{name: id(values) for name, values in kwargs.items()} for kwargs in seen] == [
        {name: id(values) for name, values in inputs.items()}
    ]


def test_nothing_but_a_number_of_groups_is_accepted():
    with pytest.raises(ValueError, match="`length_groups` .* 1 .*got 0"):
        RTDTrainingArguments(use_cpu=True, length_groups=0)


def test_buffers_are_not_sent_at_each_call():
    assert RTDTrainingArguments(use_cpu=True).ddp_broadcast_buffers is False
    with pytest.raises(ValueError, match="`ddp_broadcast_buffers`"):
        RTDTrainingArguments(use_cpu=True, ddp_broadcast_buffers=True)
