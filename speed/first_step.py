"""Measure what `rtd train` costs from the command to its first step, by the number of triplets in the file.

    PYTHONPATH=. python speed/first_step.py                              # 10k, 100k and 1M triplets, ViT-B/32's towers
    PYTHONPATH=. python speed/first_step.py --counts 64 128 --size toy

Each count is run twice with two steps of 8: cold, with nothing prepared, and cached, after that. A row holds wall and
CPU seconds and the peak of memory of the process. `beyond loading` are CPU seconds less those of a run on 64 triplets,
which loads the same model and takes the same steps.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed.build_clip import SIZES
from speed.synthetic import build_model, build_processor, draw_triplets


__all__ = ["measure"]

_LOADING = 64  # triplets of the run that the others are compared with


def _train(model: Path, triplets: Path, run: Path, cache: Path) -> dict[str, float]:
    """Run the command in a process of its own, forked from this small one: a peak of memory is that of the largest."""
    command = [sys.executable, "-m", "trainer.cli.main", "train", str(model), "--triplets", str(triplets)]
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


def measure(size: str, counts: list[int]) -> list[dict]:
    """Measure runs on files of some sizes.

    Args:
        size (`str`): A key of [`SIZES`].
        counts (`list[int]`): Triplets in a file.

    Returns:
        `list[dict]`: A row for each count, cold and cached.

    Raises:
        RuntimeError: If a run fails, with the end of what it printed.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processor = build_processor()
        build_model(size, "lincir", processor).save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        loading = None
        for count in (_LOADING, *counts):
            file = folder / f"{count}.jsonl"
            draw_triplets(count).to_json(file)
            for state in ("cold", "cached"):
                run = folder / f"{count}-{state}"
                row = _train(folder / "model", file, run, folder / f"cache-{count}")
                loading = row["cpu"] if count == _LOADING else loading
                rows.append({"triplets": count, "state": state, **row, "beyond loading": row["cpu"] - loading})
                print(
                    " ".join(
                        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                        for key, value in rows[-1].items()
                    ),
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="vit-b-32")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    measure(options.size, options.counts)


if __name__ == "__main__":
    main()
