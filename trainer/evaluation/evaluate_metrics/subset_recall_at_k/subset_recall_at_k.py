"""Recall@k within each query's own subset of the gallery, as CIRR defines it."""

import datasets
import evaluate

from trainer.evaluation.evaluate_metrics import index_predictions
from trainer.evaluation.metrics import subset_recall_at_k


__all__ = ["SubsetRecallAtK"]

_CITATION = "https://huggingface.co/papers/2108.04024"


class SubsetRecallAtK(evaluate.Metric):
    """Recall@k within each query's own subset of the gallery, as CIRR defines it.

    `compute` takes `predictions` (for each query ids of images, best first), `references` (for each its correct ids),
    `subset_ids` (for each its subset), perhaps `reference_ids` (for each the reference image, which leaves the subset)
    and `k`.
    """

    def _info(self):
        ids = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation=_CITATION,
            inputs_description=self.__doc__,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(self, predictions, references, subset_ids, reference_ids=None, k=1):
        ranking, ids = index_predictions(predictions, k)
        return {"subset_recall_at_k": subset_recall_at_k(ranking, ids, references, subset_ids, k, reference_ids)}
