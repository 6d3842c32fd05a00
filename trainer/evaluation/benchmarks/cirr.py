"""CIRR: real-life images, one target a query, the reference removed, and a subset of five lookalikes."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from trainer.evaluation.benchmarks.data_folder import DataFolder, check_rows, check_values
from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol


__all__ = ["INFO"]


def _load(folder: DataFolder, split: str, part: str, protocol: Protocol) -> Benchmark:
    # The roots of the zero-shot methods, of Pic2Word, and of the official clone.
    places = ("cirr/", "", "data/cirr/")
    splits = folder.read_json(
        "annotations", *(f"{place}image_splits/split.rc2.{split}.json" for place in places), kind=dict
    )
    captions = f"captions/cap.rc2.{split}.json"
    rows = folder.read_json("annotations", *(f"{place}{captions}" for place in places))
    # Not `target_soft`, an older metric, whose ceiling is below 100 %.
    labels = {"target_hard": str} if split == "val" else {}
    check_rows(rows, captions, pairid=int, reference=str, caption=str, img_set=dict, **labels)
    check_rows([row["img_set"] for row in rows], f"{captions}, img_set", members=list)
    check_values((row["img_set"]["members"] for row in rows), f"{captions}, img_set.members", str)
    check_values([splits.values()], f"split.rc2.{split}.json", str)
    if absent := [row["reference"] for row in rows if row["reference"] not in splits]:
        raise ValueError(f"{captions} names {len(absent)} references that the split lacks, such as '{absent[0]}'.")
    # The images of val lie in `dev`.
    images = _find_images(folder, "test1" if split == "test1" else "dev")
    paths = {name: folder.image(images, path) for name, path in splits.items()}
    queries = {
        "id": [str(row["pairid"]) for row in rows],
        "reference_id": [row["reference"] for row in rows],
        "reference_image": [paths[row["reference"]] for row in rows],
        "condition": [row["caption"] for row in rows],
        "target_ids": [[row["target_hard"]] if labels else [] for row in rows],
        # The ranks beside them in `img_set` are not places in this list.
        "subset_ids": [row["img_set"]["members"] for row in rows],
    }
    gallery = Dataset.from_dict({"id": list(paths), "image": list(paths.values())})
    return Benchmark("cirr", split, gallery, Dataset.from_dict(queries), protocol, metrics=INFO.metrics)


def _find_images(folder: DataFolder, name: str) -> Path:
    """Find the directory above `dev` or `test1`, which the zero-shot line and the official clone place differently."""
    places = ("", "cirr/img_raw/", "img_raw/", "data/cirr/img_raw/", "cirr/")
    return folder.find_images("images", *(f"{place}{name}" for place in places)).parent


INFO = BenchmarkInfo(
    name="cirr",
    license="annotations MIT; images are those of NLVR2, on its terms",
    citation="https://huggingface.co/papers/2108.04024",
    layout="""\
cirr/captions/cap.rc2.{val,test1}.json
cirr/image_splits/split.rc2.{val,test1}.json
dev/dev-*.png, test1/test1-*.png    (also below img_raw/, as in the official clone)""",
    steps={
        "annotations": "clone the branch `cirr_dataset` of https://github.com/Cuberick-Orion/CIRR into 'cirr'.",
        "images": "ask for the raw images of NLVR2, as CIRR's README says, and unpack them into 'dev' and 'test1'.",
    },
    counts={
        "val": {"": {"queries": 4181, "gallery": 2297}},
        "test1": {"": {"queries": 4148, "gallery": 2315}},
    },
    protocol=Protocol(exclude_reference=True),
    methods={"searle": {"crop": "published", "padding": "target"}, "pic2word": {"crop": "published"}},
    load=_load,
    metrics=(
        *("recall@1", "recall@5", "recall@10", "recall@50"),
        *("subset_recall@1", "subset_recall@2", "subset_recall@3"),
    ),
    average_of=("recall@5", "subset_recall@1"),
    digests={
        "cap.rc2.val.json": "a85c3a1aa464f1af7229918e8018d08b8b20ce5dab479ffdf39d61113140f919",
        "cap.rc2.test1.json": "26a2b2e7a5c96c903491aefc7d5f237f03d3cca97712e1b6bb3b231db5ff8001",
        "split.rc2.val.json": "de36f7a7219c8bb06347a67748cfc68405be7dad62853a1e31846c98e491235b",
        "split.rc2.test1.json": "bf2bb9ed0659c4aae35de72350652b9ab75d36a060211f826bec15c58ec12566",
    },
)
