from __future__ import annotations

import numpy as np

from trainer.evaluation.benchmarks import load_benchmark
from trainer.worlds.clip import _HardBatchSampler


def test_every_other_batch_holds_one_backdrop_and_two_colours(world):
    sampler = _HardBatchSampler(world, 32, seed=0)
    batches = np.array(list(sampler)).reshape(-1, 32)
    assert len(batches) == 600 // 32
    backdrops, colours = (np.array(world.images[name][:])[batches] for name in ("backdrop", "colour"))
    counts = [(len(set(b)), len(set(c))) for b, c in zip(backdrops, colours, strict=True)]
    assert set(counts[1::2]) == {(1, 2)}
    assert min(counts[::2]) > (1, 2)


def test_wardrobe_is_a_benchmark_by_name():
    benchmark = load_benchmark("wardrobe/toy")
    assert benchmark.name == "wardrobe"
    assert len(benchmark.queries) == 10
