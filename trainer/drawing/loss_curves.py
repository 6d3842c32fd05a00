"""Loss curves of training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import Trainer


__all__ = ["draw_loss_curves", "get_loss_curve"]


def get_loss_curve(trainer: Trainer) -> list[tuple[int, float]]:
    """Read the loss of a run from its log.

    Args:
        trainer (`transformers.Trainer`): A trainer that has trained.

    Returns:
        `list[tuple[int, float]]`: Step and mean loss since the point before.
    """
    return [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]


def draw_loss_curves(panels: Mapping[str, Sequence[Mapping[str, Sequence[tuple[int, float]]]]], path: Path) -> None:
    """Draw loss curves side by side.

    Args:
        panels (`dict`): For each panel's title, runs of one or more seeds; a run holds pairs of step and loss by name.
        path (`Path`): Picture to write.
    """
    from matplotlib.figure import Figure  # here: whatever saves a model imports this file, and few draw

    # Not pyplot, which keeps each figure open and may look for a display.
    figure = Figure(figsize=(5 * len(panels), 4))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, runs) in zip(axes, panels.items(), strict=True):
        for seed, run in enumerate(runs):
            for number, (name, points) in enumerate(run.items()):
                style = {"label": name, "alpha": 0.9} if seed == 0 else {"alpha": 0.35}
                if points:
                    axis.plot(*zip(*points, strict=True), color=f"C{number}", **style)
        axis.set(title=title, xlabel="step")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
