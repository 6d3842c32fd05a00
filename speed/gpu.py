"""Do all measures that need a GPU in one call of at most ten minutes, and write one JSON file.

    python speed/gpu.py --out results.json
    python speed/gpu.py --out results.json --toy        # the same scripts at toy size on a CPU, to try this one

Each part is a script of this folder in a process of its own, the weightiest first. It may take its share of the time
that is left, so that what one does not use goes to those behind it. A part that fails or is stopped is recorded as
such, and the others go on; the file is written after each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
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
_THREADS = f"--threads {os.cpu_count()}"  # where the CPU has a part in it
# By name, in order of weight: script, share of the time, options, and options at toy size on a CPU.
PARTS: dict[str, tuple[str, int, str, str]] = {
    "step, best precision": ("train_step", 80, f"{_BEST} --repeats 10", "--repeats 1"),
    "recipe, best precision": (
        "train_recipe",
        130,
        f"{_BEST} --steps 2000 --repeats 5 {_THREADS}",
        "--steps 2 --rows 16 --repeats 1",
    ),
    "memory": (
        "train_memory",
        70,
        f"{_BEST} --repeats 2 --modes 'cached, one group' 'on the fly, one group' 'cached, LoRA' 'on the fly, LoRA'",
        "--repeats 1 --modes 'anchors cached'",
    ),
    "step, float32": (
        "train_step",
        40,
        f"{_L14} --repeats 20 --arms 'anchors cached' 'anchors on the fly'",
        "--repeats 1 --arms 'anchors cached'",
    ),
    "step, compiled": (
        "train_step",
        80,
        f"{_BEST} --repeats 10 --arms 'cached, one group' 'cached, compiled'",
        "--repeats 1 --arms 'anchors cached'",
    ),
    "gallery": (
        "encode_gallery",
        50,
        f"--size vit-l-14 --device cuda --batch_size 64 --images 512 --workers 8 16 --repeats 2 {_THREADS}",
        "--images 4 --repeats 1 --workers 1",
    ),
    "query": (
        "query",
        50,
        f"--size vit-l-14 --device cuda --galleries 100000 1000000 --batch_sizes 1 64 --repeats 10 {_THREADS}",
        "--galleries 50 --batch_sizes 1 --repeats 1",
    ),
    "projections": (
        "train_projection",
        60,
        "--size vit-l-14 --device cuda --batch_size 64 --repeats 3",
        "--repeats 1 --methods lincir",
    ),
    "search": (
        "gallery",
        40,
        "--engines exact 'exact float16' --sizes 1000000 --device cuda --repeats 2",
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
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    versions = {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets", "peft")}
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return {"gpu": gpu, "cpu": cpu, "cores": os.cpu_count(), "versions": versions, "date": when}


def _run(script: str, options: str, seconds: float) -> dict:
    if seconds <= 0:
        return {"error": "no time was left"}
    environment = os.environ | {"PYTHONPATH": str(_HERE.parent), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rows.json")
        command = [sys.executable, str(_HERE / f"{script}.py"), *shlex.split(options), "--out", str(out)]
        start = time.perf_counter()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
            try:
                shown, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
                return {"error": f"stopped after {seconds:.0f} s"}
        print(shown, flush=True)
        # Rows are written before a script fails over a difference.
        result = {"result": json.loads(out.read_text())} if out.exists() else {}
        if process.returncode:
            result["error"] = errors[-2000:]
        return {"seconds": time.perf_counter() - start, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=590, help="time for all")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    results: dict = {"machine": _describe_machine(), "parts": {}}
    shares = [PARTS[name][1] for name in options.parts]
    for i, name in enumerate(options.parts):
        script, share, flags, toy = PARTS[name]
        if options.toy:
            flags = toy if script == "gallery" else f"--size toy --batch_size 4 {toy}"
        print(f"## {name}: {script} {flags}", flush=True)
        seconds = (options.seconds - (time.perf_counter() - start)) * share / sum(shares[i:])
        results["parts"][name] = _run(script, flags, seconds) | {"command": f"speed/{script}.py {flags}"}
        options.out.write_text(json.dumps(results, indent=1))
    if failed := [name for name, part in results["parts"].items() if "error" in part]:
        raise SystemExit(f"not measured: {', '.join(failed)}; see {options.out}")


if __name__ == "__main__":
    main()
