import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from modeling_rtd import Gallery


def test_a_writer_sees_what_another_has_written_since(index):
    first, second = Gallery.load(index), Gallery.load(index)
    first.add_embeddings(torch.eye(24)[:2], ["x", "y"])
    second.add_embeddings(torch.eye(24)[2:3], ["z"])
    second.remove("x")
    expected = [*second.ids[:6], "y", "z"]
    assert Gallery.load(index).ids == expected
    assert Gallery.load(index).search(torch.eye(24)[:3], 1)[1][0]["id"] == "y"


def test_threads_take_turns_at_one_gallery(tmp_path):
    gallery = Gallery(folder=tmp_path)
    rows = np.random.default_rng(0).standard_normal((4, 30, 8)).astype(np.float32)

    def write(k):
        for i in range(30):
            gallery.add_embeddings(rows[k, i : i + 1], [f"{k}-{i}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    loaded = Gallery.load(tmp_path)
    assert len(loaded) == 120
    for k in range(4):
        found = loaded.search(rows[k], 1)
        assert [hits[0]["id"] for hits in found] == [f"{k}-{i}" for i in range(30)]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: Gallery(torch.eye(2), ["a", "b"], folder=folder),
        lambda folder: Gallery(torch.eye(2), ["a", "b"]).save(folder),
    ],
)
def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, write):
    (tmp_path / "todo.txt").write_text("buy milk")
    with pytest.raises(ValueError, match=f"'{tmp_path}' .*no gallery"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["todo.txt"]


def test_options_that_differ_from_the_folder_are_refused(index):
    with pytest.raises(ValueError, match="has dtype 'float32', not 'float16'"):
        Gallery(folder=index, dtype="float16")
    with pytest.raises(ValueError, match="has engine 'exact', not 'faiss'"):
        Gallery(folder=index, engine="faiss")
    with pytest.raises(ValueError, match="there is a gallery in .* already"):
        Gallery.load(index).save(index)
    pytest.importorskip("faiss")
    options = {"engine": "faiss", "folder": index / "approximate"}
    Gallery(torch.eye(3), ["a", "b", "c"], search_parameter=4, **options)
    with pytest.raises(ValueError, match="has factory 'Flat', not 'HNSW32'"):
        Gallery(factory="HNSW32", **options)
    assert Gallery(search_parameter=8, **options).ids == ["a", "b", "c"]  # that of whoever opens it


def test_a_manifest_of_another_version_is_refused(index):
    facts = json.loads((index / "manifest.json").read_text()) | {"format": 99}
    (index / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="99, .* 1"):
        Gallery.load(index)
