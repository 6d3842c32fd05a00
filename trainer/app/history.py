"""Refining in turns: a result becomes the next reference."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from modeling_rtd import QUERY_ENTRIES, is_url, list_excluded, read_json, suggest, write_json


__all__ = ["SearchHistory"]


class SearchHistory:
    """Turns of one search over one gallery, each with its query and its results.

    Ours, not the paper's: a turn is a query of [`ComposedImageRetrievalPipeline`] like any other, whose reference is a
    result of an earlier turn.

    Args:
        pipeline ([`ComposedImageRetrievalPipeline`]): Answers.
        turns (`list[dict]`, *optional*): Turns of an earlier history over the same gallery, to continue.
        root (`str` or `Path`, *optional*):
            Folder of the gallery's images. Where given, ids and the `path` in metadata may be paths in it, and a
            result outside is not read.
        options: Of every turn: what the pipeline takes, such as `top_k`.

    Attributes:
        turns (`list[dict]`): Of each turn `query`, `results`, `options`, and `chosen`: the turn and the ranks (from 1)
            whose results are its references, or `None`. With the option `with_measures` also `edit_magnitude` and
            `margin`. JSON can hold it.

    Examples:
        >>> history = SearchHistory(pipe, top_k=5)  # doctest: +SKIP
        >>> history.ask(image="dress.jpg", text="is blue")  # doctest: +SKIP
        >>> history.refine(2, text="has long sleeves")  # doctest: +SKIP
        >>> history.save("history.json")  # doctest: +SKIP
    """

    def __init__(self, pipeline, turns: Sequence[dict] = (), *, root: str | Path | None = None, **options):
        self.pipeline = pipeline
        self.root = None if root is None else Path(root).resolve()
        self.turns, self.options = list(turns), options

    def ask(self, **query) -> list[dict]:
        """Ask a query as the next turn.

        Args:
            query: Entries of a query, such as `image` (a path or URL, or several), `text`, `strength`, `negative`.

        Returns:
            `list[dict]`: Results, best first.

        Raises:
            ValueError: If an image is not a path or URL, an entry is unknown, JSON cannot hold it, or the query is not
                accepted.
        """
        return self._take_turn(query, None)

    def refine(self, ranks: int | Sequence[int], turn: int | None = None, **query) -> list[dict]:
        """Ask with results of an earlier turn as references; these are left out of the results.

        Args:
            ranks (`int` or `list[int]`): Ranks of one result or of several, from 1.
            turn (`int`, *optional*): Whose results, from 1. Defaults to the last turn's.
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

    def _take_turn(self, query: dict, chosen: dict | None) -> list[dict]:
        _check_entries(query)
        query = _make_plain({name: value for name, value in query.items() if value is not None})
        options = _make_plain(self.options)
        asked = dict(query)
        if chosen is not None:
            # The turn keeps ids; the pipeline reads files.
            names = query["image"] if isinstance(query["image"], list) else [query["image"]]
            asked["image"] = [self.locate(name) for name in names]
            # By its id, since the pipeline knows the reference by its path only.
            if options.get("exclude_reference", True):
                asked["exclude"] = list_excluded(query) + names
        answer = self.pipeline(asked, **options)
        measures = answer if isinstance(answer, dict) else {"hits": answer}
        results = measures.pop("hits")
        # After the answer: a query that is refused is not a turn.
        self.turns.append({"query": query, "chosen": chosen, "options": options, "results": results} | measures)
        return results

    def locate(self, name: str) -> str:
        """Find the image file of an id, see [`Gallery.locate`].

        Args:
            name (`str`): Id of the gallery.

        Returns:
            `str`: Its path, which is below `root` where there is one.

        Raises:
            ValueError: If it is elsewhere, or is a URL, which nobody but the gallery has named.
        """
        place = self.pipeline.gallery.locate([name])[0]
        if is_url(place):
            raise ValueError(
                f"the image of '{name}' is at '{place}', which the gallery names and you did not, and it is not "
                "fetched: `ask` with it as `image` (--image) instead."
            )
        if self.root is None:
            return place
        if self.list_outside([place], self.root):
            raise ValueError(f"the image '{place}' is not in '{self.root}', and nothing outside of it is read.")
        return str((self.root / place).resolve())

    @staticmethod
    def list_outside(places: Iterable[str], root: str | Path) -> list[str]:
        """List the places that are not below a folder, links followed: a history with this root reads none of them.

        Args:
            places (`list[str]`): Of [`Gallery.locate`]; relative ones count from the folder.
            root (`str` or `Path`): The folder.

        Returns:
            `list[str]`: Those that are elsewhere.
        """
        root = Path(root).resolve()
        return [place for place in places if not _lies_in(root, place)]

    def save(self, path: str | Path) -> None:
        """Write the history to a file, all of it or nothing.

        Args:
            path (`str` or `Path`): A file, written anew.
        """
        write_json(path, {"turns": self.turns}, indent=1)

    @classmethod
    def load(cls, pipeline, path: str | Path, *, root: str | Path | None = None, **options) -> SearchHistory:
        """Read a history and continue it, without asking its queries again.

        Args:
            pipeline ([`ComposedImageRetrievalPipeline`]): Answers.
            path (`str` or `Path`): File of `save`.
            root, options: See the class.

        Returns:
            [`SearchHistory`]: With the turns of the file.

        Raises:
            ValueError: If the file is not a history.
        """
        try:
            turns = read_json(path, "begin another history", turns=list)["turns"]
        except (OSError, ValueError) as error:
            raise ValueError(f"'{path}' is not a history of a search: {error}") from error
        wrong = next((number for number, turn in enumerate(turns) if not _is_turn(turn, number)), None)
        if wrong is not None:
            raise ValueError(f"'{path}' is not a history of a search: its turn {wrong + 1} is damaged; begin another.")
        return cls(pipeline, turns, root=root, **options)


def _lies_in(root: Path, place: str) -> bool:
    try:
        return (root / place).resolve().is_relative_to(root)
    except (ValueError, OSError, RuntimeError):  # a NUL, a name that is too long, links in a circle
        return False


def _check_entries(query: dict) -> None:
    unknown = [name for name in query if name not in QUERY_ENTRIES]
    if unknown:
        raise ValueError(suggest("entry of a query", unknown[0], QUERY_ENTRIES))
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


def _is_turn(turn, earlier: int) -> bool:
    """Check whether a turn of a file is one that `ask` or `refine` made, after so many others."""
    try:
        query, chosen, options, results = turn["query"], turn["chosen"], turn["options"], turn["results"]
        _check_entries(query)
        ids = [hit["id"] for hit in results]
        scores = [hit["score"] for hit in results]
        if chosen is not None:
            numbers = [chosen["turn"], *chosen["ranks"]]
            # By type, since True is an int to Python.
            is_choice = all(type(number) is int and number >= 1 for number in numbers) and chosen["turn"] <= earlier
            is_choice &= bool(chosen["ranks"]) and query.get("image") is not None
        else:
            is_choice = True
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    is_query = isinstance(query, dict) and isinstance(query.get("text"), str | None)
    is_found = all(isinstance(name, str) for name in ids) and all(isinstance(score, int | float) for score in scores)
    return isinstance(results, list) and isinstance(options, dict) and is_query and is_found and is_choice
