"""What a composed image retrieval benchmark is: a gallery, queries with exact ground truth, and a protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Benchmark"]


@dataclass(frozen=True)
class Benchmark:
    """A gallery and the composed queries that are asked of it.

    Args:
        name (`str`):
            Name in results and reports, such as `"small_world"`.
        split (`str`):
            Split the queries come from, such as `"validation"` or `"test"`.
        gallery (`datasets.Dataset`):
            One row per image, columns `id` (string, unique) and `image` (`datasets.Image`).
        queries (`datasets.Dataset`):
            One row per query, columns `id` (string, unique), `reference_id` (string), `reference_image`
            (`datasets.Image`), `condition` (string), `target_ids` (list of gallery ids, all of them correct) and
            `subset_ids` (list of gallery ids that a subset metric ranks; empty where the benchmark has none).
        exclude_reference (`bool`):
            Whether the query's `reference_id` is removed from the ranking.
    """

    name: str
    split: str
    gallery: Dataset
    queries: Dataset
    exclude_reference: bool
