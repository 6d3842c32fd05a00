"""`rtd train`: fine-tune the text tower with text triplets (RTD)."""

from __future__ import annotations

from dataclasses import dataclass, field


__all__ = ["TrainCommand", "run"]


@dataclass
class TrainCommand:
    """What `rtd train` reads.

    Args:
        model (`str`): Directory or Hub id of an RTD model whose projection is trained, or of a CLIP.
        triplets (`str`, *optional*): File (jsonl, json, csv, parquet) or Hub id of text triplets.
        captions (`str`, *optional*): Captions to make triplets from by rules, where there are none.
        projection (`str`, *optional*):
            Needed where `model` is a CLIP: directory or Hub id of a projection, or a file as its authors publish it
            (a file, `org/name/file.pt` on the Hub, or an `https://` address), which is converted safely.
        projection_from (`str`, *optional*): Method of the projection; needed with a published file.
        images (`str`, *optional*):
            For a projection that reads image tokens (Context-I2W, FTI4CIR): folder of a few thousand unlabelled
            images, on which [`fit_token_lift`] learns to feed it from text.
        lift_steps (`int`, defaults to 2000): Steps of that.
        lora_r (`int`, defaults to 0): Rank of a LoRA adapter; 0 trains all weights, as published.
        lora_alpha (`int`, defaults to 32): Scale of the adapter.
        original_text_model (`str`, *optional*):
            Directory or Hub id that holds the text tower from before RTD, such as the CLIP underneath; where left out,
            the model carries a copy. An adapter needs neither.
        benchmark (`str`, *optional*):
            Benchmark to judge on while training, as `eval_strategy` says: `small_world`, or with a preset
            `small_world/mini`, or `cirr`. Its validation queries are used.
        benchmark_root (`str`, *optional*): Directory of that benchmark; the small world needs none.
    """

    model: str = field(metadata={"help": "RTD model with a trained projection, or a CLIP; directory or Hub id"})
    triplets: str | None = field(default=None, metadata={"help": "text triplets: jsonl, json, csv, parquet or Hub id"})
    captions: str | None = field(default=None, metadata={"help": "captions to make triplets from by rules"})
    projection: str | None = field(
        default=None, metadata={"help": "needed where model is a CLIP: trained projection, or its published file"}
    )
    projection_from: str | None = field(
        default=None, metadata={"help": "method of the projection; needed with a published file"}
    )
    images: str | None = field(
        default=None, metadata={"help": "unlabelled images, needed where the projection is context_i2w or fti4cir"}
    )
    lift_steps: int = field(default=2000, metadata={"help": "steps of learning to feed such a projection from text"})
    lora_r: int = field(default=0, metadata={"help": "rank of a LoRA adapter; 0 trains all weights (published)"})
    lora_alpha: int = field(default=32, metadata={"help": "scale of the LoRA adapter"})
    original_text_model: str | None = field(
        default=None, metadata={"help": "where the text tower from before RTD stays; a copy is kept where left out"}
    )
    benchmark: str | None = field(default=None, metadata={"help": "benchmark to judge on while training: small_world"})
    benchmark_root: str | None = field(default=None, metadata={"help": "directory of that benchmark"})


def run(arguments: list[str]) -> None:
    """Train, or go on with the run in the output folder, and save the result there in `model` or `adapter`.

    Args:
        arguments (`list[str]`): Options: those of [`TrainCommand`] and [`RTDTrainingArguments`].

    Raises:
        ValueError: If neither or both of triplets and captions are named, or anything the trainer refuses.
    """
    import copy
    from pathlib import Path

    from modeling_rtd import PROJECTIONS, settle_place
    from trainer.cli.options import parse_options
    from trainer.evaluation.benchmarks import load_benchmark
    from trainer.evaluation.evaluator import RetrievalEvaluator
    from trainer.published_checkpoints import load_start
    from trainer.publishing.provenance import name_source
    from trainer.training.arguments import RTDTrainingArguments
    from trainer.training.lora import add_lora
    from trainer.training.rtd_trainer import RTDTrainer
    from trainer.training.run import finish_run
    from trainer.triplet_making import write_triplets

    usage = "rtd train --model MODEL (--triplets FILE | --captions FILE) --output-dir DIR [options]"
    command, args = parse_options(arguments, TrainCommand, RTDTrainingArguments, usage=usage)
    if (command.triplets is None) == (command.captions is None):
        raise ValueError("give --triplets, or --captions to make triplets from; one of the two.")
    if command.projection in PROJECTIONS:
        raise ValueError(
            f"--projection names a trained one, but '{command.projection}' is a method: train it first with "
            f"`rtd train-projection --method {command.projection}`."
        )
    if command.benchmark is not None and args.eval_strategy == "no":
        raise ValueError("--benchmark needs to know when to judge: add --eval_strategy steps --eval_steps 100.")
    model, processor, earlier = load_start(command.model, command.projection, command.projection_from)
    _check_start(model, command)
    triplets = command.triplets
    if command.captions is not None:
        triplets = Path(args.output_dir, "triplets.jsonl")
        with args.main_process_first():
            write_triplets(command.captions, triplets, method="rules", seed=args.seed)
    processor = processor.with_template(args.template or model.projection.rtd_template or processor.default_template)
    lift = _fit_lift(model, processor, triplets, command, args)
    if command.lora_r:
        model.config.base_model = model.config.base_model or settle_place(command.model)
        tower = add_lora(model.text_model, r=command.lora_r, lora_alpha=command.lora_alpha)
    else:
        tower = copy.deepcopy(model.text_model)
    evaluator = None
    if command.benchmark is not None:
        evaluator = RetrievalEvaluator(
            model, processor, load_benchmark(command.benchmark, root=command.benchmark_root)
        )
    trainer = RTDTrainer(
        tower,
        args,
        projection=model.projection,
        train_dataset=triplets,
        eval_dataset=evaluator,
        processing_class=processor,
        token_lift=lift,
    )
    sources = {name: getattr(command, name) for name in ("triplets", "captions", "images")}
    data = {name: name_source(place) for name, place in sources.items() if place is not None}
    if folder := finish_run(trainer, model, command.original_text_model, data, earlier):
        print(f"{folder.name}: {folder}")


def _fit_lift(model, processor, triplets: str, command: TrainCommand, args):
    """Fit the lift that a projection of image tokens needs, in the folder of the run."""
    from pathlib import Path

    from trainer.data.images import load_images
    from trainer.data.triplets import prepare_triplets
    from trainer.encoding.image_features import ImageFeatures
    from trainer.training.image_tokens_from_text import fit_token_lift

    method, needs = model.projection.config.projection_type, "image_tokens" in model.projection.consumes
    if needs != (command.images is not None):
        if needs:
            raise ValueError(
                f"a '{method}' projection reads image tokens, which text does not have: give --images DIR."
            )
        raise ValueError(f"a '{method}' projection is trained on from text alone: leave --images out.")
    if not needs:
        return None
    folder, conditions = Path(args.output_dir, "stages"), prepare_triplets(triplets)["conditioning_caption"][:]
    with args.main_process_first(desc="fitting the token lift"):
        features = ImageFeatures(model, processor, load_images(command.images), folder)
        settings = {"noise_scale": args.noise_scale, "steps": command.lift_steps, "seed": args.seed}
        return fit_token_lift(model, processor, features, conditions, folder, **settings)


def _check_start(model, command: TrainCommand) -> None:
    """Refuse what would be found out only after training."""
    import torch

    from modeling_rtd import RTDTextModel, has_adapters, hash_tensors

    if model.config.original_text_model is not None or has_adapters(model.text_model):
        raise ValueError(
            f"'{command.model}' is trained with RTD already, and RTD starts from CLIP's own text tower: name the "
            "model with the projection that it was made of."
        )
    if command.original_text_model is not None:
        tower = RTDTextModel.from_pretrained(command.original_text_model, dtype=torch.float32)
        if hash_tensors(tower) != hash_tensors(model.text_model):
            raise ValueError(
                f"'{command.original_text_model}' holds another text tower than '{command.model}': name the CLIP "
                "underneath, or leave --original_text_model out."
            )
