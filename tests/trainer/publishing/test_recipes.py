import dataclasses
import json
from pathlib import Path

import pytest
import torch

from modeling_rtd import RTDModel
from tests.factories import build_clip, build_images, build_triplets
from trainer import published_checkpoints
from trainer.cli.main import main
from trainer.cli.options import parse_options
from trainer.cli.train import TrainCommand
from trainer.methods import find_method
from trainer.publishing.provenance import read_stages
from trainer.publishing.recipes import find_recipe, list_recipes, render_cards, render_recipes
from trainer.training.arguments import RTDTrainingArguments


pytestmark = pytest.mark.usefixtures("undrawn")
CARDS = Path(__file__).parents[3] / "model_cards"
DEFAULTS = {field.name: field.default for field in dataclasses.fields(RTDTrainingArguments)}
FAST = "--max_steps 2 --per_device_train_batch_size 8 --use_cpu True --disable_tqdm True --lift_steps 2".split()
every_recipe = pytest.mark.parametrize("name", list_recipes())


def test_there_is_a_recipe_for_each_backbone_and_projection():
    pairs = set()
    for name in list_recipes():
        command, _ = parse_options(["--recipe", name], TrainCommand, RTDTrainingArguments)
        pairs.add((command.model, command.projection_from))
    # SigLIP has no class token, which two projections read.
    assert len(pairs) == len(list_recipes()) == 5 * 5 + 3 * 3
    assert {"rtd-vitb32", "rtd-vitl", "rtd-vith", "rtd-vitg", "rtd-siglip2", "rtd-metaclip2"} <= set(list_recipes())


def test_noise_has_the_unit_of_the_embeddings_beside_clip():
    units = {name: find_recipe(name).get("noise_unit") for name in list_recipes()}
    assert {name for name, unit in units.items() if unit} == {name for name in units if "lip" in name}
    page = {line.split("`")[1]: line for line in render_recipes().splitlines() if line.startswith("| `rtd-")}
    assert "not yet run on real weights" in page["rtd-siglip2"]
    assert "--noise-unit rms" in page["rtd-siglip2"]
    assert "--noise-unit" not in page["rtd-siglip2-pic2word"] + page["rtd-vith"]


@every_recipe
def test_a_recipe_has_the_published_values(name):
    command, args = parse_options(["--recipe", name], TrainCommand, RTDTrainingArguments)
    for setting in (
        "learning_rate",
        "weight_decay",
        "max_steps",
        "noise_scale",
        "temperature",
        "seed",
        "max_grad_norm",
    ):
        assert getattr(args, setting) == DEFAULTS[setting], setting
    assert (args.per_device_train_batch_size, args.output_dir) == (128, f"runs/{name}")
    assert command.original_text_model == command.model


def write_published_file(path, projection, method):
    """Write a projection as its authors do."""
    state = projection.state_dict()
    if method == "pic2word":
        content = {"state_dict_img2text": {f"module.{name}": tensor for name, tensor in state.items()}}
    else:
        content = {"epoch": 1, "Phi": state}
    torch.save(content, path)


@pytest.fixture
def toy(processor, tmp_path):
    """Folder with a CLIP (of equal sizes, as FTI4CIR needs it), triplets and images."""
    for part in (build_clip(projection_dim=32), processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path / "clip")
    (tmp_path / "triplets.jsonl").write_text("\n".join(json.dumps(row) for row in build_triplets(16)))
    (tmp_path / "images").mkdir()
    for number, image in enumerate(build_images(8)):
        image.save(tmp_path / f"images/{number}.png")
    return tmp_path


SLOW_RECIPES = [
    pytest.param(name, marks=pytest.mark.slow) for name in list_recipes() if "vitl" in name and name != "rtd-vitl"
]


@pytest.mark.parametrize("name", ["rtd-vitl", "rtd-vith", *SLOW_RECIPES])
def test_a_recipe_runs_at_toy_size(name, toy, monkeypatch):
    command, _ = parse_options(["--recipe", name], TrainCommand, RTDTrainingArguments)
    method, clip, out = command.projection_from, str(toy / "clip"), toy / "run"
    model, more = RTDModel.from_clip(clip, method), []
    if command.projection:
        write_published_file(toy / "file.pt", model.projection, method)
        monkeypatch.setattr(published_checkpoints, "fetch_file", {command.projection: toy / "file.pt"}.get)
    else:
        model.save_pretrained(toy / "projection")
        more += ["--projection", str(toy / "projection")]
    if "image_tokens" in model.projection.consumes:
        more += ["--images", str(toy / "images")]
    places = ["--original_text_model", clip, "--output_dir", str(out)]
    triplets = ["--triplets", str(toy / "triplets.jsonl")]
    assert main(["train", clip, "--recipe", name, *triplets, *places, *FAST, *more]) == 0
    stages = read_stages(out / "model")
    assert stages[-1]["steps"] == 2
    assert stages[-1]["data"]["triplets"] == "triplets.jsonl"
    if command.projection:
        assert stages[0]["converted_from"] == command.projection
        assert len(stages[0]["converted_from_sha256"]) == 64
    for tensor, expected in zip(
        RTDModel.from_pretrained(out / "model").projection.parameters(), model.projection.parameters(), strict=True
    ):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_a_recipe_without_a_published_projection_says_what_to_do(toy, capsys):
    assert main(["train", str(toy / "clip"), "--recipe", "rtd-vith", "--triplets", "t.jsonl"]) == 2
    assert "is a CLIP without a projection: name a trained one, or train it" in capsys.readouterr().err


def test_the_cards_are_what_is_rendered_now():
    rendered = render_cards(CARDS)
    assert set(rendered) | {"README.md"} == {path.name for path in CARDS.glob("*.md")}
    for name, text in rendered.items():
        assert (CARDS / name).read_text(encoding="utf-8") == text, f"{name}: `make cards` renders it again"


def test_the_page_names_the_commands_of_every_recipe():
    page = render_recipes()
    assert "**None of these models has been trained here**" in page
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `rtd-")}
    assert list(rows) == list(list_recipes())
    for name, row in rows.items():
        recipe, commands = find_recipe(name), row.split("`")[1::2]
        (train,) = (command for command in commands if command.startswith("rtd train "))
        assert f"rtd train --recipe {name} --triplets" in train
        made = [command.rpartition(" ")[2] for command in commands if command.startswith("rtd train-projection ")]
        assert ([] if "projection" in recipe else [train.partition(" --projection ")[2].split()[0]]) == [
            f"{place}/model" for place in made
        ]
        assert find_method(recipe["projection_from"]).paper.bibtex in page


def test_figures_name_their_sources():
    rows = [line for line in render_recipes().splitlines() if "| GeneCIS" in line]
    assert all("a public literature review" in row for row in rows)
    (searle,) = (row for row in rows if "ViT-L/14 | SEARLE" in row)
    assert "which ran this method again" in searle


def test_an_unknown_recipe_is_refused_with_the_nearest(capsys):
    with pytest.raises(ValueError, match="did you mean 'rtd-vitl'"):
        find_recipe("rtd-vit-l")
    assert main(["train", "--recipe", "nowhere.yaml", "--triplets", "t.jsonl"]) == 2
    assert "unknown recipe 'nowhere.yaml'" in capsys.readouterr().err
