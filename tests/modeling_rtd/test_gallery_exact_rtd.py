import json
import shutil

import numpy as np
import pytest
import torch

from modeling_rtd import Gallery
from modeling_rtd.gallery_exact_rtd import ExactEngine
from tests.factories import draw_embeddings, hash_files, rank_by_brute_force


K = 20

# An old folder, as 0.1.0.dev0 wrote it: five rows are left of six, "a" was removed and "c" replaced. It is read as
# it is, and changed to today's layout when it is written.
JOURNAL = """{"ids": ["a", "gr\\u00f6\\u00dfe", "c"], "metadata": [{"n": 1}, null, {"n": 3}], "checksum": 56222986}
{"ids": ["d", "e"], "checksum": 398160827}
{"remove": ["a"]}
{"ids": ["c"], "metadata": [{"n": 4}], "checksum": 2783503965}
"""
ROWS = np.array([[1, 2], [3, 4], [5, 6], [0, 1], [2, 3], [4, 5]], "<f4")
MANIFEST = {"engine": "exact", "dim": 2, "dtype": "float32", "options": {}, "state": {"rows": 6}, "fields": ["n"]}
MANIFEST |= {"fingerprint": None, "base_model": None, "format": 1}
FOUND = [("d", 1.0), ("e", 0.832050323486), ("größe", 0.800000011921), ("c", 0.780868768692)]


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "embeddings.bin").write_bytes((ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)).tobytes())
    (folder / "journal.jsonl").write_text(JOURNAL)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


def check(gallery):
    assert gallery.ids == ["größe", "d", "e", "c"]
    hits = gallery.search(np.array([[0, 1]]), 4)[0]
    assert [(hit["id"], hit["score"]) for hit in hits] == FOUND
    assert [hit["id"] for hit in gallery.search(np.eye(2), where={"n": 4})[0]] == ["c"]


def test_an_old_folder_is_read_with_equal_scores_and_left_as_it_is(old):
    before = hash_files(old)
    check(Gallery.load(old))
    assert hash_files(old) == before


def test_an_old_folder_without_checksums_is_read(old):
    entries = [json.loads(line) for line in JOURNAL.splitlines()]
    lines = [json.dumps({name: value for name, value in entry.items() if name != "checksum"}) for entry in entries]
    (old / "journal.jsonl").write_text("\n".join(lines) + "\n")
    check(Gallery.load(old))


def test_lines_before_a_damaged_one_count_once(tmp_path):
    first = Gallery(np.eye(4)[:2], ["a", "b"], folder=tmp_path)
    second = Gallery.load(tmp_path)
    second.add_embeddings(np.eye(4)[2:], ["c", "d"])
    second.close()
    place = tmp_path / "journal.jsonl"
    whole = place.read_bytes()
    place.write_bytes(whole + b'{"removed": [9]}\n')
    for _ in range(2):
        with pytest.raises(ValueError, match="is damaged"):
            first.remove("a")
    place.write_bytes(whole)
    first.remove("a")
    assert first.ids == ["b", "c", "d"] == Gallery.load(tmp_path).ids


def test_a_writer_changes_an_old_folder_and_others_see_that(old):
    first, second = Gallery.load(old), Gallery.load(old)
    first.add_embeddings(np.eye(2)[:1], ["x"])
    second.remove("x")
    check(second)
    check(Gallery.load(old))
    assert json.loads((old / "manifest.json").read_text())["format"] == 2
    lines = [json.loads(line) for line in (old / "journal.jsonl").read_text().splitlines()]
    changes = [(line.get("rows", 0), line.get("removed", [])) for line in lines]
    assert changes == [(6, []), (0, [0, 2]), (1, []), (0, [6])]


def test_a_change_of_layout_that_was_killed_leaves_an_old_folder_readable(old, monkeypatch):
    def die(path):
        raise KeyboardInterrupt

    gallery = Gallery.load(old)
    with monkeypatch.context() as patch:
        patch.setattr("modeling_rtd.gallery_exact_rtd.replace_file", die)
        with pytest.raises(KeyboardInterrupt):
            gallery.remove("d")
    assert (old / "journal.jsonl").read_text() == JOURNAL
    check(Gallery.load(old))
    gallery = Gallery.load(old)
    gallery.add_embeddings(np.eye(2)[:1], ["x"])
    gallery.remove("x")
    check(Gallery.load(old))


def test_rows_of_another_gallery_are_not_changed_but_refused(old):
    (old / "embeddings.bin").write_bytes(ROWS.tobytes())
    with pytest.raises(ValueError, match="images 1 to 3 of .* are not those that were written"):
        Gallery.load(old).remove("d")
    assert (old / "journal.jsonl").read_text() == JOURNAL


@pytest.mark.parametrize(
    "line",
    ['{"ids": [1]}', '{"ids": ["a", "a"]}', '{"ids": 5}', '{"ids": ["x"], "metadata": [5]}', '{"remove": ["x"]}', "5"],
)
def test_a_line_of_an_old_journal_that_nobody_wrote_is_refused(old, line):
    (old / "journal.jsonl").write_text(JOURNAL + line + "\n")
    with pytest.raises(ValueError, match=r"journal\.jsonl' is damaged"):
        Gallery.load(old)


@pytest.mark.parametrize("name", ["rows.bin", "ids.bin", "metadata.jsonl"])
def test_a_file_of_names_cut_short_is_named(tmp_path, name):
    Gallery(np.eye(4), list("abcd"), folder=tmp_path)
    place = tmp_path / name
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{name}' is cut short: it holds 3 images of 4"):
        Gallery.load(tmp_path)


def test_adding_and_removing_rewrite_no_row(tmp_path):
    gallery = Gallery(np.eye(64), [f"{i}" for i in range(64)], folder=tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "before")
    gallery.add_embeddings(np.ones((2, 64)), ["x", "3"], if_exists="replace")
    gallery.remove(["5", "x"])
    for place in (tmp_path / "before").iterdir():
        if place.name not in ("manifest.json", ".lock"):
            assert (tmp_path / "a" / place.name).read_bytes().startswith(place.read_bytes()), place.name
    assert len(Gallery.load(tmp_path / "a")) == 63


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_gallery_that_was_made_anew_is_not_written_to_as_the_one_before(tmp_path, rows):
    gallery = Gallery(np.eye(3)[:1], ["before"], folder=tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    if rows:
        Gallery(np.eye(3)[:rows], list("xyz")[:rows], folder=tmp_path / "a")
    with pytest.raises(ValueError, match="another gallery than when it was opened"):
        gallery.add_embeddings(np.ones((1, 3)), ["after"])
    assert not rows or Gallery.load(tmp_path / "a").ids == list("xyz")[:rows]


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
