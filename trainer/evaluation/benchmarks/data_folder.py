"""Directories of benchmarks: annotation files read and checked, images found and never taken from elsewhere."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_rtd import parse_json


__all__ = ["DataFolder", "MissingError", "check_rows", "check_values"]


class MissingError(ValueError):
    """A file or a directory is not there; says which official step brings it."""


class DataFolder:
    """The directory of a benchmark, in the official layout.

    Args:
        root (`str` or `Path`): The directory.
        steps (`Mapping[str, str]`): For each thing it must hold, the official step that brings it.
        needs_images (`bool`, defaults to `True`): Whether directories of images must be there, as for a model.

    Attributes:
        files (`dict[str, str]`): SHA-256 of each annotation file that was read, by its path below the root.
        absent (`list[str]`): A sentence for each directory of images that is not there, where images are not needed.

    Raises:
        ValueError: If there is no such directory.
    """

    def __init__(self, root: str | Path, steps: Mapping[str, str], needs_images: bool = True):
        # Not as it was named: below `.` or `..` no name of an image could be told from one that leads out of it.
        self.root, self.steps, self.needs_images = Path(os.path.abspath(root)), steps, needs_images  # noqa: PTH100
        if not self.root.is_dir():
            raise ValueError(f"the root '{root}' is not a directory; name the one that holds the benchmark's files.")
        self.files: dict[str, str] = {}
        self.absent: list[str] = []
        self._listings: dict[str, frozenset[str]] = {}

    def find(self, thing: str, *places: str) -> Path:
        """Find a file or directory that may be at several places.

        Args:
            thing (`str`): Which of `steps` brings it.
            places (`str`): Paths below the root, the official one first.

        Returns:
            `Path`: The first that exists; a file may also be there gzipped.

        Raises:
            MissingError: If none exists; says which official step was skipped.
        """
        for place in places:
            for path in (self.root / place, self.root / f"{place}.gz"):
                if path.exists():
                    return path
        also = f" (nor at {', '.join(places[1:])})" if places[1:] else ""
        raise MissingError(f"'{self.root}' holds no {places[0]}{also}. The step that brings it: {self.steps[thing]}")

    def find_images(self, thing: str, *places: str) -> Path:
        """Find a directory of images that may be at several places.

        Args:
            thing (`str`): Which of `steps` brings it.
            places (`str`): Paths below the root, the official one first.

        Returns:
            `Path`: The first that exists, or the official one where images are not needed.

        Raises:
            MissingError: As `find`, where images are needed.
        """
        try:
            return self.find(thing, *places)
        except MissingError as error:
            if self.needs_images:
                raise
            self.absent.append(str(error))
            return self.root / places[0]

    def read_json(self, thing: str, *places: str, kind: type = list) -> Any:
        """Read a JSON file.

        Args:
            thing (`str`): Which of `steps` brings it.
            places (`str`): Paths below the root, the official one first.
            kind (`type`, defaults to `list`): What it must hold.

        Returns:
            The content.

        Raises:
            ValueError: If it is missing, no JSON, or holds something else.
        """
        path = self.find(thing, *places)
        content = parse_json(self._read(path), path, f"the step that brings it is {self.steps[thing]}", kind)
        if not content:
            raise ValueError(f"'{path}' must hold a {kind.__name__} with something in it, got {content}.")
        return content

    def read_csv(self, thing: str, *places: str, header: Sequence[str]) -> list[dict[str, str]]:
        """Read a CSV file.

        Args:
            thing (`str`): Which of `steps` brings it.
            places (`str`): Paths below the root, the official one first.
            header (`Sequence[str]`): Its columns.

        Returns:
            `list[dict[str, str]]`: Its rows.

        Raises:
            ValueError: If it is missing or has other columns.
        """
        path = self.find(thing, *places)
        try:
            reader = csv.DictReader(io.StringIO(self._read(path)))
            names, rows = reader.fieldnames, list(reader)
        except csv.Error as error:
            raise ValueError(f"'{path}' is not a CSV file: {error}") from error
        if names != list(header):
            raise ValueError(f"'{path}' must have the columns {', '.join(header)}, got {names}.")
        if broken := [i for i, row in enumerate(rows) if None in row.values() or None in row]:
            raise ValueError(f"'{path}' must have {len(header)} cells a row; row {broken[0]} has not.")
        return rows

    def read_lines(self, thing: str, *places: str) -> list[str]:
        """Read the lines of a text file, empty ones left out.

        Args:
            thing (`str`): Which of `steps` brings it.
            places (`str`): Paths below the root, the official one first.

        Returns:
            `list[str]`: The lines, without blanks around them.

        Raises:
            ValueError: If it is missing.
        """
        return [line.strip() for line in self._read(self.find(thing, *places)).splitlines() if line.strip()]

    def _read(self, path: Path) -> str:
        try:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"'{path}' cannot be read: {error}") from error
        # Of the unpacked bytes: a file and its .gz have one digest.
        self.files[str(path.relative_to(self.root)).removesuffix(".gz")] = hashlib.sha256(content).hexdigest()
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"'{path}' is not text in UTF-8: {error}") from error

    def image(self, folder: Path, name: str, suffixes: Sequence[str] = ("",)) -> str:
        """Find an image.

        Args:
            folder (`Path`): Directory of the images.
            name (`str`): Path below it, as annotated.
            suffixes (`Sequence[str]`, defaults to none): Endings to try, the official one first.

        Returns:
            `str`: Path of the first that exists, or of the official one where none does.

        Raises:
            ValueError: If the name leads out of the directory.
        """
        # By its text: an image may be a link into a store elsewhere.
        folder = os.path.normpath(folder)
        paths = [os.path.normpath(os.path.join(folder, f"{name}{suffix}")) for suffix in suffixes]  # noqa: PTH118
        if not paths[0].startswith(f"{folder}{os.sep}"):
            raise ValueError(
                f"the annotated image '{name}' leads out of '{folder}'; these are not the official files."
            )
        return next((path for path in paths if self.holds(path)), paths[0])

    def holds(self, path: str) -> bool:
        """Check whether an image exists, by one look at its directory.

        Args:
            path (`str`): Path of the image.

        Returns:
            `bool`: Whether it is there.
        """
        parent, name = os.path.split(path)
        if parent not in self._listings:
            # Listed once, and not asked for each of CIRCO's 123,403 images.
            self._listings[parent] = frozenset(entry.name for entry in Path(parent).glob("*"))
        return name in self._listings[parent]


def check_rows(rows: Sequence, where: str, **fields: type | tuple[type, ...]) -> None:
    """Check that rows of annotations are what they claim to be.

    Args:
        rows (`Sequence`): The rows.
        where (`str`): Name of their file.
        fields: Type of each field.

    Raises:
        ValueError: If they are not a list, or a row is not an object, or lacks a field, or has another type there.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{where} must hold a list of objects, got {str(rows)[:40]!r}.")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{where} must hold objects, but row {index} is {str(row)[:40]!r}.")
        for name, kind in fields.items():
            if not isinstance(row.get(name), kind) or (isinstance(row[name], bool) and kind is not bool):
                kinds = " or ".join(part.__name__ for part in (kind if isinstance(kind, tuple) else (kind,)))
                got = f"{str(row[name])[:40]!r}" if name in row else "nothing"
                raise ValueError(f"{where} must have `{name}` ({kinds}) in every row, but row {index} has {got}.")


def check_values(lists: Iterable[Sequence], where: str, kind: type) -> None:
    """Check that lists of annotations hold one type of thing.

    Args:
        lists (`Iterable[Sequence]`): The lists.
        where (`str`): Name of their file and field.
        kind (`type`): Of each item.

    Raises:
        ValueError: If an item has another type.
    """
    for values in lists:
        if wrong := [value for value in values if type(value) is not kind]:
            raise ValueError(f"{where} must hold nothing but {kind.__name__}, but holds {str(wrong[0])[:40]!r}.")
