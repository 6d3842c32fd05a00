import pytest

from trainer.evaluation.benchmarks import load_benchmark
from trainer.worlds.small_world.declaration import INFO, WORLD


@pytest.mark.parametrize(("split", "count"), [(None, 10), ("test", 20)])
def test_the_small_world_is_a_benchmark_by_name(split, count):
    benchmark = load_benchmark("small_world/toy", split)
    assert (benchmark.name, len(benchmark.queries)) == ("small_world", count)


def test_it_is_a_world_of_three_sizes_whose_pictures_are_not_drawn_again():
    assert INFO.name == WORLD.name == "small_world"
    assert sorted(WORLD.presets) == ["demo", "mini", "toy"]
    assert WORLD.held_out_by == ("shape", "colour", "background")
    assert (WORLD.redraws, dict(WORLD.hard_batches)) == (False, {})
