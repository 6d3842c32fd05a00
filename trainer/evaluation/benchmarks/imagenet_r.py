"""ImageNet-R domain conversion: a real image, and the domain its class is looked for in (Pic2Word)."""

from __future__ import annotations

from collections import defaultdict

from datasets import Dataset

from trainer.evaluation.benchmarks.data_folder import DataFolder
from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol


__all__ = ["INFO"]

_DOMAINS = ("cartoon", "origami", "toy", "sculpture")  # their order fixes the labels


def _load(folder: DataFolder, split: str, part: str, protocol: Protocol) -> Benchmark:
    queries, targets = (_read_list(folder, name) for name in ("imgnet_real_query.txt", "imgnet_targets.txt"))
    images_of = defaultdict(list)
    for path, label in targets.items():
        images_of[label].append(path)
    place = folder.find_images("images", "imgnet", "data/imgnet").parent
    for name in ("imagenet-r", "real"):
        folder.find_images(name, f"imgnet/{name}", f"data/imgnet/{name}")
    offset = 1000 * _DOMAINS.index(part)
    columns = {
        "id": [f"{part}:{path}" for path in queries],
        "reference_id": list(queries),
        "reference_image": [folder.image(place, path) for path in queries],
        "condition": [part] * len(queries),
        # A class may have no image of a domain (2,350 queries in cartoon): such a query counts as 0, as published.
        "target_ids": [images_of[label + offset] for label in queries.values()],
        "subset_ids": [[] for _ in queries],
    }
    gallery = {"id": list(targets), "image": [folder.image(place, path) for path in targets]}
    return Benchmark(
        "imagenet_r",
        split,
        Dataset.from_dict(gallery),
        Dataset.from_dict(columns),
        protocol,
        part,
        INFO.metrics,
        # It ends in a blank, as Pic2Word's, where the placeholder was.
        text_template="a {condition} of ",
    )


def _read_list(folder: DataFolder, name: str) -> dict[str, int]:
    """Read image paths and their labels: class + 1000 * domain."""
    labels = {}
    for number, line in enumerate(folder.read_lines("lists", f"imgnet/{name}", f"data/imgnet/{name}"), start=1):
        path, _, label = line.rpartition(" ")
        if not path or not label.isdigit():
            raise ValueError(f"{name} must hold 'path label' in every line, but line {number} is {line[:80]!r}.")
        labels[path] = int(label)
    if not labels:
        raise ValueError(f"{name} is empty. The step that brings it: {folder.steps['lists']}")
    return labels


INFO = BenchmarkInfo(
    name="imagenet_r",
    license="lists Apache-2.0; images of ImageNet and ImageNet-R, on their terms",
    citation="https://huggingface.co/papers/2302.03084",
    layout="""\
imgnet/imgnet_real_query.txt, imgnet/imgnet_targets.txt
imgnet/imagenet-r/<wnid>/<domain>_<n>.jpg
imgnet/real/<wnid>/ILSVRC2012_val_*.JPEG    (ImageNet val, in class folders)""",
    steps={
        "lists": "copy data/imgnet of https://github.com/google-research/composed_image_retrieval to 'imgnet'.",
        "images": "make a folder 'imgnet' with 'imagenet-r' and 'real' in it.",
        "imagenet-r": "download imagenet-r.tar (https://github.com/hendrycks/imagenet-r) and unpack it in 'imgnet'.",
        "real": "sort the validation images of ImageNet into class folders (valprep.sh) in 'imgnet/real'.",
    },
    counts={"val": {domain: {"queries": 10000, "gallery": 16983} for domain in _DOMAINS}},
    protocol=Protocol(crop="published", template="a {condition} of $"),
    load=_load,
    metrics=(
        *("set_recall@1", "set_recall@5", "set_recall@10", "set_recall@50", "set_recall@100", "set_recall@200"),
        *("precision@1", "precision@5", "precision@10", "precision@50", "precision@100", "precision@200"),
    ),
    digests={
        "imgnet_real_query.txt": "cd19c2d76f7fee0c47afba6dfc182c3fd5dbf800c0a80149feca6e0547936d1e",
        "imgnet_targets.txt": "4cc6b22d493b783f2f7fce356276096c0d5ec38be95bd3a3349c8458b8a4a311",
    },
)
