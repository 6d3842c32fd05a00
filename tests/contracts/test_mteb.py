"""The entry that docs/ shows runs a composed task of MTEB."""

import re
from pathlib import Path

import datasets
import pytest

from tests.factories import build_clip, build_images, build_processor, save_model


PAGE = Path(__file__).parents[2] / "docs/other_libraries.md"
CONDITIONS = ["is red", "is blue", "has no sleeves", "a dog"]
METADATA = {
    "name": "FakeIT2IRetrieval",
    "description": "Images by an image and a condition.",
    "dataset": {"path": "none/none", "revision": "1"},
    "type": "Any2AnyRetrieval",
    "category": "it2i",
    "modalities": ["text", "image"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "main_score": "ndcg_at_10",
    "prompt": {"query": "Find it."},
}


def build_task(conditions):
    """Four queries over twelve images, the four references among them."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class FakeTask(AbsTaskRetrieval):
        metadata = TaskMetadata(**METADATA)

        def load_data(self, **kwargs):
            images = build_images(12)
            queries = {"id": [f"q{i}" for i in range(4)], "image": images[:4], "text": conditions}
            corpus = {"id": [f"d{i}" for i in range(12)], "image": images}
            part = {
                name: datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
                for name, columns in (("queries", queries), ("corpus", corpus))
            }
            part |= {"relevant_docs": {f"q{i}": {f"d{i + 4}": 1} for i in range(4)}, "top_ranked": None}
            self.dataset, self.data_loaded = {"default": {"test": part}}, True

    return FakeTask()


@pytest.mark.slow
def test_the_entry_of_the_page_runs_and_the_reference_is_in_the_pool(tmp_path, monkeypatch):
    import mteb  # takes seconds, of which the quick tests need none

    block = next(text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "mteb" in text)
    save_model(tmp_path / "org/rtd-vitl", "lincir", build_clip(), build_processor())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "cache"))
    task = build_task(CONDITIONS)
    monkeypatch.setattr(mteb, "get_tasks", lambda names: [task])
    # torchvision, which MTEB wants for every model of images and this one does not use.
    monkeypatch.setattr(mteb.models.ModelMeta, "_missing_dependencies", staticmethod(lambda groups: []))
    names = {}
    exec(compile(block, PAGE.name, "exec"), names)
    (found,) = names["result"].task_results
    assert 0 <= found.get_score() <= 1
    assert found.scores["test"][0]["hit_rate_at_10"] > 0
    alone = mteb.evaluate(names["meta"], build_task([" "] * 4), cache=None).task_results[0]
    assert alone.scores["test"][0]["hit_rate_at_1"] == 0  # a blank condition: each image finds itself
