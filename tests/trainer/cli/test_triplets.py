import json

from datasets import Dataset

from tests.factories import TINY_CAPTIONS, write_lines
from trainer.cli.main import main


def test_the_verb_writes_triplets(tmp_path, capsys):
    source, output = write_lines(tmp_path / "captions.txt", TINY_CAPTIONS), tmp_path / "triplets.jsonl"
    assert main(["triplets", str(source), "-o", str(output), "--per-caption", "2"]) == 0
    assert f"triplets from {len(TINY_CAPTIONS)} captions: {output}" in capsys.readouterr().out


def test_the_verb_refuses_in_one_line(tmp_path, capsys):
    source = write_lines(tmp_path / "captions.txt", TINY_CAPTIONS)
    assert main(["triplets", str(source), "-o", str(tmp_path / "t.jsonl"), "--method", "llm"]) == 2
    assert "did you mean 'lm'?" in capsys.readouterr().err.splitlines()[-1]


def test_captions_of_another_script_are_counted(tmp_path, capsys):
    source = write_lines(tmp_path / "captions.txt", [*TINY_CAPTIONS, "红色的裙子", "красное платье"])
    assert main(["triplets", str(source), "-o", str(tmp_path / "t.jsonl")]) == 0
    assert "2 captions are in another script than Latin" in capsys.readouterr().out
    report = json.loads((tmp_path / "t.jsonl.report.json").read_text())
    rows = [len(TINY_CAPTIONS) + 1, len(TINY_CAPTIONS) + 2]
    assert report["captions"]["other_script"] == {"count": 2, "rows": rows}


def test_captions_of_several_files_and_of_a_split_are_those_of_one_file(tmp_path, capsys):
    whole = write_lines(tmp_path / "whole.txt", TINY_CAPTIONS)
    half = len(TINY_CAPTIONS) // 2
    parts = [
        write_lines(tmp_path / f"part-{i}.txt", part)
        for i, part in enumerate((TINY_CAPTIONS[:half], TINY_CAPTIONS[half:]))
    ]
    (tmp_path / "split").mkdir()
    Dataset.from_dict({"text": TINY_CAPTIONS}).to_parquet(tmp_path / "split/test-0.parquet")
    sources = [[whole], parts, [f"{tmp_path}/part-*.txt"], [tmp_path / "split", "--split", "test"]]
    made = []
    for i, source in enumerate(sources):
        assert main(["triplets", *map(str, source), "-o", str(tmp_path / f"{i}.jsonl")]) == 0
        made.append((tmp_path / f"{i}.jsonl").read_bytes())
    assert set(made) == {made[0]}
    assert main(["triplets", str(whole), "--split", "test", "-o", str(tmp_path / "x.jsonl")]) == 2
    assert "there is no split 'test'" in capsys.readouterr().err


def test_the_report_of_an_earlier_version_is_read(tmp_path, capsys):
    source, place = write_lines(tmp_path / "captions.txt", TINY_CAPTIONS), tmp_path / "t.jsonl.report.json"
    assert main(["triplets", str(source), "-o", str(tmp_path / "t.jsonl")]) == 0
    report = json.loads(place.read_text())
    del report["captions"]["other_script"]
    place.write_text(json.dumps(report))
    assert main(["triplets", str(source), "-o", str(tmp_path / "t.jsonl")]) == 0
    assert f"triplets from {len(TINY_CAPTIONS)} captions" in capsys.readouterr().out
