from trainer.evaluation.benchmarks.declaration import Protocol
from trainer.worlds.benchmark import declare_benchmark
from trainer.worlds.small_world.declaration import WORLD


def test_a_world_is_a_benchmark_with_its_presets_as_parts_and_without_a_directory():
    info = declare_benchmark(WORLD)
    assert {split: list(parts) for split, parts in info.counts.items()} == {
        "validation": list(WORLD.presets),
        "test": list(WORLD.presets),
    }
    assert (info.needs_root, info.protocol.exclude_reference) == (False, True)


def test_it_is_drawn_in_the_protocol_that_is_asked_for():
    protocol = Protocol(exclude_reference=False)
    benchmark = declare_benchmark(WORLD).load(None, "test", "toy", protocol)
    assert benchmark.protocol == protocol
    assert len(benchmark.queries) == 20
