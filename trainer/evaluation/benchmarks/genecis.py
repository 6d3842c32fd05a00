"""GeneCIS: four tasks, each query with its own small gallery."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset, Features, List, Value
from PIL import Image

from trainer.evaluation.benchmarks.data_folder import DataFolder, check_rows
from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol


__all__ = ["INFO", "crop_box", "cut_dilated"]

_DILATION = 0.7  # of the box's width and height, as published


def crop_box(image_size_px: tuple[int, int], box: Sequence[float]) -> tuple[float, float, float, float]:
    """Dilate an annotated box as the published code does: to the left and upwards only, unless clipped.

    Args:
        image_size_px (`tuple[int, int]`): Width and height of the image.
        box (`Sequence[float]` of length 4): Left, top, width and height.

    Returns:
        `tuple`: Left, top, right and bottom.

    Examples:
        >>> crop_box((500, 375), (100, 50, 100, 80))
        (30.0, 0, 200.0, 136.0)
    """
    x, y, width, height = box
    left, top = max(0, x - _DILATION * width), max(0, y - _DILATION * height)
    right = min(image_size_px[0], left + (1 + _DILATION) * width)
    return left, top, right, min(image_size_px[1], top + (1 + _DILATION) * height)


def cut_dilated(image: Image.Image, box: Sequence[float], size_px: int) -> Image.Image:
    """Crop an image to its dilated box and pad it to a square with black.

    Args:
        image (`PIL.Image.Image`): The whole image.
        box (`Sequence[float]` of length 4): Left, top, width and height.
        size_px (`int`): Not used.

    Returns:
        `PIL.Image.Image`: A square.

    Raises:
        ValueError: If not one pixel is in the box.
    """
    image = image.crop(crop_box(image.size, box))
    if not min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels are in it.")
    long = max(image.size)
    square = Image.new(image.mode, (long, long))
    square.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
    return square


def _load(folder: DataFolder, split: str, part: str, protocol: Protocol) -> Benchmark:
    name, is_attribute = f"genecis/{part}.json", part.endswith("attribute")
    rows = folder.read_json("annotations", name, f"{part}.json")
    check_rows(rows, name, reference=dict, target=dict, gallery=list, condition=str)
    items = [item for row in rows for item in (row["reference"], row["target"], *row["gallery"])]
    if is_attribute:
        check_rows(items, name, image_id=(str, int), instance_bbox=list)
        if wrong := [item["instance_bbox"] for item in items if not _is_box(item["instance_bbox"])]:
            raise ValueError(f"{name} must have x, y, width and height in every `instance_bbox`, got {wrong[0]}.")
        images = folder.find_images("visual genome", "VG_100K_all", "VG_100K")
    else:
        check_rows(items, name, val_image_id=int)
        images = folder.find_images("coco", "val2017", "coco/val2017")
    # Boxes are images of their own.
    gallery = {_identify(item): item for row in rows for item in (row["target"], *row["gallery"])}

    def path(item: dict) -> str:
        file = f"{item['image_id']}.jpg" if is_attribute else f"{item['val_image_id']:012d}.jpg"
        return folder.image(images, file)

    queries = {
        "id": [f"{part}-{i}" for i in range(len(rows))],
        "reference_id": [_identify(row["reference"]) for row in rows],
        "reference_image": [path(row["reference"]) for row in rows],
        "reference_box": [row["reference"].get("instance_bbox", []) for row in rows],
        "condition": [row["condition"] for row in rows],
        "target_ids": [[_identify(row["target"])] for row in rows],
        "subset_ids": [[] for _ in rows],
        "candidate_ids": [[_identify(item) for item in (row["target"], *row["gallery"])] for row in rows],
    }
    images = {
        "id": list(gallery),
        "image": [path(item) for item in gallery.values()],
        "box": [item.get("instance_bbox", []) for item in gallery.values()],
    }
    # Types are given: of empty boxes alone `datasets` infers lists of null.
    text, texts, box = Value("string"), List(Value("string")), List(Value("float64"))
    features = {"id": text, "reference_id": text, "reference_image": text, "reference_box": box, "condition": text}
    features |= {"target_ids": texts, "subset_ids": texts, "candidate_ids": texts}
    return Benchmark(
        "genecis",
        split,
        Dataset.from_dict(images, features=Features({"id": text, "image": text, "box": box})),
        Dataset.from_dict(queries, features=Features(features)),
        protocol,
        part,
        INFO.metrics,
        cut=cut_dilated if is_attribute else None,
    )


def _is_box(box: list) -> bool:
    is_number = [type(number) in (int, float) and abs(number) < 1e9 for number in box]  # neither infinite nor NaN
    return is_number == [True] * 4 and min(box[2:]) > 0


def _identify(item: dict) -> str:
    if "instance_bbox" in item:
        return f"{item['image_id']}:{','.join(map(str, item['instance_bbox']))}"
    return str(item["val_image_id"])


INFO = BenchmarkInfo(
    name="genecis",
    license="annotations CC BY-NC 4.0; images of Visual Genome and COCO, on their terms",
    citation="https://huggingface.co/papers/2306.07969",
    layout="""\
genecis/{focus,change}_{attribute,object}.json
VG_100K_all/*.jpg    (Visual Genome 1.2, both parts in one folder, 108,249 images)
val2017/*.jpg        (COCO 2017 val, 5,000 images)""",
    steps={
        "annotations": "clone https://github.com/facebookresearch/genecis; the root is that clone.",
        "visual genome": "download both image parts of Visual Genome 1.2 and put them together into 'VG_100K_all'.",
        "coco": "download val2017.zip of COCO 2017 and unpack it.",
    },
    counts={
        "v0": {
            "focus_attribute": {"queries": 2000, "candidates": 10},
            "change_attribute": {"queries": 2112, "candidates": 15},
            "focus_object": {"queries": 1960, "candidates": 15},
            "change_object": {"queries": 1960, "candidates": 15},
        }
    },
    # The target is listed first, so that in the order of the gallery a model without an answer would always be right.
    protocol=Protocol(ties="last"),
    methods={"searle": {"crop": "published"}, "pic2word": {"crop": "published"}},
    load=_load,
    metrics=("recall@1", "recall@2", "recall@3"),
    digests={
        "focus_attribute.json": "33edb4aba762c74d948a941eaa021273e6bc85f1e0e776837e8c1ca917b2b7f2",
        "change_attribute.json": "f256e04f7ea3c3e41fa0ef95a02164dab71c4b1fd57e5c296692ce511ccf7916",
        "focus_object.json": "ee6de86ffb78ad989986b65f7e74e5627a90c1395a8cdc4aed8da3d92f4c016c",
        "change_object.json": "0a5145984f7d8594c457a3609288ae2acfcdb6b72bd0309220e616300c9beac8",
    },
)
