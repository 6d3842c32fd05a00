"""Folders that a verb writes."""

from __future__ import annotations

from pathlib import Path


__all__ = ["check_new_folder"]


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that holds something.

    Args:
        folder (`Path`): Where a verb is about to write a model.

    Raises:
        ValueError: If it is a file, or not empty.
    """
    # `save_pretrained` would leave what is there beside the new files.
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"'{folder}' is not empty; choose another folder with --output-dir.")
