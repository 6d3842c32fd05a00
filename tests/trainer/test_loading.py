import re

import pytest

from trainer.loading import load_model_and_processor


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with two runs in it."""
    for place in ("runs/rtd/model", "runs/lora/adapter"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/rtd", "'runs/rtd' holds no model; it is a run: name 'runs/rtd/model'."),
        ("runs", "'runs' holds no model; name the folder of a model or an adapter."),
        ("runs/lora/model", "there is no directory 'runs/lora/model'; did you mean 'runs/lora/adapter'?"),
        ("runs/nope", "there is no directory 'runs/nope'."),
        ("some/far/place", "there is no directory 'some/far/place'."),
        ("../nope", "there is no directory '../nope'."),
        ("/nope", "there is no directory '/nope'."),
    ],
)
def test_a_place_without_a_model_is_named_and_the_hub_not_asked(here, hub, name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_model_and_processor(name)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_model_and_processor("org/clip", projection=name)
    assert hub.calls == []


def test_the_hub_is_asked_for_what_may_be_there(here, hub):
    with pytest.raises(ValueError, match="'org/model' is no directory .*Hub"):
        load_model_and_processor("org/model")
    assert hub.calls


def test_a_clip_that_open_clip_wrote_names_what_converts_it(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"rtd convert {tmp_path} --from open_clip"):
        load_model_and_processor(str(tmp_path), "lincir")


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"\xff" * 9])
def test_weights_that_were_cut_are_named(model, processor, tmp_path, damage):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    path = tmp_path / "model/model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors' is damaged or cut short"):
        load_model_and_processor(str(tmp_path / "model"))
