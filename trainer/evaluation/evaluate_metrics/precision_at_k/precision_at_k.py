"""P@k: the mean share of correct images among the first k."""

import datasets
import evaluate

from trainer.evaluation.evaluate_metrics import mark_hits
from trainer.evaluation.metrics import precision_at_k


__all__ = ["PrecisionAtK"]

_CITATION = "https://huggingface.co/papers/2302.03084"


class PrecisionAtK(evaluate.Metric):
    """P@k: the mean share of correct images among the first k.

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

    def _compute(self, predictions, references, k=10):
        hits, _ = mark_hits(predictions, references, k)
        return {"precision_at_k": precision_at_k(hits, k)}
