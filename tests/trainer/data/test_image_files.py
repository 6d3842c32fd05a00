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
