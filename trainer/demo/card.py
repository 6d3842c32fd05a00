"""How the demo's model was made, in the form in which training records it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


__all__ = ["describe_demo_stages"]


def describe_demo_stages(rows: Sequence[Mapping], facts: Mapping) -> list[dict]:
    """Describe the three trainings that the demo's model comes from.

    Args:
        rows (`Sequence[Mapping]`): Rows of `metrics.json`, those of seed 0 among them.
        facts (`Mapping`): What made them, as [`write_report`] takes it, with hashes of captions and triplets.

    Returns:
        `list[dict]`: Stages, see [`read_stages`].
    """
    recipe, rms = facts["recipe"], facts["rms"]
    own = {row["variant"]: row for row in rows if row["seed"] == 0}
    world = f"{facts['world'].title}, preset {facts['preset'].name}, seed 0"
    shared = {"seed": 0, "hardware": facts["hardware"], "versions": facts["versions"]}
    lincir, rtd = own["lincir"], own["lincir + rtd"]
    return [
        {
            "stage": f"{facts['backbone']}, from scratch",
            "data": {"images": world, "captions of images": world},
            "steps": facts["clip_steps"],
            "seconds": rtd["seconds"]["clip"],
            **shared,
        },
        {
            "stage": "lincir",
            "data": {"captions": world},
            "captions": facts["captions"],
            "steps": recipe.projection_steps,
            "batch_size": recipe.projection_batch_size,
            "learning_rate": recipe.projection_learning_rate,
            "lr_scheduler_type": "cosine",
            "dropout": 0.1,
            "keyword_fn": "rule",
            "noise_scale": rms,
            "seconds": lincir["seconds"]["lincir"],
            "final_loss": lincir["final_loss"],
            **shared,
        },
        {
            "stage": "rtd",
            "data": {"triplets": world},
            "triplets": facts["triplets"],
            "steps": recipe.rtd_steps,
            "batch_size": recipe.rtd_batch_size,
            "learning_rate": recipe.rtd_learning_rate,
            "noise_scale": 0.5 * rms,
            "seconds": rtd["seconds"]["lincir + rtd"],
            "final_loss": rtd["final_loss"],
            **shared,
        },
    ]
