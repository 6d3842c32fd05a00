"""What the README shows runs: its Python blocks, its verbs and its options."""

import json
import re
from pathlib import Path

import pytest

import trainer
from tests.builders import build_images, build_triplets
from trainer.cli.main import main


README = Path(__file__).parents[2].joinpath("README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^(?:\.venv/bin/)?rtd (.*)$", README, re.MULTILINE)


@pytest.fixture
def place(model, processor, tmp_path, monkeypatch):
    """A folder in which all files of the README are there."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/demo/model", "runs/lincir/model"):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    for name, image in zip(("a", "b", "c", "reference"), build_images(4), strict=True):
        image.save(f"{name}.jpg")
    Path("triplets.jsonl").write_text("\n".join(json.dumps(row) for row in build_triplets(130)))
    return tmp_path


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_every_python_block_runs(block, place):
    short = block.replace('output_dir="runs/rtd"', 'output_dir="runs/rtd", max_steps=1, use_cpu=True')
    exec(compile(short, "README.md", "exec"), {})


def test_there_are_blocks_and_commands_to_check():
    assert len(PYTHON) >= 2
    assert {command.split()[0] for command in COMMANDS} >= {"search", "train", "train-projection"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_exists(command, capsys):
    verb, *arguments = command.split()
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_public_names_of_the_training_room_load():
    for name in trainer.__all__:
        assert getattr(trainer, name) is not None


def test_another_distribution_named_trainer_is_refused(monkeypatch):
    monkeypatch.setattr(trainer, "version", lambda name: "0.0.36")
    with pytest.raises(ImportError, match="'trainer' 0.0.36 installs a package named 'trainer' as rtd-cir does"):
        trainer.refuse_other_trainer()
