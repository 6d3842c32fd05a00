"""Alignment of captions with images: what of it training the text tower has left."""

from __future__ import annotations

import numpy as np

from trainer.evaluation.diagnosis.rank_changes import bootstrap_interval


__all__ = ["compute_alignment", "compute_cosines", "summarise"]


def compute_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the cosine of each row with the same row of another array.

    Args:
        first, second (`np.ndarray` of shape `(num_rows, dim)`): Rows of any norm but 0.

    Returns:
        `np.ndarray` of shape `(num_rows,)`: In [-1, 1].

    Examples:
        >>> compute_cosines(np.array([[2.0, 0.0]]), np.array([[3.0, 4.0]]))
        array([0.6])
    """
    return (_normalize(first) * _normalize(second)).sum(axis=1)


def summarise(values: np.ndarray) -> dict[str, float]:
    """Summarise values: mean, standard deviation, 5th and 95th percentile, and the largest.

    Args:
        values (`np.ndarray` of shape `(num_rows,)`): Values, one at least.

    Returns:
        `dict[str, float]`: `mean`, `std`, `p5`, `p95`, `max`.

    Examples:
        >>> summarise(np.array([1, 3]))["mean"]
        2.0
    """
    values = np.asarray(values, dtype=np.float64)
    p5, p95 = np.percentile(values, [5, 95])
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "p5": float(p5),
        "p95": float(p95),
        "max": float(values.max()),
    }


def compute_alignment(before: np.ndarray, after: np.ndarray, targets: np.ndarray, gallery: np.ndarray) -> dict:
    """Compare two text towers by how near their captions are to the images that the captions describe.

    A cosine says little alone: what retrieval lives on is its margin over the cosine with any image.

    Args:
        before, after (`np.ndarray` of shape `(num_captions, dim)`): Captions by the two towers.
        targets (`np.ndarray` of shape `(num_captions, dim)`): The image of each caption.
        gallery (`np.ndarray` of shape `(num_gallery, dim)`): All images.

    Returns:
        `dict`: For `before` and `after`: `own`, the mean cosine with the own image, `any`, that with all images, and
        `margin`, their difference. `own_change` and `margin_change` with 95 % bootstrap intervals, and `drift`, the
        summary of the cosines of a caption before with itself after.
    """
    centre = _normalize(gallery).mean(axis=0)  # its inner product with a caption is the mean cosine with all images
    facts, own, margin = {}, {}, {}
    for name, captions in (("before", before), ("after", after)):
        own[name], others = compute_cosines(captions, targets), _normalize(captions) @ centre
        margin[name] = own[name] - others
        means = {"own": own[name], "any": others, "margin": margin[name]}
        facts[name] = {part: float(values.mean()) for part, values in means.items()}
    for part, values in (("own", own), ("margin", margin)):
        change = values["after"] - values["before"]
        facts[f"{part}_change"] = {"mean": float(change.mean()), "interval": bootstrap_interval(change)}
    return facts | {"drift": summarise(compute_cosines(before, after))}


def _normalize(rows: np.ndarray) -> np.ndarray:
    # In float64: margins are small differences of cosines that are near each other.
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
