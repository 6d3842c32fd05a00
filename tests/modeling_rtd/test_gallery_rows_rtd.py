import numpy as np
import pytest

from modeling_rtd import gallery_rows_rtd
from modeling_rtd.gallery_rows_rtd import AppendedArray, RowNames


@pytest.fixture(params=["memory", "files"])
def folder(request, tmp_path):
    return tmp_path if request.param == "files" else None


def append(names, ids, metadata=None, removed=()):
    checksum = names.append(ids, metadata or [None] * len(ids))
    names.note(len(ids), np.array(removed, int), checksum)


@pytest.fixture
def names(folder):
    """A hundred rows in batches of 1 to 13, of which every tenth is removed."""
    names, start = RowNames(folder), 0
    for size in range(1, 14):
        append(names, [f"größe {i}" for i in range(start, start + size)], [{"n": i % 3} for i in range(size)])
        start += size
    names.note(0, np.arange(0, 91, 10))
    return names


def test_ids_are_found_where_they_are_and_not_where_they_were_removed(names):
    expected = [-1 if i % 10 == 0 else i for i in range(91)]
    assert names.find([f"größe {i}" for i in range(91)]).tolist() == expected
    assert names.find(["größe", "", "größe 91", 7, None, "\udcff"]).tolist() == [-1] * 6
    append(names, ["größe 7"], removed=[7])
    assert names.find(["größe 7", "größe 8"]).tolist() == [91, 8]


def test_ids_of_one_hash_are_told_apart(folder, monkeypatch):
    monkeypatch.setattr(gallery_rows_rtd, "_hash", lambda ids: np.array([len(name) for name in ids], "<u8"))
    names = RowNames(folder)
    append(names, ["a", "b", "cc", "d"])
    assert names.find(["d", "cc", "b", "e", "a"]).tolist() == [3, 2, 1, -1, 0]


def test_a_file_is_mapped_once_for_many_rows(tmp_path, monkeypatch):
    names, maps, memmap = RowNames(tmp_path), [], np.memmap
    append(names, [f"{i}" for i in range(50)])
    monkeypatch.setattr(np, "memmap", lambda *args, **kwargs: maps.append(args) or memmap(*args, **kwargs))
    assert names.read_ids(np.arange(50)) == [f"{i}" for i in range(50)]
    assert len(maps) == 3  # each file


def test_sorted_parts_stay_few(folder):
    names = RowNames(folder)
    for i in range(200):
        append(names, [f"{i}"])
        names.find(["0"])
    assert len(names._runs) <= 8
    assert names.find([f"{i}" for i in range(200)]).tolist() == list(range(200))


def test_metadata_match_with_rows_that_came_since(names):
    expected = [i % 3 == 1 for size in range(1, 14) for i in range(size)]
    assert names.match({"n": [1]}).tolist() == expected
    append(names, ["x", "y"], [{"n": True}, {"n": "1"}])  # Python's own equality, as in a list
    assert names.match({"n": [1]}).tolist() == [*expected, True, False]
    assert not names.match({"n": [{(1, 2): 3}]}).any()
    for i in range(20):
        names.match({"n": [i]})
    assert len(names._matches) == 8


def test_a_match_that_was_begun_covers_the_rows_of_then_and_is_not_parsed_again(names, monkeypatch):
    expected = names.match({"n": [2]}).tolist()
    begun = [names.begin_match({"n": [value]}) for value in (1, 1, 2)]
    assert begun[2] is None
    append(names, ["x"], [{"n": 1}])
    assert len(begun[0]()) == len(expected)
    with monkeypatch.context() as patch:
        patch.setattr(gallery_rows_rtd.json, "loads", None)
        begun[1]()
    assert names.match({"n": [1]}).tolist()[-1]
    assert names.begin_match({"n": [1]}) is None


@pytest.mark.parametrize("removed", [[91], [-1], [3, 3], [10]])
def test_a_row_that_is_not_here_is_not_removed(names, removed):
    with pytest.raises(ValueError, match="removed that is not here"):
        names.note(0, np.array(removed))


def test_an_array_in_memory_keeps_what_was_read_of_it():
    array = AppendedArray("i4", (2,))
    array.append(0, np.ones((3, 2)))
    before = array.read(2)
    array.append(3, np.full((9, 2), 2))
    assert (before == 1).all()
    assert array.read(12).sum() == 6 + 36
