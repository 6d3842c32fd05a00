import numpy as np
import pytest

from trainer.evaluation.diagnosis.alignment import compute_alignment, compute_cosines


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_alignment_equals_a_count_pair_by_pair():
    rng = np.random.default_rng(0)
    before, after, targets = (rng.normal(size=(20, 6)) for _ in range(3))
    gallery = np.concatenate([targets, rng.normal(size=(15, 6))])
    facts = compute_alignment(before, after, targets, gallery)
    for name, captions in (("before", before), ("after", after)):
        own = np.mean([cosine(c, t) for c, t in zip(captions, targets, strict=True)])
        others = np.mean([cosine(c, g) for c in captions for g in gallery])
        assert facts[name] == pytest.approx({"own": own, "any": others, "margin": own - others})
    change = facts["after"]["margin"] - facts["before"]["margin"]
    assert facts["margin_change"]["mean"] == pytest.approx(change)
    assert facts["margin_change"]["interval"][0] < change < facts["margin_change"]["interval"][1]
    drift = [cosine(b, a) for b, a in zip(before, after, strict=True)]
    assert facts["drift"]["mean"] == pytest.approx(np.mean(drift))


def test_a_tower_that_did_not_move_has_no_drift_and_no_change():
    rng = np.random.default_rng(0)
    captions, images = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    facts = compute_alignment(captions, 3 * captions, images, images)
    assert facts["drift"]["p5"] == pytest.approx(1)
    assert facts["own_change"]["mean"] == pytest.approx(0)


def test_cosines_do_not_depend_on_norms():
    rows = np.array([[1.0, 2.0], [0.5, -1.0]])
    np.testing.assert_allclose(compute_cosines(rows, 7 * rows), 1)
