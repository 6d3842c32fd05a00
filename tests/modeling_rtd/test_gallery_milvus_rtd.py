"""What Milvus alone can get wrong: files, collections and what is asked of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_rtd import Gallery
from tests.factories import draw_embeddings


pytest.importorskip("milvus_lite")
WRITING = """
import sys
import numpy as np
from modeling_rtd import Gallery
Gallery(np.eye(4), list("abcd"), folder=sys.argv[1], engine="milvus")
"""


@pytest.fixture
def index(tmp_path):
    """Folder of a gallery of four rows in an embedded file."""
    Gallery(np.eye(4), list("abcd"), folder=tmp_path / "index", engine="milvus").close()
    return tmp_path / "index"


@pytest.mark.slow
def test_a_file_serves_the_process_after_the_one_that_wrote_it(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", WRITING, str(tmp_path)], env=environment, check=True, timeout=120)
    gallery = Gallery.load(tmp_path)
    assert gallery.ids == list("abcd")
    assert [hits[0]["id"] for hits in gallery.search(np.eye(4), 1)] == list("abcd")


def test_a_file_is_found_from_another_working_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    Gallery(np.eye(4), list("abcd"), folder="index", engine="milvus", uri="rows.db").close()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(Gallery.load("../index", uri="../rows.db")) == 4
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_lost_file_is_no_empty_gallery(tmp_path, index):
    shutil.copytree(index, tmp_path / "copy", ignore=shutil.ignore_patterns("milvus.db"))
    with pytest.raises(ValueError, match="there is no file '.*milvus.db'"):
        Gallery.load(tmp_path / "copy")
    assert not (tmp_path / "copy/milvus.db").exists()


def test_another_place_than_the_manifest_says_is_refused(tmp_path, index):
    with pytest.raises(ValueError, match="has uri None, not '.*other.db'"):
        Gallery.load(index, uri=str(tmp_path / "other.db"))
    with pytest.raises(ValueError, match="has collection 'gallery', not 'other'"):
        Gallery.load(index, collection="other")


def test_two_galleries_do_not_share_a_collection(tmp_path):
    uri = str(tmp_path / "rows.db")
    first = Gallery(np.eye(4), list("abcd"), folder=tmp_path / "a", engine="milvus", uri=uri)
    with pytest.raises(ValueError, match="has a collection 'gallery' already"):
        Gallery(np.eye(3), list("xyz"), folder=tmp_path / "b", engine="milvus", uri=uri)
    with pytest.raises(ValueError, match="has a collection 'gallery' already"):
        first.save(tmp_path / "c")
    first.save(tmp_path / "d", collection="copy")
    copy = Gallery.load(tmp_path / "d")
    copy.remove("a")
    assert (copy._store.manifest.options["uri"], copy.ids, first.ids) == (uri, list("bcd"), list("abcd"))


def test_a_collection_of_another_gallery_is_refused(tmp_path, index):
    manifest = index / "manifest.json"
    text = manifest.read_text()
    for old, new, message in [
        ('"dim": 4', '"dim": 5', "holds embeddings of 4 numbers, the gallery's manifest says 5"),
        ('"collection": "gallery"', '"collection": "lost"', "has no collection 'lost'"),
    ]:
        assert old in text
        manifest.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            Gallery.load(index)


def test_rows_of_another_type_move_to_milvus(tmp_path):
    half = Gallery(np.eye(4), list("abcd"), dtype="float16")
    half.save(tmp_path / "index", engine="milvus")
    assert Gallery.load(tmp_path / "index").ids == list("abcd")


def test_errors_come_as_sentences_alone(index, caplog):
    gallery = Gallery.load(index)
    with pytest.raises(ValueError, match="Milvus refused to search"):
        gallery.search(np.eye(4), where="nope ===")
    gallery.add_embeddings(np.ones((1, 4)), ["e"], [{"v": None}])
    with pytest.raises(ValueError, match="whose field 'v' is None"):
        gallery.search(np.eye(4), where={"v": None})
    assert not [record for record in caplog.records if record.name.startswith(("pymilvus", "milvus_lite"))]


def test_results_that_take_several_messages(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_rtd.gallery_milvus_rtd._PAIRS", 300)
    monkeypatch.setattr("modeling_rtd.gallery_milvus_rtd._ROWS", 64)
    rng = np.random.default_rng(0)
    rows, queries = rng.standard_normal((300, 8)), rng.standard_normal((7, 8))
    ids = [f"image {i}" for i in range(300)]
    metadata = [{"n": i} for i in range(300)]
    found = Gallery(rows, ids, metadata, folder=tmp_path, engine="milvus").search(queries, 100)
    assert found == Gallery(rows, ids, metadata).search(queries, 100)


def test_a_milvus_server_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("pymilvus")
    rows, _, ids = draw_embeddings("random")
    with pytest.raises(ValueError, match=r"Milvus at 'http://127.0.0.1:9' could not be opened"):
        Gallery(rows, ids, folder=tmp_path, engine="milvus", uri="http://127.0.0.1:9")


def test_a_server_that_only_the_manifest_names_is_not_connected_to(tmp_path, monkeypatch):
    pymilvus = pytest.importorskip("pymilvus")
    asked = []
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda **options: asked.append(options))
    facts = {"engine": "milvus", "dim": 4, "dtype": "float32", "state": {}, "fields": [], "format": 1}
    facts["options"] = {"uri": "http://127.0.0.1:9", "collection": "gallery", "index": "FLAT"}
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    for options in ({}, {"token": "secret"}):
        with pytest.raises(ValueError, match=r"is on the server 'http://127.0.0.1:9', .* name it again with uri="):
            Gallery.load(tmp_path, **options)
    assert asked == []
