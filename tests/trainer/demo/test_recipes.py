from pathlib import Path

import pytest

from trainer.demo.recipes import ALL_METHODS, METHODS, RECIPES, write_projection_arguments
from trainer.methods import find_method, list_methods
from trainer.worlds.small_world.declaration import WORLD


def test_all_methods_are_in_the_demo():
    assert set(ALL_METHODS) == set(list_methods())
    assert METHODS == ALL_METHODS[:2] == ("lincir", "pic2word")


@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_method_gets_only_arguments_that_it_knows(method, tmp_path):
    arguments = write_projection_arguments(method, WORLD, "toy", 0.25, tmp_path)
    args = find_method(method).arguments(output_dir=str(tmp_path), use_cpu=True, **arguments)
    own = RECIPES["toy"].own.get(method, {})
    expected = {"max_steps": 4, "per_device_train_batch_size": 16, "learning_rate": 2e-3, **own}
    assert {name: getattr(args, name) for name in expected} == expected
    assert arguments.get("noise_scale", 0.25) == 0.25


def test_searle_gets_files_of_the_world(tmp_path):
    arguments = write_projection_arguments("searle", WORLD, "toy", 1.0, tmp_path)
    assert len(Path(arguments["phrases"]).read_text().splitlines()) == 64
    assert "red circle" in Path(arguments["concepts"]).read_text().splitlines()
