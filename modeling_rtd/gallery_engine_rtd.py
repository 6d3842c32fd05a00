"""What a gallery asks of its engine, and the one rule by which all engines rank."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from .errors_rtd import suggest


__all__ = ["ENGINES", "Engine", "find_engine", "import_from_home"]

# Name: file and class. Only the first travels with a pipeline.
ENGINES = {
    "exact": ("gallery_exact_rtd", "ExactEngine"),
    "faiss": ("gallery_faiss_rtd", "FaissEngine"),
    "milvus": ("gallery_milvus_rtd", "MilvusEngine"),
    "pgvector": ("gallery_pgvector_rtd", "PgVectorEngine"),
}

_SPARE = 16  # candidates beyond those asked for, so that rounding decides nothing
_PAIRS = 8192  # pairs of query and row that are scored in float64 at a time


class Engine:
    """Rows of embeddings under ids, and candidates for a query.

    An engine proposes candidates by scores in its own precision. `search` then takes as many as rounding could have
    displaced, scores them in float64, and breaks ties by the order in which images were added. So all exact engines
    return the same ids on the same data, and an approximate one errs only by what it did not propose.

    Attributes:
        name (`str`): As written in a manifest.
        own_options (`dict`):
            Options that belong to the gallery, with their defaults; all others belong to the process that opens it.
        dtypes (`tuple[str, ...]`): Types in which it stores embeddings.
        takes_expressions (`bool`): Whether `where` may be a string, a filter in the engine's own language.
        is_foreign (`bool`): Whether another program makes the embeddings; it has a method `sample` then.
        tolerance (`float`):
            Largest error of a score that `_nearest` returns; infinite where nothing is known of it, and then all
            candidates are scored again.
        rescore_multiplier (`int`): Candidates for each result that is asked for.
    """

    name = ""
    own_options: ClassVar[dict] = {}
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16")
    takes_expressions = is_foreign = False
    tolerance = 0.0
    rescore_multiplier = 1

    @classmethod
    def settle(cls, options: dict) -> dict:
        """Give the options that belong to the gallery, as its manifest keeps them.

        Args:
            options (`dict`): As they were passed.

        Returns:
            `dict`: All of `own_options`, with defaults where nothing was passed.
        """
        return {name: options.get(name, default) for name, default in cls.own_options.items()}

    @classmethod
    def find_server(cls, options: dict) -> str | None:
        """Find the server that a manifest names, which nobody connects to who has not named it again.

        Args:
            options (`dict`): As `settle` gives them.

        Returns:
            `str` or `None`: Its `uri`; `None` if the rows are in files.
        """
        return None

    def __len__(self) -> int:
        raise NotImplementedError

    def __bool__(self) -> bool:
        """Say whether there are rows; an engine that has to count them answers without."""
        return len(self) > 0

    @property
    def ids(self) -> list[str]:
        """`list[str]`: In the order in which the images were added."""
        raise NotImplementedError

    @property
    def state(self) -> dict:
        """`dict`: What the manifest keeps of the engine, by which a file that was cut short is found out."""
        return {}

    def find(self, ids: Sequence[str]) -> set[str]:
        """Find those of some ids that are here.

        Args:
            ids (`list[str]`): Ids.

        Returns:
            `set[str]`: Those that are here.
        """
        raise NotImplementedError

    def add(self, ids: Sequence[str], embeddings: np.ndarray, metadata: Sequence[dict | None]) -> None:
        """Add rows, all or none of them; one under an id that is here takes its place.

        Args:
            ids (`list[str]`): Distinct ids.
            embeddings (`np.ndarray` of shape `(len(ids), dim)`): L2-normalised, float32.
            metadata (`list[dict]`): For each row a dictionary, or `None`.
        """
        raise NotImplementedError

    def remove(self, ids: Sequence[str]) -> None:
        """Remove rows.

        Args:
            ids (`list[str]`): Ids that are here.
        """
        raise NotImplementedError

    def get(self, ids: Sequence[str]) -> np.ndarray:
        """Read embeddings.

        Args:
            ids (`list[str]`): Ids that are here.

        Returns:
            `np.ndarray` of shape `(len(ids), dim)`: float32.
        """
        raise NotImplementedError

    def get_metadata(self, ids: Sequence[str]) -> list[dict | None]:
        """Read metadata.

        Args:
            ids (`list[str]`): Ids; of those that are not here it is `None`.

        Returns:
            `list[dict]`: Of each id a dictionary, or `None`.
        """
        raise NotImplementedError

    def read(self, batch_size: int = 8192) -> Iterator[tuple[list[str], np.ndarray, list[dict | None]]]:
        """Read all rows, in the order in which they were added.

        Args:
            batch_size (`int`, defaults to 8192): Rows at a time.

        Returns:
            Iterator of `tuple`: Ids, embeddings and metadata, as `add` takes them.
        """
        raise NotImplementedError

    def advise(self, model) -> str:
        """Say what else may be done where the embeddings are not those of a model's image tower.

        Args:
            model ([`RTDModel`]): The model.

        Returns:
            `str`: A sentence after a space, or nothing.
        """
        return ""

    def refresh(self, state: dict | None = None) -> None:
        """Take in what another process has written since; the caller holds the lock.

        Args:
            state (`dict`, *optional*): As the manifest keeps it by now.
        """

    def finish(self) -> None:
        """Put all that was added where it outlives the process."""

    def close(self) -> None:
        """Let go of what is held open."""

    def begin_filter(self, where: dict) -> Callable[[], object] | None:
        """Take what a filter has to read, where that takes long; the caller holds the lock.

        Args:
            where (`dict`): See [`Gallery.search`].

        Returns:
            `callable` or `None`: Reads it, without the lock, so that a search with this filter finds it done.
        """
        return None

    def _nearest(self, queries: np.ndarray, count: int, where) -> tuple[np.ndarray, np.ndarray]:
        """Propose `count` candidates: scores, best first, and row numbers, -1 where there are no more."""
        raise NotImplementedError

    def _read_rows(self, rows: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _describe(self, rows: np.ndarray) -> list[tuple[str, dict | None]]:
        """Name the id and the metadata of each row."""
        raise NotImplementedError

    def search(
        self, queries: np.ndarray, top_k: int, exclude: Sequence[set[str]], where: dict | str | None
    ) -> list[list[dict]]:
        """Find the rows nearest to each query.

        Args:
            queries (`np.ndarray` of shape `(num_queries, dim)`): L2-normalised, float32.
            top_k (`int`): Results a query.
            exclude (`list[set[str]]`): Ids to leave out, for each query.
            where (`dict`, `str` or `None`): Filter, see [`Gallery.search`].

        Returns:
            `list[list[dict]]`: See [`Gallery.search`].
        """
        count = self.rescore_multiplier * top_k + _SPARE + max(map(len, exclude), default=0)
        while True:
            scores, rows = self._nearest(queries, count, where)
            usable = rows >= 0
            for q, names in enumerate(exclude):
                if names:
                    usable[q, usable[q]] = [name not in names for name, _ in self._describe(rows[q, usable[q]])]
            kept = np.where(usable, scores, -np.inf)
            last = -np.sort(-kept, axis=1)[:, top_k - 1] if kept.shape[1] >= top_k else np.full(len(kept), -np.inf)
            # The last of the best and its rival may both err by the tolerance.
            floor = last - 2 * self.tolerance
            exhausted = (rows[:, -1] < 0) | (kept.shape[1] < count)
            if (exhausted | (scores[:, -1] < floor)).all() or self.tolerance == math.inf:
                break
            count *= 4  # too many are as good as the last: ask for more
        return self._rank(queries, rows, usable & (kept >= floor[:, None]), top_k)

    def _rank(self, queries, rows, chosen, top_k) -> list[list[dict]]:
        query, place = chosen.nonzero()
        candidates = rows[query, place]
        exact = np.empty(len(query))
        by_row = np.argsort(candidates, kind="stable")  # so that a row is read once, and not for every query
        for start in range(0, len(query), _PAIRS):
            part = by_row[start : start + _PAIRS]
            vectors = self._read_rows(candidates[part]).astype(np.float64)
            exact[part] = np.einsum("nd,nd->n", vectors, queries[query[part]].astype(np.float64))
        exact = exact.round(12)  # below this, equal rows may differ by the order of summation
        order = np.lexsort((candidates, -exact, query))
        query = query[order]
        best = np.arange(len(order)) - np.searchsorted(query, query) < top_k
        query, order = query[best], order[best]
        results, scores = [[] for _ in queries], exact[order].clip(-1, 1)  # rows are rounded
        found = zip(query.tolist(), scores.tolist(), self._describe(candidates[order]), strict=True)
        for q, score, (name, metadata) in found:
            result = {"id": name, "score": score}
            results[q].append(result if metadata is None else {**result, "metadata": metadata})
        return results


def find_engine(name: str) -> type[Engine]:
    """Find the class of an engine; it is imported when it is asked for.

    Args:
        name (`str`): A key of `ENGINES`.

    Returns:
        `type[Engine]`: Its class.

    Raises:
        ValueError: If there is no engine of this name.
        ImportError: If the engine does not travel with a pipeline, and this package is not installed.
    """
    if name not in ENGINES:
        raise ValueError(suggest("engine", name, ENGINES))
    if name == "exact":
        # Written out: transformers copies what an import statement names.
        from .gallery_exact_rtd import ExactEngine

        return ExactEngine
    file, engine_class = ENGINES[name]
    return getattr(import_from_home(file, f"the engine '{name}'"), engine_class)


def import_from_home(file: str, what: str):
    """Import a file of this package that does not travel to the Hub, where transformers copies what is imported.

    Args:
        file (`str`): Name of the file, without its suffix.
        what (`str`): What it is for, in the refusal.

    Returns:
        The module.

    Raises:
        ImportError: If this package is not installed.
    """
    try:
        return importlib.import_module(f"modeling_rtd.{file}")
    except ModuleNotFoundError as error:
        if error.name not in ("modeling_rtd", f"modeling_rtd.{file}"):
            raise
        raise ImportError(
            f"{what} is not among the files of a repository: install the package (pip install rtd-cir)."
        ) from error
