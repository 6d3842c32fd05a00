from trainer.cli.main import main


def test_a_folder_that_holds_something_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", "model", "-o", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_another_format_is_refused(tmp_path, capsys):
    assert main(["export", "model", "--format", "tflite", "-o", str(tmp_path / "out")]) == 2
    assert "'tflite'" in capsys.readouterr().err


def test_a_place_that_holds_no_model_is_refused(tmp_path, capsys):
    assert main(["export", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "holds no model" in capsys.readouterr().err
