"""The demo: build a world, train every part on it, and show on held-out queries what RTD does."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import normalize
from transformers import PreTrainedModel, set_seed

from modeling_rtd import (
    RTDModel,
    RTDProcessor,
    RTDProjectionConfig,
    build_projection,
    hold_lock_file,
    suggest,
    write_json,
)
from trainer.data.images import load_images
from trainer.data.tables import hash_rows
from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.demo.card import describe_demo_stages
from trainer.demo.experiments import EXPERIMENTS, run_experiments
from trainer.demo.recipes import (
    ALL_METHODS,
    BACKBONES,
    CAPTIONS_KEPT,
    LOSS_PANELS,
    METHODS,
    RECIPES,
    write_projection_arguments,
)
from trainer.demo.report import write_report
from trainer.demo.results import draw_results
from trainer.demo.stages import Stages
from trainer.drawing.loss_curves import draw_loss_curves, get_loss_curve
from trainer.encoding.captions import encode_captions
from trainer.evaluation.diagnosis.wordings import compute_wordings
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.evaluation.metrics import relevance, target_ranks
from trainer.methods import find_method
from trainer.publishing.model_card import describe_model, render_card
from trainer.publishing.provenance import describe_hardware, describe_versions, hash_parts, write_stages
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.progress import LossBarCallback
from trainer.training.projections.trainer import ProjectionTrainer
from trainer.training.rtd_trainer import RTDTrainer
from trainer.worlds import find_world
from trainer.worlds.clip import count_steps, train_clip
from trainer.worlds.data import build_world
from trainer.worlds.files import write_world
from trainer.worlds.world import World, WorldPreset


__all__ = ["DEMO_WORLDS", "run_demo"]

DEMO_WORLDS = {"wardrobe": "wardrobe", "shapes": "small_world"}  # what people call them
_LOCK = ".lock"
BASELINES = {"text only": "text", "image only": "image", "image + text": "sum"}
# Variant of RTD: arguments that differ, and whether conditions are shuffled among the triplets.
RTD_VARIANTS = {
    "{} + rtd": ({}, False),
    "{} + rtd, captions kept": (CAPTIONS_KEPT, False),
    "{} + rtd without rc": ({"refined_concatenation": False}, False),
    "{} + rtd without rb": ({"refined_batch": False}, False),
    "control: no composition": ({"composition": False}, False),
    "control: shuffled conditions": ({}, True),
}


def run_demo(
    output_dir: str | Path = "runs/demo",
    preset: str = "demo",
    seeds: int = 1,
    split: str = "test",
    experiments: bool = False,
    projections: str = "default",
    world: str = "wardrobe",
    backbone: str = "clip",
) -> Path:
    """Run the whole demo and write its results.

    Leaves `metrics.json` (one row per variant and seed; `caption_recall@5` is that of plain captions of the targets,
    read by the row's own text tower), `wordings.json` (recall@5 by kind of change and by wording), `report.md`,
    `results.png`, `losses.png`, and of the first seed `model`, the plain backbone underneath in a folder of its
    name. It also leaves the data as files in `world`, see [`write_world`]. A folder that holds an earlier demo is
    renamed, never overwritten.

    Args:
        output_dir (`str` or `Path`, defaults to `"runs/demo"`): Folder of the results.
        preset (`str`, defaults to `"demo"`): Preset of the world.
        seeds (`int`, defaults to 1): Runs, each with its own training data, backbone, projection and text towers.
        split (`str`, defaults to `"test"`): Queries to judge on; recipes are to be chosen on `"validation"`.
        experiments (`bool`, defaults to `False`):
            Also sweep the noise and compare sources of triplets (first seed), see [`run_experiments`]; written to
            `experiments.json` and to the report.
        projections (`str`, defaults to `"default"`): `"default"` trains LinCIR and Pic2Word, `"all"` all five.
        world (`str`, defaults to `"wardrobe"`): A key of `DEMO_WORLDS`.
        backbone (`str`, defaults to `"clip"`): A key of `BACKBONES`: the family that is trained from scratch.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If world, preset, split, projections or backbone are unknown, `seeds` is below 1, or all
            projections are asked for on a SigLIP.
    """
    _check_options(seeds, split, projections, world, backbone)
    drawn = find_world(DEMO_WORLDS[world])
    size, methods = drawn.find_preset(preset), METHODS if projections == "default" else ALL_METHODS
    settings = {"world": world, "preset": size.name, "benchmark": f"{drawn.name}/{size.name}", "seeds": seeds}
    settings |= {"split": split, "experiments": experiments, "methods": methods, "backbone": backbone}
    with _hold_folder(Path(output_dir), settings) as folder:
        # Experiments are of the first seed alone.
        names = _list_stages(methods)
        stages = Stages([*names, *EXPERIMENTS * experiments, *names * (seeds - 1)])
        rows, losses, experiment_rows = [], [], []
        for seed in range(seeds):
            run = _DemoRun(drawn, size, seed, split, folder, methods, stages, backbone)
            rows += run.run()
            losses.append(run.losses)
            _write_rows(rows, folder)
            if seed == 0:
                facts = run.facts
                write_world(run.data, folder / "world", split)
                experiment_rows = run.run_experiments() if experiments else []
            # Not at the end alone: a seed takes minutes, and a run that stops shows those that are done.
            _draw_losses(losses, methods, folder)
            write_report(rows, facts, folder / "report.md", experiment_rows)
        if experiments:
            write_json(folder / "experiments.json", experiment_rows)
        shutil.rmtree(folder / "scratch")
        return folder


def _check_options(seeds: int, split: str, projections: str, world: str, backbone: str) -> None:
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1, got {seeds}.")
    if split not in ("validation", "test"):
        raise ValueError(f"`split` must be 'validation' or 'test', got {split!r}.")
    if projections not in ("default", "all"):
        raise ValueError(f"`projections` must be 'default' or 'all', got {projections!r}.")
    if world not in DEMO_WORLDS:
        raise ValueError(suggest("world", world, DEMO_WORLDS))
    if backbone not in BACKBONES:
        raise ValueError(suggest("backbone", backbone, BACKBONES))
    if backbone == "siglip" and projections == "all":
        raise ValueError(
            "a SigLIP has no class token, which two of the five projections read: leave --projections out, or take "
            "--backbone clip."
        )


def _list_stages(methods: tuple[str, ...]) -> list[str]:
    """List what one seed runs: ablations and controls are shown on one projection."""
    trained = [[method, *_list_variants(method)] for method in methods]
    return ["world", "clip", *(name for names in trained for name in names)]


def _list_variants(method: str) -> dict[str, tuple[dict, bool]]:
    return {
        name.format(method): settings
        for name, settings in RTD_VARIANTS.items()
        if method == "lincir" or name in ("{} + rtd", "{} + rtd, captions kept")
    }


def _write_rows(rows: list[dict], folder: Path) -> None:
    tables = {
        "metrics": [{name: value for name, value in row.items() if name != "wordings"} for row in rows],
        "wordings": [{"variant": row["variant"], "seed": row["seed"], **row["wordings"]} for row in rows],
    }
    for name, table in tables.items():
        write_json(folder / f"{name}.json", table)


def _draw_losses(losses: list[dict], methods: tuple[str, ...], folder: Path) -> None:
    panels = LOSS_PANELS | {"RTD: target-anchored loss": [name for name in losses[0] if name not in methods]}
    shown = {
        title: [{name: run[name] for name in names if name in run} for run in losses]
        for title, names in panels.items()
        if any(name in losses[0] for name in names)
    }
    draw_loss_curves(shown, folder / "losses.png")


@contextlib.contextmanager
def _hold_folder(folder: Path, settings: dict) -> Iterator[Path]:
    """Make the folder of a demo, and keep others out of it: an earlier demo is renamed, and must not be running."""
    refusal = f"another demo is running in '{folder}': wait for it, or choose another --output-dir."
    if folder.exists() and any(path.name != _LOCK for path in folder.iterdir()):
        if not (folder / "demo.json").exists():
            raise ValueError(f"'{folder}' is not empty and holds no demo; choose another --output-dir.")
        with hold_lock_file(folder / _LOCK, refusal):
            # An earlier demo keeps its results under a number.
            number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.{n}").exists())
            folder.rename(folder.with_name(f"{folder.name}.{number}"))
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock_file(folder / _LOCK, refusal):
        write_json(folder / "demo.json", settings)
        yield folder


class _DemoRun:
    """One seed of the demo."""

    def __init__(
        self,
        world: World,
        preset: WorldPreset,
        seed: int,
        split: str,
        folder: Path,
        methods: tuple[str, ...],
        stages: Stages,
        backbone: str = "clip",
    ):
        self.seed, self.split, self.folder, self.methods, self.backbone = seed, split, folder, methods, backbone
        self.recipe, self.stages, self.seconds = RECIPES[preset.name], stages, {}
        with stages("world", f"drawing the {world.title}, seed {seed}", self.seconds):
            self.data = build_world(world, preset, seed)
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.facts: dict = {}

    def run(self) -> list[dict]:
        with self.stages("clip", f"training a {BACKBONES[self.backbone]} on it from scratch", self.seconds):
            place = self.folder / self.backbone if self.seed == 0 else None
            clip, tokenizer, image_processor = train_clip(self.data, self.seed, place, family=self.backbone)
        self.processor = RTDProcessor(image_processor, tokenizer, family=self.backbone)
        model = RTDModel.from_clip(clip, "lincir", tokenizer=tokenizer).to(clip.device)
        self.joint_size = model.config.projection_dim
        self.rms = encode_captions(model.text_model, self.processor, self.data.captions["text"][:2000], desc=None)
        self.rms = self.rms.square().mean().sqrt().item()
        self.evaluator = RetrievalEvaluator(model, self.processor, self.data.benchmark(self.split))
        rows = [self._judge(variant, model, None, False, mode) for variant, mode in BASELINES.items()]
        for method in self.methods:
            model = self._train_projection(clip, method)
            rows.append(self._judge(method, model, method, False))
            for variant, (arguments, shuffles) in _list_variants(method).items():
                triplets = _shuffle_conditions(self.data.triplets, self.seed) if shuffles else self.data.triplets
                tuned = self._train_rtd(variant, model, triplets, **arguments)
                rows.append(self._judge(variant, tuned, method, True))
                # The experiments start from the projection of this variant.
                if variant == "lincir + rtd":
                    self.projected = model
                if self.seed == 0 and variant == "lincir + rtd":
                    tuned.save_pretrained(self.folder / "model")
                    self.processor.save_pretrained(self.folder / "model")
                    self._draw_results(model, tuned)
        self._record_facts()
        if self.seed == 0:
            self._describe_model(rows)
        return rows

    def run_experiments(self) -> list[dict]:
        def train_and_judge(variant: str, triplets: Dataset, **arguments) -> dict:
            tuned = self._train_rtd(variant, self.projected, triplets, **arguments)
            return self._judge(variant, tuned, "lincir", True)

        captions, model = self.data.captions["text"][:], self.folder / "model"
        baseline = self._judge("lincir", self.projected, "lincir", False) | {"experiment": "none", "num_triplets": 0}
        rows = run_experiments(train_and_judge, self.data.triplets, captions, model, self.rms)
        return [baseline, *rows]

    def _train_projection(self, clip: PreTrainedModel, method: str) -> RTDModel:
        set_seed(self.seed)
        # The published dropout of SEARLE and LinCIR, 0.5, converges too slowly in so small a network.
        config = RTDProjectionConfig(
            projection_type=method,
            projection_dim=self.joint_size,
            text_hidden_size=clip.config.text_config.hidden_size,
            vision_hidden_size=clip.config.vision_config.hidden_size,
            dropout=0.1,
            **({"num_hidden_layers": 2, "num_attention_heads": 2} if method == "context_i2w" else {}),
        )
        projection = build_projection(config)
        model = RTDModel.from_clip(clip, projection, tokenizer=self.processor.tokenizer).to(clip.device)
        record, data = find_method(method), self.data
        own = write_projection_arguments(method, data.world, data.preset.name, self.rms, self.folder / "scratch")
        args = record.arguments(**self._shared_arguments(method, own.pop("max_steps")), **own)
        source = {"captions": data.captions, "images": data.images}.get(record.reads)
        if source is None:
            # A method of pairs reads one caption of each image.
            source = data.images.add_column("text", [captions[0] for captions in data.images["captions"]])
        with self.stages(method, f"training the projection {record.paper.name}", self.seconds):
            trainer = ProjectionTrainer(
                model, args, train_dataset=source, processing_class=self.processor.with_template(method)
            )
            LossBarCallback.install(trainer, method)
            trainer.train()
        self._record_losses(method, trainer)
        return model.eval()

    def _train_rtd(self, variant: str, model: RTDModel, triplets: Dataset, **arguments) -> RTDModel:
        recipe = self.recipe
        args = RTDTrainingArguments(
            **self._shared_arguments(variant, recipe.rtd_steps),
            per_device_train_batch_size=recipe.rtd_batch_size,
            learning_rate=recipe.rtd_learning_rate,
            noise_unit="absolute",
            **{"noise_scale": 0.5 * self.rms} | arguments,
        )
        method, images = model.projection.config.projection_type, None
        if "image_tokens" in model.projection.consumes:
            images = load_images(self.data.images, recipe.own[method].get("num_images"))
        with self.stages(variant, f"training RTD: {variant}", self.seconds):
            trainer = RTDTrainer(
                model,
                args,
                train_dataset=triplets,
                processing_class=self.processor.with_template(method),
                images=images,
                lift_steps=recipe.lift_steps,
            )
            LossBarCallback.install(trainer, variant)
            trainer.train()
        self._record_losses(variant, trainer)
        return trainer.rtd_model

    def _shared_arguments(self, stage: str, steps: int) -> dict:
        scratch = self.folder / "scratch"
        return {
            "output_dir": str(scratch / re.sub(r"\W+", "_", stage)),
            # One for all variants, which read the same captions by the same tower.
            "anchor_cache_dir": str(scratch / "anchors"),
            "max_steps": steps,
            # Twenty points make a curve, whatever the preset.
            "logging_steps": max(1, steps // 20),
            "save_strategy": "no",
            "report_to": "none",
            "seed": self.seed,
        }

    def _judge(self, variant: str, model: RTDModel, projection: str | None, rtd: bool, mode: str = "composed") -> dict:
        # RTD answers in the prompt that it was trained with, a projection alone in its own.
        template = (model.projection.rtd_template if rtd else None) or projection
        evaluator, k = self.evaluator, 5
        embeds = evaluator.encode_queries(model, mode, template)
        metrics = evaluator.score(embeds)
        queries = evaluator.benchmark.queries
        found = relevance(evaluator.rank(embeds, k), evaluator.gallery_ids, queries["target_ids"][:])
        metrics["wordings"] = compute_wordings(queries, target_ranks(found), k)
        if projection:
            captions = queries["target_caption"][:]
            # By the tower of this variant: the difference is what RTD costs plain captions.
            embeds = encode_captions(model.text_model, self.processor, captions, desc=None)
            metrics["caption_recall@5"] = evaluator.score(normalize(embeds, dim=-1))["recall@5"]
        stages = ["world", "clip"] + ([projection] if projection else []) + ([variant] if rtd else [])
        losses = self.losses.get(variant)
        return {
            "variant": variant,
            "projection": projection,
            "rtd": rtd,
            "seed": self.seed,
            **metrics,
            "sha256": hash_parts(model),
            "seconds": {stage: self.seconds[stage] for stage in stages},
            "final_loss": losses[-1][1] if losses else None,
        }

    def _record_losses(self, stage: str, trainer) -> None:
        self.losses[stage] = get_loss_curve(trainer)

    def _record_facts(self) -> None:
        self.facts = {
            "world": self.data.world,
            "backbone": BACKBONES[self.backbone],
            "clip_steps": count_steps(self.data.preset, self.backbone),
            "preset": self.data.preset,
            "split": self.split,
            "num_queries": len(self.evaluator.benchmark.queries),
            "num_gallery": len(self.evaluator.benchmark.gallery),
            "recipe": self.recipe,
            "methods": self.methods,
            "rms": self.rms,
            "prompt": self.processor.prompt_templates[self.processor.default_template],
            "versions": describe_versions(),
            "threads": torch.get_num_threads(),
            "hardware": describe_hardware(),
            "captions": hash_rows(self.data.captions, ["text"]),
            "triplets": hash_rows(self.data.triplets, TRIPLET_COLUMNS),
        }

    def _describe_model(self, rows: list[dict]) -> None:
        """Write how the saved model was made, and a card that results are still missing from."""
        place, stages = self.folder / "model", describe_demo_stages(rows, self.facts)
        write_stages(stages, place)
        name = f"rtd-{self.data.world.name.replace('_', '-')}"
        card = describe_model(RTDModel.from_pretrained(place), self.processor, name, base_model="none", stages=stages)
        render_card(card).save(place / "README.md")

    def _draw_results(self, before: RTDModel, after: RTDModel) -> None:
        rankings = [self.evaluator.rank(self.evaluator.encode_queries(model)) for model in (before, after)]
        titles = ["before: LinCIR alone", "after: LinCIR + RTD (green: right)"]
        sheet = draw_results(self.data.world, self.evaluator.benchmark, rankings, titles)
        # With a palette the file has a quarter of its size.
        sheet.quantize(256, Image.Quantize.FASTOCTREE).save(self.folder / "results.png")


def _shuffle_conditions(triplets: Dataset, seed: int) -> Dataset:
    order = np.random.default_rng(seed).permutation(len(triplets))
    conditions = triplets["conditioning_caption"][:]
    table = triplets.remove_columns("conditioning_caption")
    return table.add_column("conditioning_caption", [conditions[i] for i in order])
