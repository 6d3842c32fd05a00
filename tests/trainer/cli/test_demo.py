import json

from trainer.cli.main import main
from trainer.demo import run
from trainer.publishing.tables import METRICS


def test_the_table_and_the_next_command_are_printed(tmp_path, monkeypatch, capsys):
    given = {}
    monkeypatch.setattr(run, "run_demo", lambda **options: given.update(options) or tmp_path)
    row = {"variant": "lincir", "seed": 0, **dict.fromkeys(METRICS, 0.125)}
    (tmp_path / "metrics.json").write_text(json.dumps([row]))
    (tmp_path / "world").mkdir()
    (tmp_path / "world/queries.jsonl").write_text(json.dumps({"reference": "a.png", "condition": "is red"}) + "\n")
    assert main(["demo", "--preset", "toy", "--seeds", "2"]) == 0
    assert (given["preset"], given["seeds"], given["split"], given["output_dir"]) == ("toy", 2, "test", "runs/demo")
    shown = capsys.readouterr().out
    assert "| lincir | 12.5 |" in shown
    image = tmp_path / "world/references/a.png"
    assert f'rtd search {tmp_path}/model --gallery {tmp_path}/world/gallery --image {image} --text "is red"' in shown
