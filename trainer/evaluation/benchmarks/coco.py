"""COCO object composition: an object cut out of its image, and the names of what is to be around it (Pic2Word)."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset
from PIL import Image

from trainer.evaluation.benchmarks.data_folder import DataFolder
from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol


__all__ = ["INFO", "cut_region", "write_condition"]

_HEADER = ("id", "query_regions", "query_class", "classes")


def write_condition(query_class: str, classes: str) -> str:
    """Name the objects of an image, the one that the query shows first.

    Args:
        query_class (`str`): Category of the object that the query shows.
        classes (`str`): Categories of the others, joined by `;`; may be empty.

    Returns:
        `str`: The names joined by "and"; as published, a trailing "and" where there are no others.

    Examples:
        >>> write_condition("dog", "person;car")
        'dog and person and car'
    """
    return " and ".join([query_class, *classes.split(";")])


def cut_region(image: Image.Image, box: Sequence[float], size_px: int) -> Image.Image:
    """Crop an image to a region and squash it to the model's input, as published.

    Args:
        image (`PIL.Image.Image`): The whole image, white but for the object.
        box (`Sequence[float]` of length 4): Left, top, right and bottom.
        size_px (`int`): Side of the model's input.

    Returns:
        `PIL.Image.Image`: A square of that side.
    """
    # Truncated as published; Pillow would round.
    return image.crop(tuple(map(int, box))).resize((size_px, size_px), Image.Resampling.BICUBIC)


def _load(folder: DataFolder, split: str, part: str, protocol: Protocol) -> Benchmark:
    places = ("", "coco/", "data/coco/")
    rows = folder.read_csv("regions", *(f"{place}coco_eval.csv" for place in places), header=_HEADER)
    if not rows:
        raise ValueError("coco_eval.csv has no rows; make it again.")
    images = folder.find_images("images", *(f"{place}val2017" for place in places))
    masked = folder.find_images("regions", *(f"{place}val2017_masked" for place in places))
    conditions = [write_condition(row["query_class"], row["classes"]) for row in rows]
    queries = {
        "id": [row["id"] for row in rows],
        # Not the image itself: the object, cut out of it.
        "reference_id": [f"region of {row['id']}" for row in rows],
        "reference_image": [folder.image(masked, row["id"]) for row in rows],
        "reference_box": [_read_region(row) for row in rows],
        "condition": conditions,
        "target_ids": [[row["id"]] for row in rows],
        "subset_ids": [[] for _ in rows],
    }
    gallery = {"id": queries["id"], "image": [folder.image(images, row["id"]) for row in rows]}
    return Benchmark(
        "coco",
        split,
        Dataset.from_dict(gallery),
        Dataset.from_dict(queries),
        protocol,
        metrics=INFO.metrics,
        text_template="a photo of {condition}",
        cut=cut_region,
    )


def _read_region(row: dict[str, str]) -> list[float]:
    try:
        left, top, right, bottom = map(float, row["query_regions"].split(";"))
        left_px, top_px, right_px, bottom_px = map(int, (left, top, right, bottom))
    except (ValueError, OverflowError) as error:  # no number, or an infinite one
        raise ValueError(
            f"coco_eval.csv has no region of four numbers between semicolons for {row['id']}: {row['query_regions']!r}"
        ) from error
    if left_px >= right_px or top_px >= bottom_px:
        raise ValueError(f"coco_eval.csv has an empty region for {row['id']}: {row['query_regions']!r}")
    return [left, top, right, bottom]


INFO = BenchmarkInfo(
    name="coco",
    license="instance annotations CC BY 4.0; images on COCO's terms",
    citation="https://huggingface.co/papers/2302.03084",
    layout="""\
coco_eval.csv           (regions are drawn at random: publish yours)
val2017/*.jpg           (COCO 2017 val)
val2017_masked/*.jpg    (each with all but its region painted white)""",
    steps={
        "regions": "run data/coco/prepare_data.py of https://github.com/google-research/composed_image_retrieval.",
        "images": "download val2017.zip of COCO 2017 and unpack it.",
    },
    counts={"val2017": {"": {"queries": 4765, "gallery": 4765}}},
    protocol=Protocol(crop="published", template="a photo of $ and {condition}"),
    load=_load,
    metrics=("recall@1", "recall@5", "recall@10", "recall@50", "recall@100", "mean_rank", "median_rank"),
)
