"""mAP@k as CIRCO defines it, with min(k, number of correct images) below."""

import datasets
import evaluate

from trainer.evaluation.evaluate_metrics import mark_hits
from trainer.evaluation.metrics import map_at_k


__all__ = ["MapAtK"]

_CITATION = "https://huggingface.co/papers/2303.15247"


class MapAtK(evaluate.Metric):
    """mAP@k as CIRCO defines it, with min(k, number of correct images) below.

    `compute` takes `predictions` (for each query ids of images, best first), `references` (for each its correct ids)
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

    def _compute(self, predictions, references, k=5):
        hits, numbers = mark_hits(predictions, references, k)
        return {"map_at_k": map_at_k(hits, numbers, k)}
