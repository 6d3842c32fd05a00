"""Measure how costs grow: a training step with batch, length and processes; set-up with triplets; search with images.

    PYTHONPATH=. python speed/scaling.py                                   # ViT-B/32's text tower, random weights
    PYTHONPATH=. python speed/scaling.py --size toy --toy
    PYTHONPATH=. python speed/scaling.py --axes processes

`per unit` is seconds per triplet, token, triplet, image or, for processes, per triplet of the joined batch; where it
stays the same, cost grows as the axis does. `peak GB` is the most memory that this process had so far, so measure an
axis by itself. Processes share this machine's cores and talk through gloo.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch.nn.functional import normalize

from modeling_rtd import Gallery
from speed.comparing import add_options, build_step, report, summarise, time_call
from speed.synthetic import build_model, build_processor, draw_triplets
from speed.train_step import build_trainer
from trainer.evaluation.benchmarks.declaration import Benchmark
from trainer.evaluation.evaluator import EmbeddingRanker


__all__ = ["AXES", "measure"]


def _time(run: Callable, repeats: int) -> list[float]:
    return summarise([time_call(lambda turn=turn: run(turn))[0] for turn in range(repeats + 1)][1:])


def _measure_steps(
    options: argparse.Namespace, folder: Path, batch_size: int, length: int | None = None
) -> list[float]:
    processor = build_processor()
    model = build_model(options.size, "lincir", processor, with_vision=False)
    sizes = argparse.Namespace(**vars(options) | {"batch_size": batch_size, "precision": "float32"})
    count = options.repeats + 1
    trainer = build_trainer(model, processor, draw_triplets(count * batch_size), sizes, folder, anchor_cache="never")
    rows = [trainer.train_dataset[row] for row in range(count * batch_size)]
    if length:
        columns = ("reference_caption", "conditioning_caption", "target_caption")
        rows = [row | dict.fromkeys(columns, f"n{i} " + "in " * (length - 1)) for i, row in enumerate(rows)]
    chunks = (rows[i * batch_size : (i + 1) * batch_size] for i in range(count))
    step = build_step(trainer, [send_to_device(trainer.data_collator(chunk), options.device) for chunk in chunks])
    return _time(step, options.repeats)


def _batch(options: argparse.Namespace, folder: Path, size: int) -> list[float]:
    return _measure_steps(options, folder, size)


def _length(options: argparse.Namespace, folder: Path, length: int) -> list[float]:
    return _measure_steps(options, folder, options.batch_size, length)


def _triplets(options: argparse.Namespace, folder: Path, count: int) -> list[float]:
    """Set-up: reading, checking, hashing; the tower is hashed too, which does not depend on the triplets."""
    processor = build_processor()
    model = build_model("toy", "lincir", processor)
    sizes, triplets = argparse.Namespace(**vars(options) | {"precision": "float32"}), draw_triplets(count)

    def run(turn: int) -> None:
        build_trainer(model, processor, triplets, sizes, folder / str(turn), anchor_cache="never")

    return _time(run, options.repeats)


def _gallery(options: argparse.Namespace, folder: Path, count: int) -> list[float]:
    rows = normalize(torch.randn(count, options.dim), dim=-1)
    gallery = Gallery(rows, [str(i) for i in range(count)], device=options.device)
    queries = torch.randn(64, options.dim)
    return _time(lambda turn: gallery.search(queries, 10), options.repeats)


def _benchmark(options: argparse.Namespace, folder: Path, count: int) -> list[float]:
    """Rank and score 800 queries, as many as CIRCO's test split has."""
    ids, rng = [f"{i:012}" for i in range(count)], np.random.default_rng(0)
    names = [[ids[i] for i in rng.integers(0, count, 4)] for _ in range(800)]
    columns = {"id": [str(i) for i in range(800)], "reference_id": [row[0] for row in names], "target_ids": names}
    columns |= {"reference_image": columns["reference_id"], "condition": columns["id"], "subset_ids": [[]] * 800}
    queries = Dataset.from_dict(columns)
    queries = queries.cast_column("subset_ids", queries.features["target_ids"])
    benchmark = Benchmark("drawn", "test", Dataset.from_dict({"id": ids, "image": ids}), queries, metrics=("map@50",))
    gallery, asked = (torch.randn(rows, options.dim) for rows in (count, 800))
    return _time(lambda turn: EmbeddingRanker(benchmark, gallery).score(normalize(asked, dim=-1)), options.repeats)


def _processes(options: argparse.Namespace, folder: Path, count: int) -> list[float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", __file__]
    command += ["--worker", "--size", options.size, "--batch_size", str(options.batch_size // count)]
    command += ["--repeats", str(options.repeats), "--device", options.device]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))


def _work(options: argparse.Namespace) -> None:
    """Take steps as one of several processes; the first one prints seconds a step."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = _measure_steps(options, Path(folder), options.batch_size)
    if int(os.environ["RANK"]) == 0:
        print(json.dumps(seconds), flush=True)
    torch.distributed.destroy_process_group()


# By name: how to measure, what to go through, the same at toy size, and how many units a value is.
AXES: dict[str, tuple[Callable, list[int], list[int]]] = {
    "batch": (_batch, [8, 16, 32, 64], [2, 4]),
    "length": (_length, [4, 8, 16, 32], [2, 4]),
    "triplets": (_triplets, [1000, 10_000, 100_000], [16, 32]),
    "gallery": (_gallery, [10_000, 100_000, 1_000_000], [10, 100]),
    "benchmark": (_benchmark, [1234, 12_340, 123_403], [10, 100]),
    "processes": (_processes, [1, 2], [1, 2]),
}


def measure(axis: str, options: argparse.Namespace) -> list[dict]:
    """Measure along one axis.

    Args:
        axis (`str`): A key of `AXES`.
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: A row for each value.
    """
    run, values, toys = AXES[axis]
    rows = []
    for value in toys if options.toy else values:
        with tempfile.TemporaryDirectory() as folder:
            seconds = run(options, Path(folder), value)
        units = options.batch_size if axis == "processes" else value
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        rows.append(
            {"axis": axis, "value": value, "seconds": seconds, "per unit": seconds[0] / units, "peak GB": peak}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch_size=16, repeats=3)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--dim", type=int, default=768, help="of the gallery's embeddings")
    parser.add_argument("--toy", action="store_true", help="small values, to try the script")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        _work(options)
        return
    report(
        [row for axis in options.axes for row in measure(axis, options)],
        ("axis", "value", "seconds", "per unit", "peak GB"),
        options,
    )


if __name__ == "__main__":
    main()
