from pathlib import Path

import pytest

from modeling_rtd import (
    Gallery,
    RTDModel,
    RTDProcessor,
    convert_checkpoint,
    load_projection,
    load_text_model,
    settle_place,
    suggest,
)
from modeling_rtd.errors_rtd import pick_where, refuse_missing, refuse_no_place


@pytest.mark.parametrize(("name", "hint"), [("linccir", " did you mean 'lincir'?"), ("zzz", "")])
def test_an_unknown_name_comes_with_the_nearest_and_all_known(name, hint):
    expected = f"unknown projection '{name}';{hint} Known: lincir, searle."
    assert suggest("projection", name, ["searle", "lincir"]) == expected


def test_a_directory_is_settled_from_the_root_and_a_hub_id_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    assert settle_place("clip") == str(tmp_path / "clip")
    assert settle_place("org/clip") == "org/clip"
    assert settle_place("") is settle_place(None) is None


def test_only_what_says_where_a_repository_is_is_picked():
    given = {"revision": "main", "token": None, "dtype": "auto", "subfolder": ""}
    assert pick_where(given) == {"revision": "main", "subfolder": ""}


def test_missing_tensors_are_counted_and_the_first_named():
    refuse_missing({"missing_keys": []}, "place", "a tower")
    with pytest.raises(ValueError, match=r"'place'.*\['a', 'b', 'c'\] and 4 .*a tower"):
        refuse_missing({"missing_keys": ["d", "c", "b", "a"]}, "place", "a tower")


@pytest.mark.parametrize("place", ["./model", "/runs/model", "runs/rtd/model", "~/model", Path("runs/rtd/model.bin")])
def test_a_path_without_a_folder_is_not_taken_for_a_hub_id(place):
    with pytest.raises(FileNotFoundError, match=f"no folder '{place}'.*org/name"):
        refuse_no_place(place)


def test_a_folder_or_a_hub_id_is_a_place(tmp_path):
    for place in (tmp_path, "org/model", "gpt2"):
        refuse_no_place(place)


LOADERS = [
    *(Gallery.load, RTDModel.from_pretrained, RTDModel.from_adapter, RTDModel.from_clip, RTDProcessor.from_pretrained),
    *(load_projection, load_text_model, lambda place: convert_checkpoint(place, "lincir", "clip")),
]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("place", [3, None, b"x", ["a"], {}], ids=str)
def test_what_is_not_a_path_is_named(load, place):
    with pytest.raises(ValueError, match=f"must be a .*, got .*{type(place).__name__}"):
        load(place)


def test_what_is_not_a_path_is_not_saved_to(model):
    gallery = Gallery.from_embeddings([[1.0, 0.0]], ["a"])
    for save in (gallery.save, model.save_pretrained, model.save_adapter):
        for place in (3, None, ""):
            with pytest.raises(ValueError, match="must be a text or a path, got"):
                save(place)
