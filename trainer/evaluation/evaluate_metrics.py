"""The metrics for the library evaluate, by name: `evaluate.load(evaluate_metrics.__file__, "recall_at_k")`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from modeling_rtd import suggest
from trainer.evaluation import metrics
from trainer.evaluation.ranking import index_rankings


__all__ = ["RetrievalMetric"]

# The paper that defines each, and its first k.
_METRICS = {
    "recall_at_k": ("2108.04024", 1),
    "subset_recall_at_k": ("2108.04024", 1),
    "map_at_k": ("2303.15247", 5),
    "semantic_map_at_k": ("2303.15247", 10),
    "set_recall_at_k": ("2302.03084", 10),
    "precision_at_k": ("2302.03084", 10),
}


class RetrievalMetric(evaluate.Metric):
    """A metric of `trainer.evaluation.metrics` by its name, which is the name of the configuration.

    The names are `recall_at_k`, `subset_recall_at_k`, `map_at_k`, `semantic_map_at_k`, `set_recall_at_k` and
    `precision_at_k`.

    `compute` takes `predictions` (for each query ids of images, best first), `references` (for each its correct ids)
    and `k`; for `subset_recall_at_k` also `subset_ids` (for each its subset) and perhaps `reference_ids` (for each the
    reference image, which leaves the subset). For `semantic_map_at_k` also `aspects` (for each its semantic aspects).
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _METRICS:
            raise ValueError(suggest("metric", self.config_name, _METRICS))
        # evaluate keeps its input in Arrow, which needs one type: ids are texts.
        ids = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=getattr(metrics, self.config_name).__doc__,
            citation=f"https://huggingface.co/papers/{_METRICS[self.config_name][0]}",
            inputs_description=self.__doc__,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[Sequence[str]],
        k: int | None = None,
        subset_ids: Sequence[Sequence[str]] | None = None,
        reference_ids: Sequence[str] | None = None,
        aspects: Sequence[Sequence[str]] | None = None,
    ) -> dict:
        if not predictions:
            raise ValueError("there are no predictions: give a list of ids for each query.")
        k = _METRICS[self.config_name][1] if k is None else k
        # There is no gallery here: what was predicted takes its place.
        ids = sorted({name for row in predictions for name in row})
        ranking = index_rankings(predictions, ids, max(k, *map(len, predictions)))
        compute = getattr(metrics, self.config_name)
        if self.config_name == "subset_recall_at_k":
            return {self.config_name: compute(ranking, ids, references, subset_ids, k, reference_ids)}
        hits, numbers = metrics.relevance(ranking, ids, references), [len(set(row)) for row in references]
        counts = [] if self.config_name in ("recall_at_k", "precision_at_k") else [numbers]
        aspects = [aspects] if self.config_name == "semantic_map_at_k" else []
        return {self.config_name: compute(hits, *counts, *aspects, k)}
