import numpy as np
import pytest

from trainer.evaluation.diagnosis.single_modality import compute_single_modality


def test_groups_equal_a_count_query_by_query():
    rng = np.random.default_rng(0)
    text, image, composed = rng.integers(1, 12, size=(3, 300))
    facts = compute_single_modality(text, image, composed, k=5)
    names = {(True, False): "text only", (False, True): "image only", (True, True): "both", (False, False): "neither"}
    found = {name: [] for name in names.values()}
    for t, i, c in zip(text <= 5, image <= 5, composed <= 5, strict=True):
        found[names[bool(t), bool(i)]].append(c)
    for name, hits in found.items():
        assert facts[name] == {
            "share": len(hits) / 300,
            "count": len(hits),
            "composed": pytest.approx(np.mean(hits)),
        }
    alone = [hit for name, hits in found.items() if name != "neither" for hit in hits]
    assert facts["lost"] == pytest.approx((len(alone) - sum(alone)) / 300)


def test_a_group_without_queries_has_no_recall():
    facts = compute_single_modality(np.array([9]), np.array([9]), np.array([1]), k=5)
    assert facts["both"] == {"share": 0, "count": 0, "composed": None}
