"""FashionIQ: three categories, each with its own gallery, and two captions a query."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset

from trainer.evaluation.benchmarks.data_folder import DataFolder, check_rows, check_values
from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol


__all__ = ["INFO", "write_conditions"]

# The data set brings no images: copies of third parties have any of these.
_SUFFIXES = (".jpg", ".png", ".jpeg")


def write_conditions(captions: Sequence[str], order: str = "both") -> list[str]:
    """Join the two captions of a query.

    Args:
        captions (`Sequence[str]` of length 2): As annotated; one may be empty.
        order (`str`, defaults to `"both"`): See [`Protocol`].

    Returns:
        `list[str]`: One condition, or two whose queries are averaged.

    Examples:
        >>> write_conditions(["is red.", " has no sleeves"])
        ['is red and has no sleeves', 'has no sleeves and is red']
        >>> write_conditions(["is red.", " has no sleeves"], order="reversed")
        [' has no sleeves and is red.']
    """
    first, second = captions
    if order == "reversed":
        return [f"{second} and {first}"]
    # Three rows of val have an empty first caption, and are asked as they are.
    first, second = (caption.strip(".?, ") for caption in captions)
    return [f"{first} and {second}", f"{second} and {first}"][: 2 if order == "both" else 1]


def _load(folder: DataFolder, split: str, part: str, protocol: Protocol) -> Benchmark:
    roots, name = ("", "FashionIQ/"), f"cap.{part}.{split}.json"
    rows = folder.read_json(
        "annotations", *(f"{root}{place}/{name}" for root in roots for place in ("captions", "json"))
    )
    check_rows(rows, name, candidate=str, target=str, captions=list)
    if wrong := [i for i, row in enumerate(rows) if list(map(type, row["captions"])) != [str, str]]:
        raise ValueError(
            f"{name} must have two captions in every row; row {wrong[0]} has {rows[wrong[0]]['captions']}."
        )
    names = folder.read_json("annotations", *(f"{root}image_splits/split.{part}.{split}.json" for root in roots))
    check_values([names], f"split.{part}.{split}.json", str)
    if protocol.gallery == "val":
        names = list(dict.fromkeys(name for row in rows for name in (row["candidate"], row["target"])))
    # Some copies have a folder for each category.
    images = folder.find_images("images", *(f"{root}images{place}" for root in roots for place in (f"/{part}", "")))
    paths = {name: folder.image(images, name, _SUFFIXES) for name in names}
    if absent := [row["candidate"] for row in rows if row["candidate"] not in paths]:
        raise ValueError(f"{name} names {len(absent)} candidates that the split lacks, such as '{absent[0]}'.")
    wordings = [write_conditions(row["captions"], protocol.caption_order) for row in rows]
    queries = {
        "id": [f"{part}-{i}" for i in range(len(rows))],
        "reference_id": [row["candidate"] for row in rows],
        "reference_image": [paths[row["candidate"]] for row in rows],
        "condition": [wording[0] for wording in wordings],
        "wordings": wordings,
        "target_ids": [[row["target"]] for row in rows],
        "subset_ids": [[] for _ in rows],
    }
    gallery = Dataset.from_dict({"id": list(paths), "image": list(paths.values())})
    return Benchmark("fashioniq", split, gallery, Dataset.from_dict(queries), protocol, part, INFO.metrics)


INFO = BenchmarkInfo(
    name="fashioniq",
    license="annotations 'CDLA', variant not stated; images are product photos, no grant",
    citation="https://huggingface.co/papers/1905.12794",
    layout="""\
captions/cap.{dress,shirt,toptee}.val.json
image_splits/split.{dress,shirt,toptee}.val.json
images/<ASIN>.jpg    (.png and .jpeg are found too, and a folder for each category)""",
    steps={
        "annotations": "clone https://github.com/XiaoxiaoGuo/fashion-iq; the root is that clone.",
        "images": "get the images from a source that the repository's issues name, and put them in 'images'.",
    },
    counts={
        "val": {
            "shirt": {"queries": 2038, "gallery": 6346, "gallery_val": 3089},
            "dress": {"queries": 2017, "gallery": 3817, "gallery_val": 2628},
            "toptee": {"queries": 1961, "gallery": 5373, "gallery_val": 2902},
        }
    },
    # The reference stays in the ranking, as in all zero-shot methods; CosMo and CoVR remove it.
    protocol=Protocol(),
    methods={
        "searle": {"crop": "published", "padding": "target"},
        "pic2word": {"crop": "published", "caption_order": "reversed"},
    },
    load=_load,
    metrics=("recall@10", "recall@50"),
    average_of=("recall@10", "recall@50"),
    digests={
        "cap.dress.val.json": "5e5117d45695df9c3ca91fac3e0bc49e6422ae9c8b3793f0ac9b3ab83adb7de9",
        "cap.shirt.val.json": "7b7ca3797b85dddfd83e74cdb4454cb63e3e7c09acef2590155efbacea6d7feb",
        "cap.toptee.val.json": "b4e09f428e6c255cc4b4ec46e77908305ab83075d82840c960be81af15cdc5eb",
        "split.dress.val.json": "21ff91d53c23859da91bfd49f3acc139b7f3a3dc944fc4e4a80194468cf14bab",
        "split.shirt.val.json": "b82effbf7352a6f828b38c45eb32e53d726bd4d6fd81d6290c81eeb2c68e3234",
        "split.toptee.val.json": "ee42b2505275dd7a19b11ddb88c9264aab2d77f4e59b075fb1c7c3095d02f412",
    },
)
