"""The registry of benchmarks: official files, parts, and names."""

import pytest

from tests.factories import build_stand_in
from trainer.evaluation.benchmarks import BENCHMARKS, Protocol, find_benchmark, load_benchmark
from trainer.evaluation.benchmarks.checking import compare_with_official


def splits(*names):
    return [(name, split) for name in names for split in find_benchmark(name).counts]


@pytest.mark.parametrize(("name", "split"), splits("cirr", "circo", "fashioniq", "genecis", "coco", "imagenet_r"))
def test_official_files_have_the_official_numbers_and_digests(load, oracle, name, split):
    parts, folder = load(name, split)
    info, recorded = find_benchmark(name), oracle("dataset_sizes")["files"]
    deviations = [text for part in parts for text in compare_with_official(info, part)]
    assert [text for text in deviations if "gallery" not in text or name != "circo"] == []
    known = {file.rpartition("/")[2].removesuffix(".gz"): facts for file, facts in recorded.items()}
    assert folder.files
    for file, digest in folder.files.items():
        facts = known.get(file.rpartition("/")[2], {})
        if name != "circo" or "image_info" not in file:
            assert digest == facts.get("decompressed_sha256", facts["sha256"])
            assert info.digests.get(file.rpartition("/")[2], digest) == digest


def test_every_benchmark_is_declared_in_full():
    for name in BENCHMARKS:
        info = find_benchmark(name)
        assert info.name == name
        assert info.license
        assert info.citation
        assert info.default_split in ("val", "validation", "v0", "val2017")
        assert not info.needs_root or info.steps
        assert set(info.average_of) <= set(info.metrics)


@pytest.mark.parametrize("name", ["fashioniq", "genecis", "imagenet_r"])
def test_a_benchmark_of_parts_gives_one_by_its_name(name, tmp_path):
    root = build_stand_in(name, tmp_path)
    with pytest.raises(ValueError, match=f"name one of {name}/"):
        load_benchmark(name, root=root)
    part = next(iter(find_benchmark(name).counts[find_benchmark(name).default_split]))
    assert load_benchmark(f"{name}/{part}", root=root).part == part


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_benchmark("cir"), "cirr"),
        (lambda: load_benchmark("cirr"), "its root, which was not named"),
        (lambda: load_benchmark("cirr", root="/nowhere"), "'/nowhere' is not a directory"),
        (lambda: load_benchmark("cirr", "test"), "test1"),
        (lambda: load_benchmark("fashioniq/skirt", root="."), "shirt"),
        (lambda: Protocol(padding="yes"), "`padding`: 'yes'"),
        (lambda: Protocol(template="a photo that {condition}"), "has no '\\$'"),
        (lambda: Protocol(template="a photo of $"), "has no '{condition}'"),
    ],
)
def test_names_that_are_unknown_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
