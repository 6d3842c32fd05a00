import numpy as np
import pytest
import torch

from modeling_rtd import Gallery
from modeling_rtd.gallery_exact_rtd import ExactEngine
from tests.factories import draw_embeddings, hash_files, rank_by_brute_force


K = 20


def test_scores_in_half_precision_propose_all_that_belongs_to_the_best(monkeypatch):
    monkeypatch.setattr(ExactEngine, "_computes_in_half", True)  # as on an accelerator
    monkeypatch.setattr("modeling_rtd.gallery_exact_rtd._CPU_BLOCK", 100)
    rows, queries, ids = draw_embeddings("tied")
    gallery = Gallery(rows, ids, dtype="float16")
    ranking, _ = rank_by_brute_force(rows, queries, np.float16)
    for q, hits in enumerate(gallery.search(queries, K)):
        assert [hit["id"] for hit in hits] == [ids[i] for i in ranking[q, :K]]


def test_more_queries_than_one_block_takes(monkeypatch):
    monkeypatch.setattr("modeling_rtd.gallery_exact_rtd._QUERIES", 2)
    rows, queries, ids = draw_embeddings("random")
    found = Gallery(rows, ids).search(queries, 3)
    assert [row[0]["id"] for row in found] == [ids[i] for i in rank_by_brute_force(rows, queries)[0][:, 0]]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_accelerator_agrees_with_brute_force(dtype):
    rows, queries, ids = draw_embeddings("tied")
    gallery = Gallery(rows, ids, dtype=dtype, device="cuda")
    ranking, _ = rank_by_brute_force(rows, queries, np.dtype(dtype))
    for q, hits in enumerate(gallery.search(queries, K)):
        assert [hit["id"] for hit in hits] == [ids[i] for i in ranking[q, :K]]


@pytest.mark.parametrize("name", ["embeddings.bin", "journal.jsonl", "manifest.json"])
def test_a_file_cut_short_is_named(index, name):
    place = index / name
    place.write_bytes(place.read_bytes()[: -10 if name == "manifest.json" else -30])
    message = (
        "holds no readable gallery" if name == "manifest.json" else f"{name}' is cut short: it holds . images of 6"
    )
    with pytest.raises(ValueError, match=message):
        Gallery.load(index).search(np.ones((1, 24)))


def test_a_file_cut_short_is_named_before_it_is_written_to(index):
    gallery = Gallery.load(index)
    place = index / "embeddings.bin"
    place.write_bytes(place.read_bytes()[:-30])
    before = hash_files(index)
    for one in (lambda: gallery, lambda: Gallery.load(index)):
        with pytest.raises(ValueError, match="embeddings.bin' is cut short.* 5 .* 6"):
            one().add_embeddings(torch.eye(24)[:1], ["x"])
    assert hash_files(index) == before


def test_a_damaged_journal_is_named(index):
    (index / "journal.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"journal.jsonl' is damaged"):
        Gallery.load(index)
