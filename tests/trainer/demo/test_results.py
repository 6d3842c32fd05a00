import numpy as np
import pytest

from trainer.demo.results import NUM_QUERIES, draw_results
from trainer.worlds import find_world
from trainer.worlds.data import build_benchmark


@pytest.mark.parametrize("name", ["small_world", "wardrobe"])
def test_a_sheet_has_a_row_for_every_query_and_groups_for_every_ranking(name):
    world = find_world(name)
    benchmark = build_benchmark(world, "toy", "test")
    ranking = np.tile(np.arange(5), (len(benchmark.queries), 1))
    one, two = (draw_results(world, benchmark, [ranking] * n, ["before", "after"][:n]) for n in (1, 2))
    assert one.height == two.height > NUM_QUERIES * 160
    assert two.width - one.width > 4 * 160
