"""Options of the training verbs: dataclass flags, with a YAML recipe below them."""

from __future__ import annotations

import difflib
from argparse import SUPPRESS, Action, HelpFormatter
from dataclasses import fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser, TrainingArguments

from trainer.publishing.recipes import find_recipe


__all__ = ["expand_recipe", "find_value", "parse_options"]

_MOST_BYTES = 100_000  # of a recipe
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


def parse_options(arguments: list[str], *classes: type, usage: str = "rtd [options]", positional: str = "") -> tuple:
    """Parse flags into dataclasses; `--recipe` gives values that flags override.

    Args:
        arguments (`list[str]`): Options.
        classes (dataclasses): One instance of each is returned.
        usage (`str`, defaults to `"rtd [options]"`): First line of the help: the verb and what it needs.
        positional (`str`, defaults to `""`): Field that the first argument without a hyphen before it gives.

    Returns:
        `tuple`: The instances.

    Raises:
        ValueError: If the recipe is missing or not a YAML mapping, an option or a key of the recipe is unknown, or
            the positional argument is missing.
    """
    arguments = expand_recipe(arguments, positional)
    hint = (
        "--recipe FILE reads options from a YAML file, or from a packaged recipe by its name; flags override it. "
        "--help-all also lists the other arguments of transformers' Trainer, which are all accepted."
    )
    verb = usage.partition(" -")[0].partition(" [")[0]
    parser = HfArgumentParser(classes, prog=verb, usage=usage, description=hint, formatter_class=_Formatter)
    _shorten_help(parser, "--help-all" in arguments, positional)
    arguments = ["--help"] if "--help-all" in arguments else arguments
    if positional and not {"-h", "--help", f"--{positional}"} & set(arguments):
        raise ValueError(f"name the {positional} first: {usage}")
    *instances, rest = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if rest:
        known = [name for name in parser._option_string_actions if "_" not in name]
        close = difflib.get_close_matches(rest[0].replace("_", "-"), known, n=1)
        hint = f" did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"unknown option '{rest[0]}';{hint} --help-all lists those that are known.")
    return tuple(instances)


def expand_recipe(arguments: list[str], positional: str = "") -> list[str]:
    """Write out the values of `--recipe`, a YAML file or the name of a packaged recipe, before the other options.

    Args:
        arguments (`list[str]`): Options.
        positional (`str`, defaults to `""`): See [`parse_options`].

    Returns:
        `list[str]`: Options without positional arguments and recipes.

    Raises:
        ValueError: If the recipe is missing or not a YAML mapping.
    """
    # HfArgumentParser makes flags of all fields.
    if positional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{positional}", *arguments]
    arguments = [part for argument in arguments for part in _split_recipe(argument)]
    if "--recipe" not in arguments:
        return arguments
    place = arguments.index("--recipe")
    if place + 1 == len(arguments):
        raise ValueError("--recipe needs a YAML file or the name of a recipe.")
    return [*_read_recipe(arguments[place + 1]), *arguments[:place], *arguments[place + 2 :]]


def find_value(arguments: list[str], name: str, default: str) -> str:
    """Read one option as text: `--name value` or `--name=value`, the last one counting.

    Args:
        arguments (`list[str]`): Options.
        name (`str`): Name of the option, without hyphens.
        default (`str`): What it is if it is not given.

    Returns:
        `str`: Its value.
    """
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == f"--{name}":
            default = value if equals else " ".join(arguments[place + 1 : place + 2])
    return default


def _shorten_help(parser: HfArgumentParser, shows_all: bool, positional: str) -> None:
    """Leave out of the help what nearly nobody sets: over a hundred arguments of transformers' Trainer."""
    rare = set() if shows_all else {field.name for field in fields(TrainingArguments)} - _USUAL
    # Its flag is for recipes; on the command line it is the first argument.
    rare.add(positional)
    output = parser._option_string_actions["--output_dir"]
    # transformers gives its own arguments no short names.
    output.option_strings.append("-o")
    parser._option_string_actions["-o"] = output
    for action in parser._actions:
        switch = action.option_strings[0].startswith("--no_")
        if action.dest in rare:
            action.help = SUPPRESS
        elif switch:
            action.help = "Switch it off."


class _Formatter(HelpFormatter):
    """Shows each option once, with hyphens, and defaults where there are any."""

    def _format_action_invocation(self, action: Action) -> str:
        # HfArgumentParser gives each option with underscores and with hyphens.
        names = [name for name in action.option_strings if "_" not in name] or action.option_strings
        if action.nargs == 0:
            return ", ".join(names)
        return f"{names[-1]} {self._format_args(action, action.dest.rpartition('_')[2].upper())}"

    def _get_help_string(self, action: Action) -> str:
        has_default = action.default not in (None, SUPPRESS) and action.nargs != 0
        return f"{action.help} (default: %(default)s)" if has_default else action.help


def _split_recipe(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith("--recipe=") else [argument]


def _read_recipe(place: str) -> list[str]:
    values = _read_yaml(Path(place)) if Path(place).is_file() else find_recipe(place)
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float):
            raise ValueError(
                f"the recipe '{place}' has {ascii(value)[:40]} for `{name}`; give a text or a number, or leave it out."
            )
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


class _PlainLoader(yaml.SafeLoader):
    """Reads what a recipe needs: no aliases, by which a small file grows beyond all bounds, and no key twice."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        content = super().construct_mapping(node, deep)
        if len(content) < len(node.value):
            raise yaml.YAMLError("it gives an option twice")
        return content


def _read_yaml(path: Path) -> dict:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        values = yaml.load(path.read_bytes(), _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the recipe '{path}' is not YAML that is read here: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"the recipe '{path}' must be a mapping of options to values, such as `max_steps: 2000`.")
    return values
