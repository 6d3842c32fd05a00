"""Report of the demo: a table, a loss curve, and an honest reading of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.demo.recipes import ALL_METHODS, CAPTIONS_KEPT
from trainer.demo.results import NUM_QUERIES
from trainer.evaluation.diagnosis.wordings import average_wordings, write_wordings
from trainer.methods import find_method
from trainer.publishing.tables import format_table


__all__ = ["write_report"]


def _compare(rows: list[dict], better: str, worse: str, metric: str) -> str:
    """Say by how much one variant is above another, and for how many seeds."""
    pairs = [
        (a[metric], b[metric])
        for a in rows
        for b in rows
        if a["variant"] == better and b["variant"] == worse and a["seed"] == b["seed"]
    ]
    gain = 100 * np.mean([a - b for a, b in pairs])
    return f"{gain:+.1f} points ({sum(a > b for a, b in pairs)} of {len(pairs)} seed(s) above)"


def _average(rows: list[dict], variant: str, name: str) -> float:
    """Average a metric of a variant over seeds, in percent."""
    return 100 * float(np.mean([row[name] for row in rows if row["variant"] == variant]))


def _write_experiments(rows: list[dict]) -> str:
    if not rows:
        return ""
    sources = ", ".join(f"{row['variant']} {row['num_triplets']}" for row in rows if row["experiment"] == "triplets")
    return f"""
## Experiments (seed 0)

{format_table(rows)}

`lincir` is the projection alone. Noise is in units of the rms of the embeddings; RTD's own is 0.5. Triplets by rules \
are made from captions alone, without any knowledge of the world, and may touch combinations that are held out; numbers \
of triplets: {sources}.
"""


def _describe_others(recipe) -> str:
    searle, context, last = recipe.own["searle"], recipe.own["context_i2w"], ALL_METHODS[-1]
    steps = {method: recipe.own[method].get("max_steps", recipe.projection_steps) for method in recipe.own}
    images = {method: recipe.own[method].get("num_images", "all") for method in recipe.own}
    return f"""The other three depart from their recipes so. All: {recipe.projection_batch_size} images a step, cosine \
decay, LinCIR's AdamW settings, dropout 0.1, keywords by rule. SEARLE: {steps["searle"]} steps on {images["searle"]} \
images, {searle["oti_steps"]} inversion steps of {searle["oti_batch_size"]} images with an average of decay \
{searle["oti_ema_decay"]} (published 350 of 32, 0.99), temperature {searle["temperature"]} instead of 0.25, phrases from \
the world's grammar instead of a language model. Context-I2W: {steps["context_i2w"]} steps at \
{context["learning_rate"]:g} on {images["context_i2w"]} images, encoded once, 2 layers of 2 heads instead of 6 of 8. \
{find_method(last).paper.name}: {steps[last]} steps on {images[last]} images, without the drop of its learning rate. RTD over the last \
two feeds their image tokens from text by a small network fitted to images in {recipe.lift_steps} steps.

"""


def _write_findings(rows: list[dict], methods: tuple[str, ...]) -> str:
    names = (("R@5", "recall@5"), ("R@10", "recall@10"), ("subset R@1", "subset_recall@1"))
    over = {
        method: "; ".join(f"{name} {_compare(rows, f'{method} + rtd', method, metric)}" for name, metric in names)
        for method in methods
    }
    others = "".join(f"- The same on {method}: {text}.\n" for method, text in over.items() if method != "lincir")
    alone, with_rtd, control = (
        _average(rows, variant, "recall@5") for variant in ("lincir", "lincir + rtd", "control: no composition")
    )
    gain = with_rtd - alone
    share = f"{100 * (control - alone) / gain:.0f} % of the R@5 that RTD gains" if gain > 0 else "no part of a gain"
    kept = "lincir + rtd, captions kept"
    before, after, after_kept = (_average(rows, v, "caption_recall@5") for v in ("lincir", "lincir + rtd", kept))
    return f"""- RTD over its projection alone: {over["lincir"]}.
{others}- Refined concatenation (rc), R@5 with over without: \
{_compare(rows, "lincir + rtd", "lincir + rtd without rc", "recall@5")}.
- Refined batch sampling (rb), R@5 with over without: \
{_compare(rows, "lincir + rtd", "lincir + rtd without rb", "recall@5")}. Expect little in a world this small.
- Without composition, learning only to read the pseudo-word of the reference, the text tower gains {share}. \
The rest needs conditions, and correct ones: subset R@1 of RTD over the tower trained with shuffled \
conditions {_compare(rows, "lincir + rtd", "control: shuffled conditions", "subset_recall@1")}, over the one without \
composition {_compare(rows, "lincir + rtd", "control: no composition", "subset_recall@1")}.
- The price: plain captions of the targets find them with R@5 {before:.1f} through the text tower from before \
RTD, and with {after:.1f} through the tower after it. Plain text queries therefore go to the first.
- Plain captions kept (`caption_weight` {CAPTIONS_KEPT["caption_weight"]:g}, of one triplet in \
{CAPTIONS_KEPT["caption_interval"]}; ours): they find their targets with R@5 \
{after_kept:.1f}. Composed queries against RTD as published: R@5 {_compare(rows, kept, "lincir + rtd", "recall@5")}, \
subset R@1 {_compare(rows, kept, "lincir + rtd", "subset_recall@1")}."""


def _write_wordings(rows: list[dict]) -> str:
    columns = {
        when: average_wordings([row["wordings"] for row in rows if row["variant"] == variant])
        for when, variant in (("before", "lincir"), ("after", "lincir + rtd"))
    }
    return "\n".join(write_wordings(columns, 5))


def _write_recipe(rows: list[dict], facts: dict) -> str:
    recipe, first = facts["recipe"], [row for row in rows if row["seed"] == 0]
    seconds = {stage: value for row in first for stage, value in row["seconds"].items()}
    losses = {row["variant"]: row["final_loss"] for row in first if row["final_loss"] is not None}
    projection = f"{recipe.projection_steps} steps of {recipe.projection_batch_size}"
    rate = f"lr {recipe.projection_learning_rate:g}"
    return f"""| stage | setting | seconds (seed 0) |
|---|---|---|
| {facts["world"].title} | drawn | {seconds["world"]} |
| {facts["backbone"]} from scratch | {facts["clip_steps"]} steps | {seconds["clip"]} |
| LinCIR's projection | {projection} captions, {rate} | {seconds["lincir"]} |
| Pic2Word's projection | {projection} images, {rate} | {seconds["pic2word"]} |
| RTD | {recipe.rtd_steps} steps of {recipe.rtd_batch_size} triplets, lr {recipe.rtd_learning_rate:g} | \
{seconds["lincir + rtd"]} |

Final losses (seed 0): {", ".join(f"{name} {value:.3f}" for name, value in losses.items())}."""


def _write_departures(recipe, rms: float, backbone: str) -> str:
    return f"""Departures from the published recipes, all because the networks are tiny: the {backbone} itself; LinCIR with \
{recipe.projection_steps} instead of 20,000 steps, batches of {recipe.projection_batch_size} instead of 512, learning \
rate {recipe.projection_learning_rate:g} with cosine decay instead of a constant 1e-4, dropout 0.1 instead of 0.5, \
keywords by rule instead of spaCy, masked as words instead of substrings; Pic2Word with the same steps, batches and \
learning rate as LinCIR here, and its AdamW settings (weight decay 0.01, betas 0.9 and 0.999), instead of \
30 epochs in batches of 128 at 1e-4 with 10,000 steps of warm-up, weight decay 0.1 and betas 0.9 and 0.98, images encoded \
once instead of cropped at random; RTD with {recipe.rtd_steps} instead of 2,000 \
steps of {recipe.rtd_batch_size} triplets at {recipe.rtd_learning_rate:g} instead of 1e-5. Noise scales are absolute, as \
published, but set to the size of these embeddings (rms {rms:.3f} at seed 0): {rms:.3f} for LinCIR \
(published 1.0) and {0.5 * rms:.3f} for RTD (published 0.5). Seeds are 0, 1, ... instead of \
12345. The rest of RTD is the published recipe: AdamW, weight decay 0.01 on all parameters, temperature 0.07, joint \
NT-Xent, refined batch sampling and concatenation."""


def write_report(rows: list[dict], facts: dict, path: Path, experiments: list[dict] = ()) -> None:
    """Write the report of a demo.

    Args:
        rows (`list[dict]`): Rows of `metrics.json`, each with its `wordings`.
        facts (`dict`): What made them.
        path (`Path`): File to write.
        experiments (`list[dict]`, defaults to none): Rows of `experiments.json`.
    """
    world, recipe = facts["world"], facts["recipe"]
    held_out = " and ".join((", ".join(world.held_out_by[:-1]), world.held_out_by[-1]))
    text = f"""# RTD in the {world.title}

{len({row["seed"] for row in rows})} seed(s), {facts["num_queries"]} {facts["split"]} queries over {facts["num_gallery"]} gallery images. \
Every target is a combination of {held_out} that no training image, caption or triplet holds, and \
every condition is worded as no training triplet is. The gallery is adversarial: each query brings a look-alike of its \
reference and near misses of its target. Percent:

{format_table(rows)}

`results.png` shows {NUM_QUERIES} queries, evenly spaced and not chosen; `losses.png` the losses.

## What it shows

{_write_findings(rows, facts["methods"])}

## By kind of change and by wording

Queries of one change by its kind and by how it is worded (LinCIR before and after RTD); those of two changes are one \
group.

{_write_wordings(rows)}
{_write_experiments(experiments)}
## What it does not show

Drawings of {facts["preset"].image_size_px} pixels are not photographs, and a {facts["backbone"]} of a third of a million parameters is not {facts["backbone"]}: nothing here says \
how large the gains are on real data. A projection need not beat the plain sum of image and text here.

## How it was made

{_write_recipe(rows, facts)}

{_write_departures(recipe, facts["rms"], facts["backbone"])}

{_describe_others(recipe) if "searle" in facts["methods"] else ""}\
Prompt of LinCIR `{facts["prompt"]}`; reference images are not in the gallery; ties keep the gallery's order. Recipes were fixed \
on validation queries of the shapes. {facts["threads"]} thread(s); {", ".join(f"{k} {v}" for k, v in facts["versions"].items())}.
"""
    path.write_text(text, encoding="utf-8")
