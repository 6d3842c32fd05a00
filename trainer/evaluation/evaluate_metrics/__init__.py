"""Metrics as folders for the library evaluate: `evaluate.load(path_of("recall_at_k"))`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modeling_rtd import suggest
from trainer.evaluation.metrics import relevance
from trainer.evaluation.ranking import index_rankings


__all__ = ["index_predictions", "mark_hits", "path_of"]


def path_of(name: str) -> str:
    """Tell where a metric lies.

    Args:
        name (`str`): `"recall_at_k"`, `"subset_recall_at_k"`, `"map_at_k"`, `"semantic_map_at_k"`,
            `"set_recall_at_k"` or `"precision_at_k"`.

    Returns:
        `str`: Folder, to be given to `evaluate.load`.

    Raises:
        ValueError: If there is no such metric.
    """
    folders = sorted(path.parent for path in Path(__file__).parent.glob("*/*.py"))
    if name not in (known := [folder.name for folder in folders]):
        raise ValueError(suggest("metric", name, known))
    return str(Path(__file__).parent / name)


def index_predictions(predictions: Sequence[Sequence[str]], k: int) -> tuple[np.ndarray, list[str]]:
    """Turn ranked ids into what `trainer.evaluation.metrics` reads, with the ids that occur as the gallery.

    Args:
        predictions (`Sequence[Sequence[str]]` of length `num_queries`): Ids of images, best first.
        k (`int`): Ranks that a metric looks at; shorter rankings are filled up with nothing.

    Returns:
        `tuple`: Ranking of shape `(num_queries, depth)`, and the ids of the gallery.

    Raises:
        ValueError: If there are no predictions.
    """
    if not predictions:
        raise ValueError("there are no predictions: give a list of ids for each query.")
    ids = sorted({name for row in predictions for name in row})
    return index_rankings(predictions, ids, max(k, *map(len, predictions))), ids


def mark_hits(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], k: int
) -> tuple[np.ndarray, list[int]]:
    """Mark the correct images in rankings.

    Args:
        predictions (`Sequence[Sequence[str]]` of length `num_queries`): Ids of images, best first.
        references (`Sequence[Sequence[str]]` of length `num_queries`): Correct ids of each query.
        k (`int`): Ranks that a metric looks at.

    Returns:
        `tuple`: Hits of shape `(num_queries, depth)`, and the number of correct images of each query.

    Raises:
        ValueError: If there are no predictions, or the numbers of queries differ.
    """
    ranking, ids = index_predictions(predictions, k)
    return relevance(ranking, ids, references), [len(set(row)) for row in references]
