"""A folder whose files are not those that were written is refused; ids and metadata are what every engine can keep."""

import base64
import datetime
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from modeling_rtd import Gallery, settle_ids
from modeling_rtd.gallery_encoding_rtd import compare_towers, fingerprint_tower
from modeling_rtd.gallery_folder_rtd import settle_metadata


IDS = [f"image {i}" for i in range(40)]
DEEP = []
DEEP.append(DEEP)


def draw(seed):
    return np.random.default_rng(seed).standard_normal((40, 8)).astype(np.float32)


def make(folder, engine="exact", seed=0):
    if engine == "faiss":
        pytest.importorskip("faiss")
    for start in (0, 20):
        gallery = Gallery(folder=folder, engine=engine)
        rows = draw(seed)[start : start + 20]
        gallery.add_embeddings(rows, IDS[start : start + 20], [{"n": i} for i in range(20)])
    return folder


def best(gallery):
    return [hits[0]["id"] for hits in gallery.search(draw(0), 1)]


@pytest.mark.parametrize("engine", ["exact", "faiss"])
@pytest.mark.parametrize("byte", [0, 700, 1279])
def test_a_bit_that_turned_over_is_refused_at_every_search(tmp_path, engine, byte):
    place = make(tmp_path / "gallery", engine) / "embeddings.bin"
    content = bytearray(place.read_bytes())
    content[byte] ^= 16
    place.write_bytes(content)
    gallery = Gallery.load(tmp_path / "gallery")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"embeddings\.bin' are not those that were written"):
            gallery.search(draw(0), 1)


def test_rows_of_another_gallery_and_ids_that_were_changed_are_refused(tmp_path):
    one, other = make(tmp_path / "one"), make(tmp_path / "other", seed=1)
    shutil.copy(other / "embeddings.bin", one / "embeddings.bin")
    with pytest.raises(ValueError, match="are not those that were written"):
        Gallery.load(one).search(draw(0), 1)
    names = other / "ids.bin"
    names.write_bytes(names.read_bytes().replace(b"image 5", b"image X"))
    gallery = Gallery.load(other)
    for read in (lambda: gallery.search(draw(0), 1), lambda: gallery.ids, lambda: "image 5" in gallery):
        with pytest.raises(ValueError, match="images 1 to 20 of .* are not those that were written"):
            read()


def test_rows_that_another_process_adds_are_checked_too(tmp_path):
    gallery = Gallery.load(make(tmp_path / "gallery"))
    assert best(gallery) == IDS
    Gallery.load(tmp_path / "gallery").add_embeddings(draw(2), [f"new {i}" for i in range(40)])
    place = tmp_path / "gallery/embeddings.bin"
    place.write_bytes(place.read_bytes()[:-1] + b"\x01")
    gallery.add_embeddings(draw(3)[:1], ["last"])
    with pytest.raises(ValueError, match="images 41 to 80 of .* are not those"):
        gallery.search(draw(0), 1)


def test_an_index_of_another_gallery_is_built_again(tmp_path):
    one, other = make(tmp_path / "one", "faiss"), make(tmp_path / "other", "faiss", seed=1)
    shutil.copy(other / "index.faiss", one / "index.faiss")
    with pytest.warns(UserWarning, match="cannot be used and is built again"):
        gallery = Gallery.load(one)
    assert best(gallery) == IDS
    gallery.add_embeddings(draw(2)[:1], ["new"])
    assert best(Gallery.load(one)) == IDS


MANIFEST = {
    "dim": [0, -1, "8", 1.5, True, 10**30, None],
    "dtype": ["int8", 4],
    "options": [[], None],
    "fields": ["a", [1]],
}
MANIFEST |= {"engine": [5, "none", None], "state": [[], {"rows": "8"}], "fingerprint": [5, []], "format": [3, 0, "1"]}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in MANIFEST.items() for value in values])
def test_a_field_of_the_manifest_of_a_wrong_type_is_refused(tmp_path, name, value):
    place = make(tmp_path / "gallery") / "manifest.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {name: value}))
    with pytest.raises(ValueError, match="gallery|engine"):
        Gallery.load(tmp_path / "gallery").search(draw(0), 1)


@pytest.mark.parametrize(
    "line",
    [
        *("5", "[]", "{}", "[" * 9999, '{"ids": ["a"]}', '{"rows": "1"}', '{"rows": 1, "names": 1}'),
        *('{"removed": 5}', '{"removed": [40]}', '{"removed": [3, 3]}', '{"removed": [1.5]}', '{"removed": [true]}'),
        '{"rows": true, "names": 1, "embeddings": 1}',
    ],
)
def test_a_line_of_the_journal_that_nobody_wrote_is_refused(tmp_path, line):
    journal = make(tmp_path / "gallery") / "journal.jsonl"
    journal.write_text(journal.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"journal\.jsonl' is damaged"):
        Gallery.load(tmp_path / "gallery")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, 3])
def test_a_fingerprint_of_nothing_passes_no_tower(model, processor, value):
    ours = fingerprint_tower(model, processor)
    rows = np.frombuffer(base64.b64decode(ours), "<f2").copy()
    assert compare_towers(ours, ours) > 0.9999
    rows[: len(rows) // 8] = value
    for theirs in (base64.b64encode(rows.tobytes()).decode(), "", "nonsense", ours[:-8]):
        with pytest.raises(
            ValueError, match="fingerprint .* is damaged: compare a few images with `verify_embeddings`"
        ):
            compare_towers(ours, theirs)


def test_a_whole_number_of_numpy_counts_results():
    gallery = Gallery(draw(0), IDS)
    assert gallery.search(draw(0)[:1], np.int64(3)) == gallery.search(draw(0)[:1], 3)


def test_a_writer_sees_what_another_has_written_since(index):
    first, second = Gallery.load(index), Gallery.load(index)
    first.add_embeddings(torch.eye(24)[:2], ["x", "y"])
    second.add_embeddings(torch.eye(24)[2:3], ["z"])
    second.remove("x")
    expected = [*second.ids[:6], "y", "z"]
    assert Gallery.load(index).ids == expected
    assert Gallery.load(index).search(torch.eye(24)[:3], 1)[1][0]["id"] == "y"


@pytest.mark.parametrize("engine", ["exact", "faiss"])
def test_a_writer_undoes_nothing_that_another_wrote_to_the_manifest(tmp_path, engine, model, processor, recwarn):
    first, second = (Gallery.load(make(tmp_path, engine)), Gallery.load(tmp_path))
    second.add_embeddings(draw(1)[:2], ["x", "y"], [{"place": "sea"}, None])
    with second._store.writing():
        second._sign(model, processor)
    with first._store.writing():  # as `verify_embeddings`, which adds no rows
        first._store.write_manifest()
    assert Gallery.load(tmp_path)._store.manifest == second._store.manifest
    first.add_embeddings(draw(1)[2:3], ["z"])
    loaded = Gallery.load(tmp_path)
    assert [hit["id"] for hit in loaded.search(draw(1)[:1], 5, where={"place": "sea"})[0]] == ["x"]
    assert loaded._store.manifest.fingerprint == fingerprint_tower(model, processor)
    assert not [w for w in recwarn if "cannot be used" in str(w.message)]


def test_a_folder_that_holds_another_gallery_by_now_is_not_written(tmp_path):
    gallery = Gallery.load(make(tmp_path / "gallery"))
    shutil.rmtree(tmp_path / "gallery")
    Gallery(torch.eye(4), list("abcd"), folder=tmp_path / "gallery")
    with pytest.raises(ValueError, match="holds another gallery than when it was opened: exact, 4 numbers"):
        gallery.add_embeddings(draw(1)[:1], ["x"])


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
    with pytest.raises(ValueError, match=f"'{tmp_path}' .*not a gallery"):
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
    with pytest.raises(ValueError, match="99, .* 1 to 2"):
        Gallery.load(index)


def test_ids_come_from_texts_bytes_and_whole_numbers():
    assert settle_ids([b"\xc3\xa4.jpg", "b", 7, np.int64(8), np.str_("c")]) == ["ä.jpg", "b", "7", "8", "c"]


@pytest.mark.parametrize("value", [None, 1.0, float("nan"), True, ["a"], b"\xff", "", "a\0b", "\ud83d"])
def test_what_is_no_id_is_refused(value):
    with pytest.raises(ValueError, match="the id"):
        settle_ids(["a", value])
    if isinstance(value, str):
        with pytest.raises(ValueError, match="the id"):
            Gallery(torch.eye(2), ["a", value])


def test_metadata_is_what_json_gives_back():
    row = {
        "nan": float("nan"),
        "day": datetime.date(2020, 1, 2),
        "number": np.float32(0.5),
        "list": [np.int64(1), np.nan],
    }
    row |= {
        "list": [np.int64(1), np.nan],
        "when": np.datetime64("2020-01-02T03:04"),
        "never": np.datetime64("NaT"),
        "part": {"inf": np.inf},
    }
    kept = {"nan": None, "day": "2020-01-02", "number": 0.5, "list": [1, None]}
    kept |= {"when": "2020-01-02T03:04", "never": None, "part": {"inf": None}}
    (settled,) = settle_metadata([row])
    assert settled == kept
    json.dumps(settled, allow_nan=False)


def test_pandas_missing_values_are_null():
    pandas = pytest.importorskip("pandas")
    row = {"a": pandas.NaT, "b": pandas.NA, "c": pandas.Timestamp("2020-01-02")}
    assert settle_metadata([row]) == [{"a": None, "b": None, "c": "2020-01-02T00:00:00"}]


@pytest.mark.parametrize(
    "value", [{1}, b"x", 1j, object(), [b"x"], {"x": {1}}, "\ud83d", {1: 2}, {"\ud83d": 1}, 10**4000, DEEP]
)
def test_what_cannot_be_kept_is_left_out_and_named(value):
    with pytest.warns(UserWarning, match="left out: 'bad'"):
        gallery = Gallery(torch.eye(1), ["a"], [{"bad": value, "good": 1}])
    assert gallery.search(torch.eye(1))[0][0]["metadata"] == {"good": 1}
