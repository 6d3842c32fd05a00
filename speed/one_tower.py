"""Measure in a drawn world what keeping plain captions brings and costs: RTD as published, and with our term.

    PYTHONPATH=. python speed/one_tower.py --output_dir runs/one_tower                # three seeds, about an hour
    PYTHONPATH=. python speed/one_tower.py --output_dir runs/one_tower --at_most 2    # two rows more, then stop
    PYTHONPATH=. python speed/one_tower.py --world wardrobe --output_dir runs/one_tower_wardrobe
    PYTHONPATH=. python speed/one_tower.py --projection searle --output_dir runs/one_tower
    PYTHONPATH=. python speed/one_tower.py --preset toy --seeds 0 --output_dir runs/one_tower_toy

A row is a text tower over a projection, judged on validation queries: composed ones, and plain captions of the targets
read by that same tower. Seeds have their own data and CLIP, and projections that all rows of a seed share. All of it
is kept in the folder, so that a stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import normalize
from transformers import CLIPModel, set_seed

from modeling_rtd import RTDModel, RTDProcessor, RTDProjectionConfig, build_projection, write_json
from trainer.data.images import load_images
from trainer.demo.recipes import ALL_METHODS, RECIPES, write_projection_arguments
from trainer.demo.run import DEMO_WORLDS
from trainer.encoding.captions import encode_captions
from trainer.encoding.length_groups import run_in_groups
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.loading import load_model_and_processor
from trainer.methods import find_method
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.losses import target_anchored_loss
from trainer.training.projections.trainer import ProjectionTrainer
from trainer.training.rtd_trainer import RTDTrainer
from trainer.worlds import find_world
from trainer.worlds.clip import train_clip
from trainer.worlds.data import build_world


__all__ = ["MEASURES", "VARIANTS", "Seed", "format_table", "main", "measure_missing", "read_options"]

MEASURES = ("recall@1", "recall@5", "recall@10", "subset_recall@1", "caption_recall@5", "relative_seconds")


class _Contrast(RTDTrainer):
    """The loss of RTD on distinct plain captions and their anchors, in place of the mean of 1 - cosine."""

    def _measure_drift(self, model, plain, reference, target):
        embeds = run_in_groups(model, plain["caption_groups"], input_ids=plain["caption_input_ids"])
        return target_anchored_loss(embeds, _list_anchors(embeds, plain, reference, target), self.args.temperature)


class _JointContrast(RTDTrainer):
    """Distinct plain captions and their anchors as further pairs of the one contrast."""

    def _measure_drift(self, model, plain, reference, target):
        embeds = run_in_groups(model, plain["caption_groups"], input_ids=plain["caption_input_ids"])
        self._plain = embeds, _list_anchors(embeds, plain, reference, target)
        return torch.zeros(())

    def _contrast(self, pairs):
        return super()._contrast([*pairs, self._plain])


def _list_anchors(embeds: torch.Tensor, plain: dict, reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    anchors = torch.empty_like(embeds)
    anchors[plain["reference_index"]], anchors[plain["target_index"]] = (
        side[plain["rows"]] for side in (reference, target)
    )
    return anchors


class _EveryFourthStep(RTDTrainer):
    """All captions, at every fourth step."""

    def _measure_drift(self, *inputs):
        return torch.zeros(()) if self.state.global_step % 4 else super()._measure_drift(*inputs)


class _TargetsAlone(RTDTrainer):
    """Target captions alone."""

    def _measure_drift(self, model, plain, reference, target):
        return super()._measure_drift(model, plain | {"reference_index": plain["target_index"]}, target, target)


# By name: arguments, whether conditions are shuffled among the triplets, and the trainer.
VARIANTS: dict[str, tuple[dict, bool, type[RTDTrainer]]] = {
    "RTD as published": ({}, False, RTDTrainer),
    "cosine, weight 10": ({"caption_weight": 10}, False, RTDTrainer),
    "cosine, weight 10, every 4th triplet": ({"caption_weight": 10, "caption_interval": 4}, False, RTDTrainer),
    "cosine, weight 40, every 4th step": ({"caption_weight": 40}, False, _EveryFourthStep),
    "cosine, weight 10, targets alone": ({"caption_weight": 10}, False, _TargetsAlone),
    "cosine, weight 10, every 8th triplet": ({"caption_weight": 10, "caption_interval": 8}, False, RTDTrainer),
    "cosine, weight 2, every 8th triplet": ({"caption_weight": 2, "caption_interval": 8}, False, RTDTrainer),
    "cosine, weight 3, every 8th triplet": ({"caption_weight": 3, "caption_interval": 8}, False, RTDTrainer),
    "cosine, weight 1, every 8th triplet": ({"caption_weight": 1, "caption_interval": 8}, False, RTDTrainer),
    "cosine, weight 1": ({"caption_weight": 1}, False, RTDTrainer),
    "contrast, weight 1": ({"caption_weight": 1}, False, _Contrast),
    "contrast, weight 1, every 8th triplet": ({"caption_weight": 1, "caption_interval": 8}, False, _Contrast),
    "joint contrast, every 8th triplet": ({"caption_weight": 1, "caption_interval": 8}, False, _JointContrast),
    "joint contrast": ({"caption_weight": 1}, False, _JointContrast),
    "published, without refined batch": ({"refined_batch": False}, False, RTDTrainer),
    "cosine, weight 2, every 8th triplet, without refined batch": (
        {"caption_weight": 2, "caption_interval": 8, "refined_batch": False},
        False,
        RTDTrainer,
    ),
    "every 4th triplet, without refined batch": (
        {"caption_weight": 10, "caption_interval": 4, "refined_batch": False},
        False,
        RTDTrainer,
    ),
    "control: no composition": ({"composition": False}, False, RTDTrainer),
    "control: no composition, every 4th triplet": (
        {"caption_weight": 10, "caption_interval": 4, "composition": False},
        False,
        RTDTrainer,
    ),
    "control: shuffled conditions": ({}, True, RTDTrainer),
    "control: shuffled conditions, every 4th triplet": (
        {"caption_weight": 10, "caption_interval": 4},
        True,
        RTDTrainer,
    ),
}


class Seed:
    """World, CLIP and a projection of one seed, and the rows in a file of that name; all kept in a folder."""

    def __init__(self, options: argparse.Namespace, seed: int, rows: str = "{}.json"):
        self.drawn, self.preset, self.seed = find_world(DEMO_WORLDS[options.world]), options.preset, seed
        self.method = options.projection
        self.folder = options.output_dir / f"seed{seed}"
        self.file = self.folder / rows.format(self.method)
        self.rows = json.loads(self.file.read_text()) if self.file.exists() else {}

    def prepare(self) -> None:
        """Draw the world, and train CLIP and projection where they are not there yet."""
        self.world, self.recipe = build_world(self.drawn, self.preset, self.seed), RECIPES[self.preset]
        self.model, self.processor = self._load("clip", self._train_clip)
        captions = self.world.captions["text"][:2000]
        self.rms = encode_captions(self.model.text_model, self.processor, captions, desc=None)
        self.rms = self.rms.square().mean().sqrt().item()
        self.model, self.processor = self._load(self.method, self._train_projection)
        self.images, self.lift = None, None
        if "image_tokens" in self.model.projection.consumes:
            self.images = load_images(self.world.images, self.recipe.own[self.method].get("num_images"))
        self.evaluator = RetrievalEvaluator(
            self.model, self.processor, self.world.benchmark("validation"), cache_dir=self.folder / "images"
        )

    def _load(self, name: str, train) -> tuple[RTDModel, RTDProcessor]:
        place = self.folder / name
        if not (place / "config.json").exists():
            model, processor = train()
            processor.save_pretrained(place)
            model.save_pretrained(place)
        return load_model_and_processor(str(place))

    def _train_clip(self) -> tuple[RTDModel, RTDProcessor]:
        clip, tokenizer, image_processor = train_clip(self.world, self.seed)
        return _start(clip, "lincir", tokenizer, image_processor, self.seed)

    def _train_projection(self) -> tuple[RTDModel, RTDProcessor]:
        method, data = self.method, self.world
        own = write_projection_arguments(method, data.world, self.preset, self.rms, self.folder / "scratch")
        args = find_method(method).arguments(**self._share(method, own.pop("max_steps")), **own)
        source = {"captions": data.captions, "images": data.images}.get(find_method(method).reads)
        if source is None:
            source = data.images.add_column("text", [captions[0] for captions in data.images["captions"]])
        clip = CLIPModel.from_pretrained(self.folder / "clip")
        model, processor = _start(clip, method, self.processor.tokenizer, self.processor.image_processor, self.seed)
        processor = processor.with_template(method)
        ProjectionTrainer(model, args, train_dataset=source, processing_class=processor).train()
        return model.eval(), processor

    def _share(self, stage: str, steps: int) -> dict:
        scratch = self.folder / "scratch"
        return {
            "output_dir": str(scratch / stage),
            "anchor_cache_dir": str(scratch / "anchors"),
            "max_steps": steps,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": steps,
            "seed": self.seed,
        }

    def measure(self, name: str) -> None:
        """Train and judge one row, and keep it."""
        if name == "before RTD":
            return self._keep(name, self.model, 0.0)
        return self._keep(name, *self.train(*VARIANTS[name]))

    def train(self, arguments: dict, shuffles: bool, trainer_class: type[RTDTrainer]) -> tuple[RTDModel, float]:
        """Train a text tower; returns the model, and seconds of the processor."""
        args = RTDTrainingArguments(
            **self._share("rtd", self.recipe.rtd_steps),
            per_device_train_batch_size=self.recipe.rtd_batch_size,
            learning_rate=self.recipe.rtd_learning_rate,
            **{"noise_unit": "absolute", "noise_scale": 0.5 * self.rms} | arguments,
        )
        triplets = _shuffle_conditions(self.world.triplets, self.seed) if shuffles else self.world.triplets
        trainer = trainer_class(
            self.model,
            args,
            train_dataset=triplets,
            processing_class=self.processor,
            images=self.images if self.lift is None else None,
            lift_steps=self.recipe.lift_steps,
            token_lift=self.lift,
        )
        self.lift = trainer.token_lift  # which only the projection decides
        start = time.process_time()
        trainer.train()
        return trainer.rtd_model, time.process_time() - start

    def _keep(self, name: str, model: RTDModel, seconds: float) -> None:
        captions = self.evaluator.benchmark.queries["target_caption"][:]
        plain = encode_captions(model.text_model, self.processor, captions, desc=None)
        template = model.projection.rtd_template if name != "before RTD" else None
        metrics = self.evaluator(model, template=template or self.method)
        metrics["caption_recall@5"] = self.evaluator.score(normalize(plain, dim=-1))["recall@5"]
        self.rows[name] = metrics | {"seconds": seconds}
        write_json(self.file, self.rows)
        print(self.seed, name, {key: round(self.rows[name][key], 3) for key in self.rows[name]}, flush=True)


def _start(clip: CLIPModel, method: str, tokenizer, image_processor, seed: int) -> tuple[RTDModel, RTDProcessor]:
    """Put a fresh projection on a CLIP, with the dropout that the demo uses."""
    set_seed(seed)
    config = RTDProjectionConfig(
        projection_type=method,
        projection_dim=clip.config.projection_dim,
        text_hidden_size=clip.config.text_config.hidden_size,
        vision_hidden_size=clip.config.vision_config.hidden_size,
        dropout=0.1,
        **({"num_hidden_layers": 2, "num_attention_heads": 2} if method == "context_i2w" else {}),
    )
    model = RTDModel.from_clip(clip, build_projection(config), tokenizer=tokenizer)
    return model, RTDProcessor(image_processor, tokenizer)


def _shuffle_conditions(triplets: Dataset, seed: int) -> Dataset:
    order = np.random.default_rng(seed).permutation(len(triplets))
    conditions = triplets["conditioning_caption"][:]
    table = triplets.remove_columns("conditioning_caption")
    return table.add_column("conditioning_caption", [conditions[i] for i in order])


def format_table(seeds: list[dict[str, dict]]) -> str:
    """Write what was measured as a table: mean and standard deviation over the seeds that have a row.

    Args:
        seeds (`list[dict]`):
            Of each seed its rows by name, RTD as published among them; seconds are of the processor.

    Returns:
        `str`: Markdown; percent, and seconds of training in units of those of RTD as published.
    """
    lines = ["| training | " + " | ".join(MEASURES) + " | seeds |", "|---" * (len(MEASURES) + 2) + "|"]
    for name in ("before RTD", *VARIANTS):
        found = [rows[name] | {"published": rows["RTD as published"]["seconds"]} for rows in seeds if name in rows]
        if found:
            relative = [row["seconds"] / row["published"] for row in found]
            columns = [[100 * row[measure] for row in found] for measure in MEASURES[:-1]]
            cells = [_summarise(column, 1) for column in columns] + [_summarise(relative, 2)]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(found)} |")
    return "\n".join(lines)


def _summarise(values: list[float], digits: int) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def read_options(description: str, variants: Iterable[str], arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line of a script whose rows are trainings in the small world.

    Args:
        description (`str`): What the help says.
        variants (iterable of `str`): Names of the rows.
        arguments (`list[str]`, *optional*): Command line; that of the process by default.

    Returns:
        `argparse.Namespace`: `world`, `projection`, `preset`, `seeds`, `variants`, `at_most` and `output_dir`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="shapes", choices=DEMO_WORLDS)
    parser.add_argument("--projection", default="lincir", choices=ALL_METHODS)
    parser.add_argument("--preset", default="demo", choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=variants, default=list(variants))
    parser.add_argument("--at_most", type=int, default=10**6, help="rows to add before the run stops")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/one_tower"))
    return parser.parse_args(arguments)


def measure_missing(seeds: Sequence[Seed], names: Iterable[str], at_most: int) -> None:
    """Measure rows that are not there yet.

    Args:
        seeds (`list[Seed]`): Each has rows of its own.
        names (iterable of `str`): Names of the rows.
        at_most (`int`): Rows to add.
    """
    for seed in seeds:
        missing = [name for name in dict.fromkeys(names) if name not in seed.rows][:at_most]
        if missing:
            seed.prepare()
        for name in missing:
            seed.measure(name)
        at_most -= len(missing)


def main(arguments: list[str] | None = None) -> None:
    """Train and judge what is not there yet, and print the table.

    Args:
        arguments (`list[str]`, *optional*): Command line; that of the process by default.
    """
    options = read_options(__doc__, VARIANTS, arguments)
    torch.set_num_threads(1)
    seeds = [Seed(options, seed) for seed in options.seeds]
    measure_missing(seeds, ("before RTD", "RTD as published", *options.variants), options.at_most)
    print(format_table([seed.rows for seed in seeds if "RTD as published" in seed.rows]))


if __name__ == "__main__":
    main()
