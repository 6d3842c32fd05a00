"""R@k of domain conversion: the mean share of its correct images that a query finds among the first k."""

import datasets
import evaluate

from trainer.evaluation.evaluate_metrics import mark_hits
from trainer.evaluation.metrics import set_recall_at_k


__all__ = ["SetRecallAtK"]

_CITATION = "https://huggingface.co/papers/2302.03084"


class SetRecallAtK(evaluate.Metric):
    """R@k of domain conversion: the mean share of its correct images that a query finds among the first k.

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
        hits, numbers = mark_hits(predictions, references, k)
        return {"set_recall_at_k": set_recall_at_k(hits, numbers, k)}
