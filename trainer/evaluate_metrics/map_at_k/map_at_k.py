"""mAP@k as CIRCO defines it, with min(k, number of correct images) below."""

import datasets
import evaluate

from trainer.metrics import index_rankings, map_at_k, relevance


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
        ids = sorted({name for row in predictions for name in row})
        ranking = index_rankings(predictions, ids, max(k, *map(len, predictions)))
        return {"map_at_k": map_at_k(relevance(ranking, ids, references), [len(set(row)) for row in references], k)}
