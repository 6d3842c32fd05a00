"""A picture world of shapes, small enough to reproduce RTD on two cores: data, benchmark, and a CLIP of its own."""

from functools import partial

from trainer.worlds.clip import build_tokenizer as _build_tokenizer
from trainer.worlds.clip import train_clip
from trainer.worlds.concepts import list_phrases as _list_phrases
from trainer.worlds.concepts import write_searle_files as _write_searle_files
from trainer.worlds.data import WorldData, build_world
from trainer.worlds.data import build_benchmark as _build_benchmark
from trainer.worlds.files import write_world
from trainer.worlds.small_world.declaration import WORLD
from trainer.worlds.small_world.scenes import PRESETS, SmallWorldPreset


__all__ = [
    "PRESETS",
    "WORLD",
    "SmallWorldPreset",
    "WorldData",
    "build_benchmark",
    "build_small_world",
    "build_tokenizer",
    "find_preset",
    "list_concepts",
    "list_phrases",
    "train_clip",
    "write_searle_files",
    "write_world",
]

# The functions of all worlds, in this one.
build_benchmark = partial(_build_benchmark, WORLD)
build_tokenizer = partial(_build_tokenizer, WORLD)
find_preset = WORLD.find_preset
list_phrases = partial(_list_phrases, WORLD)
write_searle_files = partial(_write_searle_files, WORLD)


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


def list_concepts(preset: str | SmallWorldPreset = "demo") -> list[str]:
    """Name the concepts of the small world: a colour and a shape, one or more of them.

    Args:
        preset (`str` or [`SmallWorldPreset`], defaults to `"demo"`): The world's sizes.

    Returns:
        `list[str]`: Names in the words of its captions, synonyms too.

    Raises:
        ValueError: If the preset is unknown.

    Examples:
        >>> list_concepts("mini")[:4]
        ['red circle', 'red circles', 'red disc', 'red discs']
    """
    return WORLD.list_concepts(find_preset(preset))
