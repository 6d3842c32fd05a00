import pytest
from datasets import Dataset, Image

from tests.factories import build_images
from trainer.data.image_captions import load_pairs


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    for name, image in zip(("b.png", "sub/a.png", "c.png"), build_images(3), strict=True):
        image.save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_captions_find_their_images_by_name(folder):
    table = Dataset.from_dict({"image": ["sub/a.png", "c.png", "c.png"], "text": ["one", "two", "three"]})
    with pytest.warns(UserWarning, match="1 of 3 images .* no caption"):
        pairs = load_pairs(folder, table)
    assert pairs["image"][:] == [str(folder / "sub/a.png"), *[str(folder / "c.png")] * 2]
    assert pairs["text"][:] == ["one", "two", "three"]


def test_captions_without_names_follow_the_files(folder):
    pairs = load_pairs(folder, Dataset.from_dict({"text": ["one", "two", "three"]}))
    assert pairs["image"][:] == [str(folder / name) for name in ("b.png", "c.png", "sub/a.png")]


def test_other_numbers_and_missing_names_are_refused(folder):
    with pytest.raises(ValueError, match="3 images in .*, but 2 captions"):
        load_pairs(folder, Dataset.from_dict({"text": ["one", "two"]}))
    with pytest.raises(ValueError, match="not in .*: d.png, e.png"):
        load_pairs(folder, Dataset.from_dict({"image": ["b.png", "e.png", "d.png"], "text": ["a", "b", "c"]}))


def test_files_are_taken_in_the_order_of_their_numbers(tmp_path):
    for number, image in enumerate(build_images(12), start=1):
        image.save(tmp_path / f"{number}.png")
    pairs = load_pairs(tmp_path, Dataset.from_dict({"text": [str(number) for number in range(1, 13)]}))
    assert pairs["image"][:] == [str(tmp_path / f"{text}.png") for text in pairs["text"]]


def test_the_names_of_an_image_folder_win_over_the_order(folder):
    names = ["sub/a.png", "c.png", "b.png"]
    pairs = load_pairs(folder, Dataset.from_dict({"file_name": names, "text": ["one", "two", "three"]}))
    assert pairs["image"][:] == [str(folder / name) for name in names]
    with pytest.raises(ValueError, match="row 1: `image` says 'b.png', `file_name` 'sub/a.png'"):
        load_pairs(folder, Dataset.from_dict({"file_name": names, "image": names[::-1], "text": ["a", "b", "c"]}))


def test_a_table_may_hold_its_images(folder):
    table = Dataset.from_dict({"image": [str(folder / "b.png")], "text": ["one"]})
    with pytest.raises(ValueError, match="without their images.*--images"):
        load_pairs(None, table)
    assert load_pairs(None, table.cast_column("image", Image()))["text"][:] == ["one"]
    with pytest.raises(ValueError, match="come with their images"):
        load_pairs(folder, table.cast_column("image", Image()))


@pytest.mark.parametrize("names", [["sub/a.png", "c.png", "b.png"], ["a", "b", "c"], ["c.png", "b.png", "a.png"]])
def test_a_column_of_another_name_may_not_say_another_order(folder, names):
    with pytest.raises(ValueError, match="'filename' names images in another order"):
        load_pairs(folder, Dataset.from_dict({"filename": names, "text": ["one", "two", "three"]}))


def test_other_columns_and_the_same_order_leave_captions_to_the_files(folder):
    columns = {"filename": ["b.png", "c.png", "a.png"], "id": [0, 1, 2], "text": ["one", "two", "three"]}
    assert load_pairs(folder, Dataset.from_dict(columns))["image"][0] == str(folder / "b.png")


def test_accents_are_the_same_letter_however_they_are_written(tmp_path):
    for name, image in zip(("e\u0301.png", "f.png"), build_images(2), strict=True):
        image.save(tmp_path / name)
    pairs = load_pairs(tmp_path, Dataset.from_dict({"image": ["f.png", "\u00e9.png"], "text": ["one", "two"]}))
    assert pairs["image"][:] == [str(tmp_path / "f.png"), str(tmp_path / "e\u0301.png")]
