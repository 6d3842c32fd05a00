import numpy as np
import pytest
import torch

from trainer.training.losses import target_anchored_loss


def compute_nt_xent(composed, targets, temperature):
    """Formula of the published code, term by term."""
    z = np.concatenate([targets, composed])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    pairs = len(composed)
    total = 0.0
    for k in range(2 * pairs):
        partner = (k + pairs) % (2 * pairs)
        others = [np.exp(z[k] @ z[j] / temperature) for j in range(2 * pairs) if j != k]
        total -= np.log(np.exp(z[k] @ z[partner] / temperature) / np.sum(others))
    return total / (2 * pairs)


def compute_info_nce(composed, targets, temperature):
    q = composed / np.linalg.norm(composed, axis=1, keepdims=True)
    t = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    s = np.exp(q @ t.T / temperature)
    return -(np.log(np.diag(s) / s.sum(1)).mean() + np.log(np.diag(s) / s.sum(0)).mean()) / 2


@pytest.mark.parametrize(("loss_type", "oracle"), [("nt_xent", compute_nt_xent), ("info_nce", compute_info_nce)])
@pytest.mark.parametrize("pairs", [2, 3, 17])
@pytest.mark.parametrize("temperature", [0.07, 0.25, 1.0])
def test_losses_equal_their_formula(loss_type, oracle, pairs, temperature):
    rng = np.random.default_rng(pairs)
    composed, targets = rng.normal(size=(2, pairs, 8)) * rng.uniform(0.1, 10, size=(2, pairs, 1))
    ours = target_anchored_loss(torch.tensor(composed), torch.tensor(targets), temperature, loss_type)
    assert ours.item() == pytest.approx(oracle(composed, targets, temperature), abs=1e-12)


def test_two_orthogonal_pairs_by_hand():
    # Each row: its partner at similarity 1, two others at 0, so -ln(e / (e + 2)).
    expected = np.log((np.e + 2) / np.e)
    assert target_anchored_loss(torch.eye(2).double(), torch.eye(2).double(), 1.0).item() == pytest.approx(expected)


def test_equal_rows_give_the_logarithm_of_the_candidates():
    ones = torch.ones(4, 3, dtype=torch.float64)
    assert target_anchored_loss(ones, ones).item() == pytest.approx(np.log(7))
    assert target_anchored_loss(ones, ones, loss_type="info_nce").item() == pytest.approx(np.log(4))


def test_a_tiny_temperature_stays_finite_in_float32():
    composed = torch.randn(8, 16, requires_grad=True)
    loss = target_anchored_loss(composed, torch.randn(8, 16), 1e-4)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(composed.grad).all()


def test_the_order_of_the_batch_does_not_matter():
    composed, targets, order = torch.randn(9, 5).double(), torch.randn(9, 5).double(), torch.randperm(9)
    ours = target_anchored_loss(composed[order], targets[order])
    assert ours.item() == pytest.approx(target_anchored_loss(composed, targets).item(), abs=1e-12)


def test_gradients_equal_finite_differences():
    composed = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c: target_anchored_loss(c, targets, 0.3), (composed,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(1, 3), torch.ones(1, 3)), "at least 2 pairs, got 1"),
        ((torch.ones(3, 3), torch.ones(2, 3)), r"got \(3, 3\) and \(2, 3\)"),
        ((torch.ones(2, 3), torch.ones(2, 3), 0.0), "`temperature` must be greater than 0, got 0.0"),
        ((torch.ones(2, 3), torch.ones(2, 3), 1.0, "ntxent"), "got 'ntxent'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        target_anchored_loss(*arguments)
