import json
import shlex

import pytest

from trainer.cli.main import main


@pytest.mark.parametrize(("backbone", "unit"), [("clip", []), ("siglip", ["--noise-unit", "rms"])])
def test_a_demo_ends_with_three_commands_and_what_the_search_should_find(
    tmp_path, monkeypatch, capsys, backbone, unit
):
    folder = tmp_path / "runs of mine"

    def write(output_dir, **options):
        (folder / "world").mkdir(parents=True)
        (folder / "metrics.json").write_text("[]")
        query = {"reference": "a.png", "condition": "is red", "targets": ["b.png", "c.png"]}
        (folder / "world/queries.jsonl").write_text(json.dumps(query) + "\n")
        return folder

    monkeypatch.setattr("trainer.demo.run.run_demo", write)
    assert main(["demo", "--output-dir", str(folder), "--backbone", backbone]) == 0
    shown = capsys.readouterr().out
    commands = [shlex.split(line) for line in shown.splitlines() if line.startswith("  rtd ")]
    assert [words[1] for words in commands] == ["search", "app", "train"]
    assert commands[0][2] == f"{folder}/model"
    assert commands[2][2] == f"{folder}/{backbone}"
    assert commands[2][13:] == unit
    assert "b.png or c.png" in shown
