"""Quality of text triplets: what can be seen from the texts, and from their embeddings."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from trainer.evaluation.diagnosis.alignment import compute_cosines, summarise


__all__ = ["measure_similarity", "measure_triplets"]


def _split(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def measure_triplets(references: Sequence[str], conditions: Sequence[str], targets: Sequence[str]) -> dict:
    """Measure triplets by their texts. Case and punctuation do not count.

    Args:
        references, conditions, targets (`Sequence[str]` of length `num_triplets`): Columns of the triplets.

    Returns:
        `dict`: `count`; as shares of all triplets: `duplicates` (repeats of an earlier triplet), `ambiguous` (same
        reference and condition, several targets), `unchanged` (reference equals target), `copied` (condition equals
        target), `condition_in_target` (the whole condition is in the target); means over triplets:
        `condition_covered` (share of the condition's words that the target has), `overlap` (common words of reference
        and target over all of theirs), `unexplained` (share of the target's words that neither reference nor condition
        has). `words`, summaries of lengths by column. `distinct`, shares of distinct texts by column.
        `common_conditions`, the ten most common and their shares.

    Raises:
        ValueError: If there is no triplet or the columns differ in length.

    Examples:
        >>> facts = measure_triplets(["a red dress"], ["is blue"], ["a blue dress"])
        >>> facts["overlap"], facts["condition_covered"], facts["unexplained"]
        (0.5, 0.5, 0.0)
    """
    if not len(references) or not len(references) == len(conditions) == len(targets):
        raise ValueError(f"columns must be of one length, got {len(references)}, {len(conditions)}, {len(targets)}.")
    rows = [tuple(map(_plain, row)) for row in zip(references, conditions, targets, strict=True)]
    words = [tuple(map(_split, row)) for row in rows]
    targets_of = defaultdict(set)
    for reference, condition, target in rows:
        targets_of[reference, condition].add(target)
    columns = dict(zip(("reference", "condition", "target"), zip(*rows, strict=True), strict=True))
    common = Counter(columns["condition"]).most_common(10)
    return {
        "count": len(rows),
        "duplicates": 1 - len(set(rows)) / len(rows),
        "ambiguous": _mean(len(targets_of[row[:2]]) > 1 for row in rows),
        "unchanged": _mean(reference == target for reference, _, target in rows),
        "copied": _mean(condition == target for _, condition, target in rows),
        # Between blanks, so that `red` is not in `hundred`.
        "condition_in_target": _mean(f" {condition} " in f" {target} " for _, condition, target in rows),
        "condition_covered": _mean(len(c & t) / max(1, len(c)) for _, c, t in words),
        "overlap": _mean(len(r & t) / max(1, len(r | t)) for r, _, t in words),
        "unexplained": _mean(len(t - r - c) / max(1, len(t)) for r, c, t in words),
        "words": {name: summarise(np.array([len(text.split()) for text in texts])) for name, texts in columns.items()},
        "distinct": {name: len(set(texts)) / len(rows) for name, texts in columns.items()},
        "common_conditions": {condition: count / len(rows) for condition, count in common},
    }


def measure_similarity(references: np.ndarray, conditions: np.ndarray, targets: np.ndarray) -> dict:
    """Measure triplets by the embeddings of their texts in the text tower from before RTD.

    Args:
        references, conditions, targets (`np.ndarray` of shape `(num_triplets, dim)`): Embeddings of the columns.

    Returns:
        `dict`: Summaries of cosines: `reference_target`, `condition_target`; and `condition_closer`, the share of
        triplets whose target is closer to the condition than to the reference, as where the reference is not needed.
    """
    kept, asked = compute_cosines(references, targets), compute_cosines(conditions, targets)
    return {
        "reference_target": summarise(kept),
        "condition_target": summarise(asked),
        "condition_closer": float((asked > kept).mean()),
    }


def _mean(values) -> float:
    return float(np.mean(list(values)))
