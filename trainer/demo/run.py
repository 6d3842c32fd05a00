"""The demo: build the small world, train every part on it, and show on held-out queries what RTD does."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import normalize
from transformers import CLIPModel, set_seed

from modeling_rtd import RTDModel, RTDProcessor, RTDProjectionConfig, build_projection
from trainer.data.images import load_images
from trainer.data.tables import hash_rows
from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.demo.card import describe_demo_stages
from trainer.demo.experiments import run_experiments
from trainer.demo.recipes import ALL_METHODS, METHODS, RECIPES, write_projection_arguments
from trainer.demo.report import write_report
from trainer.drawing.contact_sheet import SheetRow, draw_contact_sheet
from trainer.drawing.loss_curves import draw_loss_curves, get_loss_curve
from trainer.encoding.captions import encode_captions
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.methods import find_method
from trainer.publishing.model_card import describe_model, render_card
from trainer.publishing.provenance import describe_hardware, describe_versions, hash_parts, write_stages
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.progress import LossBarCallback
from trainer.training.projections.trainer import ProjectionTrainer
from trainer.training.rtd_trainer import RTDTrainer
from trainer.worlds.small_world import SmallWorldPreset, build_small_world, find_preset, train_clip, write_world


__all__ = ["run_demo"]

BASELINES = {"text only": "text", "image only": "image", "image + text": "sum"}
# Variant of RTD: arguments that differ, and whether conditions are shuffled among the triplets.
RTD_VARIANTS = {
    "{} + rtd": ({}, False),
    "{} + rtd without rc": ({"refined_concatenation": False}, False),
    "{} + rtd without rb": ({"refined_batch": False}, False),
    "control: no composition": ({"composition": False}, False),
    "control: shuffled conditions": ({}, True),
}


class _Stopwatch(dict):
    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[stage] = round(self.get(stage, 0.0) + time.perf_counter() - start, 2)


def run_demo(
    output_dir: str | Path = "runs/demo",
    preset: str = "demo",
    seeds: int = 1,
    split: str = "test",
    experiments: bool = False,
    projections: str = "default",
) -> Path:
    """Run the whole demo and write its results.

    Leaves `metrics.json` (one row per variant and seed; `caption_recall@5` is that of plain captions of the targets,
    read by the row's own text tower), `report.md`, `results.png`, `losses.png`, and of the first seed `model`, the
    plain `clip` underneath and the data as files in `world`, see [`write_world`]. A folder that holds an earlier demo
    is renamed, never overwritten.

    Args:
        output_dir (`str` or `Path`, defaults to `"runs/demo"`): Folder of the results.
        preset (`str`, defaults to `"demo"`): Preset of the small world.
        seeds (`int`, defaults to 1): Runs, each with its own training data, CLIP, projection and text towers.
        split (`str`, defaults to `"test"`): Queries to judge on; recipes are to be chosen on `"validation"`.
        experiments (`bool`, defaults to `False`):
            Also sweep the noise and compare sources of triplets (first seed), see [`run_experiments`]; written to
            `experiments.json` and to the report.
        projections (`str`, defaults to `"default"`): `"default"` trains LinCIR and Pic2Word, `"all"` all five.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If preset, split or projections are unknown, or `seeds` is below 1.
    """
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1, got {seeds}.")
    if split not in ("validation", "test"):
        raise ValueError(f"`split` must be 'validation' or 'test', got {split!r}.")
    if projections not in ("default", "all"):
        raise ValueError(f"`projections` must be 'default' or 'all', got {projections!r}.")
    size, methods = find_preset(preset), METHODS if projections == "default" else ALL_METHODS
    settings = {"preset": size.name, "seeds": seeds, "split": split, "experiments": experiments, "methods": methods}
    folder = _prepare_folder(Path(output_dir), settings)
    rows, losses = [], []
    for seed in range(seeds):
        run = _DemoRun(size, seed, split, folder, methods)
        rows += run.run()
        losses.append(run.losses)
        (folder / "metrics.json").write_text(json.dumps(rows, indent=2))
        if seed == 0:
            facts = run.facts
            write_world(run.world, folder / "world", split)
            experiment_rows = run.run_experiments() if experiments else []
    panels = {
        "LinCIR: mean squared error": [{"lincir": run["lincir"]} for run in losses],
        "Images: InfoNCE": [{k: v for k, v in run.items() if k in ("pic2word", "context_i2w")} for run in losses],
        "RTD: target-anchored loss": [{k: v for k, v in run.items() if k not in methods} for run in losses],
    }
    if projections == "all":
        rest = set(methods) - {"lincir", "pic2word", "context_i2w"}
        panels["Sums of several terms"] = [{k: v for k, v in run.items() if k in rest} for run in losses]
    draw_loss_curves(panels, folder / "losses.png")
    write_report(rows, facts, folder / "report.md", experiment_rows)
    if experiments:
        (folder / "experiments.json").write_text(json.dumps(experiment_rows, indent=2))
    shutil.rmtree(folder / "scratch")
    return folder


def _prepare_folder(folder: Path, settings: dict) -> Path:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "demo.json").exists():
            raise ValueError(f"'{folder}' is not empty and holds no demo; choose another --output-dir.")
        number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.{n}").exists())
        folder.rename(folder.with_name(f"{folder.name}.{number}"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.json").write_text(json.dumps(settings, indent=2))
    return folder


class _DemoRun:
    """One seed of the demo."""

    def __init__(self, preset: SmallWorldPreset, seed: int, split: str, folder: Path, methods: tuple[str, ...]):
        self.seed, self.split, self.folder, self.methods = seed, split, folder, methods
        self.recipe = RECIPES[preset.name]
        self.seconds = _Stopwatch()
        with self.seconds("world"):
            self.world = build_small_world(preset, seed)
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.facts: dict = {}

    def run(self) -> list[dict]:
        with self.seconds("clip"):
            place = self.folder / "clip" if self.seed == 0 else None
            clip, tokenizer, image_processor = train_clip(self.world, self.seed, place)
        self.processor = RTDProcessor(image_processor, tokenizer)
        model = RTDModel.from_clip(clip, "lincir", tokenizer=tokenizer).to(clip.device)
        self.rms = encode_captions(model.text_model, self.processor, self.world.captions["text"][:2000], desc=None)
        self.rms = self.rms.square().mean().sqrt().item()
        with self.seconds("evaluation"):
            self.evaluator = RetrievalEvaluator(model, self.processor, self.world.benchmark(self.split))
        rows = [self._judge(variant, model, None, False, mode) for variant, mode in BASELINES.items()]
        for method in self.methods:
            model = self._train_projection(clip, method)
            rows.append(self._judge(method, model, method, False))
            for name, (arguments, shuffles) in RTD_VARIANTS.items():
                if method != "lincir" and name != "{} + rtd":
                    continue  # ablations and controls are shown on one projection
                variant = name.format(method)
                triplets = _shuffle_conditions(self.world.triplets, self.seed) if shuffles else self.world.triplets
                tuned = self._train_rtd(variant, model, triplets, **arguments)
                rows.append(self._judge(variant, tuned, method, True))
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

        captions, model = self.world.captions["text"][:], self.folder / "model"
        baseline = self._judge("lincir", self.projected, "lincir", False) | {"experiment": "none", "num_triplets": 0}
        rows = run_experiments(train_and_judge, self.world.triplets, captions, model, self.rms)
        return [baseline, *rows]

    def _train_projection(self, clip: CLIPModel, method: str) -> RTDModel:
        set_seed(self.seed)
        # The published dropout of SEARLE and LinCIR, 0.5, converges too slowly in so small a network.
        config = RTDProjectionConfig(
            projection_type=method,
            projection_dim=clip.config.projection_dim,
            text_hidden_size=clip.config.text_config.hidden_size,
            vision_hidden_size=clip.config.vision_config.hidden_size,
            dropout=0.1,
            **({"num_hidden_layers": 2, "num_attention_heads": 2} if method == "context_i2w" else {}),
        )
        projection = build_projection(config)
        model = RTDModel.from_clip(clip, projection, tokenizer=self.processor.tokenizer).to(clip.device)
        own = write_projection_arguments(method, self.world.preset.name, self.rms, self.folder / "scratch")
        record = find_method(method)
        args = record.arguments(**self._shared_arguments(method, own.pop("max_steps")), **own)
        images = self.world.images
        source = {"captions": self.world.captions, "images": images}.get(record.reads)
        if source is None:
            source = images.add_column("text", [captions[0] for captions in images["captions"]])
        with self.seconds(method):
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
            **{"noise_scale": 0.5 * self.rms} | arguments,
        )
        method, images = model.projection.config.projection_type, None
        if "image_tokens" in model.projection.consumes:
            images = load_images(self.world.images, recipe.own[method].get("num_images"))
        with self.seconds(variant):
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
            "anchor_cache_dir": str(scratch / "anchors"),
            "max_steps": steps,
            "logging_steps": max(1, steps // 20),
            "save_strategy": "no",
            "report_to": "none",
            "seed": self.seed,
        }

    def _judge(self, variant: str, model: RTDModel, projection: str | None, rtd: bool, mode: str = "composed") -> dict:
        template = (model.projection.rtd_template if rtd else None) or projection
        with self.seconds("evaluation"):
            metrics = self.evaluator(model, mode, template)
        if projection:
            captions = self.evaluator.benchmark.queries["target_caption"][:]
            embeds = encode_captions(model.text_model, self.processor, captions, desc=None)
            metrics["caption_recall@5"] = self.evaluator.score(normalize(embeds, dim=-1))["recall@5"]
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
            "preset": self.world.preset.name,
            "split": self.split,
            "num_queries": len(self.evaluator.benchmark.queries),
            "num_gallery": len(self.evaluator.benchmark.gallery),
            "clip_steps": self.world.preset.clip_steps,
            "recipe": self.recipe,
            "methods": self.methods,
            "rms": self.rms,
            "prompt": self.processor.prompt_templates[self.processor.default_template],
            "versions": describe_versions(),
            "threads": torch.get_num_threads(),
            "hardware": describe_hardware(),
            "captions": hash_rows(self.world.captions, ["text"]),
            "triplets": hash_rows(self.world.triplets, TRIPLET_COLUMNS),
        }

    def _describe_model(self, rows: list[dict]) -> None:
        """Write how the saved model was made, and a card that results are still missing from."""
        place, stages = self.folder / "model", describe_demo_stages(rows, self.facts)
        write_stages(stages, place)
        card = describe_model(
            RTDModel.from_pretrained(place), self.processor, "rtd-small-world", base_model="none", stages=stages
        )
        render_card(card).save(place / "README.md")

    def _draw_results(self, before: RTDModel, after: RTDModel) -> None:
        benchmark, ids = self.evaluator.benchmark, self.evaluator.gallery_ids
        rankings = [self.evaluator.rank(self.evaluator.encode_queries(model)) for model in (before, after)]
        # Every n-th query, not a choice of the good ones.
        chosen = np.linspace(0, len(benchmark.queries) - 1, 10).round().astype(int).tolist()
        rows = []
        for index in chosen:
            query = benchmark.queries[index]
            groups = [
                [
                    (benchmark.gallery[place]["image"], ids[place] in query["target_ids"])
                    for place in ranking[index, :5].tolist()
                ]
                for ranking in rankings
            ]
            rows.append(SheetRow(query["reference_image"], query["condition"], groups))
        titles = ["top 5 of the projection alone", "top 5 with RTD (green: correct)"]
        draw_contact_sheet(rows, titles).save(self.folder / "results.png")


def _shuffle_conditions(triplets: Dataset, seed: int) -> Dataset:
    order = np.random.default_rng(seed).permutation(len(triplets))
    conditions = triplets["conditioning_caption"][:]
    table = triplets.remove_columns("conditioning_caption")
    return table.add_column("conditioning_caption", [conditions[i] for i in order])
