"""Directories of benchmarks, and a model, for the tests of whatever reads them."""

import json
from pathlib import Path

import pytest

from tests.factories import BUILDERS, build_clip, build_processor, build_stand_in, save_model
from trainer.cli.main import main


@pytest.fixture(scope="session")
def oracle(shared):
    """Read values recorded beside the real annotations, by name."""
    return lambda name: json.loads(shared.joinpath("oracle", f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with a directory of each benchmark; not to be written to."""
    root = tmp_path_factory.mktemp("data")
    for name in BUILDERS:
        build_stand_in(name, root / name)
    return root


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Directory of a model."""
    return save_model(tmp_path_factory.mktemp("model"), "lincir", build_clip(), build_processor())


@pytest.fixture(scope="session")
def clip_place(tmp_path_factory):
    """Directory of the CLIP underneath."""
    place, processor = tmp_path_factory.mktemp("clip"), build_processor()
    for part in (build_clip(), processor.tokenizer, processor.image_processor):
        part.save_pretrained(place)
    return str(place)


@pytest.fixture
def run_evaluate():
    """Run `rtd evaluate`, and read its records by benchmark and split."""

    def run(*arguments, out, code=0):
        assert main(["evaluate", *map(str, arguments), "--output-dir", str(out)]) == code
        return (
            {path.stem[:-9]: json.loads(path.read_text()) for path in Path(out).glob("*.json")} if not code else None
        )

    return run
