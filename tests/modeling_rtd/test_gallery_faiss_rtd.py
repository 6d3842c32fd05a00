import numpy as np
import pytest

from modeling_rtd import Gallery
from tests.factories import draw_embeddings, rank_by_brute_force


def measure_by_brute_force(gallery, rows, queries, ids):
    true = rank_by_brute_force(rows, queries)[0][:, :10]
    found = gallery.search(queries, 10)
    pairs = zip(found, true, strict=True)
    return np.mean([len({hit["id"] for hit in hits} & {ids[i] for i in best}) / 10 for hits, best in pairs])


@pytest.mark.parametrize("few", [0, 8192])
@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF4,Flat", pytest.param("PQ8x4", marks=pytest.mark.slow)])
def test_a_filter_leaves_an_index_its_results(factory, few, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("modeling_rtd.gallery_faiss_rtd._FEW", few)
    rows, queries, ids = draw_embeddings("random")
    metadata = [{"kind": "rare" if i % 40 == 0 else "common"} for i in range(len(ids))]
    gallery = Gallery(rows, ids, metadata, engine="faiss", factory=factory, search_parameter=4)
    gallery.remove(ids[0])
    for hits in gallery.search(queries, 10, where={"kind": "rare"}):
        assert len({hit["id"] for hit in hits}) == 10
        assert all(hit["metadata"] == {"kind": "rare"} and hit["id"] != ids[0] for hit in hits)


@pytest.mark.parametrize("factory", ["HNSW4", "IVF16,Flat"])
def test_an_approximate_index_reports_its_recall(tmp_path, factory):
    pytest.importorskip("faiss")
    rows, queries, ids = draw_embeddings("random")
    gallery = Gallery(rows, ids, folder=tmp_path, engine="faiss", factory=factory)
    recall = gallery.measure_recall(queries)
    assert recall == pytest.approx(measure_by_brute_force(gallery, rows, queries, ids))
    assert 0.2 < recall < 1
    wide = Gallery.load(tmp_path, search_parameter=1000)
    assert wide.measure_recall(queries) > 0.95
    gallery.remove(ids[:400])  # none of these comes back
    assert not {hit["id"] for row in gallery.search(queries, 20) for hit in row} & set(ids[:400])


def test_a_lost_or_damaged_faiss_index_is_built_again(tmp_path):
    pytest.importorskip("faiss")
    rows, queries, ids = draw_embeddings("random")
    gallery = Gallery(rows, ids, folder=tmp_path, engine="faiss")
    expected = gallery.search(queries)
    (tmp_path / "index.faiss").write_bytes((tmp_path / "index.faiss").read_bytes()[:1000])
    with pytest.warns(UserWarning, match="index.faiss.* built again"):
        assert Gallery.load(tmp_path).search(queries) == expected


def test_bad_factories_are_refused(tmp_path):
    pytest.importorskip("faiss")
    rows, _, ids = draw_embeddings("random")
    with pytest.raises(ValueError, match="FAISS does not know the factory 'HSNW'"):
        Gallery(rows, ids, engine="faiss", factory="HSNW")
    with pytest.raises(ValueError, match="too few to train the index 'IVF64,Flat'"):
        Gallery(rows[:20], ids[:20], engine="faiss", factory="IVF64,Flat")


def test_an_index_is_not_written_again_for_one_row(tmp_path):
    pytest.importorskip("faiss")
    rows, _, ids = draw_embeddings("random")
    gallery = Gallery(rows[:700], ids[:700], folder=tmp_path, engine="faiss")
    before = (tmp_path / "index.faiss").read_bytes()
    gallery.add_embeddings(rows[700:701], ids[700:701])
    gallery.remove(ids[:10])
    assert (tmp_path / "index.faiss").read_bytes() == before
    loaded = Gallery.load(tmp_path)
    assert loaded.search(rows[700:701], 1)[0][0]["id"] == ids[700]
    loaded.add_embeddings(rows[701:], ids[701:])
    assert (tmp_path / "index.faiss").read_bytes() != before
