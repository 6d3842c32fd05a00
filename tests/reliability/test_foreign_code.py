"""A repository that brings code of its own: nothing of it is run, and nobody is asked whether it may be."""

import contextlib
import json

import pytest

from modeling_rtd import ComposedImageRetrievalPipeline, RTDModel, RTDProcessor, RTDTextModel, load_projection
from tests.factories import build_language_model
from trainer.data.language_model import LanguageModel
from trainer.loading import load_model_and_processor
from trainer.triplet_making.maker import make_triplets


CLASSES = (
    "AutoConfig AutoModel AutoModelForCausalLM AutoTokenizer AutoProcessor AutoImageProcessor "
    "AutoModelForZeroShotImageClassification"
).split()


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Put code into a repository, and name it in each of its configurations; who is asked says yes."""
    asked, mark = [], tmp_path / "mark"
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")

    def write(folder, model_type=None):
        (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
        for path in folder.rglob("*config.json"):
            facts = json.loads(path.read_text())
            facts["auto_map"] = dict.fromkeys(CLASSES, "evil.Evil")
            facts["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
            if path.name == "tokenizer_config.json":
                facts["tokenizer_class"] = "Evil"
            if path.name == "config.json" and model_type:
                facts["model_type"] = model_type
            path.write_text(json.dumps(facts))
        return str(folder)

    yield write
    assert asked == []
    assert not mark.exists()


LOADERS = {
    "model": RTDModel.from_pretrained,
    "processor": RTDProcessor.from_pretrained,
    "tower": RTDTextModel.from_pretrained,
    "projection": load_projection,
    "clip": lambda place: RTDModel.from_clip(place, "lincir"),
    "processor of a clip": RTDProcessor.from_clip,
    "verbs": load_model_and_processor,
    "verbs with a clip": lambda place: load_model_and_processor(place, "lincir"),
    "triplets": lambda place: list(make_triplets(["a red dog", "a blue dog"], model=place)),
    "language model": LanguageModel,
    "pipeline": lambda place: ComposedImageRetrievalPipeline(
        model=RTDModel.from_pretrained(place), processor=RTDProcessor.from_pretrained(place)
    ),
}


# What a loader is made for, of a model type of its own; and all of them with all.
OWN = [
    (loader, "language model" if loader in ("triplets", "language model") else what, "evil")
    for loader in LOADERS
    for what in ["clip" if "clip" in loader else "rtd"]
]
OTHERS = [
    pytest.param(loader, what, model_type, marks=pytest.mark.slow)
    for loader in LOADERS
    for what in ("rtd", "clip", "language model")
    for model_type in (None, "evil")
    if (loader, what, model_type) not in OWN
]


@pytest.mark.parametrize(("loader", "what", "model_type"), [*OWN, *OTHERS])
def test_code_of_a_repository_is_never_run_nor_asked_for(
    plant, clip, model, processor, tmp_path, loader, what, model_type
):
    folder = tmp_path / "repository"
    if what == "language model":
        build_language_model(folder)
    else:
        (model if what == "rtd" else clip).save_pretrained(folder)
        processor.save_pretrained(folder)
    place = plant(folder, model_type)
    with contextlib.suppress(ValueError, OSError):
        LOADERS[loader](place)


@pytest.mark.parametrize("kind", ["AutoModel", "AutoTokenizer", "AutoProcessor"])
def test_a_repository_that_a_processor_names_is_not_loaded(plant, clip, processor, tmp_path, kind):
    clip.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    other = plant(tmp_path / "other", "evil")
    processor.save_pretrained(tmp_path / "own")
    path = tmp_path / "own/processor_config.json"
    named = {"audio_tokenizer_class": kind, "audio_tokenizer_name_or_path": other}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"audio_tokenizer": named}))
    with pytest.raises(ValueError, match="audio tokenizer"):
        RTDProcessor.from_pretrained(tmp_path / "own")
