"""`rtd train-projection`: train a projection on top of a CLIP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


__all__ = ["TrainProjectionCommand", "run"]


@dataclass
class TrainProjectionCommand:
    """What `rtd train-projection` reads.

    Args:
        captions (`str`): File (txt, jsonl, json, csv, parquet) or Hub id of captions in a column `text`.
        clip (`str`): Directory or Hub id of a CLIP.
        method (`str`, defaults to `"lincir"`): Method to train by.
    """

    captions: str = field(metadata={"help": "captions: txt, jsonl, json, csv, parquet or Hub id, in a column text"})
    clip: str = field(metadata={"help": "CLIP to train it on: directory or Hub id"})
    method: str = field(default="lincir", metadata={"help": "method: lincir"})


def run(arguments: list[str]) -> None:
    """Train, or go on with the run in the output folder, and save CLIP and projection in its folder `model`.

    Args:
        arguments (`list[str]`): Options: those of [`TrainProjectionCommand`] and [`ProjectionTrainingArguments`].
    """
    from trainer.arguments import ProjectionTrainingArguments
    from trainer.assembly import load_model_and_processor
    from trainer.checkpoints import find_checkpoints
    from trainer.cli.options import parse_options
    from trainer.objectives import find_objective
    from trainer.progress import LossBarCallback
    from trainer.projection_trainer import ProjectionTrainer

    command, args = parse_options(arguments, TrainProjectionCommand, ProjectionTrainingArguments)
    find_objective(command.method)
    model, processor = load_model_and_processor(command.clip, command.method)
    trainer = ProjectionTrainer(
        model.projection.train(),
        args,
        text_model=model.text_model,
        train_dataset=command.captions,
        processing_class=processor,
    )
    LossBarCallback.install(trainer, command.method)
    trainer.train(resume_from_checkpoint=bool(find_checkpoints(args.output_dir)))
    if trainer.is_world_process_zero():
        folder = Path(args.output_dir) / "model"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        print(f"model: {folder}")
