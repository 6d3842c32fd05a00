from __future__ import annotations

from trainer.worlds import find_world
from trainer.worlds.data import build_world


WARDROBE = find_world("wardrobe")


def test_equal_seeds_give_equal_data_and_one_benchmark():
    toy, again = (build_world(WARDROBE, "toy") for _ in range(2))
    other = build_world(WARDROBE, "toy", seed=1)
    for name in ("images", "captions", "triplets"):
        assert getattr(again, name).data.table == getattr(toy, name).data.table
        assert getattr(other, name).data.table != getattr(toy, name).data.table
    assert other.benchmark("test").gallery.data.table == toy.benchmark("test").gallery.data.table
