"""Measure what training costs from the command to its first step, by the number of rows in the file.

    PYTHONPATH=. python speed/first_step.py                              # 10k, 100k and 1M rows, ViT-B/32's towers
    PYTHONPATH=. python speed/first_step.py --data captions --counts 5000000
    PYTHONPATH=. python speed/first_step.py --counts 64 128 --size toy

`triplets` are trained on with `rtd train`, `captions` with `rtd train-projection --method lincir`. Each count is run
with two steps of 8: cold, with nothing prepared; cached, after that; and streaming. A row holds wall and CPU seconds,
and the peak of memory of the process. `beyond loading` are CPU seconds less those of a run on 64 rows, which loads the
same model and takes the same steps.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import Dataset

from speed.build_clip import SIZES, build_clip
from speed.synthetic import build_model, build_processor, draw_texts, draw_triplets


__all__ = ["measure"]

_LOADING = 64  # rows of the run that the others are compared with
_BLOCK = 100_000  # rows that are drawn at once
_STATES = {"cold": [], "cached": [], "streaming": ["--streaming"]}


def _save_models(size: str, folder: Path) -> dict[str, list[str]]:
    """Save what is trained, and return the beginning of the command for each kind of data."""
    processor = build_processor()
    for part in (build_model(size, "lincir", processor), processor):
        part.save_pretrained(folder / "model")
    for part in (build_clip(size), processor.tokenizer, processor.image_processor):
        part.save_pretrained(folder / "clip")
    return {
        "triplets": ["train", str(folder / "model"), "--triplets"],
        "captions": ["train-projection", str(folder / "clip"), "--method", "lincir", "--captions"],
    }


def _write_rows(data: str, count: int, file: Path) -> None:
    with file.open("wb") as out:
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            if data == "triplets":
                draw_triplets(size, seed=start).to_json(out)
            else:
                texts = draw_texts("target_caption", size, np.random.default_rng(start))
                Dataset.from_dict({"text": texts}).to_json(out)


def _train(beginning: list[str], file: Path, run: Path, cache: Path, options: list[str]) -> dict[str, float]:
    """Run the command in a process of its own, forked from this small one: a peak of memory is that of the largest."""
    command = [sys.executable, "-m", "trainer.cli.main", *beginning, str(file), *options]
    command += ["-o", str(run), "--max-steps", "2", "--per-device-train-batch-size", "8", "--use-cpu"]
    command += ["--save-strategy", "no", "--anchor-cache", "never"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    watcher = [sys.executable, "-c", _WATCH, *command]
    done = subprocess.run(watcher, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu": cpu, "peak GB": int(done.stdout.splitlines()[-1]) / 1e6}


# The peak of all children is a maximum over the life of a process, so each run has a parent of its own.
_WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def measure(size: str, counts: list[int], data: list[str]) -> list[dict]:
    """Measure runs on files of some sizes.

    Args:
        size (`str`): A key of [`SIZES`].
        counts (`list[int]`): Rows in a file.
        data (`list[str]`): `triplets`, `captions`, or both.

    Returns:
        `list[dict]`: A row for each of data and count, cold, cached and streaming.

    Raises:
        RuntimeError: If a run fails, with the end of what it printed.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, loading = Path(name), None
        beginnings = _save_models(size, folder)
        for kind, count in itertools.product(data, (_LOADING, *counts)):
            file = folder / f"{kind}-{count}.jsonl"
            _write_rows(kind, count, file)
            states = ["cold"] if count == _LOADING else _STATES
            for state, options in ((state, _STATES[state]) for state in states):
                run = folder / f"{kind}-{count}-{state}"
                row = _train(beginnings[kind], file, run, folder / f"cache-{kind}-{count}", options)
                loading = row["cpu"] if count == _LOADING else loading
                rows.append({kind: count, "state": state, **row, "beyond loading": row["cpu"] - loading})
                print(
                    " ".join(
                        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                        for key, value in rows[-1].items()
                    ),
                    flush=True,
                )
                shutil.rmtree(run)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="vit-b-32")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--data", choices=("triplets", "captions"), nargs="+", default=["triplets", "captions"])
    options = parser.parse_args()
    measure(options.size, options.counts, options.data)


if __name__ == "__main__":
    main()
