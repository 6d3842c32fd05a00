import hashlib

import torch

from modeling_rtd import RTDModel, load_projection
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
