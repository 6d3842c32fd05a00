import copy
import json

import pytest

from modeling_rtd import RTDModel, hash_tensors
from tests.factories import shake
from trainer.cli.main import main
from trainer.loading import load_model_and_processor
from trainer.publishing.provenance import read_stages


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def tuned(model, processor, tmp_path):
    """Directory of a model that RTD has changed."""
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "tuned")
    return str(tmp_path / "tuned")


def test_it_saves_a_model_that_knows_both_towers(tuned, tmp_path, capsys):
    out = tmp_path / "half"
    assert main(["interpolate", tuned, "--alpha", "0.5", "-o", str(out)]) == 0
    assert f"model: {out}" in capsys.readouterr().out
    before, (half, _) = RTDModel.from_pretrained(tuned), load_model_and_processor(str(out))
    expected = before.interpolate_text_model(0.5)
    assert hash_tensors(half.text_model) == hash_tensors(expected.text_model)
    assert hash_tensors(half.original_text_model) == hash_tensors(before.original_text_model)
    stage = read_stages(out)[-1]
    assert (stage["alpha"], stage["text_model"]) == (0.5, hash_tensors(half.text_model))


def test_it_refuses_an_alpha_out_of_range_and_a_full_folder(tuned, tmp_path, capsys):
    assert main(["interpolate", tuned, "--alpha", "1.5", "-o", str(tmp_path / "out")]) == 2
    assert "`alpha` must be between 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["interpolate", tuned, "--alpha", "0.5", "-o", tuned]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_it_saves_one_tower_with_what_a_diagnosis_measured(tuned, tmp_path, capsys):
    diagnose = ["diagnose", tuned, "--benchmark", "small_world/toy", "-o", str(tmp_path / "diagnosis")]
    assert main(diagnose) == 0
    facts, out = tmp_path / "diagnosis/diagnosis.json", tmp_path / "one"
    command = ["interpolate", tuned, "--alpha", "0.75", "--diagnosis", str(facts), "-o", str(out)]
    assert main(command) == 2
    assert "add --one-tower" in capsys.readouterr().err
    assert main([*command, "--one-tower"]) == 0
    (row,) = [row for row in json.loads(facts.read_text())["interpolation"]["rows"] if row["alpha"] == 0.75]
    measured = load_model_and_processor(str(out))[0].config.original_text_model["measured"]
    assert measured["after"] == row["captions"]["recall@5"]
    assert not (out / "original_text").exists()
    assert "Plain captions of targets: benchmark small_world" in (out / "README.md").read_text()
    command[1] = str(out)
    assert main([*command[:-1], str(tmp_path / "other"), "--one-tower"]) == 2
    assert "is of another text tower" in capsys.readouterr().err
