"""`rtd train-projection`: train a projection on top of a CLIP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import check_named


if TYPE_CHECKING:
    from trainer.methods import Method


__all__ = ["TrainProjectionCommand", "run"]

_USAGE = "(--captions FILE | --images DIR | both) --output-dir DIR [options]"


@dataclass
class TrainProjectionCommand:
    """What `rtd train-projection` reads.

    The help of a field says what it is. Images and captions of a method of pairs are those of [`load_pairs`], and
    `streaming` is that of [`open_stream`].
    """

    model: str = field(metadata={"help": "CLIP to train it on: directory or Hub id"})
    method: str = field(default="lincir", metadata={"help": "projection to train; options below are those of it"})
    captions: list[str] | None = field(
        default=None, metadata={"help": "captions: txt, jsonl, json, csv, parquet, tar, patterns, folder or Hub id"}
    )
    images: list[str] | None = field(
        default=None, metadata={"help": "folder of images; without captions also parquet, tar, patterns or Hub id"}
    )
    split: str | None = field(default=None, metadata={"help": "split of a folder or a Hub data set; train by default"})
    streaming: bool = field(default=False, metadata={"help": "read rows while training, and keep none on disk"})


def run(arguments: list[str]) -> None:
    """Train, or continue the run in the output folder, and save CLIP and projection in its folder `model`.

    Args:
        arguments (`list[str]`): Options: those of [`TrainProjectionCommand`] and of the method's arguments.

    Raises:
        ValueError: If the method is unknown, its data are not named, or anything the trainer refuses.
    """
    new = "the CLIP as first argument, `rtd train-projection CLIP ...`"
    refuse_old_names("train-projection", arguments, {"--clip": new, "--model": new})
    check_named(arguments, f"rtd train-projection CLIP --method METHOD {_USAGE}")

    from trainer.cli.options import expand_recipe, find_value, parse_options
    from trainer.methods import find_method, list_methods

    # A recipe may name the method, on which the known options depend.
    arguments = expand_recipe(arguments, "model")
    method = find_method(find_value(arguments, "method", "lincir"))
    command, args = parse_options(
        arguments,
        TrainProjectionCommand,
        method.arguments,
        usage=f"rtd train-projection CLIP --method ({' | '.join(list_methods())}) {_USAGE}",
        positional="model",
    )
    needed = ("images", "captions") if method.reads == "pairs" else (method.reads,)
    if method.reads == "pairs" and command.captions and not command.images:
        needed = ("captions",)  # which may bring their images
    _check_data(method, command, needed)

    from trainer.data.image_captions import load_pairs
    from trainer.data.streams import open_rows
    from trainer.publishing.provenance import name_source
    from trainer.training.projections.trainer import ProjectionTrainer
    from trainer.training.run import finish_run

    if command.captions is not None:
        source = open_rows(command.captions, command.split, command.streaming, args.seed, method.reads == "pairs")
    elif command.streaming:
        source = open_rows(command.images, command.split, True, args.seed, images=True)
    else:
        source = _open_images(command.images, command.split)
    if method.reads == "pairs" and not command.streaming:
        # Here and not in the trainer, which takes one source of rows.
        source = load_pairs(command.images and command.images[0], source)
    trainer = ProjectionTrainer(command.model, args, train_dataset=source, method=method.name)
    data = {name: name_source(getattr(command, name)) for name in needed}
    if folder := finish_run(trainer, data):
        print(f"model: {folder}")


def _open_images(places: list[str], split: str | None):
    from trainer.data.tables import load_table

    folder = places[0] if len(places) == 1 and Path(places[0]).is_dir() else None
    if folder is None:
        return load_table(places[0] if len(places) == 1 else list(map(Path, places)), split)
    if split is not None:
        raise ValueError(f"'{folder}' is a folder of images, which has no splits: leave --split out.")
    return folder


def _check_data(record: Method, command: TrainProjectionCommand, needed: tuple[str, ...]) -> None:
    method, reads = record.name, record.reads
    what = " with ".join(needed)
    missing = [f"--{name}" for name in needed if getattr(command, name) is None]
    if missing:
        raise ValueError(f"{method} is trained from {what}: give {' and '.join(missing)}.")
    if command.streaming and not record.objective.streams:
        raise ValueError(f"{method} goes through its images before it trains: leave --streaming out.")
    if command.streaming and len(needed) > 1:
        raise ValueError("a stream has images and captions in the same rows: leave --images out, or --streaming.")
    if reads == "pairs" and len(command.images or ()) > 1:
        raise ValueError(f"{method} finds images by their names in one folder, got {len(command.images)} (--images).")
    surplus = [f"--{name}" for name in ("images", "captions") if name not in needed and getattr(command, name)]
    if surplus:
        raise ValueError(f"{method} is trained from {what}: leave {surplus[0]} out.")
