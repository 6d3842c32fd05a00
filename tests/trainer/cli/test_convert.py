import hashlib

import pytest
import torch

from modeling_rtd import RTDModel, load_projection
from tests.open_clip_repositories import build_plain_clip, write_repository
from trainer.cli.main import main
from trainer.publishing.provenance import read_stages


def test_a_published_file_becomes_a_model_that_names_it(clip_place, tmp_path, capsys):
    projection, file, out = RTDModel.from_clip(clip_place, "lincir").projection, tmp_path / "phi.pt", tmp_path / "out"
    torch.save({"epoch": 1, "Phi": projection.state_dict()}, file)
    assert main(["convert", str(file), "--from", "lincir", "--clip", clip_place, "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"model: {out}\n"
    for tensor, expected in zip(load_projection(str(out)).parameters(), projection.parameters(), strict=True):
        assert torch.equal(tensor, expected)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_stages(out) == [{"stage": "lincir", "converted_from": "phi.pt", "converted_from_sha256": digest}]


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["convert", "--from", "lincir", "x.pt", "--clip", "none", "-o", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_clip_that_open_clip_wrote_becomes_a_folder_that_loads(tmp_path, capsys):
    place, out = write_repository(tmp_path / "repo", build_plain_clip()), tmp_path / "clip"
    assert main(["convert", str(place), "--from", "open_clip", "-o", str(out)]) == 0
    assert f"rtd train-projection {out}" in capsys.readouterr().out
    assert RTDModel.from_clip(str(out)).config.projection_dim == 24


@pytest.mark.parametrize("options", [["--from", "open_clip", "--clip", "org/clip"], ["--from", "lincir"]])
def test_only_a_methods_file_needs_a_clip(tmp_path, capsys, options):
    assert main(["convert", "x.pt", *options, "-o", str(tmp_path / "out")]) == 2
    assert "--from open_clip has none" in capsys.readouterr().err
