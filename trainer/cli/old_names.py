"""Options that had another name in the release before: refused with the new name, for one release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


__all__ = ["refuse_old_names"]


def refuse_old_names(verb: str, arguments: Sequence[str], names: Mapping[str, str]) -> None:
    """Refuse an option by its old name.

    Args:
        verb (`str`): Verb of the command line.
        arguments (`Sequence[str]`): Its arguments.
        names (`Mapping[str, str]`): New names by old ones, such as `{"--out": "--output-dir"}`.

    Raises:
        ValueError: If an argument is one of the old names; names the new one.
    """
    for argument in arguments:
        if (old := argument.partition("=")[0]) in names:
            raise ValueError(f"`rtd {verb}` has no option {old} any more; write {names[old]} instead.")
