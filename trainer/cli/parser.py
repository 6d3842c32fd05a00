"""The command-line parser of the verbs."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence


__all__ = ["VerbParser", "check_named"]


class VerbParser(argparse.ArgumentParser):
    """An `ArgumentParser` that names a misspelt option before anything else, with the nearest known one.

    Examples:
        >>> parser = VerbParser("rtd search")
        >>> _ = parser.add_argument("--gallery", required=True)
        >>> parser.parse_args(["--galery", "index"])
        Traceback (most recent call last):
        ValueError: unknown option '--galery'; did you mean '--gallery'? `rtd search --help` lists the options.
    """

    def parse_args(self, args: Sequence[str], namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse the options of a verb.

        Args:
            args (`list[str]`): Options.
            namespace (`argparse.Namespace`, *optional*): Object that takes the values. Defaults to a new one.

        Returns:
            `argparse.Namespace`: Values by name.

        Raises:
            ValueError: If an option is unknown, missing or has a wrong value.
        """
        known = self._option_string_actions
        places = [action.dest for action in self._actions if not action.option_strings]
        for option in (text.partition("=")[0] for text in args if text.startswith("--") and " " not in text):
            if option == "--":
                break
            # argparse accepts unique beginnings. It would name a missing option before a misspelt one.
            if not any(name.startswith(option) for name in known):
                if option[2:] in places:
                    usage = f"{self.prog} {' '.join(name.upper() for name in places)}"
                    raise ValueError(f"{option} is given by its place, without its name: {usage}")
                close = difflib.get_close_matches(option, known, n=1)
                hint = f" did you mean '{close[0]}'?" if close else ""
                raise ValueError(f"unknown option '{option}';{hint} `{self.prog} --help` lists the options.")
        return super().parse_args(args, namespace)

    def error(self, message: str):
        """Refuse without the usage, which is longer than the reason.

        Args:
            message (`str`): What argparse found.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{message.removeprefix('argument ')}; `{self.prog} --help` lists the options.")


def check_named(arguments: Sequence[str], usage: str) -> None:
    """Refuse a training without its model, before the options are imported, which takes long.

    Args:
        arguments (`list[str]`): Options. A recipe may name the model.
        usage (`str`): First line of the help.

    Raises:
        ValueError: If the first argument is an option, and none of them asks for help or names a model.
    """
    names = [text.partition("=")[0] for text in arguments]
    is_named = bool({"-h", "--help", "--help-all", "--model", "--recipe"} & set(names))
    if not is_named and (not names or names[0].startswith("-")):
        raise ValueError(f"name the model first: {usage}")
