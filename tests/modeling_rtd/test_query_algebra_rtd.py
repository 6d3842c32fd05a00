"""The formulas against numpy, in double precision."""

import numpy as np
import pytest
import torch

from modeling_rtd import exclude_text, join_references, weigh_condition


def draw(seed, rows=5, dim=7):
    return np.random.default_rng(seed).normal(size=(rows, dim)) * 3


def norm(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, [0.0, 0.2, 0.5, 0.9, 1.0]])
def test_strength_is_its_formula(strength):
    reference, composed = draw(0), draw(1)
    share = np.array(strength).reshape(-1, 1)
    expected = norm((1 - share) * norm(reference) + share * norm(composed))
    ours = weigh_condition(torch.tensor(reference), torch.tensor(composed), strength)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.4, 2, [0.0, 0.1, 0.5, 1.0, 3.0]])
def test_the_negative_text_is_its_formula(weight):
    query, negative = draw(0), draw(1)
    expected = norm(norm(query) - np.array(weight).reshape(-1, 1) * norm(negative))
    ours = exclude_text(torch.tensor(query), torch.tensor(negative), weight)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1, 1], [0.5, 0, 2, 0.25, 1]])
def test_several_references_are_their_weighted_mean(weights):
    embeds = draw(0)
    expected = norm(np.average(norm(embeds), axis=0, weights=weights))
    np.testing.assert_allclose(join_references(torch.tensor(embeds), weights).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("strength", [-0.1, 1.001, float("nan"), "0.5", True, None])
def test_a_strength_outside_is_refused(strength):
    with pytest.raises(ValueError, match="`strength` must lie between 0"):
        weigh_condition(torch.eye(2), torch.eye(2), strength)


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan"), [0.1, -1]])
def test_a_negative_weight_below_zero_is_refused(weight):
    with pytest.raises(ValueError, match="`weight` must be a finite number of at least 0"):
        exclude_text(torch.eye(2), torch.eye(2), weight)


def test_a_query_that_cancels_out_is_refused():
    with pytest.raises(ValueError, match="nothing is left of a query"):
        exclude_text(torch.eye(2), 3 * torch.eye(2), 1.0)
    with pytest.raises(ValueError, match="nothing is left of a query"):
        join_references(torch.tensor([[1.0, 0], [-1, 0]]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], "got 1 for 2"), ([0, 0], "at least one reference"), ([1, -1], "at least 0, got -1")],
)
def test_weights_of_references_are_checked(weights, message):
    with pytest.raises(ValueError, match=message):
        join_references(torch.eye(2), weights)


def test_embeddings_of_two_clips_are_not_mixed():
    with pytest.raises(ValueError, match=r"shapes \(2, 2\) and \(2, 3\) cannot be mixed"):
        weigh_condition(torch.eye(2), torch.eye(3)[:2], 0.5)
