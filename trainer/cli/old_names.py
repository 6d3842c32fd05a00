"""Options that had another name in an earlier release."""

from __future__ import annotations

from collections.abc import Mapping


__all__ = ["refuse_old_names"]


def refuse_old_names(verb: str, arguments: list[str], names: Mapping[str, str]) -> None:
    """Refuse options by their old names, and name the new ones.

    Args:
        verb (`str`): Verb of the command line.
        arguments (`list[str]`): Options as they came.
        names (`Mapping[str, str]`): New name, by the old one.

    Raises:
        ValueError: If an old name is among the options.
    """
    for argument in arguments:
        old = argument.partition("=")[0]
        if old in names:
            raise ValueError(f"{old} has a new name: {names[old]}. `rtd {verb} --help` lists all options.")
