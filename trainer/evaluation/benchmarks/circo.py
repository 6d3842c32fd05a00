"""CIRCO: the 123,403 unlabeled images of COCO, several targets a query, the reference kept."""

from __future__ import annotations

from datasets import Dataset

from trainer.evaluation.benchmarks.data_folder import DataFolder, check_rows, check_values
from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol


__all__ = ["INFO", "read_gallery", "read_rows"]

_INFO_FILE = "annotations/image_info_unlabeled2017.json"
_COCO = ("COCO2017_unlabeled/", "CIRCO/COCO2017_unlabeled/")


def read_rows(folder: DataFolder, split: str) -> list[dict]:
    """Read the queries, as annotated.

    Args:
        folder ([`DataFolder`]): Directory of CIRCO.
        split (`str`): `"val"` or `"test"`.

    Returns:
        `list[dict]`: Rows of the file.

    Raises:
        ValueError: If the file is not there or not in order.
    """
    annotations = f"annotations/{split}.json"
    rows = folder.read_json("annotations", annotations, f"CIRCO/{annotations}")
    labels = {"target_img_id": int, "gt_img_ids": list} if split == "val" else {}
    check_rows(rows, annotations, id=int, reference_img_id=int, relative_caption=str, **labels)
    check_values((row["gt_img_ids"] for row in rows if labels), f"{annotations}, gt_img_ids", int)
    # CIRCO's recall counts the first ground truth alone, so their order matters.
    if wrong := [row["id"] for row in rows if labels and row["gt_img_ids"][:1] != [row["target_img_id"]]]:
        raise ValueError(f"{annotations} must name `target_img_id` first in `gt_img_ids`; query {wrong[0]} does not.")
    # An older copy of the annotations has none.
    aspects = [row.get("semantic_aspects", []) for row in rows]
    check_values([aspects], f"{annotations}, semantic_aspects", list)
    check_values(aspects, f"{annotations}, semantic_aspects", str)
    return rows


def read_gallery(folder: DataFolder) -> dict[str, str]:
    """Read the list of the gallery.

    Args:
        folder ([`DataFolder`]): Directory of CIRCO.

    Returns:
        `dict[str, str]`: Names of image files, by id.

    Raises:
        ValueError: If the list is not there or not in order.
    """
    images = folder.read_json("gallery", *(f"{place}{_INFO_FILE}" for place in _COCO), kind=dict).get("images")
    check_rows(images, _INFO_FILE, id=int, file_name=str)
    return {str(image["id"]): image["file_name"] for image in images}


def _load(folder: DataFolder, split: str, part: str, protocol: Protocol) -> Benchmark:
    rows, files = read_rows(folder, split), read_gallery(folder)
    place = folder.find_images("images", *(f"{place}unlabeled2017" for place in _COCO))
    paths = {name: folder.image(place, file) for name, file in files.items()}
    references = [str(row["reference_img_id"]) for row in rows]
    if absent := [name for name in references if name not in paths]:
        raise ValueError(f"{_INFO_FILE} lacks {len(absent)} references, such as image {absent[0]}.")
    queries = {
        "id": [str(row["id"]) for row in rows],
        "reference_id": references,
        "reference_image": [paths[name] for name in references],
        "condition": [row["relative_caption"] for row in rows],
        "target_ids": [[str(item) for item in row["gt_img_ids"]] if split == "val" else [] for row in rows],
        "subset_ids": [[] for _ in rows],
        "aspects": [row.get("semantic_aspects", []) for row in rows],
    }
    gallery = Dataset.from_dict({"id": list(paths), "image": list(paths.values())})
    return Benchmark("circo", split, gallery, Dataset.from_dict(queries), protocol, metrics=INFO.metrics)


INFO = BenchmarkInfo(
    name="circo",
    license="annotations CC BY-NC 4.0; images on COCO's terms",
    citation="https://huggingface.co/papers/2303.15247",
    layout="""\
annotations/{val,test}.json
COCO2017_unlabeled/annotations/image_info_unlabeled2017.json
COCO2017_unlabeled/unlabeled2017/*.jpg    (123,403 images)""",
    steps={
        "annotations": "clone https://github.com/miccunifi/CIRCO; the root is that clone.",
        "gallery": "download image_info_unlabeled2017.zip of COCO 2017 and unpack it in 'COCO2017_unlabeled'.",
        "images": "download unlabeled2017.zip of COCO 2017 and unpack it in 'COCO2017_unlabeled'.",
    },
    counts={
        "val": {"": {"queries": 220, "gallery": 123403}},
        "test": {"": {"queries": 800, "gallery": 123403}},
    },
    # The reference stays in the ranking, as in CIRCO's own script; CoVR removes it.
    protocol=Protocol(),
    methods={"searle": {"crop": "published", "padding": "target"}, "pic2word": {"crop": "published"}},
    load=_load,
    metrics=(
        *("map@5", "map@10", "map@25", "map@50"),
        *("target_recall@5", "target_recall@10", "target_recall@25", "target_recall@50"),
        "semantic_map@10",
    ),
    digests={
        "val.json": "6b31a1dbc3c85627501d9a250f87708f24a27d74d6a65360b6ddd2537a154d04",
        "test.json": "2f7c37e89220c990b6b0525d6f3ed63d3fc02e03ce336aa42a3b822841b14886",
    },
)
