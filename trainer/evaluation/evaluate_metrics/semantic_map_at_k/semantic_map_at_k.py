"""mAP@k of the queries with each semantic aspect, as CIRCO defines it."""

import datasets
import evaluate

from trainer.evaluation.evaluate_metrics import mark_hits
from trainer.evaluation.metrics import semantic_map_at_k


__all__ = ["SemanticMapAtK"]

_CITATION = "https://huggingface.co/papers/2303.15247"


class SemanticMapAtK(evaluate.Metric):
    """mAP@k of the queries with each semantic aspect, as CIRCO defines it.

    `compute` takes `predictions` (for each query ids of images, best first), `references` (for each its correct ids),
    `aspects` (for each its semantic aspects) and `k`. Gives a score for each aspect.
    """

    def _info(self):
        ids = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation=_CITATION,
            inputs_description=self.__doc__,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(self, predictions, references, aspects, k=10):
        hits, numbers = mark_hits(predictions, references, k)
        return {"semantic_map_at_k": semantic_map_at_k(hits, numbers, aspects, k)}
