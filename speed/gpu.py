"""Do all measures that need a GPU in one call of at most ten minutes, and write one JSON file.

    python speed/gpu.py --out results.json
    python speed/gpu.py --out results.json --toy        # the same scripts at toy size on a CPU, to try this one

Each part is a script of this folder in a process of its own. A part that fails or runs out of time is recorded as
such, and the others go on; the file is written after each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


__all__ = ["PARTS"]

_HERE = Path(__file__).parent
_L14 = "--size vit-l-14 --device cuda --batch_size 128"
_BEST = f"{_L14} --precision bf16"
# By name, in order of weight: script, options, and options at toy size on a CPU.
PARTS: dict[str, tuple[str, str, str]] = {
    "step, best precision": ("train_step", f"{_BEST} --repeats 20", "--repeats 1"),
    "recipe, best precision": (
        "train_recipe",
        f"{_BEST} --steps 2000 --repeats 10",
        "--steps 2 --rows 16 --repeats 1",
    ),
    "step, float32": ("train_step", f"{_L14} --repeats 20", "--repeats 1 --arms 'anchors cached'"),
    "memory": ("train_memory", _BEST, "--repeats 1 --modes 'anchors cached'"),
    "step, compiled": (
        "train_step",
        f"{_BEST} --repeats 20 --arms 'cached, compiled'",
        "--repeats 1 --arms 'anchors cached'",
    ),
    "query": (
        "query",
        "--size vit-l-14 --device cuda --galleries 100000 1000000 --batch_sizes 1 64",
        "--galleries 50 --batch_sizes 1 --repeats 1",
    ),
    "gallery": (
        "encode_gallery",
        "--size vit-l-14 --device cuda --batch_size 64 --images 1024 --workers 4 8 16",
        "--images 4 --repeats 1 --workers 1",
    ),
    "projections": (
        "train_projection",
        "--size vit-l-14 --device cuda --batch_size 64 --repeats 5",
        "--repeats 1 --methods lincir",
    ),
    "search": (
        "gallery",
        "--engines exact 'exact float16' --sizes 1000000 --device cuda",
        "--engines exact --sizes 50",
    ),
}


def _describe_machine() -> dict:
    asked = "name,driver_version,memory.total"
    try:
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        gpu = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = None
    versions = {name: version(name) for name in ("torch", "transformers", "accelerate", "peft")}
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return {
        "gpu": gpu,
        "cpu": platform.processor(),
        "cores": os.cpu_count(),
        "versions": versions,
        "date": when,
    }


def _run(script: str, options: str, seconds: float) -> dict:
    if seconds <= 0:
        return {"error": "no time was left"}
    environment = os.environ | {"PYTHONPATH": str(_HERE.parent), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rows.json")
        command = [sys.executable, str(_HERE / f"{script}.py"), *shlex.split(options), "--out", str(out)]
        start = time.perf_counter()
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {seconds:.0f} s"}
        if done.returncode:
            return {"error": done.stderr[-2000:]}
        print(done.stdout, flush=True)
        return {"seconds": time.perf_counter() - start, "result": json.loads(out.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=590, help="time for all")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    results: dict = {"machine": _describe_machine(), "parts": {}}
    for name in options.parts:
        script, real, toy = PARTS[name]
        flags = real
        if options.toy:
            flags = toy if script == "gallery" else f"--size toy --batch_size 4 {toy}"
        print(f"## {name}: {script} {flags}", flush=True)
        results["parts"][name] = _run(script, flags, options.seconds - (time.perf_counter() - start))
        results["parts"][name]["command"] = f"speed/{script}.py {flags}"
        options.out.write_text(json.dumps(results, indent=1))
    if failed := [name for name, part in results["parts"].items() if "error" in part]:
        raise SystemExit(f"not measured: {', '.join(failed)}; see {options.out}")


if __name__ == "__main__":
    main()
