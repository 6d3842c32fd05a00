"""Report of the demo: a table, a loss curve, and an honest reading of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.demo.recipes import ALL_METHODS
from trainer.methods import find_method
from trainer.publishing.tables import METRICS, format_table


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


def write_report(rows: list[dict], facts: dict, path: Path, experiments: list[dict] = ()) -> None:
    """Write the report of a demo.

    Args:
        rows (`list[dict]`): Rows of `metrics.json`.
        facts (`dict`): What made them.
        path (`Path`): File to write.
        experiments (`list[dict]`, defaults to none): Rows of `experiments.json`.
    """
    recipe = facts["recipe"]
    mean = {
        (variant, metric): float(np.mean([row[metric] for row in rows if row["variant"] == variant]))
        for variant in {row["variant"] for row in rows}
        for metric in METRICS
    }
    names = (("R@5", "recall@5"), ("R@10", "recall@10"), ("subset R@1", "subset_recall@1"))
    others = "\n".join(
        f"- The same on {method}: "
        + "; ".join(f"{name} {_compare(rows, f'{method} + rtd', method, metric)}" for name, metric in names)
        + "."
        for method in facts["methods"]
        if method != "lincir"
    )
    gain = mean["lincir + rtd", "recall@5"] - mean["lincir", "recall@5"]
    control = mean["control: no composition", "recall@5"] - mean["lincir", "recall@5"]
    share = (
        f"{100 * control / gain:.0f} % of the R@5 that RTD gains" if gain > 0 else f"{100 * control:.1f} points of R@5"
    )
    seconds = {stage: value for row in rows if row["seed"] == 0 for stage, value in row["seconds"].items()}
    losses = {row["variant"]: row["final_loss"] for row in rows if row["seed"] == 0 and row["final_loss"] is not None}
    captions = {
        variant: 100 * np.mean([row["caption_recall@5"] for row in rows if row["variant"] == variant])
        for variant in ("lincir", "lincir + rtd")
    }
    text = f"""# RTD in the small world

{len({row["seed"] for row in rows})} seed(s), {facts["num_queries"]} {facts["split"]} queries over {facts["num_gallery"]} gallery images. \
Every target is a combination of shape, colour and background that no training image, caption or triplet holds, and \
every condition is worded as no training triplet is. The gallery is adversarial: each query brings a look-alike of its \
reference and near misses of its target. Percent:

{format_table(rows)}

`results.png` shows ten queries, evenly spaced and not chosen; `losses.png` the losses.

## What it shows

- RTD over its projection alone, R@5: {_compare(rows, "lincir + rtd", "lincir", "recall@5")}; \
R@10: {_compare(rows, "lincir + rtd", "lincir", "recall@10")}; \
subset R@1: {_compare(rows, "lincir + rtd", "lincir", "subset_recall@1")}.
{others}
- Refined concatenation (rc), R@5 with over without: \
{_compare(rows, "lincir + rtd", "lincir + rtd without rc", "recall@5")}.
- Refined batch sampling (rb), R@5 with over without: \
{_compare(rows, "lincir + rtd", "lincir + rtd without rb", "recall@5")}. Expect little in a world this small.
- Without composition, learning only to read the pseudo-word of the reference, the text tower gains {share}. \
The rest needs conditions, and correct ones: subset R@1 of RTD over the tower trained with shuffled \
conditions {_compare(rows, "lincir + rtd", "control: shuffled conditions", "subset_recall@1")}, over the one without \
composition {_compare(rows, "lincir + rtd", "control: no composition", "subset_recall@1")}.
- The price: plain captions of the targets find them with R@5 {captions["lincir"]:.1f} through the text tower from before \
RTD, and with {captions["lincir + rtd"]:.1f} through the tower after it. Plain text queries therefore go to the first.

{_write_experiments(experiments)}
## What it does not show

Drawings of 48 pixels are not photographs, and a CLIP of a third of a million parameters is not CLIP: nothing here says \
how large the gains are on real data. A projection need not beat the plain sum of image and text here.

## How it was made

| stage | setting | seconds (seed 0) |
|---|---|---|
| CLIP from scratch | {facts["clip_steps"]} steps | {seconds["clip"]} |
| small world | rendered | {seconds["world"]} |
| LinCIR's projection | {recipe.projection_steps} steps of {recipe.projection_batch_size} captions, lr \
{recipe.projection_learning_rate:g} | {seconds["lincir"]} |
| Pic2Word's projection | {recipe.projection_steps} steps of {recipe.projection_batch_size} images, lr \
{recipe.projection_learning_rate:g} | {seconds["pic2word"]} |
| RTD | {recipe.rtd_steps} steps of {recipe.rtd_batch_size} triplets, lr {recipe.rtd_learning_rate:g} | \
{seconds["lincir + rtd"]} |

Final losses (seed 0): {", ".join(f"{name} {value:.3f}" for name, value in losses.items())}.

Departures from the published recipes, all because the networks are tiny: the CLIP itself; LinCIR with \
{recipe.projection_steps} instead of 20,000 steps, batches of {recipe.projection_batch_size} instead of 512, learning \
rate {recipe.projection_learning_rate:g} with cosine decay instead of a constant 1e-4, dropout 0.1 instead of 0.5, \
keywords by rule instead of spaCy, masked as words instead of substrings; Pic2Word with the same steps, batches and \
learning rate as LinCIR here, and its AdamW settings (weight decay 0.01, betas 0.9 and 0.999), instead of \
30 epochs in batches of 128 at 1e-4 with 10,000 steps of warm-up, weight decay 0.1 and betas 0.9 and 0.98, images encoded \
once instead of cropped at random; RTD with {recipe.rtd_steps} instead of 2,000 \
steps of {recipe.rtd_batch_size} triplets at {recipe.rtd_learning_rate:g} instead of 1e-5. Noise scales are absolute, as \
published, but set to the size of these embeddings (rms {facts["rms"]:.3f} at seed 0): {facts["rms"]:.3f} for LinCIR \
(published 1.0) and {0.5 * facts["rms"]:.3f} for RTD (published 0.5). Seeds are 0, 1, ... instead of \
12345. The rest of RTD is the published recipe: AdamW, weight decay 0.01 on all parameters, temperature 0.07, joint \
NT-Xent, refined batch sampling and concatenation.

{_describe_others(recipe) if "searle" in facts["methods"] else ""}\
Prompt of LinCIR `{facts["prompt"]}`; reference images are not in the gallery; ties keep the gallery's order. Recipes were fixed \
on validation queries. {facts["threads"]} thread(s); {", ".join(f"{k} {v}" for k, v in facts["versions"].items())}.
"""
    path.write_text(text)
