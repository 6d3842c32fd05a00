"""What is replaced is whole at every moment, and what is damaged is named."""

import contextlib
import json
import pickle
import platform

import pytest

from modeling_rtd import files_rtd as files
from modeling_rtd import (
    hold_lock_file,
    name_damage,
    read_array,
    read_json,
    replace_file,
    replace_folder,
    write_json,
)


class Killed(BaseException):
    pass


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    with contextlib.suppress(Killed), replace_file(path) as partial:
        partial.write_text("half")
        raise Killed
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_the_old_one_until_the_block_ends(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    folder = tmp_path / "model"
    for content in ("old", "new"):
        with replace_folder(folder) as partial:
            (partial / "a").write_text(content)
    with pytest.raises(Killed), replace_folder(folder) as partial:
        raise Killed
    assert (folder / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_a_kill_left_under_its_other_name_is_put_back(tmp_path):
    (tmp_path / "model.replaced").mkdir()
    (tmp_path / "model.replaced/a").write_text("old")
    with pytest.raises(Killed), replace_folder(tmp_path / "model"):
        raise Killed
    assert (tmp_path / "model/a").read_text() == "old"


def test_only_what_killed_processes_of_this_machine_left_is_removed(tmp_path):
    dead = 2**22 + 1  # beyond the largest id of a process
    for name in (f"{platform.node()}-{dead}-1", f"{platform.node()}-1-1", f"elsewhere-{dead}-1"):
        (tmp_path / f".facts.json.{name}.partial").touch()
    write_json(tmp_path / "facts.json", {})
    left = sorted(path.name for path in tmp_path.glob(".*"))
    assert left == sorted([f".facts.json.{platform.node()}-1-1.partial", f".facts.json.elsewhere-{dead}-1.partial"])


def test_a_second_writer_is_refused(tmp_path):
    second = hold_lock_file(tmp_path / ".lock", "taken")
    with hold_lock_file(tmp_path / ".lock", "taken"), pytest.raises(ValueError, match="^taken$"):
        second.__enter__()
    with hold_lock_file(tmp_path / ".lock", "taken"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"null"])
def test_a_damaged_record_is_named(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json' is damaged.*: remove it\.$"):
        read_json(path, "remove it")


@pytest.mark.parametrize("content", ['{"a": 1, "a": 2}', '{"a": true}', '{"a": "1"}', "{}"])
def test_a_field_of_a_wrong_type_and_a_repeated_key_are_refused(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"run\.json' is damaged.*(`a` is|the key 'a' repeats).*: remove it\.$"):
        read_json(path, "remove it", a=int)


def test_a_field_that_may_be_missing_may(tmp_path):
    write_json(tmp_path / "run.json", {"a": 1})
    assert read_json(tmp_path / "run.json", "remove it", a=int, b=str | None) == {"a": 1}


def _cut_header(header):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", _cut_header(b"((("), _cut_header(b"[" * 5000), pickle.dumps([1]), _cut_header(b"{}")],
    ids=["empty", "zip", "header", "deep", "pickle", "no fields"],
)
@pytest.mark.parametrize("mode", [None, "r"])
def test_a_damaged_array_is_named(tmp_path, content, mode):
    path = tmp_path / "rows.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.npy' is damaged.*: remove it\.$"):
        read_array(path, "remove it", mode)


def test_weights_that_were_cut_are_named(tmp_path, model):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors' is damaged or cut short"), name_damage(tmp_path):
        type(model).from_pretrained(tmp_path)
