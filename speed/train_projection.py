"""Compare the cost of a training step of each projection method, and of SEARLE's inversion, with the published step.

    PYTHONPATH=. python speed/train_projection.py                                  # ViT-B/32, random weights
    PYTHONPATH=. python speed/train_projection.py --size toy --batch_size 4 --repeats 1
    PYTHONPATH=. python speed/train_projection.py --size vit-l-14 --methods pic2word fti4cir --batch_size 16

A step is loss, gradients and update of a batch that is collated already, in float32; both sides take turns in one
process, on the same rows, with the same noise and dropout, and their losses must agree. Texts are as long as
`lengths.json` says, SEARLE's phrases 35 tokens, the longest that the published recipe lets the language model write.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset

from modeling_rtd import RTDModel
from speed.comparing import add_options, build_step, compare, report
from speed.published import METHODS, build_published_step
from speed.synthetic import build_model, build_processor, draw_images, draw_texts
from trainer import ProjectionTrainer, find_method
from trainer.training.projections.searle_inversion import TextualInversion


__all__ = ["measure"]

_PHRASE_TOKENS = 35


def _write_phrases(folder: Path) -> dict[str, str]:
    """Write names of concepts, and templates of phrases as long as the published ones at most."""
    names, phrases = folder / "names.txt", folder / "phrases.txt"
    names.write_text("\n".join(f"n{i}" for i in range(20)))
    rng, fixed = np.random.default_rng(0), "a photo of {} that".split()
    tails = [rng.choice(["is", "in", "n21", "n22"], _PHRASE_TOKENS - 2 - len(fixed)) for _ in range(8)]
    phrases.write_text("\n".join(" ".join([*fixed, *tail]) for tail in tails))
    return {"concepts": str(names), "phrases": str(phrases)}


def _draw_rows(method: str, count: int) -> Dataset:
    rng = np.random.default_rng(0)
    captions = draw_texts("reference_caption", count, rng)
    if method == "lincir":
        return Dataset.from_dict({"text": captions})
    columns = {"image": draw_images(count)}
    if method == "context_i2w":
        columns["text"] = captions
    if method == "fti4cir":
        columns["subject"], _, columns["attribute"] = zip(*(text.partition(" ") for text in captions), strict=True)
    return Dataset.from_dict(columns)


def _build_trainer(method: str, options: argparse.Namespace, folder: Path, cached: bool) -> ProjectionTrainer:
    name = "searle" if method == "oti" else method
    processor = build_processor(name)
    model = build_model(options.size, name, processor)
    record = find_method(name)
    settings = {
        "keyword_fn": "rule",
        "oti_steps": 1,
        "oti_batch_size": options.batch_size,
        "padding": "none",
        "lr_drop_epoch": None,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        **(_write_phrases(folder) if name == "searle" else {}),
    }
    known = {argument.name for argument in fields(record.arguments)}
    args = record.arguments(
        output_dir=str(folder / method),
        use_cpu=options.device == "cpu",
        per_device_train_batch_size=options.batch_size,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        anchor_cache="always" if cached else "never",
        anchor_cache_dir=str(folder / "anchors"),
        **{setting: value for setting, value in settings.items() if setting in known},
    )
    rows = _draw_rows(method, options.batch_size * (options.repeats + 1))
    return ProjectionTrainer(model, args, train_dataset=rows, processing_class=processor)


def _collate(trainer: ProjectionTrainer, options: argparse.Namespace) -> list[dict]:
    batches = []
    for step in range(options.repeats + 1):
        rows = range(step * options.batch_size, (step + 1) * options.batch_size)
        torch.manual_seed(step)  # the same crops, concepts and phrases each time
        batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
        batches.append(send_to_device(batch, options.device))
    return batches


def _complete(trainer: ProjectionTrainer, batches: list[dict], plain: list[dict], options) -> list[dict]:
    """Add what the published step computes anew each time: captions as tokens, images as pixels."""
    prompt, images = getattr(trainer.objective, "prompt", {}), trainer.train_dataset
    completed = []
    for step, (batch, tokens) in enumerate(zip(batches, plain, strict=True)):
        batch = batch | tokens
        for name in prompt:
            batch[f"prompt_{name}"] = prompt[name].expand(options.batch_size, -1).to(options.device)
        if "pixel_values" not in batch and prompt:
            rows = range(step * options.batch_size, (step + 1) * options.batch_size)
            pictures = draw_images(len(images))[rows.start : rows.stop]
            batch["pixel_values"] = trainer.processor.prepare_images(pictures).to(options.device)
        completed.append(batch)
    return completed


def _build_arms(method: str, options: argparse.Namespace, folder: Path) -> dict[str, Callable]:
    fresh = _build_trainer(method, options, folder, cached=False)
    objective, model = fresh.objective, getattr(fresh.objective, "model", None)
    model = model or argparse.Namespace(text_model=objective.text_model)
    plain = _collate(fresh, options)
    if method == "oti":
        return _build_inversion_arms(model, fresh, plain, options)
    arms = {}
    published = copy.deepcopy(fresh.model)
    if method in ("lincir", "context_i2w", "pic2word"):
        arms["on the fly"] = build_step(fresh, plain)
    batches = plain
    if method != "pic2word":
        cached = _build_trainer(method, options, folder, cached=True)
        batches = _collate(cached, options)
        arms["cached"] = build_step(cached, batches)
    rows = _complete(fresh, batches, plain, options)
    return {"published": build_published_step(method, model, published, rows, fresh.args), **arms}


def _build_inversion_arms(model: RTDModel, trainer: ProjectionTrainer, plain: list[dict], options) -> dict:
    args, bank = trainer.args, trainer.objective.bank
    inversion = TextualInversion(model.text_model, trainer.processor, bank, args)
    bank.embed(model.text_model, trainer.run_facts["text_model"], args.anchor_cache_dir)
    rng = np.random.default_rng(0)
    kept, published = [], []
    for batch in plain:
        templates = torch.from_numpy(rng.integers(len(inversion.lengths), size=options.batch_size))
        drawn = rng.integers(len(bank.names), size=options.batch_size), rng.integers(bank.count, size=len(templates))
        own = send_to_device(bank.collate(*drawn), options.device)
        shown = {f"template_{name}": inversion.templates[name][templates] for name in inversion.templates}
        texts = [bank.phrases[concept][phrase] for concept, phrase in zip(*drawn, strict=True)]
        tokens = trainer.processor.pad(trainer.processor.tokenize_texts(texts))["input_ids"].to(options.device)
        captions = {"caption_input_ids": tokens, "text_index": torch.arange(len(texts))}
        kept.append((templates, own, batch["image_embeds"]))
        published.append(own | shown | captions | {"image_embeds": batch["image_embeds"]})
    start = 0.02 * torch.randn(options.batch_size, 1, model.text_model.config.hidden_size).to(options.device)
    ours, theirs = torch.nn.Parameter(start[:, 0].clone()), torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([ours], lr=args.oti_learning_rate, weight_decay=0.01)

    def step(index: int) -> torch.Tensor:
        templates, batch, image_embeds = kept[index]
        loss = inversion.compute_loss(ours, image_embeds, templates, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return {"published": build_published_step("oti", model, theirs, published, args), "cached": step}


def measure(method: str, options: argparse.Namespace) -> list[dict]:
    """Compare the step of one method.

    Args:
        method (`str`): A key of `METHODS`.
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: A row for each way that ours can go; see [`compare`].
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(_build_arms(method, options, Path(folder)), options.repeats)
    seconds = rows.pop("published")["seconds"]
    return [{"method": method, "ours": name, "published seconds": seconds, **row} for name, row in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for method in options.methods for row in measure(method, options)]
    columns = ("method", "ours", "ratio", "processor's ratio", "published seconds", "seconds", "difference")
    report(rows, columns, options)


if __name__ == "__main__":
    main()
