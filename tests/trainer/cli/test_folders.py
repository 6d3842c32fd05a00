import pytest

from trainer.cli.folders import check_new_folder


def test_a_folder_that_is_new_or_empty_may_be_written(tmp_path):
    check_new_folder(tmp_path)
    check_new_folder(tmp_path / "new")


@pytest.mark.parametrize("name", ["", "file"])
def test_a_file_and_a_folder_with_something_in_it_are_not_written_over(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=f"{tmp_path / name}' is not empty.*--output-dir"):
        check_new_folder(tmp_path / name)
