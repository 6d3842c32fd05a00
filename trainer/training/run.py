"""Putting a model together from what a user names, and running its training to the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.distributed as dist

from modeling_rtd import write_json
from trainer.training.base_trainer import BaseTrainer
from trainer.training.checkpoints import RUN_FILE, find_checkpoints, refuse_other_run
from trainer.training.progress import LossBarCallback


__all__ = ["finish_run"]


def finish_run(
    trainer: BaseTrainer, data: Mapping[str, str] | None = None, earlier: Sequence[Mapping] | None = None
) -> Path | None:
    """Train, or continue the run in the output folder, and save the whole model or its adapter, with its card.

    The folder is held from the first look at it until the model is saved, see [`BaseTrainer.hold_folder`].

    Args:
        trainer ([`BaseTrainer`]): Trainer of the model's projection or of a text tower.
        data (`Mapping[str, str]`, *optional*): Names of what is trained on, for the record.
        earlier (`Sequence[Mapping]`, *optional*): What made the model so far, see [`read_stages`].

    Returns:
        `Path` or `None`: See [`BaseTrainer.save_model`].

    Raises:
        ValueError: If the output folder holds anything of another run, or another process is running there.
        OSError: If the result cannot be saved; the checkpoints stay.
    """
    folder = Path(trainer.args.output_dir)
    with trainer.hold_folder():
        _refuse_foreign_folder(folder, trainer.run_facts)
        if trainer.is_world_process_zero():
            # Before the first step: from here on no other run takes this folder for its own.
            write_json(folder / RUN_FILE, trainer.run_facts, sort_keys=True)
        LossBarCallback.install(trainer, trainer.stage)
        trainer.train(resume_from_checkpoint=bool(find_checkpoints(folder)))
        trainer.data = data or trainer.data
        trainer.earlier = trainer.earlier if earlier is None else earlier
        result = trainer.save_model()
    if dist.is_initialized():
        # Without it some processes end with an error after the work is done.
        dist.barrier()
        dist.destroy_process_group()
    return result


def _refuse_foreign_folder(folder: Path, run_facts: dict) -> None:
    """Refuse to write over anything that this very run has not made."""
    results = [folder / name for name in ("model", "adapter", "training.json", "metrics.json", "config.json")]
    if not any(place.exists() for place in (*results, *find_checkpoints(folder))):
        return  # also of a run that ended before it saved anything, as with a batch that memory does not hold
    if (folder / RUN_FILE).is_file():
        refuse_other_run(folder, run_facts)
    else:
        raise ValueError(f"'{folder}' holds something that is not a run of `rtd`; choose another output_dir.")
