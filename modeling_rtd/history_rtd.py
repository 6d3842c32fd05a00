"""Refining in turns: a result becomes the next reference, and the way there can be walked again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors_rtd import suggest
from .files_rtd import write_json
from .gallery_rtd import Gallery
from .query_rtd import ENTRIES, list_excluded


__all__ = ["SearchHistory"]

_VERSION = 1
_OTHER_IDS = "was made on a gallery with other ids, and its references may not be here: start a new history."


class SearchHistory:
    """Turns of one search over one gallery, each with its query and its results.

    Ours, not the paper's: a turn is a query of [`ComposedImageRetrievalPipeline`] like any other, whose reference is a
    result of an earlier turn. Nothing of a turn is hidden in a state, so the same queries give the same results.
    A gallery is known again by its ids and their order, and by nothing else.

    Args:
        pipeline ([`ComposedImageRetrievalPipeline`]): Answers. `pipeline.start_history()` does the same.
        turns (`list[dict]`, *optional*): Turns of an earlier history over the same gallery, to go on with.
        root (`str` or `Path`, *optional*):
            Folder of the gallery's images. Where given, ids and the `path` in metadata may be paths in it, and a
            result outside is not read.
        options: Of every turn: what the pipeline takes, such as `top_k`.

    Attributes:
        turns (`list[dict]`): Of each turn `query`, `results`, `options`, and `chosen`: the turn and the ranks (from 1)
            whose results are its references, or `None`. JSON can hold it.

    Examples:
        >>> history = pipe.start_history(top_k=5)  # doctest: +SKIP
        >>> history.ask(image="dress.jpg", text="is blue")  # doctest: +SKIP
        >>> history.refine(2, text="has long sleeves")  # doctest: +SKIP
        >>> history.save("history.json")  # doctest: +SKIP
    """

    def __init__(self, pipeline, turns: Sequence[dict] = (), *, root: str | Path | None = None, **options):
        self.pipeline, self.gallery = pipeline, pipeline.gallery
        self.root = None if root is None else Path(root).resolve()
        self.turns, self.options = list(turns), options
        self._gallery_sha256 = None  # since the first turn

    def ask(self, **query) -> list[dict]:
        """Ask a query as the next turn.

        Args:
            query: Entries of a query, such as `image` (a path or URL, or several), `text`, `strength`, `negative`.

        Returns:
            `list[dict]`: Results, best first.

        Raises:
            ValueError: If an image is no path or URL, an entry is unknown or JSON cannot hold it, the gallery has
                changed since the first turn, or the query is not accepted.
        """
        return self._take_turn(query, None)

    def refine(self, ranks: int | Sequence[int], turn: int | None = None, **query) -> list[dict]:
        """Ask with results of an earlier turn as references; these are left out of the results.

        Args:
            ranks (`int` or `list[int]`): Ranks of one result or of several, from 1.
            turn (`int`, *optional*): Whose results, from 1; the last turn's where left out.
            query: Further entries of the query, such as `text` and `weights`.

        Returns:
            `list[dict]`: Results, best first.

        Raises:
            ValueError: If there is no such turn or rank, an image of the gallery cannot be read, or as of `ask`.
        """
        ranks = [ranks] if isinstance(ranks, int) else list(ranks)
        turn = len(self.turns) if turn is None else turn
        if not 1 <= turn <= len(self.turns):
            raise ValueError(f"there is no turn {turn}: the history has {len(self.turns)}, and `ask` makes the first.")
        results = self.turns[turn - 1]["results"]
        missing = [rank for rank in ranks if not 1 <= rank <= len(results)]
        if missing or not ranks:
            raise ValueError(f"turn {turn} has results of the ranks 1 to {len(results)}, got {ranks}.")
        if "image" in query:
            raise ValueError("the references of `refine` are results: leave `image` out, or `ask` a new query.")
        names = [results[rank - 1]["id"] for rank in ranks]
        query["image"] = names[0] if len(names) == 1 else names
        return self._take_turn(query, {"turn": turn, "ranks": ranks})

    def _check_gallery(self) -> None:
        if self.pipeline.gallery is not self.gallery:
            raise ValueError(
                "the pipeline searches another gallery than this history began with, and references of different "
                "galleries do not belong together: start a new history."
            )
        now = _hash_gallery(self.gallery)
        if now != (self._gallery_sha256 or now):
            raise ValueError("the ids of the gallery have changed since this history began: start a new history.")
        self._gallery_sha256 = now

    def _take_turn(self, query: dict, chosen: dict | None) -> list[dict]:
        self._check_gallery()
        _check_entries(query)
        query = _make_plain({name: value for name, value in query.items() if value is not None})
        options = _make_plain(self.options)
        asked = dict(query)
        if chosen is not None:
            names = query["image"] if isinstance(query["image"], list) else [query["image"]]
            asked["image"] = [self.locate(name) for name in names]
            if options.get("exclude_reference", True):
                asked["exclude"] = list_excluded(query) + names
        results = self.pipeline(asked, **options)
        self.turns.append({"query": query, "chosen": chosen, "options": options, "results": results})
        return results

    def locate(self, name: str) -> str:
        """Find the image file of an id, see [`Gallery.locate`].

        Args:
            name (`str`): Id of the gallery.

        Returns:
            `str`: Its path, which lies below `root` where there is one; a URL as it is where there is none.

        Raises:
            ValueError: If it lies elsewhere.
        """
        place = self.gallery.locate([name])[0]
        if self.root is None:
            return place
        if self.list_outside([place], self.root):
            raise ValueError(f"the image '{place}' does not lie in '{self.root}', and nothing outside of it is read.")
        return str((self.root / place).resolve())

    @staticmethod
    def list_outside(places: Iterable[str], root: str | Path) -> list[str]:
        """List the places that are not below a folder, links followed: a history with this root reads none of them.

        Args:
            places (`list[str]`): Of [`Gallery.locate`]; relative ones count from the folder.
            root (`str` or `Path`): The folder.

        Returns:
            `list[str]`: Those that lie elsewhere.
        """
        root = Path(root).resolve()
        return [place for place in places if not (root / place).resolve().is_relative_to(root)]

    def save(self, path: str | Path) -> None:
        """Write the history to a file, all of it or nothing.

        Args:
            path (`str` or `Path`): A file, written anew.
        """
        made_on = self._gallery_sha256 or _hash_gallery(self.gallery)
        write_json(path, {"version": _VERSION, "gallery_sha256": made_on, "turns": self.turns}, indent=1)

    @classmethod
    def load(cls, pipeline, path: str | Path, *, root: str | Path | None = None, **options) -> SearchHistory:
        """Read a history and go on with it, without asking its queries again.

        Args:
            pipeline ([`ComposedImageRetrievalPipeline`]): Answers; it must search the same gallery.
            path (`str` or `Path`): File of `save`.
            root, options: See the class.

        Returns:
            [`SearchHistory`]: With the turns of the file.

        Raises:
            ValueError: If the file is no history, or was made on a gallery with other ids.
        """
        facts = _read_facts(path)
        history = cls(pipeline, facts["turns"], root=root, **options)
        history._gallery_sha256 = facts["gallery_sha256"]
        if facts["gallery_sha256"] != _hash_gallery(pipeline.gallery):
            raise ValueError(f"the history '{path}' {_OTHER_IDS}")
        return history

    @staticmethod
    def check(path: str | Path, ids: Iterable[str]) -> None:
        """Refuse a file that `load` refuses, as far as that can be told before there is a gallery.

        Args:
            path (`str` or `Path`): File of `save`.
            ids (`list[str]`): Ids that the gallery may have.

        Raises:
            ValueError: If the file is no history, or a result is none of the ids.
        """
        known = set(ids)
        if any(result["id"] not in known for turn in _read_facts(path)["turns"] for result in turn["results"]):
            raise ValueError(f"the history '{path}' {_OTHER_IDS}")

    def replay(self) -> None:
        """Ask all turns again and compare.

        Raises:
            ValueError: If a turn has other results than it had, as after a change of the model; names the first.
        """
        again = SearchHistory(self.pipeline, root=self.root)
        again._gallery_sha256 = self._gallery_sha256
        for number, turn in enumerate(self.turns, start=1):
            again.options = turn["options"]
            results = again._take_turn(turn["query"], turn["chosen"])
            if [result["id"] for result in results] != [result["id"] for result in turn["results"]]:
                raise ValueError(
                    f"turn {number} of the history has other results than it had: the model, its adapter, a "
                    "reference, or images of the gallery under the same ids have changed."
                )


def _check_entries(query: dict) -> None:
    unknown = [name for name in query if name not in ENTRIES]
    if unknown:
        raise ValueError(suggest("entry of a query", unknown[0], ENTRIES))
    images = query.get("image")
    for image in images if isinstance(images, list | tuple) else [images] if images is not None else []:
        if not isinstance(image, str | Path):
            raise ValueError(
                f"a history holds paths and URLs, so that it can be asked again, got an image of type "
                f"{type(image).__name__}: save it to a file."
            )


def _make_plain(entries: dict) -> dict:
    """Give what JSON gives back of entries: paths as strings, numbers of NumPy and torch as Python's."""
    plain = {}
    for name, value in entries.items():
        try:
            plain[name] = json.loads(json.dumps(value, default=_write_plain))
        except (TypeError, ValueError) as error:
            raise ValueError(f"a history is kept as JSON, which cannot hold `{name}`={value!r}: {error}.") from error
    return plain


def _write_plain(value):
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def _read_facts(path: str | Path) -> dict:
    try:
        facts = json.loads(Path(path).read_text())
        version, turns = facts["version"], facts["turns"]
        good = isinstance(turns, list) and isinstance(facts["gallery_sha256"], str)
        if not good or (version == _VERSION and not all(map(_is_turn, turns))):
            raise ValueError("its turns are damaged")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"'{path}' is no history of a search: {error!r}.") from error
    if version != _VERSION:
        raise ValueError(f"the history '{path}' has version {version!r}, and this code reads {_VERSION}.")
    return facts


def _is_turn(turn: dict) -> bool:
    query, chosen = turn["query"], turn["chosen"]
    kinds = isinstance(query, dict) and isinstance(turn["options"], dict) and isinstance(turn["results"], list)
    return (
        kinds
        and (chosen is None or query.get("image") is not None)
        and all(type(hit["id"]) is str for hit in turn["results"])
    )


def _hash_gallery(gallery: Gallery) -> str:
    return hashlib.sha256(json.dumps(gallery.ids).encode()).hexdigest()
