"""A picture world small enough to reproduce RTD on two cores: data, benchmark, and a CLIP of its own."""

from trainer.worlds.small_world.clip import build_tokenizer, train_clip
from trainer.worlds.small_world.concepts import list_concepts, list_phrases, write_searle_files
from trainer.worlds.small_world.data import SmallWorld, build_benchmark, build_small_world
from trainer.worlds.small_world.files import write_world
from trainer.worlds.small_world.scenes import PRESETS, SmallWorldPreset, find_preset


__all__ = [
    "PRESETS",
    "SmallWorld",
    "SmallWorldPreset",
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
