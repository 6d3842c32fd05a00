"""Recipes that are read, and those that are refused."""

import pytest

from trainer.cli.options import expand_recipe


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
