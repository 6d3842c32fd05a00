import sys

import pytest

from speed import draw_worlds
from trainer.worlds import WORLDS, find_world


@pytest.mark.slow
def test_each_world_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["draw_worlds", "--count", "2", "--rounds", "1"])
    draw_worlds.main()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [find_world(name).title for name in WORLDS]


def test_the_wardrobe_is_what_the_docs_say_by_its_hash():
    world = find_world("wardrobe")
    digest = draw_worlds.hash_world(world, "toy")
    assert digest.startswith("c0b7ef8d")
