"""A picture world of shapes, small enough to reproduce RTD on two cores: data, benchmark, and a CLIP of its own."""

from functools import partial

from trainer.worlds.clip import build_tokenizer as _build_tokenizer
from trainer.worlds.data import WorldData, build_world
from trainer.worlds.data import build_benchmark as _build_benchmark
from trainer.worlds.small_world.declaration import WORLD
from trainer.worlds.small_world.scenes import SmallWorldPreset


__all__ = ["build_benchmark", "build_small_world", "build_tokenizer", "find_preset"]

# The functions of all worlds, in this one.
build_benchmark = partial(_build_benchmark, WORLD)
build_tokenizer = partial(_build_tokenizer, WORLD)
find_preset = WORLD.find_preset


def build_small_world(preset: str | SmallWorldPreset = "demo", seed: int = 0) -> WorldData:
    """Draw the training data of the small world, see [`build_world`].

    Args:
        preset (`str` or [`SmallWorldPreset`], defaults to `"demo"`): `"demo"`, `"mini"` or `"toy"`.
        seed (`int`, defaults to 0): Seed of the training data, not negative.

    Returns:
        [`WorldData`]: Equal arguments give equal bytes.

    Raises:
        ValueError: If the preset is unknown.

    Examples:
        >>> data = build_small_world("toy")
        >>> len(data.images), len(data.benchmark("test").queries)
        (120, 20)
    """
    return build_world(WORLD, preset, seed)
