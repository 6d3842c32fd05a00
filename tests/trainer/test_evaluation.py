import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value

from tests.builders import build_images
from trainer.benchmarks import Benchmark
from trainer.evaluation import RetrievalEvaluator


@pytest.fixture
def benchmark():
    images = build_images(12)
    gallery = Dataset.from_dict({"id": [f"g{i}" for i in range(10)], "image": images[:10]})
    queries = Dataset.from_dict(
        {
            "id": ["q0", "q1", "q2"],
            "reference_id": ["g0", "g1", "elsewhere"],
            "reference_image": [images[0], images[1], images[11]],
            "condition": ["is red", "is blue with the dog", "has no sleeves"],
            "target_ids": [["g3"], ["g1", "g7"], ["g2", "g4", "g5"]],
            "subset_ids": [["g3", "g4"], ["g7", "g8", "g9"], ["g2", "g6"]],
        },
        features=Features(
            {
                "id": Value("string"),
                "reference_id": Value("string"),
                "reference_image": Image(),
                "condition": Value("string"),
                "target_ids": List(Value("string")),
                "subset_ids": List(Value("string")),
            }
        ),
    )
    return Benchmark("tiny", "test", gallery, queries, exclude_reference=True)


def test_composed_queries_in_batches_equal_the_model_one_by_one(model, processor, benchmark):
    queries = RetrievalEvaluator(model, processor, benchmark, batch_size=2).encode_queries(model)
    for row, query in zip(queries, benchmark.queries, strict=True):
        with torch.no_grad():
            inputs = processor(images=[query["reference_image"]], conditions=[query["condition"]])
            torch.testing.assert_close(row, model(**inputs).composed_embeds[0], atol=2e-6, rtol=0)


def test_baselines_read_one_side_or_add_both(model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    text, image, both = (evaluator.encode_queries(model, mode) for mode in ("text", "image", "sum"))
    assert torch.allclose(both, torch.nn.functional.normalize(text + image, dim=-1), atol=1e-6)
    assert torch.allclose(image[0], evaluator.gallery_embeds[0], atol=1e-6)  # reference g0 is gallery image g0


def test_scores_equal_a_count_by_hand(model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    queries = evaluator.encode_queries(model)
    metrics = evaluator.score(queries)
    hits = {1: [], 5: [], 10: []}
    precisions, subset = [], []
    for query, row in zip(queries, benchmark.queries, strict=True):
        scores = {
            name: float(query @ embeds)
            for name, embeds in zip(evaluator.gallery_ids, evaluator.gallery_embeds, strict=True)
        }
        best_of_subset = max(row["subset_ids"], key=scores.get)
        scores[row["reference_id"]] = -9.0
        order = sorted((name for name in scores if name != "elsewhere"), key=scores.get, reverse=True)
        for k in hits:
            hits[k].append(any(name in row["target_ids"] for name in order[:k]))
        found = [name in row["target_ids"] for name in order[:5]]
        total = sum(sum(found[: i + 1]) / (i + 1) for i in range(5) if found[i])
        precisions.append(total / min(5, len(row["target_ids"])))
        subset.append(best_of_subset in row["target_ids"])
    for k, values in hits.items():
        assert metrics[f"recall@{k}"] == np.mean(values)
    assert metrics["map@5"] == pytest.approx(np.mean(precisions))
    assert metrics["subset_recall@1"] == np.mean(subset)


def test_the_reference_comes_last_where_it_is_excluded(model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    ranking = evaluator.rank(evaluator.encode_queries(model, "image"))
    assert ranking[0, -1] == 0
    assert ranking[1, -1] == 1


def test_an_unknown_mode_is_refused(model, processor, benchmark):
    with pytest.raises(ValueError, match="composed, text, image, sum, got 'audio'"):
        RetrievalEvaluator(model, processor, benchmark).encode_queries(model, "audio")
