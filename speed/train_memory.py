"""Compare the peak memory of RTD training: as published, all weights, and a LoRA adapter; anchors cached or not.

    PYTHONPATH=. python speed/train_memory.py                      # ViT-B/32's text tower, random weights
    PYTHONPATH=. python speed/train_memory.py --size toy --batch_size 4 --repeats 1
    PYTHONPATH=. python speed/train_memory.py --size vit-l-14 --device cuda --precision bf16 --batch_size 128

Each row is a process of its own that takes a few of `train_step`'s steps. Memory is the process's peak of resident
memory less its peak before the tower was built, or on a GPU the peak of what torch allocated there, where the
published recipe has its frozen parts in half precision. Losses of the first step must agree.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from accelerate.utils import send_to_device

from speed.comparing import add_options, build_step, report
from speed.synthetic import build_model, build_processor, draw_triplets
from speed.train_step import ARMS, build_published_step, build_trainer, collate_as_published, cut_batches
from trainer import RTDTrainingArguments
from trainer.data.triplets import prepare_triplets


__all__ = ["measure"]

_MODES = ("published", *ARMS)


def _peak_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(mode: str, options: argparse.Namespace) -> dict:
    """Train a few steps and read the peak of this process.

    Args:
        mode (`str`): `"published"`, or a key of `train_step.ARMS`.
        options (`argparse.Namespace`): The script's.

    Returns:
        `dict`: `mode`, `peak MiB` above the start, `trainable` parameters, and the first step's `loss`.
    """
    start = _peak_mib(options.device)
    processor = build_processor()
    model = build_model(options.size, "lincir", processor, with_vision=False)
    triplets = draw_triplets(options.batch_size * (options.repeats + 1))
    with tempfile.TemporaryDirectory() as folder:
        if mode == "published":
            chunks = cut_batches(prepare_triplets(triplets), options.batch_size)
            batches = [send_to_device(collate_as_published(processor, chunk), options.device) for chunk in chunks]
            args, on_gpu = RTDTrainingArguments(output_dir=folder), options.device == "cuda"
            step = build_published_step(model.to(options.device), batches, args, half=on_gpu)
        else:
            trainer = build_trainer(model, processor, triplets, options, Path(folder), "LoRA" in mode, **ARMS[mode])
            chunks = cut_batches(trainer.train_dataset, options.batch_size)
            step = build_step(
                trainer, [send_to_device(trainer.data_collator(chunk), options.device) for chunk in chunks]
            )
        losses = [float(step(index)) for index in range(options.repeats + 1)]
    trainable = sum(p.numel() for p in model.text_model.parameters() if p.requires_grad)
    return {"mode": mode, "peak MiB": _peak_mib(options.device) - start, "trainable": trainable, "loss": losses[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, repeats=2, precision="float32")
    default = ["anchors cached", "anchors on the fly", "cached, LoRA", "on the fly, LoRA"]
    parser.add_argument("--modes", nargs="+", choices=ARMS, default=default, help="ours, beside the published one")
    parser.add_argument("--mode", choices=_MODES, help=argparse.SUPPRESS)  # of one of those processes
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.mode:
        print(json.dumps(measure(options.mode, options)))
        return
    names = ("size", "batch_size", "repeats", "device", "threads", "precision")
    flags = [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
    rows = []
    for mode in ("published", *options.modes):
        command = [sys.executable, __file__, "--mode", mode, *flags]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.strip().splitlines()[-1])
        first = (rows or [row])[0]
        row["of published"] = row["peak MiB"] / first["peak MiB"]
        row["agrees"] = abs(row["loss"] - first["loss"]) < (0.1 if options.device == "cuda" else 1e-4)
        rows.append(row)
    report(rows, ("mode", "peak MiB", "of published", "trainable", "loss"), options)


if __name__ == "__main__":
    main()
