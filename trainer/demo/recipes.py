"""Settings of the demo's stages, fixed on validation queries of the shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType

from trainer.methods import find_method
from trainer.worlds.concepts import write_searle_files
from trainer.worlds.world import World


__all__ = [
    "ALL_METHODS",
    "BACKBONES",
    "CAPTIONS_KEPT",
    "LOSS_PANELS",
    "METHODS",
    "RECIPES",
    "DemoRecipe",
    "write_projection_arguments",
]

METHODS = ("lincir", "pic2word")
ALL_METHODS = (*METHODS, "searle", "context_i2w", "fti4cir")
LOSS_PANELS = {
    "LinCIR: mean squared error": ("lincir",),
    "Images: InfoNCE": ("pic2word", "context_i2w"),
    "Sums of several terms": ("searle", "fti4cir"),
}
BACKBONES = {"clip": "CLIP", "metaclip_2": "MetaCLIP 2", "siglip": "SigLIP"}
CAPTIONS_KEPT = {"caption_weight": 2.0, "caption_interval": 8}  # as docs/one_tower.md recommends


@dataclass(frozen=True)
class DemoRecipe:
    """Settings of the demo's training stages.

    Args:
        projection_steps (`int`): Steps of a projection.
        projection_batch_size (`int`): Captions or images a step.
        projection_learning_rate (`float`): Peak; falls as a cosine.
        rtd_steps (`int`): Steps of RTD.
        rtd_batch_size (`int`): Triplets a step.
        rtd_learning_rate (`float`): Constant.
        lift_steps (`int`): Steps of fitting image tokens to text, for the projections that read them.
        own (`dict`): Arguments of a method that differ from these.
    """

    projection_steps: int
    projection_batch_size: int
    projection_learning_rate: float
    rtd_steps: int
    rtd_batch_size: int
    rtd_learning_rate: float
    lift_steps: int
    own: Mapping[str, dict] = field(default_factory=lambda: _SMALL)


# After 60 steps the published average, of decay 0.99, would still be the random start by half.
_SEARLE = {"oti_batch_size": 128, "oti_ema_decay": 0.9, "temperature": 0.1, "max_steps": 300}
_DEMO = MappingProxyType(
    {
        "searle": {**_SEARLE, "num_images": 1000, "oti_steps": 60},
        "context_i2w": {"num_images": 4000, "learning_rate": 1e-3, "max_steps": 400},
        "fti4cir": {"num_images": 4000, "temperature": 0.2, "max_steps": 400},
    }
)
_SMALL = MappingProxyType(
    {
        "searle": {**_SEARLE, "num_images": 100, "oti_steps": 10, "max_steps": 4},
        "context_i2w": {"learning_rate": 1e-3},
        "fti4cir": {"temperature": 0.2},
    }
)
RECIPES = {
    "demo": DemoRecipe(600, 128, 2e-3, 300, 128, 1e-3, 500, own=_DEMO),
    "mini": DemoRecipe(200, 64, 2e-3, 200, 64, 5e-4, 200),
    "toy": DemoRecipe(4, 16, 2e-3, 4, 16, 5e-4, 4),
}


def write_projection_arguments(method: str, world: World, preset: str, rms: float, folder: Path) -> dict:
    """Write the arguments with which the demo trains a projection.

    Args:
        method (`str`): One of `ALL_METHODS`.
        world ([`World`]): Whose concepts SEARLE reads.
        preset (`str`): A key of `RECIPES`.
        rms (`float`): Root mean square of the embeddings, in which noise is measured.
        folder (`Path`): Where files that the method reads are written.

    Returns:
        `dict`: Arguments of the method's class, alike for all methods where they share them.
    """
    recipe = RECIPES[preset]
    known = {argument.name for argument in fields(find_method(method).arguments)}
    arguments = {
        "max_steps": recipe.projection_steps,
        "per_device_train_batch_size": recipe.projection_batch_size,
        "learning_rate": recipe.projection_learning_rate,
        "lr_scheduler_type": "cosine",
        # Published scales are absolute, and go with the size of CLIP's embeddings.
        "noise_scale": 1.0 * rms,
        "noise_unit": "absolute",
        "weight_decay": 0.01,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "warmup_steps": 0,
        "padding": "none",
        "lr_drop_epoch": None,
        "keyword_fn": "rule",
        "augment": False,
        "stage_dir": str(folder / "stages"),
        # Last: a method's own replace the shared ones.
        **recipe.own.get(method, {}),
    }
    # One list for all methods, of which each takes what it knows.
    arguments = {name: value for name, value in arguments.items() if name in known}
    return arguments | (write_searle_files(world, preset, folder) if method == "searle" else {})
