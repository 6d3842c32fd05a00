"""One lister for all who read images of a folder."""

import os
from pathlib import Path

import pytest

from trainer.data.image_files import list_images


def test_images_of_sub_folders_are_listed_by_name(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.PNG", "b/a.jpg", "a.txt"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == [tmp_path / "b" / "a.jpg", tmp_path / "c.PNG"]


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_folder_without_images_is_named(tmp_path, folder):
    with pytest.raises(ValueError, match=str(tmp_path / folder)):
        list_images(tmp_path / folder)


def test_what_is_no_image_has_no_place_in_the_list(tmp_path):
    (tmp_path / "album.jpg").mkdir()
    (tmp_path / ".thumbnails").mkdir()
    for name in ("._x.jpg", "Thumbs.db", "x.jpg.part", ".hidden.png", ".thumbnails/x.jpg", "album.jpg/a.jpg", "x.jpg"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == [tmp_path / "album.jpg/a.jpg", tmp_path / "x.jpg"]


def test_links_into_a_blob_store_keep_their_own_names(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "blobs/3f2a").touch()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).symlink_to("../blobs/3f2a")
    assert list_images(tmp_path / "photos") == [tmp_path / "photos/a.jpg", tmp_path / "photos/b.jpg"]


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "photos/z").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "photos/z/a.jpg").touch()
    (tmp_path / "elsewhere/b.jpg").touch()
    (tmp_path / "photos/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/circle").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/itself").symlink_to("itself")
    (tmp_path / "photos/a").symlink_to("z")
    with pytest.warns(UserWarning, match="leads to a folder that is listed already") as caught:
        found = list_images(tmp_path / "photos")
    assert found == [tmp_path / "photos/more/b.jpg", tmp_path / "photos/z/a.jpg"]
    assert sorted(str(warning.message).split("'")[1] for warning in caught) == [
        str(tmp_path / "photos/a"),
        str(tmp_path / "photos/circle"),
    ]


def test_a_name_that_is_not_utf8_is_left_out_and_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with pytest.warns(UserWarning, match=r"not UTF-8 and are left out: .*\\udcff\.jpg"):
        assert list_images(tmp_path) == [tmp_path / "a.jpg"]
