"""One set of facts for every engine, server processes of Milvus and of PostgreSQL among them."""

import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from modeling_rtd import Gallery
from tests.factories import draw_embeddings, rank_by_brute_force


NUM, DIM, K = 800, 32, 20
ENGINES = ["memory", "exact", "float16", "faiss", "milvus", "milvus server", "pgvector"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a Milvus server process of this module, on loopback."""
    pytest.importorskip("milvus_lite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [str(Path(sys.executable).with_name("milvus-lite")), "server", "--host", "127.0.0.1", "--port", port]
    data = tmp_path_factory.mktemp("milvus")
    process = subprocess.Popen([*command, "--data-dir", data], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


# What Milvus does in a server process it does in a file too, which speaks the same protocol.
@pytest.fixture(
    params=[pytest.param(engine, marks=pytest.mark.slow) if "server" in engine else engine for engine in ENGINES]
)
def build(request, tmp_path):
    """Build galleries of one engine; all are closed at the end."""
    built = []

    def build(embeddings=None, ids=None, metadata=None, **options):
        engine, _, rest = request.param.partition(" ")
        if engine in ("faiss", "milvus"):
            pytest.importorskip({"faiss": "faiss", "milvus": "pymilvus"}[engine])
        if rest:
            options |= {"uri": request.getfixturevalue("server"), "collection": f"c{uuid.uuid4().hex}"}
        if engine == "pgvector":
            request.getfixturevalue("postgres")
            options["table"] = f"t{len(built)}"
        if engine != "memory":
            options["folder"] = tmp_path / str(len(built))
        if engine == "float16":
            engine, options["dtype"] = "exact", "float16"
        options["engine"] = "exact" if engine == "memory" else engine
        built.append(Gallery(embeddings, ids, metadata, **options))
        return built[-1]

    build.kind = request.param
    yield build
    for gallery in built:
        gallery.close()


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_every_exact_engine_agrees_with_brute_force(build, kind):
    rows, queries, ids = draw_embeddings(kind)
    gallery = build(rows, ids)
    ranking, scores = rank_by_brute_force(rows, queries, np.float16 if build.kind == "float16" else np.float32)
    for q, hits in enumerate(gallery.search(queries, K)):
        assert [hit["id"] for hit in hits] == [ids[i] for i in ranking[q, :K]]
        np.testing.assert_allclose([hit["score"] for hit in hits], scores[q, ranking[q, :K]].clip(-1, 1), atol=1e-6)
        assert all(-1 <= hit["score"] <= 1 for hit in hits)


def test_rows_are_added_removed_replaced_and_left_out(build):
    rows, queries, ids = draw_embeddings("random")
    gallery = build(rows[:50], ids[:50])
    gallery.add_embeddings(rows[50:100], ids[50:100])
    gallery.remove(ids[10:20])
    gallery.add_embeddings(rows[200:201], [ids[3]], if_exists="replace")  # counts as added last
    gallery.add_embeddings(rows[300:302], [ids[3], "new"], if_exists="skip")
    order = [0, 1, 2, *range(4, 10), *range(20, 100), 200, 301]
    names = [ids[i] for i in order[:-2]] + [ids[3], "new"]
    assert gallery.ids == names
    assert len(gallery) == len(names)
    assert (ids[3] in gallery, ids[10] in gallery) == (True, False)
    best = rank_by_brute_force(rows[order], queries)[0]
    exclude = [[names[best[q, 0]], "unknown"] for q in range(len(queries))]
    for q, hits in enumerate(gallery.search(queries, 5, exclude)):
        assert [hit["id"] for hit in hits] == [names[i] for i in best[q, 1:6]]


def test_whether_there_are_images_is_known_without_a_count_of_a_database(build, monkeypatch):
    gallery = build(np.eye(2, 16), ["a", "b"])
    if build.kind.startswith(("milvus", "pgvector")):
        monkeypatch.setattr(type(gallery._store.engine), "__len__", None)
    assert gallery
    gallery.remove(["a", "b"])
    assert not gallery


def test_filters_and_metadata(build):
    rows, queries, ids = draw_embeddings("random")
    metadata = [{"split": "val" if i % 3 else "train", "year": 2000 + i % 7, "it's": True} for i in range(200)]
    gallery = build(rows[:200], ids[:200], metadata)
    allowed = [i for i in range(200) if i % 3 and i % 7 in (1, 4)]
    ranking, _ = rank_by_brute_force(rows[allowed], queries)
    found = gallery.search(queries, 5, where={"split": "val", "year": [2001, 2004], "it's": True})
    for q, hits in enumerate(found):
        assert [hit["id"] for hit in hits] == [ids[allowed[i]] for i in ranking[q, :5]]
        assert [hit["metadata"] for hit in hits] == [metadata[allowed[i]] for i in ranking[q, :5]]
    with pytest.raises(ValueError, match=r"'splitt'.*it's, split, year"):
        gallery.search(queries, where={"splitt": "val"})
    with pytest.raises(ValueError, match="`where` is empty"):
        gallery.search(queries, where={"split": []})


def test_an_image_is_where_its_metadata_says_or_its_id(build):
    gallery = build(np.eye(3, 16), ["a", "b", "c"], [{"path": "x/a.png"}, {"path": 7}, None])
    assert gallery.locate() == ["x/a.png", "b", "c"]
    assert gallery.locate(["c", "none", "a"]) == ["c", "none", "x/a.png"]


def test_expressions_are_of_the_engines_own_language_and_refused_elsewhere(build):
    rows, queries, ids = draw_embeddings("random")
    gallery = build(rows[:50], ids[:50], [{"year": i} for i in range(50)])
    expression = 'metadata["year"] >= 45'
    if build.kind.startswith("milvus"):
        hits = gallery.search(queries[:1], 10, where=expression)[0]
        assert {hit["id"] for hit in hits} == set(ids[45:50])
        with pytest.raises(ValueError, match="Milvus refused to search: .*nope"):
            gallery.search(queries, where="nope == 3")
    elif build.kind == "pgvector":
        hits = gallery.search(queries[:1], 10, where="(metadata->>'year')::int % 10 >= 5 AND id LIKE '%age 4_'")[0]
        assert {hit["id"] for hit in hits} == set(ids[45:50])
        with pytest.raises(ValueError, match='PostgreSQL refused: column "nope" does not exist'):
            gallery.search(queries, where="nope = 3")
    else:
        with pytest.raises(ValueError, match="takes no expressions as a filter"):
            gallery.search(queries, where=expression)


def test_what_is_saved_is_there_again(build, tmp_path):
    rows, queries, ids = draw_embeddings("tied")
    gallery = build(rows[:300], ids[:300], [{"n": i} if i % 2 else None for i in range(300)])
    gallery.remove(ids[:5])
    names = {"milvus server": {"collection": f"c{uuid.uuid4().hex}"}, "pgvector": {"table": "copy"}}
    options = names.get(build.kind, {})
    gallery.save(tmp_path / "copy", **options)
    server = {"uri": gallery._store.engine.uri} if "server" in build.kind else {}
    loaded = Gallery.load(tmp_path / "copy", **server)
    assert loaded.ids == gallery.ids
    assert loaded.search(queries, K) == gallery.search(queries, K)
    loaded.close()


def test_a_score_threshold_and_a_top_k_beyond_the_gallery(build):
    rows, queries, ids = draw_embeddings("random")
    gallery = build(rows[:30], ids[:30])
    assert len(gallery.search(queries, 1000)[0]) == 30
    scores = [hit["score"] for hit in gallery.search(queries, 30)[0]]
    assert len(gallery.search(queries, 30, min_score=scores[9])[0]) == 10


def test_ids_with_quotes_and_other_letters(build):
    rows, _, _ = draw_embeddings("random")
    names = ['a/it\'s "red".jpg', "b\\c", "größe.jpg", "写真"]
    gallery = build(rows[:4], names)
    assert gallery.ids == names
    gallery.remove(names[:2])
    assert gallery.search(rows[3:4], 1)[0][0]["id"] == "写真"
    assert gallery.ids == names[2:]
