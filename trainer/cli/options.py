"""Options of the training verbs: dataclass flags, with a YAML recipe below them."""

from __future__ import annotations

import difflib
from argparse import SUPPRESS, Action, HelpFormatter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser, TrainingArguments

from modeling_rtd import suggest


__all__ = ["parse_options"]

# What the help shows of transformers' own arguments.
_USUAL = {
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "seed",
    "bf16",
    "torch_compile",
    "activation_checkpointing",
    "dataloader_num_workers",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "eval_strategy",
    "eval_steps",
    "report_to",
    "use_cpu",
}


def parse_options(
    arguments: list[str],
    *classes: type,
    usage: str = "rtd [options]",
    base_recipe: Callable[[dict], str | None] | None = None,
) -> tuple:
    """Parse flags into dataclasses; `--recipe` gives values that flags override.

    A recipe is a YAML file, or the name of one in `trainer/configs`.

    Args:
        arguments (`list[str]`): Options.
        classes (dataclasses): One instance of each is returned.
        usage (`str`, defaults to `"rtd [options]"`): First line of the help: the verb and what it needs.
        base_recipe (callable, *optional*):
            From the options as text to the name of a packaged recipe whose values the user's own recipe overrides.

    Returns:
        `tuple`: The instances.

    Raises:
        ValueError: If the recipe is missing or is no YAML mapping, or an option or a key of the recipe is unknown.
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
    hint = (
        "--recipe FILE reads options from a YAML file, or from a packaged recipe by its name; flags override it. "
        "--help-all also lists the other arguments of transformers' Trainer, which are all accepted."
    )
    verb = usage.partition(" -")[0].partition(" [")[0]
    parser = HfArgumentParser(classes, prog=verb, usage=usage, description=hint, formatter_class=_Formatter)
    _shorten_help(parser, shows_all="--help-all" in arguments)
    arguments = ["--help"] if "--help-all" in arguments else arguments
    *instances, rest = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if rest:
        known = [name for name in parser._option_string_actions if "_" not in name]
        close = difflib.get_close_matches(rest[0].replace("_", "-"), known, n=1)
        hint = f" did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"unknown option '{rest[0]}';{hint} --help-all lists those that are known.")
    return tuple(instances)


def _shorten_help(parser: HfArgumentParser, shows_all: bool) -> None:
    """Leave out of the help what nearly nobody sets: over a hundred arguments of transformers' Trainer."""
    rare = set() if shows_all else {field.name for field in fields(TrainingArguments)} - _USUAL
    for action in parser._actions:
        switch = action.option_strings[0].startswith("--no_")
        if action.dest in rare:
            action.help = SUPPRESS
        elif switch:
            action.help = "Switch it off."


class _Formatter(HelpFormatter):
    """Shows each option once, with hyphens, and defaults where there are any."""

    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if "_" not in name] or action.option_strings
        if action.nargs == 0:
            return ", ".join(names)
        return f"{names[-1]} {self._format_args(action, action.dest.rpartition('_')[2].upper())}"

    def _get_help_string(self, action: Action) -> str:
        has_default = action.default not in (None, SUPPRESS) and action.nargs != 0
        return f"{action.help} (default: %(default)s)" if has_default else action.help


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
        raise ValueError(f"'{path}' is no file: {suggest('recipe', str(path), packaged)}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"the recipe '{path}' is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"the recipe '{path}' must be a mapping of options to values, such as `max_steps: 2000`.")
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
