"""FAISS over the same rows: flat, or approximate by any index factory."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np

from .files_rtd import replace_file, sum_file
from .gallery_exact_rtd import StoredEngine
from .gallery_quantised_rtd import check_multiplier


__all__ = ["FaissEngine", "require_faiss"]

_INDEX = "index.faiss"
_LAG = 2.0**-6  # part of the rows that the stored index may lack
_TRAIN = 2**21  # rows that an index is trained on, at most
_FEW = 8192  # rows that are read rather than looked for in the index


def require_faiss():
    """Import FAISS, which nothing else here does.

    Returns:
        The module `faiss`.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError('FAISS is not installed: pip install faiss-cpu, or use engine="exact".') from error
    return faiss


class FaissEngine(StoredEngine):
    """A FAISS index by inner product. The rows are stored beside it, and the index is rebuilt from them if it is lost.

    Args:
        dim, dtype, folder, state: See [`StoredEngine`].
        factory (`str`, defaults to `"Flat"`):
            What `faiss.index_factory` takes, such as `"Flat"` (exact), `"HNSW32"` or `"IVF1024,Flat"`. `"SQ8"`
            (one byte a number) and `"RaBitQ"` (one bit) hold codes, and the stored rows rank what these propose.
        search_parameter (`int`, *optional*):
            How far an approximate index looks: `efSearch` of HNSW, `nprobe` of IVF. Defaults to FAISS's own.
        rescore_multiplier (`int`, defaults to 10): Candidates for each result, where the index holds codes.

    Raises:
        ImportError: If FAISS is not installed.
        ValueError: If FAISS does not know the factory.
    """

    name = "faiss"
    own_options: ClassVar[dict] = {"factory": "Flat"}

    def __init__(
        self,
        dim: int,
        dtype: str = "float32",
        folder: Path | None = None,
        state: dict | None = None,
        factory: str = "Flat",
        search_parameter: int | None = None,
        rescore_multiplier: int = 10,
    ):
        self._faiss = require_faiss()
        super().__init__(dim, dtype, folder, state)
        self.factory, self.search_parameter = factory, search_parameter
        self._index_sum = (state or {}).get("index_checksum")
        self.tolerance = dim * 2.0**-24
        if "Q" in factory:  # SQ8, PQ, RaBitQ and all others whose scores are those of codes
            self.tolerance, self.rescore_multiplier = math.inf, check_multiplier(rescore_multiplier)
        index = None if state is None else self._read_index()
        self._num_stored = index.ntotal if index else 0
        self._index = index or self._build_index()

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_faiss"}  # a library is not copied

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _faiss=require_faiss())

    def _build_index(self):
        try:
            return self._faiss.index_factory(self.dim, self.factory, self._faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS does not know the factory '{self.factory}'; take one such as 'Flat', 'HNSW32' or "
                "'IVF1024,Flat'."
            ) from error

    def _read_index(self):
        place = None if self.folder is None else self.folder / _INDEX
        if place is None or not place.exists():
            return None
        try:
            # FAISS reads whatever has its form: a file of another gallery, or one with a bit turned over.
            is_ours = self._index_sum is None or self._index_sum == sum_file(place)
            index = self._faiss.read_index(str(place)) if is_ours else None
        except RuntimeError:
            index = None
        if index is None or index.ntotal > self._num_rows or index.d != self.dim:
            warnings.warn(f"'{place}' cannot be used and is built again from the rows beside it.", stacklevel=2)
            return None
        return index

    def refresh(self, state: dict | None = None) -> None:
        """See [`Engine.refresh`]; the checksum is that of the index that is in the folder now."""
        super().refresh(state)
        if state is not None:
            self._index_sum = state.get("index_checksum")

    def finish(self) -> None:
        """See [`Engine.finish`]; FAISS writes whole files only, and few new rows are added again at opening."""
        self._catch_up()
        if self.folder is not None and self._index.ntotal > self._num_stored * (1 + _LAG):
            with replace_file(self.folder / _INDEX) as partial:
                self._faiss.write_index(self._index, str(partial))
                self._index_sum = sum_file(partial)
            self._num_stored = self._index.ntotal

    @property
    def state(self) -> dict:
        """`dict`: How many rows were written, and the checksum of the index."""
        return super().state | {"index_checksum": self._index_sum}

    def _catch_up(self) -> None:
        """Take rows into the index that it does not hold yet."""
        rows = self._load_array()
        if self._index.ntotal == len(rows):
            return
        if not self._index.is_trained:
            try:
                # Of millions of rows FAISS draws some itself, but wants them all in float32.
                self._index.train(rows[:: 1 + len(rows) // _TRAIN].astype(np.float32))
            except RuntimeError as error:
                raise ValueError(
                    f"{len(rows)} images are too few to train the index '{self.factory}': {error}; add more at a "
                    "time, or choose a factory with fewer lists, or 'Flat'."
                ) from error
        for start in range(self._index.ntotal, len(rows), 65_536):
            self._index.add(rows[start : start + 65_536].astype(np.float32))

    def _nearest(self, queries: np.ndarray, count: int, where) -> tuple[np.ndarray, np.ndarray]:
        self._catch_up()
        allowed = self._find_allowed(where)
        if allowed is not None and allowed.sum() <= _FEW:
            return self._nearest_of_few(queries, count, allowed.nonzero()[0])
        self._set_search_parameter()
        breadth = 1
        while True:
            asked = min(count * breadth, self._index.ntotal)
            parameters = None if allowed is None else self._select(allowed, asked, breadth)
            scores, rows = self._search(queries, asked, parameters)
            usable = rows >= 0 if allowed is None else (rows >= 0) & allowed[rows]
            if allowed is None or (usable.sum(axis=1) >= count).all() or self._is_widest(count, breadth):
                break
            breadth *= 4  # rows that do not count lay where the index looks
        order = np.argsort(~usable, axis=1, kind="stable")[:, :count]
        usable = np.take_along_axis(usable, order, axis=1)
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        return np.where(usable, scores, -np.inf), np.where(usable, rows, -1)

    def _nearest_of_few(self, queries: np.ndarray, count: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ self._read_rows(chosen).astype(np.float32).T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        scores, rows = np.take_along_axis(scores, order, axis=1), chosen[order]
        missing = ((0, 0), (0, count - rows.shape[1]))
        return np.pad(scores, missing, constant_values=-np.inf), np.pad(rows, missing, constant_values=-1)

    def _search(self, queries: np.ndarray, count: int, parameters) -> tuple[np.ndarray, np.ndarray]:
        if parameters is not None:
            try:
                return self._index.search(queries, count, params=parameters)
            except RuntimeError:  # an index that takes no selection, such as PQ
                pass
        return self._index.search(queries, count)

    def _is_widest(self, count: int, breadth: int) -> bool:
        if isinstance(self._index, self._faiss.IndexIVF):
            return self._index.nprobe * breadth >= self._index.nlist
        return count * breadth >= self._index.ntotal

    def _select(self, allowed: np.ndarray, asked: int, breadth: int):
        """Make the search parameters by which an index passes over rows that do not count."""
        selector = self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if isinstance(self._index, self._faiss.IndexIVF):
            return self._faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe * breadth)
        if isinstance(self._index, self._faiss.IndexHNSW):
            return self._faiss.SearchParametersHNSW(sel=selector, efSearch=max(self._index.hnsw.efSearch, asked))
        return self._faiss.SearchParameters(sel=selector)

    def _set_search_parameter(self) -> None:
        if self.search_parameter is not None:
            # HNSW knows the first and IVF the second; FAISS refuses the other.
            for name in ("efSearch", "nprobe"):
                try:
                    self._faiss.ParameterSpace().set_index_parameter(self._index, name, self.search_parameter)
                    return
                except RuntimeError:
                    continue
