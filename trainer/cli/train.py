"""`rtd train`: fine-tune the text tower with text triplets (RTD)."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Container
from dataclasses import dataclass, field

from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import check_named


__all__ = ["TrainCommand", "run"]

_USAGE = "rtd train MODEL (--triplets FILE | --captions FILE) --output-dir DIR [options]"


@dataclass
class TrainCommand:
    """What `rtd train` reads.

    The help of a field says what it is. `streaming` is that of [`open_stream`], and `images` are those on which
    [`fit_token_lift`] learns for `lift_steps` steps.
    """

    model: str | None = field(default=None, metadata={"help": SUPPRESS})  # comes first, or from a recipe
    triplets: list[str] | None = field(
        default=None, metadata={"help": "text triplets: jsonl, json, csv, parquet, tar, patterns, folder or Hub id"}
    )
    split: str | None = field(default=None, metadata={"help": "split of a folder or a Hub data set; train by default"})
    streaming: bool = field(default=False, metadata={"help": "read triplets while training, and keep none on disk"})
    captions: str | None = field(default=None, metadata={"help": "captions to make triplets from by rules"})
    projection: str | None = field(
        default=None, metadata={"help": "trained projection, or its published file; needed if the model is a CLIP"}
    )
    projection_from: str | None = field(
        default=None, metadata={"help": "method of the projection; needed with a published file"}
    )
    images: str | None = field(
        default=None, metadata={"help": "unlabelled images; needed if the projection reads image tokens"}
    )
    lift_steps: int = field(default=2000, metadata={"help": "steps of the network that imitates image tokens"})
    lora_r: int = field(default=0, metadata={"help": "rank of a LoRA adapter; 0 trains all weights (published)"})
    lora_alpha: int = field(default=32, metadata={"help": "scale of the LoRA adapter"})
    original_text_model: str | None = field(
        default=None,
        metadata={"help": "directory or Hub id of the text tower from before RTD; without it the model keeps a copy"},
    )
    benchmark: str | None = field(default=None, metadata={"help": "benchmark to judge on while training: wardrobe"})
    benchmark_root: str | None = field(default=None, metadata={"help": "directory of that benchmark"})


def run(arguments: list[str]) -> None:
    """Train, or continue the run in the output folder, and save the result there in `model` or `adapter`.

    Args:
        arguments (`list[str]`): Options: those of [`TrainCommand`] and [`RTDTrainingArguments`].

    Raises:
        ValueError: If neither or both of triplets and captions are named, or anything the trainer refuses.
    """
    refuse_old_names("train", arguments, {"--model": "the model as first argument, `rtd train MODEL ...`"})
    check_named(arguments, _USAGE)

    from pathlib import Path

    from modeling_rtd import PROJECTIONS
    from trainer.cli.options import parse_options
    from trainer.training.arguments import RTDTrainingArguments

    command, args = parse_options(arguments, TrainCommand, RTDTrainingArguments, usage=_USAGE, positional="model")
    _check_options(command, args, PROJECTIONS)

    from trainer.data.streams import open_rows
    from trainer.evaluation.benchmarks import load_benchmark
    from trainer.evaluation.evaluator import RetrievalEvaluator
    from trainer.published_checkpoints import load_start
    from trainer.publishing.provenance import name_source
    from trainer.training.lora import build_lora_config
    from trainer.training.rtd_trainer import RTDTrainer
    from trainer.training.run import finish_run
    from trainer.triplet_making import write_triplets

    model, processor, earlier = load_start(command.model, command.projection, command.projection_from)
    triplets, split = command.triplets, command.split
    if command.captions is not None:
        triplets, split = [Path(args.output_dir, "triplets.jsonl")], None
        # One process makes the triplets, and the others find them finished.
        with args.main_process_first():
            write_triplets(command.captions, triplets[0], method="rules", split=command.split, seed=args.seed)
    evaluator = None
    if command.benchmark is not None:
        benchmark = load_benchmark(command.benchmark, root=command.benchmark_root)
        evaluator = RetrievalEvaluator(model, processor, benchmark)
    lora = {"r": command.lora_r, "lora_alpha": command.lora_alpha}
    trainer = RTDTrainer(
        model,
        args,
        train_dataset=open_rows(triplets, split, command.streaming, args.seed),
        eval_dataset=evaluator,
        processing_class=processor,
        peft_config=build_lora_config(**lora) if command.lora_r else None,
        images=command.images,
        lift_steps=command.lift_steps,
        original_text_model=command.original_text_model,
    )
    sources = {name: getattr(command, name) for name in ("triplets", "captions", "images")}
    data = {name: name_source(place) for name, place in sources.items() if place is not None}
    if folder := finish_run(trainer, data, earlier):
        print(f"{folder.name}: {folder}")


def _check_options(command: TrainCommand, args, methods: Container[str]) -> None:
    if command.model is None:
        raise ValueError(f"name the model first: {_USAGE}")
    if (command.triplets is None) == (command.captions is None):
        raise ValueError("give --triplets, or --captions to make triplets from; one of the two.")
    if command.projection in methods:
        raise ValueError(
            f"--projection names a trained one, but '{command.projection}' is a method: train it first with "
            f"`rtd train-projection --method {command.projection}`."
        )
    if command.benchmark is not None and args.eval_strategy == "no":
        raise ValueError("--benchmark needs to know when to judge: add --eval_strategy steps --eval_steps 100.")
