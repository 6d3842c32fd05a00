"""What a world is: sizes, scenes, a language about them, and how they are drawn."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from modeling_rtd import suggest


__all__ = ["SIZES", "World", "WorldPreset", "is_held_out", "pick"]

# Of presets beside `"demo"`, whose sizes are the defaults.
SIZES = {
    "mini": {
        "num_images": 3_000,
        "num_captions": 6_000,
        "num_triplets": 6_000,
        "num_queries": 200,
        "num_validation_queries": 100,
        "vision_layers": 2,
        "clip_steps": 300,
        "clip_learning_rate": 3e-3,
    },
    "toy": {
        "num_images": 120,
        "num_captions": 240,
        "num_triplets": 240,
        "num_queries": 20,
        "num_validation_queries": 10,
        "hidden_size": 32,
        "vision_layers": 1,
        "text_layers": 1,
        "attention_heads": 2,
        "clip_steps": 8,
        "clip_batch_size": 32,
        "clip_learning_rate": 3e-3,
        "clip_warmup_steps": 2,
    },
}


@dataclass(frozen=True)
class WorldPreset:
    """Sizes of a world and of the CLIP that is trained on it; a world adds the values of its attributes.

    Args:
        name (`str`): Name, as in the presets of the world.
        image_size_px (`int`): Width and height of the pictures.
        num_images (`int`): Training images.
        num_captions (`int`): Plain captions for training a projection.
        num_triplets (`int`): Training triplets.
        num_queries (`int`): Test queries.
        num_validation_queries (`int`): Validation queries.
        hidden_size (`int`): Width of both towers and of the shared space; the feed-forward layers are four times that.
        vision_layers (`int`): Layers of the vision tower.
        text_layers (`int`): Layers of the text tower.
        attention_heads (`int`): Heads of both towers.
        patch_size (`int`): Side of a vision patch, in pixels.
        context_length (`int`): Most tokens the text tower takes, start and end of text included.
        clip_steps (`int`): Steps of CLIP training.
        clip_batch_size (`int`): Image-caption pairs in a step.
        clip_learning_rate (`float`): Peak learning rate; warms up over `clip_warmup_steps` and falls as a cosine.
        clip_warmup_steps (`int`): Warm-up steps.
        clip_weight_decay (`float`): Weight decay of matrices; vectors have none.
    """

    name: str
    image_size_px: int
    num_images: int = 12_000
    num_captions: int = 12_000
    num_triplets: int = 8_000
    num_queries: int = 500
    num_validation_queries: int = 300
    hidden_size: int = 64
    vision_layers: int = 4
    text_layers: int = 2
    attention_heads: int = 4
    patch_size: int = 8
    context_length: int = 40
    clip_steps: int = 900
    clip_batch_size: int = 128
    clip_learning_rate: float = 1.5e-3
    clip_warmup_steps: int = 30
    clip_weight_decay: float = 0.05

    @property
    def values(self) -> dict[str, tuple]:
        """`dict[str, tuple]`: Values of each attribute that has a list of them."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)  # hashed as itself, for caches
class World:
    """Description of a world: what its scenes are, how they are described and drawn.

    Args:
        name (`str`): Name as a benchmark, such as `"small_world"`.
        title (`str`): Name in sentences, such as `"small world"`.
        presets (`Mapping[str, WorldPreset]`): Sizes by name.
        scene (`type`): A `NamedTuple` of attributes, integers or strings.
        held_out_by (`tuple[str, ...]`): Attributes whose combinations [`is_held_out`] keeps from training.
        draw_scene (`Callable`): From a preset, a generator and `held_out` (`None` for either) to a scene.
        change_scene (`Callable`): From a preset, a scene, names and a generator to one that differs in these alone.
        list_changeable (`Callable`): From a preset, a scene and a generator to the names that a change is drawn from.
        is_sound (`Callable`): Whether a scene whose attributes were put together can be drawn and described.
        render_scene (`Callable`): From a scene, a size in pixels and a generator to the bytes of a PNG.
        wordings (`Mapping[str, Mapping[str, tuple[str, ...]]]`):
            Templates of conditions by split, `"A"` of training and `"B"` of queries, and by kind of change.
        tell_kind (`Callable`): From an attribute, reference and target to the kind of change.
        say_value (`Callable`): From a scene, an attribute and a generator to what fills `{old}` or `{new}`.
        write_caption (`Callable`): From a preset, a scene, a generator, names to omit and an opening to a caption.
        list_words (`Callable`): Every word of captions, conditions and prompts.
        list_concepts (`Callable`): From a preset to names of concepts, for SEARLE.
        redraws (`bool`, defaults to `False`):
            Whether each picture has a seed of its own, the column `pose`, so that it can be drawn at another size.
        hard_batches (`Mapping[str, int]`, *optional*):
            Makes every other batch of CLIP training hard: it holds so many values of these attributes.
    """

    name: str
    title: str
    presets: Mapping[str, WorldPreset]
    scene: type[NamedTuple]
    held_out_by: tuple[str, ...]
    draw_scene: Callable
    change_scene: Callable
    list_changeable: Callable
    is_sound: Callable
    render_scene: Callable
    wordings: Mapping[str, Mapping[str, tuple[str, ...]]]
    tell_kind: Callable
    say_value: Callable
    write_caption: Callable
    list_words: Callable
    list_concepts: Callable
    redraws: bool = False
    hard_batches: Mapping[str, int] = field(default_factory=dict)

    def find_preset(self, preset: str | WorldPreset) -> WorldPreset:
        """Look up a preset by name; a preset itself passes through.

        Args:
            preset (`str` or [`WorldPreset`]): `"demo"`, `"mini"`, `"toy"`, or sizes of one's own.

        Returns:
            [`WorldPreset`]: The sizes.

        Raises:
            ValueError: If the name is unknown; suggests the nearest.
        """
        if isinstance(preset, WorldPreset):
            return preset
        if preset not in self.presets:
            raise ValueError(suggest(f"preset of the {self.title}", preset, self.presets))
        return self.presets[preset]

    def holds_out(self, scene: NamedTuple) -> bool:
        """Check whether a scene has a held-out combination.

        Args:
            scene (`NamedTuple`): A scene of this world.

        Returns:
            `bool`: As [`is_held_out`] says.
        """
        return is_held_out(*(getattr(scene, name) for name in self.held_out_by))


# Asked at each try of a draw, of few combinations.
@functools.cache
def is_held_out(*values: str) -> bool:
    """Check whether a combination is kept out of all training data and is what queries look for.

    Args:
        values (`str`): A value of each attribute that takes part, in one order.

    Returns:
        `bool`: True for about one in five combinations, by a hash that depends on nothing else.
    """
    # Python's own hash of a text is another one in each process.
    return int(hashlib.md5("-".join(values).encode()).hexdigest(), 16) % 5 == 0


def pick(rng: np.random.Generator, options):
    """Draw one of several options with equal chances."""
    # `rng.choice` would make an array of the options, and NumPy's own kinds of text and number.
    return options[int(rng.random() * len(options))]
