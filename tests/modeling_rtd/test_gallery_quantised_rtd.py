"""Codes in place of rows: what they lose is known, and what they propose is ranked by the stored rows."""

import numpy as np
import pytest
import torch

from modeling_rtd import Gallery
from modeling_rtd.gallery_quantised_rtd import RowCodes


COUNT, DIM = 3000, 45


@pytest.fixture(scope="module")
def rows():
    """Unit rows around twenty centres in a narrow cone, with one column that stands out, as CLIP's have."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, DIM))
    rows = centres[rng.integers(0, 20, COUNT)] + 0.7 * rng.standard_normal((COUNT, DIM)) + 0.5
    rows[:, 3] += 6
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(rows):
    rng = np.random.default_rng(1)
    return rows[::300] + 0.05 * rng.standard_normal((10, DIM)).astype(np.float32)


def names(results):
    return [[hit["id"] for hit in row] for row in results]


def build(rows, **options):
    return Gallery(rows, [f"{i}" for i in range(len(rows))], **options)


@pytest.mark.parametrize(("precision", "bytes_a_row"), [("int8", DIM), ("binary", 6)])
def test_scores_of_codes_err_by_no_more_than_what_was_lost(rows, precision, bytes_a_row):
    codes = RowCodes(DIM, precision)
    for count in (100, 150, COUNT):
        codes.catch_up(rows[:count])
        assert codes.codes.shape == (count, bytes_a_row)
    query = torch.nn.functional.normalize(torch.randn(4, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    folded, offset = codes.fold(query)
    scores = folded @ codes.open(codes.codes, torch.float32).T + offset
    assert 0 < float((scores - query @ torch.from_numpy(rows).T).abs().max()) < codes.error
    again = RowCodes(DIM, precision)
    again.catch_up(rows)
    assert torch.equal(codes.codes, again.codes)  # the first hundred rows did not decide what codes mean


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_int8_finds_what_the_rows_find(rows, queries, tmp_path, dtype):
    exact = build(rows, folder=tmp_path / "a", dtype=dtype)
    coded = Gallery.load(tmp_path / "a", precision="int8")
    assert coded.search(queries, 25) == exact.search(queries, 25)
    exclude = [[row[0]] for row in names(exact.search(queries, 1))]
    assert coded.search(queries, 5, exclude) == exact.search(queries, 5, exclude)
    coded.remove([f"{i}" for i in range(0, COUNT, 2)])
    coded.add_embeddings(-rows, [f"new {i}" for i in range(COUNT)])
    assert coded.search(-queries, 25) == Gallery.load(tmp_path / "a").search(-queries, 25)


@pytest.mark.parametrize(
    "options",
    [{"precision": "binary"}, {"engine": "faiss", "factory": "SQ8"}, {"engine": "faiss", "factory": "RaBitQ"}],
    ids=["binary", "SQ8", "RaBitQ"],
)
def test_codes_miss_little_and_their_results_are_ranked_by_the_rows(rows, queries, options):
    if "engine" in options:
        pytest.importorskip("faiss")
    exact, coded = build(rows), build(rows, **options, rescore_multiplier=20)
    assert coded.measure_recall(queries) > 0.9
    assert coded.measure_recall(queries) >= build(rows, **options, rescore_multiplier=1).measure_recall(queries)
    scores = {hit["id"]: hit["score"] for row in exact.search(queries[:1], COUNT) for hit in row}
    found = coded.search(queries[:1], 10)[0]
    assert all(hit["score"] == scores[hit["id"]] for hit in found)
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)


def test_all_is_found_where_all_is_asked_for(rows, queries):
    coded = build(rows[:40], precision="binary")
    assert coded.search(queries, 40) == build(rows[:40]).search(queries, 40)
    one = build(rows[:1], precision="int8")
    assert names(one.search(queries[:1])) == [["0"]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'"),
        (
            {"precision": "binary", "rescore_multiplier": 0},
            "`rescore_multiplier` must be a whole number of at least 1",
        ),
    ],
)
def test_what_is_unknown_is_refused(rows, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(rows[:5], **options)
