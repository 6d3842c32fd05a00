"""Milvus through `pymilvus`: the same calls on an embedded file and on a server."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from .gallery_engine_rtd import Engine


__all__ = ["MilvusEngine"]

_MOST = 16_384  # results that Milvus gives at a time
_QUERIES, _PAIRS, _ROWS = 32, 131_072, 2048  # in one message: queries, hits of all of them, and rows
_ID_BYTES = 1024


def _require_pymilvus():
    try:
        import grpc
        import pymilvus
    except ImportError as error:
        raise ImportError(
            'pymilvus is not installed: pip install pymilvus milvus-lite, or use engine="exact".'
        ) from error
    for name in ("pymilvus", "milvus_lite"):  # they log a traceback of every error that they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus, (pymilvus.MilvusException, grpc.RpcError)


def _is_file(uri: str | Path | None) -> bool:
    return uri is not None and str(uri).endswith(".db")


def _explain(error: Exception) -> str:
    return getattr(error, "message", None) or (error.details() if hasattr(error, "details") else str(error))


class MilvusEngine(Engine):
    """A collection of Milvus, which holds embeddings, ids and metadata; the gallery's folder has the manifest alone.

    Milvus gives at most 16,384 results a query.

    Args:
        dim (`int`): Size of an embedding.
        dtype (`str`, defaults to `"float32"`): Only `"float32"`.
        folder (`Path`): Where the manifest is, and the embedded file.
        state (`dict`, *optional*): As the manifest keeps it; left out for a gallery that is being made.
        uri (`str`, *optional*):
            A server, such as `"http://127.0.0.1:19530"`, or a file whose name ends with `.db`. Defaults to
            `milvus.db` in the gallery's folder, by `milvus-lite`.
        collection (`str`, defaults to `"gallery"`): Name of the collection, which belongs to this gallery alone.
        index (`str`, defaults to `"FLAT"`):
            Type of Milvus's index: `"FLAT"` is exact; `"AUTOINDEX"`, `"HNSW"` and others are approximate.
        token (`str`, *optional*): Of the server; never written to the manifest.

    Raises:
        ImportError: If `pymilvus` is not installed.
        ValueError: If Milvus cannot be reached, there is no folder, a collection is there that should be made, or not
            there or of another size where it should be opened.
    """

    name = "milvus"
    own_options: ClassVar[dict] = {"uri": None, "collection": "gallery", "index": "FLAT"}
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    takes_expressions = True

    @classmethod
    def settle(cls, options: dict) -> dict:
        """See [`Engine.settle`]; a file is named by its whole path, whichever folder it is opened from."""
        options = super().settle(options)
        uri = options["uri"]
        return options | {"uri": str(Path(uri).resolve())} if _is_file(uri) else options

    @classmethod
    def find_server(cls, options: dict) -> str | None:
        """See [`Engine.find_server`]."""
        return None if _is_file(options["uri"]) else options["uri"]

    def __init__(
        self,
        dim: int,
        dtype: str = "float32",
        folder: Path | None = None,
        state: dict | None = None,
        uri: str | None = None,
        collection: str = "gallery",
        index: str = "FLAT",
        token: str | None = None,
    ):
        if folder is None:
            raise ValueError("a gallery in Milvus needs a folder for its manifest: pass folder=.")
        if dtype not in self.dtypes:
            raise ValueError(f"Milvus stores float32 here, got dtype='{dtype}'; leave it out.")
        self.dim, self.collection, self.uri = dim, collection, uri or str(folder / "milvus.db")
        self.tolerance = dim * 2.0**-24
        self._milvus, self._errors = _require_pymilvus()
        self._names: dict[int, str] = {}  # of the rows that were found last
        self._metadata: dict[int, dict | None] = {}  # of those that were read last
        self._last_row = -1
        if state is not None and _is_file(self.uri) and not Path(self.uri).exists():
            raise ValueError(f"there is no file '{self.uri}'; restore it from a copy, or index the images again.")
        try:
            self._client = self._milvus.MilvusClient(uri=self.uri, token=token or "", timeout=10)
        except self._errors as error:
            raise ValueError(
                f"Milvus at '{self.uri}' could not be opened: {_explain(error)}; is the "
                "server running, or does another "
                "process have the file open?"
            ) from error
        try:
            self._make(index) if state is None else self._open()
        except ValueError:
            self.close()
            raise

    def _ask(self, call: str, **arguments):
        try:
            return getattr(self._client, call)(self.collection, **arguments)
        except self._errors as error:
            raise ValueError(f"Milvus refused to {call.replace('_', ' ')}: {_explain(error)}.") from error

    def _open(self) -> None:
        if not self._ask("has_collection"):
            raise ValueError(
                f"Milvus at '{self.uri}' has no collection '{self.collection}'; restore it, or index the images again."
            )
        fields = {field["name"]: field for field in self._ask("describe_collection")["fields"]}
        found = fields.get("embedding", {}).get("params", {}).get("dim")
        if found != self.dim:
            raise ValueError(
                f"the collection '{self.collection}' in Milvus at '{self.uri}' holds embeddings of {found} numbers, "
                f"the gallery's manifest says {self.dim}. It is that of another gallery: restore the right one."
            )
        self._ask("load_collection")  # a file that another process closed is not loaded

    def _make(self, kind: str) -> None:
        if self._ask("has_collection"):
            raise ValueError(
                f"Milvus at '{self.uri}' has a collection '{self.collection}' already, which may be that of another "
                "gallery; name another with collection=, or drop it first."
            )
        kinds = self._milvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=_ID_BYTES)
        schema.add_field("row", kinds.INT64)  # the order in which images were added
        schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=self.dim)
        schema.add_field("metadata", kinds.JSON)
        index = self._client.prepare_index_params()
        index.add_index("embedding", index_type=kind, metric_type="IP")
        # A search must see what was added before it, which Milvus does not promise by default.
        self._ask("create_collection", schema=schema, index_params=index, consistency_level="Strong")

    def close(self) -> None:
        """See [`Engine.close`]."""
        self._client.close()

    def __len__(self) -> int:
        return self._ask("query", filter="", output_fields=["count(*)"])[0]["count(*)"]

    def __bool__(self) -> bool:
        return bool(self._ask("query", filter="row >= 0", output_fields=["row"], limit=1))

    @property
    def ids(self) -> list[str]:
        """`list[str]`: In the order in which the images were added."""
        # Without a filter Milvus wants a limit.
        entries = self._ask("query", filter="row >= 0", output_fields=["id", "row"])
        return [entry["id"] for entry in sorted(entries, key=lambda entry: entry["row"])]

    def find(self, ids: Sequence[str]) -> set[str]:
        """See [`Engine.find`]."""
        return {entry["id"] for entry in self._query_ids(ids, [])}

    def _query_ids(self, ids: Sequence[str], fields: list[str]) -> Iterator[dict]:
        for start in range(0, len(ids), _ROWS):
            chosen = f"id in {_quote(list(ids[start : start + _ROWS]))}"
            yield from self._ask("query", filter=chosen, output_fields=["id", *fields])

    def get(self, ids: Sequence[str]) -> np.ndarray:
        """See [`Engine.get`]."""
        found = {entry["id"]: entry["embedding"] for entry in self._query_ids(ids, ["embedding"])}
        return np.array([found[name] for name in ids], np.float32).reshape(len(ids), self.dim)

    def get_metadata(self, ids: Sequence[str]) -> list[dict | None]:
        """See [`Engine.get_metadata`]."""
        found = {entry["id"]: entry["metadata"] or None for entry in self._query_ids(ids, ["metadata"])}
        return [found.get(name) for name in ids]

    def read(self, batch_size: int = _ROWS) -> Iterator[tuple[list[str], np.ndarray, list[dict | None]]]:
        """See [`Engine.read`]."""
        ids = self.ids
        for start in range(0, len(ids), batch_size):
            batch = ids[start : start + batch_size]
            found = {entry["id"]: entry for entry in self._query_ids(batch, ["embedding", "metadata"])}
            embeddings = np.array([found[name]["embedding"] for name in batch], np.float32)
            yield batch, embeddings, [found[name]["metadata"] or None for name in batch]

    def add(self, ids: Sequence[str], embeddings: np.ndarray, metadata: Sequence[dict | None]) -> None:
        """See [`Engine.add`]; all or none of 2,048 at a time.

        Raises:
            ValueError: If an id is longer than the 1,024 bytes that the collection takes.
        """
        for name in ids:
            if len(name.encode()) > _ID_BYTES:
                raise ValueError(f"Milvus takes ids of {_ID_BYTES} bytes at most, got '{name[:80]}...'.")
        for start in range(0, len(ids), _ROWS):
            batch = zip(
                ids[start : start + _ROWS],
                embeddings[start : start + _ROWS].tolist(),
                metadata[start : start + _ROWS],
                strict=True,
            )
            # A clock, since Milvus cannot be asked cheaply for the last number it has.
            first = max(time.time_ns(), self._last_row + 1)
            entries = [
                {"id": name, "row": first + i, "embedding": row, "metadata": extra or {}}
                for i, (name, row, extra) in enumerate(batch)
            ]
            self._ask("upsert", data=entries)
            self._last_row = first + len(entries) - 1

    def remove(self, ids: Sequence[str]) -> None:
        """See [`Engine.remove`]."""
        for start in range(0, len(ids), _ROWS):
            self._ask("delete", filter=f"id in {_quote(list(ids[start : start + _ROWS]))}")

    def finish(self) -> None:
        """See [`Engine.finish`]."""
        self._ask("flush")

    def _nearest(self, queries: np.ndarray, count: int, where) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(where, dict):
            where = _write_expression(where)
        count = min(count, _MOST)
        scores, rows = np.full((len(queries), count), -np.inf, np.float32), np.full((len(queries), count), -1)
        self._names, self._metadata = {}, {}
        size = max(1, min(_QUERIES, _PAIRS // count))
        for start in range(0, len(queries), size):
            found = self._ask(
                "search",
                data=queries[start : start + size].tolist(),
                limit=count,
                filter=where or "",
                anns_field="embedding",
                output_fields=["row"],
            )
            for q, hits in enumerate(found, start=start):
                for place, hit in enumerate(hits):
                    row = hit["entity"]["row"]
                    scores[q, place], rows[q, place] = hit["distance"], row
                    self._names[row] = hit["id"]
        return scores, rows

    def _read_rows(self, rows: np.ndarray) -> np.ndarray:
        different, places = np.unique(rows, return_inverse=True)
        names = [self._names[row] for row in different.tolist()]
        found = {entry["id"]: entry for entry in self._query_ids(names, ["embedding", "metadata"])}
        self._metadata |= {
            row: found[name]["metadata"] or None for row, name in zip(different.tolist(), names, strict=True)
        }
        return np.array([found[name]["embedding"] for name in names], np.float32).reshape(-1, self.dim)[places]

    def _describe(self, rows: np.ndarray) -> list[tuple[str, dict | None]]:
        return [(self._names[row], self._metadata.get(row)) for row in rows.tolist()]


def _write_expression(where: dict) -> str:
    empty = next((name for name, values in where.items() if None in values), None)
    if empty is not None:
        raise ValueError(f"Milvus cannot look for images whose field '{empty}' is None; leave None out of `where`.")
    # Not `in`: the embedded Milvus takes it for plain fields only, and metadata is one JSON field.
    fields = (
        " or ".join(f"metadata[{_quote(name)}] == {_quote(value)}" for value in values)
        for name, values in where.items()
    )
    return " and ".join(f"({field})" for field in fields)


def _quote(value) -> str:
    return json.dumps(value, ensure_ascii=False)
