"""Records of the projection methods: what cards, commands and the demo ask instead of naming methods."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from modeling_rtd import PROJECTIONS, Paper, suggest


__all__ = ["RTD_PAPER", "Method", "find_method", "list_methods", "register_method"]

_HOME = "trainer.training.projections"


@dataclass(frozen=True)
class Method:
    """A way to train a projection.

    Args:
        name (`str`): Name of the projection, a key of `PROJECTIONS`.
        reads (`str`): `"captions"`, `"images"` or `"pairs"` of both.
        arguments (`type`): Dataclass of its arguments, whose defaults are its published recipe.
        objective (`type`): How rows become batches, and batches a loss.
        protocol (`str`, defaults to `"lincir"`): Method whose published evaluation protocol it is judged in.
        options (`str`, defaults to `""`): Options of `rtd train-projection` that it needs beside its data.
        files (`dict[str, str]`, *optional*):
            By backbone of `BACKBONES` the place of the file that the authors publish; empty where a file exists that
            cannot be downloaded by name.
    """

    name: str
    reads: str
    arguments: type
    objective: type
    protocol: str = "lincir"
    options: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def paper(self) -> Paper:
        """[`Paper`]: Its paper, with the name that people read; the network's class has it."""
        return PROJECTIONS[self.name].paper

    def check_arguments(self, args: Any) -> None:
        """Refuse arguments of another class.

        Args:
            args: Arguments of a trainer.

        Raises:
            ValueError: If they are not of this method's class.
        """
        # A method would train with the defaults of another, and nothing would show it.
        if not isinstance(args, self.arguments):
            raise ValueError(
                f"a '{self.name}' projection is trained with {self.arguments.__name__}, got {type(args).__name__}: "
                f"build {self.arguments.__name__}(output_dir=...), whose defaults are the published recipe."
            )


RTD_PAPER = Paper(
    "RTD",
    "byun2024rtd",
    "Reducing Task Discrepancy of Text Encoders for Zero-Shot Composed Image Retrieval",
    "Byun, Jaeseok and Jeong, Seokhyeon and Kim, Wonjae and Chun, Sanghyuk and Moon, Taesup",
    "2406.09188",
)

_METHODS: dict[str, Method] = {}


def register_method(method: Method) -> Method:
    """Add a method, so that trainers, commands and cards find it.

    Args:
        method ([`Method`]): Its name is that of a registered projection, see [`register_projection`].

    Returns:
        [`Method`]: The same.

    Raises:
        ValueError: If no projection has that name.
    """
    if method.name not in PROJECTIONS:
        raise ValueError(f"register the projection '{method.name}' first: register_projection('{method.name}', cls).")
    _METHODS[method.name] = method
    return method


def list_methods() -> list[str]:
    """List the names of all projections that can be trained.

    Returns:
        `list[str]`: In order of the alphabet.
    """
    # Of projections, since records are imported when they are asked for.
    return sorted(PROJECTIONS)


def find_method(name: str) -> Method:
    """Look up a method.

    The file of a method is with its objective, on a higher floor, and is imported when it is asked for.

    Args:
        name (`str`): Name of a projection.

    Returns:
        [`Method`]: Its record.

    Raises:
        ValueError: If the name is unknown, or the projection has no method.
    """
    if name not in PROJECTIONS:
        raise ValueError(suggest("training method", name, list_methods()))
    if name not in _METHODS:
        try:
            importlib.import_module(f"{_HOME}.{name}")
        except ModuleNotFoundError as error:
            # A module that the method's file misses is another fault.
            if error.name != f"{_HOME}.{name}":
                raise
            raise ValueError(f"the projection '{name}' has no method: add one with register_method.") from error
    return _METHODS[name]
