"""A world as files, such as users bring: folders of images, captions, text triplets, queries."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, Image

from trainer.worlds.data import WorldData


__all__ = ["write_world"]

_EXAMPLES = 6
_TRAINING_IMAGES = 2000


def write_world(world: WorldData, folder: str | Path, split: str = "test") -> None:
    """Write a world to files that all commands take.

    `gallery/`, `references/` and `queries.jsonl` (`id`, `reference` and `targets` as file names, `condition`) are the
    benchmark's. `examples.jsonl` (`image`, `text`) lists six evenly spaced queries, which `rtd app` shows. `images/`
    with `images.jsonl` (`image`, `text`), `captions.txt` and `triplets.jsonl` are for training.
    Of the training images only the first 2,000 are written.

    Args:
        world ([`WorldData`]): Data.
        folder (`str` or `Path`): Where to; made where it is missing.
        split (`str`, defaults to `"test"`): Queries: `"validation"` or `"test"`.
    """
    folder, benchmark = Path(folder), world.benchmark(split)
    # `take` raises where there are fewer.
    images = world.images.take(min(_TRAINING_IMAGES, len(world.images)))
    _write_images(folder / "gallery", benchmark.gallery, "id", "image")
    _write_images(folder / "references", benchmark.queries, "reference_id", "reference_image")
    _write_images(folder / "images", images, "id", "image")
    queries = benchmark.queries.select_columns(["id", "reference_id", "condition", "target_ids"])
    _write_rows(
        folder / "queries.jsonl",
        (
            {
                "id": row["id"],
                "reference": f"{row['reference_id']}.png",
                "condition": row["condition"],
                "targets": [f"{target}.png" for target in row["target_ids"]],
            }
            for row in queries
        ),
    )
    steps = range(0, len(queries), -(-len(queries) // _EXAMPLES))
    _write_rows(
        folder / "examples.jsonl",
        ({"image": f"references/{queries[i]['reference_id']}.png", "text": queries[i]["condition"]} for i in steps),
    )
    pairs = images.select_columns(["id", "captions"])
    _write_rows(folder / "images.jsonl", ({"image": f"{row['id']}.png", "text": row["captions"][0]} for row in pairs))
    _write_rows(folder / "triplets.jsonl", world.triplets)
    (folder / "captions.txt").write_text("\n".join(world.captions["text"]) + "\n", encoding="utf-8")


def _write_images(folder: Path, rows: Dataset, name: str, column: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # The bytes as they were drawn; encoding them again could change them.
    for row in rows.select_columns([name, column]).cast_column(column, Image(decode=False)):
        (folder / f"{row[name]}.png").write_bytes(row[column]["bytes"])


def _write_rows(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
