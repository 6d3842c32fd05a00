import numpy as np
import pytest

from trainer.demo.results import NUM_QUERIES, draw_results
from trainer.worlds import find_world
from trainer.worlds.data import build_benchmark


@pytest.mark.parametrize("name", ["wardrobe", "small_world"])
def test_evenly_spaced_queries_are_drawn_at_192_pixels_with_right_images_in_green(name):
    world = find_world(name)
    benchmark = build_benchmark(world, "toy", "test")
    place = {item: number for number, item in enumerate(benchmark.gallery["id"])}
    right = np.array([[place[ids[0]]] * 4 for ids in benchmark.queries["target_ids"]])
    sheet = np.asarray(draw_results(world, benchmark, [right, right], ["before", "after"]))
    assert sheet.shape[0] > NUM_QUERIES * 192
    green = (sheet == (20, 140, 60)).all(axis=-1).sum()
    assert green == NUM_QUERIES * 8 * (192**2 - 176**2)
