"""Experiments in a world beside the demo: how much noise, and triplets from where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from datasets import Dataset

from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.triplet_making import make_triplets


__all__ = ["EXPERIMENTS", "run_experiments"]

_NOISE_SCALES = {f"noise {scale:g}": scale for scale in (0.0, 0.25, 0.5, 1.0, 2.0)}  # of the rms of the embeddings
_SOURCES = ("the world's own", "rules", "rules, within a band of similarity")
EXPERIMENTS = (*_NOISE_SCALES, *_SOURCES)


def run_experiments(
    train_and_judge: Callable[..., dict],
    triplets: Dataset,
    captions: list[str],
    model: Path,
    rms: float,
) -> Iterator[dict]:
    """Train RTD with other noise and with other triplets.

    Triplets by rules are made from captions alone, without any knowledge of the world.

    Args:
        train_and_judge (callable): From a name, triplets and arguments of RTD to a row of results.
        triplets (`datasets.Dataset`): The world's own triplets.
        captions (`list[str]`): Plain captions of the world.
        model (`Path`): Directory of the model whose text tower measures similarities.
        rms (`float`): Root mean square of the embeddings.

    Yields:
        `dict`: Rows as in `metrics.json`, with `experiment` and `num_triplets`.
    """
    for name, scale in _NOISE_SCALES.items():
        row = train_and_judge(name, triplets, noise_scale=scale * rms)
        yield row | {"experiment": "noise", "num_triplets": len(triplets)}
    # Called in turn: the last one loads a model.
    loaders = (lambda: triplets, lambda: make_triplets(captions), lambda: make_triplets(captions, model=str(model)))
    for name, load in zip(_SOURCES, loaders, strict=True):
        rows = Dataset.from_list([{column: row[column] for column in TRIPLET_COLUMNS} for row in load()])
        yield train_and_judge(name, rows) | {"experiment": "triplets", "num_triplets": len(rows)}
