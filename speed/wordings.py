"""Measure what RTD makes of conditions by the order in which they name the old and the new value.

PYTHONPATH=. python speed/wordings.py runs/demo

Some kinds of change have no training wording that names the old value first. RTD is trained as the demo trains it, and
again on triplets in which every kind has one, in words that no query uses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor
from trainer.demo.recipes import RECIPES
from trainer.demo.run import DEMO_WORLDS
from trainer.encoding.captions import encode_captions
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.evaluation.metrics import relevance, target_ranks
from trainer.loading import load_model_and_processor
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.rtd_trainer import RTDTrainer
from trainer.worlds import find_world
from trainer.worlds.data import build_world
from trainer.worlds.language import tell_order
from trainer.worlds.world import World


__all__ = ["add_old_first", "group_orders", "main"]

_SEED = 0  # of the model that a demo saves
_K = 5
_OLD_FIRST = "goes from {old} to {new}"
# A colour alone would be taken for one of the object.
_OWN = {name: f"goes from a {{old}} {name} to a {{new}} one" for name in ("background", "backdrop")}


def add_old_first(world: World) -> World:
    """Give each kind of change that is told with both values a training wording that names the old one first.

    Args:
        world ([`World`]): The world.

    Returns:
        [`World`]: The same with more wordings of training.
    """
    told = {
        kind: texts
        if "new first" not in (orders := set(map(tell_order, texts))) or "old first" in orders
        else (*texts, _OWN.get(kind, _OLD_FIRST))
        for kind, texts in world.wordings["A"].items()
    }
    return replace(world, wordings={**world.wordings, "A": told})


def group_orders(wordings: Sequence[Sequence[str]], learnt: Mapping[str, Sequence[str]], kinds: Sequence) -> dict:
    """Group queries of one change by the order of their wording.

    Args:
        wordings (sequence of sequences of `str`): Of each query, those of its phrases.
        learnt (`Mapping[str, Sequence[str]]`): Training wordings by kind of change.
        kinds (sequence of sequences of `str`): Of each query, those of its phrases.

    Returns:
        `dict[str, list[int]]`: Rows of queries; those that name the old value first apart where no training wording of
        their kind does.
    """
    groups = defaultdict(list)
    for row, (phrases, (kind, *_)) in enumerate(zip(wordings, kinds, strict=True)):
        if len(phrases) > 1:
            groups["two changes"].append(row)
            continue
        order = tell_order(phrases[0])
        is_new = order == "old first" and order not in map(tell_order, learnt[kind])
        groups[f"{order}, no training wording of its kind" if is_new else order].append(row)
    return dict(sorted(groups.items()))


class _Demo:
    def __init__(self, folder: Path):
        settings = json.loads((folder / "demo.json").read_text())
        self.world, self.preset = find_world(DEMO_WORLDS[settings["world"]]), settings["preset"]
        self.captions = (folder / "world" / "captions.txt").read_text(encoding="utf-8").splitlines()
        tuned, self.processor = load_model_and_processor(str(folder / "model"))
        self.before = tuned.with_parts(tuned.original_text_model, tuned.projection)
        benchmark = build_world(self.world, self._size(), _SEED).benchmark(settings["split"])
        self.queries, self.evaluator = benchmark.queries, RetrievalEvaluator(tuned, self.processor, benchmark)

    def _size(self):
        # Triplets have a stream of their own, so that they do not depend on how much else is drawn.
        return replace(self.world.find_preset(self.preset), num_images=1, num_captions=1)

    def train(self, world: World) -> RTDModel:
        triplets: Dataset = build_world(world, self._size(), _SEED).triplets
        recipe, processor = RECIPES[self.preset], RTDProcessor.with_template(self.processor, "lincir")
        rms = encode_captions(self.before.text_model, processor, self.captions[:2000], desc=None)
        with tempfile.TemporaryDirectory() as scratch:
            args = RTDTrainingArguments(
                output_dir=scratch,
                max_steps=recipe.rtd_steps,
                per_device_train_batch_size=recipe.rtd_batch_size,
                learning_rate=recipe.rtd_learning_rate,
                noise_scale=0.5 * rms.square().mean().sqrt().item(),
                save_strategy="no",
                report_to="none",
                seed=_SEED,
            )
            trainer = RTDTrainer(self.before, args, train_dataset=triplets, processing_class=processor)
            trainer.train()
        return trainer.rtd_model

    def find(self, model: RTDModel) -> np.ndarray:
        ranked = self.evaluator.rank(self.evaluator.encode_queries(model, template="lincir"), _K)
        found = relevance(ranked, self.evaluator.gallery_ids, self.queries["target_ids"][:])
        return target_ranks(found) <= _K


def main(arguments: list[str] | None = None) -> None:
    """Train twice, and print a row for each order.

    Args:
        arguments (`list[str]`, *optional*): Command line; that of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of a demo")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    demo = _Demo(options.demo)
    world, both = demo.world, add_old_first(demo.world)
    found = [demo.find(model) for model in (demo.before, demo.train(world), demo.train(both))]
    groups = group_orders(demo.queries["wording"][:], world.wordings["A"], demo.queries["kind"][:])
    columns = ["condition names", "queries", f"R@{_K} before", "RTD", "RTD, old first for every kind"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, rows in {**groups, "all": range(len(demo.queries))}.items():
        recalls = " | ".join(f"{100 * hits[list(rows)].mean():.1f}" for hits in found)
        print(f"| {name} | {len(rows)} | {recalls} |")


if __name__ == "__main__":
    main()
