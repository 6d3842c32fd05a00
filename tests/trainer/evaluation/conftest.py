"""Real annotations with the values recorded beside them, and what a model computes on stand-ins."""

import hashlib
import json

import pytest

from tests.factories import CATEGORIES, TASKS, build_stand_in, load_place, split_prompt, write_json
from trainer.evaluation.benchmarks import DataFolder, find_benchmark, load_benchmark, load_parts
from trainer.evaluation.evaluator import RetrievalEvaluator


ROOTS = {"coco": "coco_object_composition"}


@pytest.fixture(scope="session")
def circo_root(shared, tmp_path_factory):
    """CIRCO's annotations beside a gallery list of all ids that they and the example submissions name."""
    root, place = tmp_path_factory.mktemp("circo"), shared / "data/circo"
    root.joinpath("annotations").symlink_to(place / "annotations")
    ids = set()
    for split in ("val", "test"):
        for row in json.loads((place / f"annotations/{split}.json").read_text()):
            ids |= {row["reference_img_id"], *row.get("gt_img_ids", [])}
        for row in json.loads((place / f"submission_examples/submission_{split}.json").read_text()).values():
            ids |= set(row)
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in sorted(ids)]
    write_json(root / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": images})
    return root


@pytest.fixture(scope="session")
def load(shared, circo_root):
    """Load parts from the real annotations, each once."""
    cache = {}

    def load(name, split=None, protocol=None):
        info = find_benchmark(name)
        key = name, split or info.default_split, protocol
        if key not in cache:
            root = circo_root if info.name == "circo" else shared / "data" / ROOTS.get(info.name, info.name)
            folder = DataFolder(root, info.steps, needs_images=False)
            cache[key] = load_parts(name, split, folder, protocol), folder
        return cache[key]

    return load


@pytest.fixture(scope="session")
def digest():
    """Hash prompts as they were recorded."""

    def digest(template, conditions, sign="$"):
        prompts = [sign.join(split_prompt(template, condition)) for condition in conditions]
        text = "\n".join(prompts)
        return {"count": len(prompts), "sha256_of_newline_joined": hashlib.sha256(text.encode()).hexdigest()}

    return digest


@pytest.fixture
def refuse(tmp_path):
    """Spoil the stand-in of a benchmark, and expect that loading it is refused."""

    def refuse(name, spoil, message):
        root = build_stand_in(name, tmp_path)
        spoil(root)
        with pytest.raises(ValueError, match=message):
            load_parts(name, folder=DataFolder(root, find_benchmark(name).steps))

    return refuse


@pytest.fixture(scope="session")
def computed(data, place):
    """What a system computed: the embeddings of each part, and the model's own metrics."""
    (model, processor), parts = load_place(place), {}
    for name in ("cirr", *(f"fashioniq/{category}" for category in CATEGORIES), *(f"genecis/{t}" for t in TASKS)):
        benchmark = load_benchmark(name, root=data / name.partition("/")[0])
        evaluator = RetrievalEvaluator(model, processor, benchmark)
        parts[name] = evaluator, evaluator.encode_queries(model)
    return parts
