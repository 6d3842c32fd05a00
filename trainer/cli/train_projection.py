"""`rtd train-projection`: train a projection on top of a CLIP."""

from __future__ import annotations

from dataclasses import dataclass, field


__all__ = ["TrainProjectionCommand", "run"]


@dataclass
class TrainProjectionCommand:
    """What `rtd train-projection` reads.

    Args:
        clip (`str`): Directory or Hub id of a CLIP.
        method (`str`, defaults to `"lincir"`): Method to train by.
        captions (`str`, *optional*):
            For LinCIR: file or Hub id of captions in a column `text`. For Context-I2W and FTI4CIR: captions of the
            images, see [`load_pairs`].
        images (`str`, *optional*): For all but LinCIR: folder of images.
    """

    clip: str = field(metadata={"help": "CLIP to train it on: directory or Hub id"})
    method: str = field(
        default="lincir",
        metadata={"help": "lincir (captions), pic2word or searle (images), context_i2w or fti4cir (both)"},
    )
    captions: str | None = field(default=None, metadata={"help": "captions: txt, jsonl, json, csv, parquet or Hub id"})
    images: str | None = field(default=None, metadata={"help": "folder of images"})


def run(arguments: list[str]) -> None:
    """Train, or go on with the run in the output folder, and save CLIP and projection in its folder `model`.

    Args:
        arguments (`list[str]`): Options: those of [`TrainProjectionCommand`] and [`ProjectionTrainingArguments`].

    Raises:
        ValueError: If the method's data are not named, or anything the trainer refuses.
    """
    from trainer.cli.options import parse_options
    from trainer.data.image_captions import load_pairs
    from trainer.loading import load_model_and_processor
    from trainer.publishing.provenance import name_source
    from trainer.training.arguments import ProjectionTrainingArguments
    from trainer.training.projections import OBJECTIVES, find_objective
    from trainer.training.projections.trainer import ProjectionTrainer
    from trainer.training.run import finish_run

    classes = (TrainProjectionCommand, ProjectionTrainingArguments)
    # The defaults are LinCIR's; every other method begins with its own recipe.
    others = OBJECTIVES.keys() - {"lincir"}
    command, args = parse_options(
        arguments,
        *classes,
        usage="rtd train-projection --clip CLIP (--captions FILE | --images DIR | both) --output-dir DIR [options]",
        base_recipe=lambda values: values.get("method") if values.get("method") in others else None,
    )
    wanted = find_objective(command.method).reads
    needed = ("images", "captions") if wanted == "pairs" else (wanted,)
    missing = [f"--{name}" for name in needed if getattr(command, name) is None]
    if missing:
        raise ValueError(f"{command.method} is trained from {' with '.join(needed)}: give {' and '.join(missing)}.")
    surplus = [f"--{name}" for name in ("images", "captions") if name not in needed and getattr(command, name)]
    if surplus:
        raise ValueError(f"{command.method} is trained from {' with '.join(needed)}: leave {surplus[0]} out.")
    source = load_pairs(command.images, command.captions) if wanted == "pairs" else getattr(command, wanted)
    model, processor = load_model_and_processor(command.clip, command.method)
    trainer = ProjectionTrainer(model, args, train_dataset=source, processing_class=processor)
    data = {name: name_source(getattr(command, name)) for name in needed}
    if folder := finish_run(trainer, data):
        print(f"model: {folder}")
