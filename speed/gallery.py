"""Measure galleries of random vectors as they grow: one process builds and saves, another loads and searches.

PYTHONPATH=. python speed/gallery.py --engines exact "faiss Flat" milvus --sizes 1000 10000 100000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch


__all__ = ["build", "search"]

_TOP_K, _BATCH, _ROWS = 10, 64, 50_000


def _draw(count: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _time(call, repeats: int = 1) -> tuple[float, object]:
    """Give the seconds of the fastest of some runs, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    return best, result


def _draw_blocks(size: int, dim: int) -> Iterator[tuple[range, np.ndarray]]:
    for start in range(0, size, _ROWS):
        places = range(start, min(start + _ROWS, size))
        yield places, _draw(len(places), dim, seed=start + 2)


def _rank_by_brute_force(queries: np.ndarray, size: int) -> list[set[str]]:
    """Find the best rows of each query in float64, without the gallery."""
    best = [[] for _ in queries]
    for places, rows in _draw_blocks(size, queries.shape[1]):
        rows = rows.astype(float)
        scores = queries.astype(float) @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
        for q, order in enumerate(np.argsort(-scores, axis=1)[:, :_TOP_K]):
            found = [(scores[q, i], f"{places[i]}") for i in order]
            best[q] = sorted(best[q] + found, reverse=True)[:_TOP_K]
    return [{name for _, name in found} for found in best]


def build(engine: str, size: int, dim: int, folder: str) -> dict:
    """Measure how an engine builds and saves.

    Args:
        engine (`str`): `"exact"`, `"exact float16"`, `"faiss FACTORY"` or `"milvus"`.
        size (`int`): Rows.
        dim (`int`): Size of a row.
        folder (`str`): Where the gallery is left, in `a`.

    Returns:
        `dict`: Seconds and MiB.
    """
    from modeling_rtd import Gallery

    name, _, rest = engine.partition(" ")
    options = {"engine": name}
    options |= {"dtype": rest} if name == "exact" and rest else {"factory": rest} if rest else {}

    def add() -> Gallery:
        gallery = Gallery(folder=f"{folder}/a", **options)
        for places, rows in _draw_blocks(size, dim):
            gallery.add_embeddings(rows, [f"{i}" for i in places])
        return gallery

    seconds_build, gallery = _time(add)
    seconds_save, _ = _time(lambda: gallery.save(f"{folder}/b"))
    gallery.close()
    disk = sum(path.stat().st_size for path in Path(folder, "a").rglob("*")) / 2**20
    return {"engine": engine, "size": size, "build_s": seconds_build, "save_s": seconds_save, "disk_mib": disk}


def search(engine: str, size: int, dim: int, folder: str, device: str = "cpu") -> dict:
    """Measure how an engine loads and searches.

    Args:
        engine, size, dim, folder: See `build`, which was run before.
        device (`str`, defaults to `"cpu"`): Where the exact engine computes.

    Returns:
        `dict`: Seconds and MiB; `recall` is against float64 by numpy, `ratio` is the batch of 64 queries against one
        matrix product and one topk.
    """
    from modeling_rtd import Gallery

    name, _, rest = engine.partition(" ")
    queries = _draw(_BATCH, dim, seed=1)
    before = _peak_mib()
    seconds_load, gallery = _time(
        lambda: Gallery.load(f"{folder}/a", **({"device": device} if name == "exact" else {}))
    )
    hits = gallery.search(queries, _TOP_K)
    batch, _ = _time(lambda: gallery.search(queries, _TOP_K), 5)
    single, _ = _time(lambda: gallery.search(queries[:1], _TOP_K), 5)
    row = {
        "load_s": seconds_load,
        f"search_{_BATCH}_s": batch,
        "search_1_s": single,
        "added_peak_mib": _peak_mib() - before,
    }
    true = _rank_by_brute_force(queries, size)
    shares = [len({hit["id"] for hit in ours} & best) / len(best) for ours, best in zip(hits, true, strict=True)]
    row["recall"] = float(np.mean(shares))
    if name == "exact":
        rows = torch.from_numpy(np.concatenate([part for _, part, _ in gallery._engine.read()])).to(device)
        if device != "cpu" and rest == "float16":
            rows = rows.half()
        ready = torch.from_numpy(queries).to(device, rows.dtype)
        plain, _ = _time(lambda: (ready @ rows.T).topk(_TOP_K).indices.tolist(), 5)
        row["ratio"] = batch / plain
    gallery.close()
    return row


def _measure(engine: str, size: int, options: argparse.Namespace) -> dict:
    """Run both steps, each in a process of its own."""
    row = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in ("build", "search"):
            command = [sys.executable, __file__, "--step", step, engine, str(size), folder]
            command += ["--dim", str(options.dim), "--device", options.device]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row |= json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engines = ["exact", "exact float16", "faiss Flat", "faiss HNSW32", "faiss IVF64,Flat", "milvus"]
    parser.add_argument("--engines", nargs="+", default=engines)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, engine, size, folder = options.step
        arguments = (engine, int(size), options.dim, folder)
        print(json.dumps(build(*arguments) if step == "build" else search(*arguments, options.device)))
        return
    rows = []
    for engine in options.engines:
        for size in options.sizes:
            rows.append(_measure(engine, size, options))
            if len(rows) == 1:
                print("| " + " | ".join([*rows[0], *([] if "ratio" in rows[0] else ["ratio"])]) + " |")
            shown = [f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in rows[-1].values()]
            print("| " + " | ".join(shown) + " |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
