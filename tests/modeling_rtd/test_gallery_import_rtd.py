"""Indexes that FAISS users have, and what comes out of them."""

import numpy as np
import pytest

from modeling_rtd import Gallery


NUM, DIM = 600, 24


def draw():
    rows = np.random.default_rng(0).standard_normal((NUM, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def write(tmp_path):
    """Write an index of the rows, with numbers of its own where they are given."""
    faiss = pytest.importorskip("faiss")

    def write(factory, numbers=None):
        index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(draw())
        if numbers is None:
            index.add(draw())
        else:
            index.add_with_ids(draw(), np.asarray(numbers))
        faiss.write_index(index, str(tmp_path / "made.index"))
        return tmp_path / "made.index"

    return write


def assert_rows_under(gallery, ids, at_least=0.9999):
    """Each row must be the best under its id, by its own embedding."""
    hits = [row[0] for row in gallery.search(draw(), 1)]
    assert [hit["id"] for hit in hits] == ids
    assert min(hit["score"] for hit in hits) >= at_least


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,SQ8", "IDMap,IVF4,Flat", "IDMap,Flat", "IDMap2,HNSW16"])
@pytest.mark.parametrize("start", [0, 5000])
def test_rows_come_under_their_own_numbers(write, factory, start):
    numbers = start + np.random.default_rng(1).permutation(NUM)
    gallery = Gallery.from_embeddings(write(factory, numbers))
    assert_rows_under(gallery, [f"{number}" for number in numbers], 0.99)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "SQfp16", "IVF4,Flat"])
def test_rows_without_numbers_are_named_by_a_list(write, factory):
    names = [f"image {i}" for i in range(NUM)]
    assert_rows_under(Gallery.from_embeddings(write(factory), names), names)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IDMap,Flat"])
def test_numbers_are_places_in_a_list_of_names(write, factory):
    numbers = np.random.default_rng(1).permutation(NUM)
    names = [f"image {i}" for i in range(NUM)]
    assert_rows_under(Gallery.from_embeddings(write(factory, numbers), names), [names[i] for i in numbers])
    with pytest.raises(ValueError, match=r"600 rows .*\[.*Leave the ids out"):
        Gallery.from_embeddings(write(factory, numbers + 5000), names)


@pytest.mark.parametrize("factory", ["PCA12,IDMap,Flat", "L2norm,IDMap,Flat", "PCA12,IVF4,Flat", "PQ4x4"])
def test_an_index_that_keeps_something_else_is_refused(write, factory):
    numbers = None if factory == "PQ4x4" else np.arange(5000, 5000 + NUM)
    with pytest.raises(ValueError, match="holds an Index.*Flat, HNSW, IVF and SQ"):
        Gallery.from_embeddings(write(factory, numbers), [f"{i}" for i in range(NUM)])


def test_ids_that_are_none_are_refused(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = {"id": ["a", None], "embedding": list(np.eye(2))}
    pandas.DataFrame(rows).to_parquet(tmp_path / "made.parquet")
    with pytest.raises(ValueError, match="the id in row 1 in the column 'id' of .* is None"):
        Gallery.from_embeddings(tmp_path / "made.parquet")
    with pytest.raises(ValueError, match="column 'id'.* leave the ids out"):
        Gallery.from_embeddings(tmp_path / "made.parquet", ["a", "b"])
    np.save(tmp_path / "ids.npy", np.array(5))
    with pytest.raises(ValueError, match=r"one row of ids, .* \(\)"):
        Gallery.from_embeddings(np.eye(2), tmp_path / "ids.npy")


def test_a_table_without_ids_takes_those_of_another_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"vec": list(np.eye(2)), "year": [1, 2]}).to_parquet(tmp_path / "made.parquet")
    gallery = Gallery.from_embeddings(tmp_path / "made.parquet", ["a", "b"], columns=("id", "vec"))
    assert gallery.search(np.eye(2)[1:], 1)[0][0] | {"score": 1} == {"id": "b", "score": 1, "metadata": {"year": 2}}
    with pytest.raises(ValueError, match="has no column 'id', only vec, year"):
        Gallery.from_embeddings(tmp_path / "made.parquet", columns=("id", "vec"))


def test_a_table_of_pandas_comes_with_its_dates_and_without_nan(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = {"id": ["a", "b"], "embedding": list(np.eye(2)), "year": [2020, np.nan]}
    rows["seen"] = pandas.to_datetime(["2020-01-02", None])
    pandas.DataFrame(rows).to_parquet(tmp_path / "made.parquet")
    hits = Gallery.from_embeddings(tmp_path / "made.parquet").search(np.eye(2), 1)
    expected = [{"year": 2020, "seen": "2020-01-02T00:00:00"}, {"year": None, "seen": None}]
    assert [row[0]["metadata"] for row in hits] == expected


@pytest.mark.parametrize("ids", [np.array([b"a", b"\xc3\xa4"]), np.array(["a", "ä"])])
def test_ids_of_bytes_are_decoded(tmp_path, ids):
    np.save(tmp_path / "ids.npy", ids)
    assert Gallery.from_embeddings(np.eye(2), tmp_path / "ids.npy").ids == ["a", "ä"]
