"""Refusals that several files word alike, and places written so that they mean the same from any folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


__all__ = ["check_path", "pick_where", "refuse_missing", "refuse_no_place", "settle_place", "suggest", "word_pickle"]

_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def suggest(kind: str, name: str, known) -> str:
    """Word the refusal of an unknown name, with the nearest known one.

    Args:
        kind (`str`): What is named, such as `"projection"`.
        name (`str`): What came.
        known (iterable of `str`): What is accepted.

    Returns:
        `str`: A sentence for a `ValueError`.

    Examples:
        >>> suggest("projection", "linccir", ["lincir", "searle"])
        "unknown projection 'linccir'; did you mean 'lincir'? Known: lincir, searle."
    """
    # As a text: where nothing was named, None comes.
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{name}';{hint} Known: {', '.join(sorted(known))}."


def word_pickle(what: str, remedy: str, found: str = "") -> str:
    """Word the refusal of a pickle, without torch's own words, which advise to load it all the same.

    Args:
        what (`str`): What is refused.
        remedy (`str`): Sentence that says what to use instead.
        found (`str`, *optional*): What it holds, in brackets after a space. Defaults to nothing.

    Returns:
        `str`: Sentences for a `ValueError`.

    Examples:
        >>> word_pickle("'a.pt'", "Get another.")
        "'a.pt' is refused: it holds more than tensors, and loading it could run code. Get another."
    """
    return f"{what} is refused: it holds more than tensors{found}, and loading it could run code. {remedy}"


def check_path(place: str | Path, name: str = "name_or_path") -> None:
    """Refuse what is not a path or a name.

    Args:
        place (`str` or `Path`): What came.
        name (`str`, defaults to `"name_or_path"`): Name of the argument.

    Raises:
        ValueError: If it is of another type, or empty.
    """
    if not isinstance(place, str | os.PathLike) or str(place) == "":
        raise ValueError(f"`{name}` must be a text or a path, got {place!r:.40} ({type(place).__name__}).")


def refuse_no_place(place: str | Path) -> None:
    """Refuse a path at which there is no folder, without asking the Hub for it.

    Args:
        place (`str` or `Path`): Directory or Hub id.

    Raises:
        ValueError: If it is not a path at all.
        FileNotFoundError: If it is not a folder, and cannot be a Hub id.
    """
    check_path(place)
    if Path(place).is_dir():
        return
    try:
        validate_repo_id(str(place))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"there is no folder '{place}', and it cannot be a Hub id, which is written org/name: correct the path."
        ) from error


def settle_place(place: str | None) -> str | None:
    """Write the place of a model so that it means the same from any folder.

    Args:
        place (`str`, *optional*): Directory or Hub id.

    Returns:
        `str`: A directory from the root on, a Hub id as it is; `None` where there is none.
    """
    return str(Path(place).absolute()) if place and Path(place).is_dir() else place or None


def pick_where(kwargs: dict) -> dict:
    """Pick what says where a repository is from the arguments of `from_pretrained`.

    Args:
        kwargs (`dict`): Arguments of `from_pretrained`.

    Returns:
        `dict`: Those of `cache_dir`, `force_download`, `local_files_only`, `revision`, `subfolder` and `token` that
        were given.
    """
    return {name: kwargs[name] for name in _WHERE if kwargs.get(name) is not None}


def refuse_missing(report: dict, place: str, what: str) -> None:
    """Refuse a repository whose gaps would be filled with random tensors.

    Args:
        report (`dict`): What `from_pretrained` returns with `output_loading_info=True`.
        place (`str`): The repository.
        what (`str`): What it should hold.

    Raises:
        ValueError: If tensors are missing.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"'{place}' lacks {missing[:3]} and {len(missing)} tensors in all of {what}; load a repository that has "
            "them."
        )
