"""Options of the training verbs: dataclass flags, with a YAML recipe below them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml
from transformers import HfArgumentParser


__all__ = ["parse_options"]


def parse_options(
    arguments: list[str], *classes: type, verb: str = "rtd", base_recipe: Callable[[dict], str | None] | None = None
) -> tuple:
    """Parse flags into dataclasses; `--recipe` gives values that flags override.

    A recipe is a YAML file, or the name of one in `trainer/configs`.

    Args:
        arguments (`list[str]`): Options.
        classes (dataclasses): One instance of each is returned.
        verb (`str`, defaults to `"rtd"`): Command named in the help.
        base_recipe (callable, *optional*):
            From the options as text to the name of a packaged recipe whose values the user's own recipe overrides.

    Returns:
        `tuple`: The instances.

    Raises:
        ValueError: If the recipe is missing, is no YAML mapping, or holds a key that no flag has.
    """
    arguments = [part for argument in arguments for part in _split_recipe(argument)]
    if "--recipe" in arguments:
        place = arguments.index("--recipe")
        if place + 1 == len(arguments):
            raise ValueError("--recipe needs a YAML file.")
        recipe = _read_recipe(Path(arguments[place + 1]))
        arguments = [*recipe, *arguments[:place], *arguments[place + 2 :]]
    if base_recipe is not None and (name := base_recipe(_list_values(arguments))):
        arguments = [*_read_recipe(Path(name)), *arguments]
    hint = "--recipe FILE reads options from a YAML file, or from a packaged recipe by its name; flags override it."
    return HfArgumentParser(classes, prog=verb, description=hint).parse_args_into_dataclasses(arguments)


def _list_values(arguments: list[str]) -> dict[str, str]:
    """Read options as text: `--name value` and `--name=value`, the last one counting."""
    values = {}
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            values[name[2:]] = value if equals else " ".join(arguments[place + 1 : place + 2])
    return values


def _split_recipe(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith("--recipe=") else [argument]


def _read_recipe(path: Path) -> list[str]:
    packaged = {recipe.stem: recipe for recipe in Path(__file__).parents[1].joinpath("configs").glob("*.yaml")}
    path = packaged.get(str(path), path)
    if not path.is_file():
        raise ValueError(f"the recipe '{path}' is no file and none of {', '.join(sorted(packaged))}.")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"the recipe '{path}' is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"the recipe '{path}' must be a mapping of options to values, such as `max_steps: 2000`.")
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
