import json

import pytest

from tests.factories import FAST
from trainer.cli.main import main
from trainer.cli.options import expand_recipe, find_value, parse_options
from trainer.cli.train_projection import TrainProjectionCommand
from trainer.methods import find_method


def test_the_recipe_is_that_of_the_method_and_the_users_own_is_above_it(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 0.5\n")
    arguments = ["x", "--method=fti4cir", "-o", "out", "--recipe", str(recipe)]
    classes = TrainProjectionCommand, find_method(find_value(arguments, "method", "lincir")).arguments
    command, args = parse_options(arguments, *classes, positional="model")
    assert (command.model, args.output_dir) == ("x", "out")
    assert (args.learning_rate, args.caption_weight, args.num_train_epochs) == (0.5, 1.4, 60)


def test_a_recipe_gives_values_that_flags_override(place, triplets, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 9\nlearning_rate: 1.0e-3\n")
    command = ["train", place, "--triplets", triplets, "--recipe", str(recipe)]
    assert main([*command, "--output_dir", str(tmp_path / "run"), *FAST]) == 0
    facts = json.loads((tmp_path / "run/training.json").read_text())
    assert (facts["steps"], facts["learning_rate"]) == (4, 1e-3)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "unknown recipe"), ("- a", "must be a mapping"), ("a: [", "is not YAML")]
)
def test_a_broken_recipe_is_refused(place, triplets, tmp_path, capsys, content, message):
    recipe = tmp_path / "recipe.yaml"
    if content is not None:
        recipe.write_text(content)
    assert main(["train", place, "--triplets", triplets, "--recipe", str(recipe)]) == 2
    assert message in capsys.readouterr().err


def test_a_mistyped_recipe_is_named_with_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--recipe", "rtd-vitL"]) == 2
    assert "unknown recipe 'rtd-vitL'; did you mean 'rtd-vitl'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["learningrate", "learnin_rate"])
def test_a_mistyped_option_is_named_with_the_nearest_also_in_a_recipe(tmp_path, capsys, name):
    (tmp_path / "recipe.yaml").write_text(f"{name}: 1")
    needed = ["M", "--output_dir", str(tmp_path / "run")]
    for way in ([f"--{name}", "1"], ["--recipe", str(tmp_path / "recipe.yaml")]):
        assert main(["train", *needed, *way]) == 2
        assert f"unknown option '--{name}'; did you mean '--learning-rate'?" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "is_shown"), [("--help", False), ("--help-all", True)])
def test_the_help_of_training_leaves_out_what_nearly_nobody_sets(flag, is_shown, capsys):
    with pytest.raises(SystemExit):
        main(["train", flag])
    shown = capsys.readouterr().out
    assert ("--adam-beta2" in shown) == is_shown
    assert all(option in shown for option in ("--triplets", "--max-steps", "--noise-scale"))
    assert "_steps" not in shown.partition("--max-steps")[2][:200]


def read(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return expand_recipe(["--recipe", str(path), "--seed", "1"])


def test_values_of_a_recipe_come_before_the_options(tmp_path):
    text = "max_steps: 9\nlearning_rate: 1.0e-3\nbf16: true\nname: 'ä'\n"
    values = ["--max_steps", "9", "--learning_rate", "0.001", "--bf16", "True", "--name", "ä"]
    assert read(tmp_path, text) == [*values, "--seed", "1"]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "alias"),
        ("[" * 20_000, "not YAML"),
        ("a: &a\n  b: *a", "alias"),
        ("a: 1\na: 2", "twice"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        (b"a: \xff", "not YAML"),
        ("a: 2020-13-45", "not YAML"),
        ("? [1]\n: 2", "not YAML"),
        ("a: " + "x" * 200_000, "more than 100,000 bytes"),
        ("", "must be a mapping"),
        ("null", "must be a mapping"),
        ("a: null", "None for `a`"),
        ("a: [1]", r"\[1\] for `a`"),
        ("1: 2", "2 for `1`"),
    ],
)
def test_a_recipe_that_cannot_be_one_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"mine\.yaml'.*{message}"):
        read(tmp_path, text)
