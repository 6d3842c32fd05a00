"""Ranking: similarities, or ids that others ranked, to positions in a gallery, exact under ties."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np


__all__ = ["find_positions", "index_rankings", "membership", "rank_gallery"]


def find_positions(gallery_ids: Sequence[Hashable]) -> dict[Hashable, int]:
    """Find where each id is in a gallery.

    Args:
        gallery_ids (`Sequence[Hashable]` of length `num_gallery`): Ids of the gallery, unique.

    Returns:
        `dict`: Position by id.

    Raises:
        ValueError: If an id is in the gallery twice.
    """
    position = {}
    for index, item in enumerate(gallery_ids):
        if position.setdefault(item, index) != index:
            raise ValueError(f"gallery ids must be unique, {item!r} is at {position[item]} and {index}.")
    return position


def membership(ids_per_query: Sequence[Iterable[Hashable]], gallery_ids: Sequence[Hashable]) -> np.ndarray:
    """Mark the gallery items that each query names: its targets, its subset, or the items it leaves out.

    Args:
        ids_per_query (`Sequence[Iterable[Hashable]]` of length `num_queries`):
            Ids, in any order, repeated or not. Ids that the gallery lacks are passed over.
        gallery_ids (`Sequence[Hashable]` of length `num_gallery`): Ids of the gallery, unique.

    Returns:
        `np.ndarray` of shape `(num_queries, num_gallery)`: Booleans in the order of the gallery.

    Raises:
        ValueError: If an id is in the gallery twice, or a query brings a string in place of a list.

    Examples:
        >>> membership([["b"], ["c", "a"]], gallery_ids=["a", "b", "c"]).astype(int)
        array([[0, 1, 0],
               [1, 0, 1]])
    """
    position = find_positions(gallery_ids)
    members = np.zeros((len(ids_per_query), len(gallery_ids)), dtype=bool)
    for row, ids in enumerate(ids_per_query):
        if isinstance(ids, str):
            raise ValueError(f"each query needs a list of ids, got the string {ids!r} in row {row}.")
        members[row, [position[item] for item in ids if item in position]] = True
    return members


def rank_gallery(
    similarities: np.ndarray, allowed: np.ndarray | None = None, last: np.ndarray | None = None
) -> np.ndarray:
    """Rank the gallery for each query, most similar first.

    Equal similarities keep the order of the gallery, so that a ranking is the same on every machine; unstable sorts
    are not. Where the order of the gallery gives the answer away (GeneCIS lists the target first), put the targets
    `last`.
    Sort similarities, not distances `1 - similarity`, and not in half precision: both make ties that were none.

    Args:
        similarities (`np.ndarray` of shape `(num_queries, num_gallery)`): Higher is more similar.
        allowed (`np.ndarray` of shape `(num_queries, num_gallery)`, *optional*):
            Booleans; items that are not allowed go behind all that are. Leaves out a reference image, or ranks a
            subset.
        last (`np.ndarray` of shape `(num_queries, num_gallery)`, *optional*):
            Booleans; these items go behind all others of the same similarity. With the targets, a tie is a miss.

    Returns:
        `np.ndarray` of shape `(num_queries, num_gallery)`: Positions in the gallery, best first.

    Raises:
        ValueError: If the shapes do not fit, or a similarity is not a number.

    Examples:
        >>> rank_gallery([[0.1, 0.9, 0.9]])  # a tie keeps the order of the gallery
        array([[1, 2, 0]])
        >>> rank_gallery([[0.1, 0.9, 0.9]], allowed=[[True, False, True]])
        array([[2, 0, 1]])
        >>> rank_gallery([[0.1, 0.9, 0.9]], last=[[False, True, False]])
        array([[2, 1, 0]])
    """
    similarities = np.asarray(similarities)
    if similarities.ndim != 2:
        raise ValueError(f"`similarities` must be of shape (num_queries, num_gallery), got {similarities.shape}.")
    # The minus below would turn whole numbers without a sign over.
    if not np.issubdtype(similarities.dtype, np.floating):
        similarities = similarities.astype(np.float64)
    if np.isnan(similarities).any():
        rows = np.flatnonzero(np.isnan(similarities).any(axis=1))
        raise ValueError(f"{len(rows)} queries have similarities that are not numbers, the first in row {rows[0]}.")
    if last is None:
        # Negated: a rising order turned over would turn ties over, too.
        ranking = np.argsort(-similarities, axis=1, kind="stable")
    else:
        # Ordered by `last` first: the stable sort by similarity keeps that order among equals.
        order = np.argsort(_like("last", last, similarities), axis=1, kind="stable")
        best = np.argsort(-np.take_along_axis(similarities, order, axis=1), axis=1, kind="stable")
        ranking = np.take_along_axis(order, best, axis=1)
    if allowed is None:
        return ranking
    behind = ~np.take_along_axis(_like("allowed", allowed, similarities), ranking, axis=1)
    return np.take_along_axis(ranking, np.argsort(behind, axis=1, kind="stable"), axis=1)


def index_rankings(
    rankings: Sequence[Sequence[Hashable]], gallery_ids: Sequence[Hashable], depth: int | None = None
) -> np.ndarray:
    """Turn rankings given as ids into positions in the gallery.

    Args:
        rankings (`Sequence[Sequence[Hashable]]` of length `num_queries`): Ids, best first; of any length.
        gallery_ids (`Sequence[Hashable]` of length `num_gallery`): Ids of the gallery, unique.
        depth (`int`, *optional*): Ranks to keep. Defaults to those of the longest ranking.

    Returns:
        `np.ndarray` of shape `(num_queries, depth)`: Positions in the gallery, -1 where a ranking has ended.

    Raises:
        ValueError: If a ranking holds an id that the gallery lacks.

    Examples:
        >>> index_rankings([["c", "a"], ["b"]], gallery_ids=["a", "b", "c"])
        array([[ 2,  0],
               [ 1, -1]])
    """
    position = find_positions(gallery_ids)
    depth = max(map(len, rankings), default=0) if depth is None else depth
    indexed = np.full((len(rankings), depth), -1)
    for row, ids in enumerate(rankings):
        if unknown := [item for item in ids if item not in position]:
            raise ValueError(
                f"{unknown[0]!r}, ranked in row {row}, is not an id of the gallery ({len(position)} ids)."
            )
        indexed[row, : len(ids)] = [position[item] for item in ids[:depth]]
    return indexed


def _like(name: str, mask: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != similarities.shape:
        raise ValueError(f"`{name}` must have the shape of `similarities` {similarities.shape}, got {mask.shape}.")
    return mask
