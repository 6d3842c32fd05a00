"""What PostgreSQL alone can get wrong: connections, transactions, tables and indexes."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modeling_rtd import Gallery


psycopg = pytest.importorskip("psycopg")
RNG = np.random.default_rng(0)
ROWS, QUERIES = RNG.standard_normal((400, 16)), RNG.standard_normal((5, 16))
IDS = [f"image {i}" for i in range(400)]


@pytest.fixture
def build(postgres, tmp_path):
    """Build galleries in one database; all are closed at the end."""
    built = []

    def build(rows=ROWS, ids=IDS, metadata=None, **options):
        options = {"folder": tmp_path / str(len(built)), "table": f"t{len(built)}"} | options
        built.append(Gallery(rows, ids, metadata, engine="pgvector", **options))
        return built[-1]

    yield build
    for gallery in built:
        gallery.close()


def cut_off(uri):
    """End all connections to the database but this one."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_halves_rank_as_those_of_the_exact_engine(build):
    found = build(dtype="float16").search(QUERIES, 20)
    expected = Gallery(ROWS, IDS, dtype="float16").search(QUERIES, 20)
    assert [[hit["id"] for hit in hits] for hits in found] == [[hit["id"] for hit in hits] for hits in expected]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_index_is_used_and_a_filter_leaves_it_its_results(build, dtype):
    metadata = [{"kind": "rare" if i % 40 == 0 else "common"} for i in range(400)]
    gallery = build(metadata=metadata, index="hnsw", dtype=dtype, search_parameter=200)
    assert gallery.measure_recall(QUERIES) > 0.9
    for hits in gallery.search(QUERIES, 10, where={"kind": "rare"}):
        assert len({hit["id"] for hit in hits}) == 10
        assert all(hit["metadata"] == {"kind": "rare"} for hit in hits)
    engine = gallery._store.engine
    with engine.database.begin(enable_seqscan="off") as cursor:
        plan = cursor.execute(
            f"EXPLAIN SELECT id FROM t0 ORDER BY embedding <#> '{QUERIES[0].tolist()}'::{engine.kind}(16) LIMIT 5"
        ).fetchall()
    assert "t0_hnsw" in str(plan)


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [
        (2001, {"index": "hnsw"}, "indexes at most 2000 dimensions in float32 and 4000 in float16, got 2001"),
        (4001, {"index": "hnsw", "dtype": "float16"}, "got 4001"),
        (16, {"index": "ivf"}, "must be 'none', which is exact, or 'hnsw', got 'ivf'"),
        (16, {"search_parameter": 0}, "`search_parameter` must be between 1 and 1000, got 0"),
        (16, {"folder": None}, "needs a folder for its manifest"),
        (16, {"device": "cpu"}, "does not take"),
        (16_001, {}, "PostgreSQL refused: dimensions for type vector cannot exceed 16000"),
    ],
)
def test_bad_options_are_refused(build, dim, options, message):
    with pytest.raises(ValueError, match=message):
        build(np.ones((1, dim)), ["a"], **options)


def test_a_batch_is_there_as_a_whole_or_not_at_all(build, postgres):
    gallery = build()
    before = gallery.search(QUERIES)

    class CutOff(list):
        def __iter__(self):
            yield from [None] * 10
            cut_off(postgres)
            yield from [None] * 10

    with pytest.raises(ValueError, match="PostgreSQL cannot be reached"):
        gallery._store.engine.add([f"new {i}" for i in range(18)] + IDS[:2], ROWS[:20].astype(np.float32), CutOff())
    with pytest.raises(ValueError, match="PostgreSQL refused: unsupported Unicode"):
        gallery.add_embeddings(ROWS[:2], ["x", IDS[0]], [{"a": "b"}, {"a": "\0"}], if_exists="replace")
    assert gallery.search(QUERIES) == before  # by new connections
    assert gallery.ids == IDS


def test_a_server_that_goes_away_is_named_and_found_again(build, postgres, monkeypatch):
    monkeypatch.setattr("modeling_rtd.gallery_pgvector_rtd._SECONDS", 1)
    gallery = build()
    expected = gallery.search(QUERIES)
    name = psycopg.conninfo.conninfo_to_dict(postgres)["dbname"]
    with psycopg.connect(postgres.replace(name, "postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        for call in (lambda: gallery.search(QUERIES), lambda: Gallery.load(gallery.folder)):
            with pytest.raises(ValueError, match="PostgreSQL cannot be reached: .*is the server running"):
                call()
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert gallery.search(QUERIES) == expected


def test_a_search_that_takes_too_long_is_given_up(build, monkeypatch):
    gallery = build()
    monkeypatch.setattr("modeling_rtd.gallery_pgvector_rtd._STATEMENT", "50ms")
    with pytest.raises(ValueError, match="PostgreSQL gave up: canceling statement due to statement timeout"):
        gallery.search(QUERIES, where="pg_sleep(0.01) IS NOT NULL")


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:sec@ret@host/db",
        "postgresql://me:sec/ret@host/db",
        "postgresql://me:sec%zzret@host/db",
        "host=localhost sec ret",
    ],
)
def test_a_connection_string_is_never_repeated(build, postgres, uri):
    with pytest.raises(ValueError, match="the connection string of PostgreSQL cannot be read") as refusal:
        build(uri=uri)
    assert not {"sec", "ret"} & set(str(refusal.value).replace("/", " ").split())
    gallery = build(uri=postgres)
    assert "postgresql" not in (gallery.folder / "manifest.json").read_text() + repr(gallery)
    assert Gallery.load(gallery.folder).ids == IDS  # by the variables of libpq


def test_tables_of_others_are_refused(build, postgres, tmp_path):
    gallery = build()
    with pytest.raises(ValueError, match="has a table 't0' already"):
        build(table="t0")
    with pytest.raises(ValueError, match="has a table 't0' already"):
        gallery.save(tmp_path / "copy")
    with psycopg.connect(postgres) as connection:
        connection.execute("ALTER TABLE t0 RENAME TO other; CREATE TABLE t0 (embedding vector(3))")
    with pytest.raises(ValueError, match=r"of type vector\(3\), the gallery's manifest says vector\(16\)"):
        Gallery.load(gallery.folder)
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP TABLE t0")
    with pytest.raises(ValueError, match="has no table 't0'; restore it"):
        Gallery.load(gallery.folder)


def test_a_table_may_lie_in_a_schema_and_a_user_may_lack_rights(build, postgres):
    with psycopg.connect(postgres) as connection:
        connection.execute('CREATE EXTENSION vector; CREATE SCHEMA "Mine"; CREATE SCHEMA other')
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute('CREATE ROLE guest LOGIN; GRANT ALL ON SCHEMA "Mine" TO guest')
    guest = postgres.replace("postgres@", "guest@")
    assert build(table="Mine.t", uri=guest).ids == IDS
    with pytest.raises(
        ValueError, match="PostgreSQL refused: permission denied for schema other; ask the administrator"
    ):
        build(table="other.t", uri=guest)


def test_a_second_process_sees_and_adds_rows(build, postgres):
    first = build(ROWS[:10], IDS[:10])
    second = Gallery.load(first.folder)
    second.add_embeddings(ROWS[10:20], IDS[10:20])
    first.add_embeddings(ROWS[20:30], IDS[20:30])
    assert first.ids == second.ids == IDS[:30]
    second.close()


def test_threads_search_at_once(build):
    gallery = build()
    expected = gallery.search(ROWS[:40], 3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: gallery.search(row[None], 3)[0], ROWS[:40]))
    assert found == expected


def test_filters_tell_none_from_other_values(build):
    metadata = [{"v": None}, {}, {"v": 1}, {"v": "1"}, {"v": [1]}, None]
    gallery = build(ROWS[:6], IDS[:6], metadata)
    for value in (None, 1, "1", [None, "1"], [[1]]):
        expected = Gallery(ROWS[:6], IDS[:6], metadata).search(QUERIES, 6, where={"v": value})
        assert gallery.search(QUERIES, 6, where={"v": value}) == expected


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(ImportError, match=r"psycopg_pool is not installed: pip install 'psycopg\[binary,pool\]'"):
        Gallery(ROWS, IDS, folder=tmp_path, engine="pgvector")
