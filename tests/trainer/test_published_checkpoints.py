from pathlib import Path

import pytest
import torch

from modeling_rtd import RTDModel
from trainer import published_checkpoints
from trainer.published_checkpoints import load_start


def test_an_address_is_fetched_once(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, target: fetched.append(url) or Path(target).write_bytes(b"x")
    )
    places = ["https://example.org/phi.pt", "https://example.org/other/phi.pt"]
    for place in (*places, *places):
        assert published_checkpoints.fetch_file(place).read_bytes() == b"x"
    assert fetched == places


@pytest.mark.parametrize("place", ["org/name/phi.pt", "phi.pt", "/nowhere/at/all.pt"])
def test_a_file_that_cannot_be_had_is_named(place):
    with pytest.raises(ValueError, match=place):
        published_checkpoints.fetch_file(place)


def test_a_projection_of_another_method_is_refused(clip_place, tmp_path):
    RTDModel.from_clip(clip_place, "pic2word").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pic2word, but lincir"):
        load_start(clip_place, str(tmp_path), "lincir")


def test_a_file_without_its_method_is_refused(clip_place):
    with pytest.raises(ValueError, match="--projection_from METHOD"):
        load_start(clip_place, "phi.pt")
