"""`rtd train`: fine-tune the text tower with text triplets (RTD)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


__all__ = ["TrainCommand", "run"]


@dataclass
class TrainCommand:
    """What `rtd train` reads.

    Args:
        triplets (`str`): File (jsonl, json, csv, parquet) or Hub id of text triplets.
        model (`str`): Directory or Hub id of an RTD model whose projection is trained, or of a CLIP.
        projection (`str`, *optional*): Directory or Hub id of a projection, needed where `model` is a CLIP.
    """

    triplets: str = field(metadata={"help": "text triplets: jsonl, json, csv, parquet or Hub id"})
    model: str = field(metadata={"help": "RTD model with a trained projection, or a CLIP; directory or Hub id"})
    projection: str | None = field(default=None, metadata={"help": "trained projection, needed where model is a CLIP"})


def run(arguments: list[str]) -> None:
    """Train, or go on with the run in the output folder, and save the assembled model in its folder `model`.

    Args:
        arguments (`list[str]`): Options: those of [`TrainCommand`] and [`RTDTrainingArguments`].
    """
    from modeling_rtd import RTDTextModel
    from trainer.arguments import RTDTrainingArguments
    from trainer.assembly import load_model_and_processor
    from trainer.checkpoints import find_checkpoints
    from trainer.cli.options import parse_options
    from trainer.progress import LossBarCallback
    from trainer.rtd_trainer import RTDTrainer

    command, args = parse_options(arguments, TrainCommand, RTDTrainingArguments)
    model, processor = load_model_and_processor(command.model, command.projection)
    tower = RTDTextModel.from_pretrained(command.model, config=model.text_model.config)
    trainer = RTDTrainer(
        tower, args, projection=model.projection, train_dataset=command.triplets, processing_class=processor
    )
    LossBarCallback.install(trainer, "RTD")
    trainer.train(resume_from_checkpoint=bool(find_checkpoints(args.output_dir)))
    model.replace_text_model(trainer.model)
    if trainer.is_world_process_zero():
        folder = Path(args.output_dir) / "model"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        print(f"model: {folder}")
