"""Options by their names of the release before: refused with the new name."""

import pytest

from trainer.cli.main import main


@pytest.mark.parametrize(
    ("command", "new"),
    [
        ("evaluate model --benchmark small_world --alpha 0.5", "rtd interpolate"),
        ("diagnose model --benchmark small_world --output out", "--output-dir"),
        ("interpolate model --alpha 0.5 --output=out", "--output-dir"),
        ("convert file.pt --from rtd --clip clip --output out", "--output-dir"),
        ("publish model org/name --licence mit", "--license"),
        ("triplets captions.txt -o out.jsonl --model model", "--similarity-model"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(command, new, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    assert new in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
