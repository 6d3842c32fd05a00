"""Single-modality control: how much of a benchmark needs no composition."""

from __future__ import annotations

import numpy as np


__all__ = ["compute_single_modality"]


def compute_single_modality(text: np.ndarray, image: np.ndarray, composed: np.ndarray, k: int) -> dict:
    """Split queries by whether the condition alone or the reference alone already finds a target.

    Args:
        text, image, composed (`np.ndarray` of shape `(num_queries,)`):
            Ranks of the best target, from 1, by the condition alone, the reference alone, and the composed query.
        k (`int`): Ranks that count as found.

    Returns:
        `dict`: For `text only`, `image only`, `both` and `neither` (which of the two alone finds a target): the
        `share` of the queries, their number `count`, and `composed`, the recall@k of composed queries among them
        (`None` where there are none). `lost` is the share of queries that one side alone finds and the composed query
        does not.

    Examples:
        >>> groups = compute_single_modality(np.array([1, 9]), np.array([9, 9]), np.array([9, 1]), k=5)
        >>> groups["neither"]["composed"], groups["lost"]
        (1.0, 0.5)
    """
    # By ranks, since similarities of the three are on different scales.
    by_text, by_image, by_composed = (np.asarray(ranks) <= k for ranks in (text, image, composed))
    groups = {
        "text only": by_text & ~by_image,
        "image only": by_image & ~by_text,
        "both": by_text & by_image,
        "neither": ~by_text & ~by_image,
    }
    facts: dict = {
        name: {
            "share": float(members.mean()),
            "count": int(members.sum()),
            "composed": float(by_composed[members].mean()) if members.any() else None,
        }
        for name, members in groups.items()
    }
    return facts | {"lost": float(((by_text | by_image) & ~by_composed).mean())}
