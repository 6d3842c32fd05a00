"""The small world as a benchmark like any other, but for its directory: it is drawn."""

from __future__ import annotations

from dataclasses import replace

from trainer.evaluation.benchmarks.declaration import Benchmark, BenchmarkInfo, Protocol
from trainer.worlds.small_world.data import build_benchmark
from trainer.worlds.small_world.scenes import PRESETS


__all__ = ["INFO"]


def _load(folder: None, split: str, part: str, protocol: Protocol) -> Benchmark:
    return replace(build_benchmark(part, split), protocol=protocol)


INFO = BenchmarkInfo(
    name="small_world",
    license="Apache-2.0, drawn by this package",
    citation="this package",
    layout="none: it is drawn",
    steps={},
    counts={split: {name: {} for name in PRESETS} for split in ("validation", "test")},
    protocol=Protocol(exclude_reference=True),
    load=_load,
    needs_root=False,
)
