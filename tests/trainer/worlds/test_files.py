from __future__ import annotations

import json

from trainer.worlds import find_world
from trainer.worlds.concepts import write_searle_files
from trainer.worlds.data import build_world
from trainer.worlds.files import write_world


WARDROBE = find_world("wardrobe")


def test_world_is_written_to_files(tmp_path):
    toy = build_world(WARDROBE, "toy")
    write_world(toy, tmp_path)
    files = write_searle_files(WARDROBE, "toy", tmp_path)
    assert len(list((tmp_path / "gallery").iterdir())) == len(toy.benchmark("test").gallery)
    assert set(files) == {"concepts", "phrases"}
    examples = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert len(examples) <= 6
    assert all((tmp_path / row["image"]).is_file() and row["text"] for row in examples)
