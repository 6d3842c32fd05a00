"""Measure galleries of random vectors as they grow: build, save, load, search, memory; a process for each row.

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
from pathlib import Path

import numpy as np
import torch


__all__ = ["measure"]

_TOP_K, _BATCH = 10, 64


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


def measure(engine: str, size: int, dim: int, device: str = "cpu") -> dict:
    """Measure one engine at one size.

    Args:
        engine (`str`): `"exact"`, `"exact float16"`, `"faiss FACTORY"` or `"milvus"`.
        size (`int`): Rows.
        dim (`int`): Size of a row.
        device (`str`, defaults to `"cpu"`): Where the exact engine computes.

    Returns:
        `dict`: Seconds and MiB; `ratio` is the batch of 64 queries against one matrix product and one topk.
    """
    from modeling_rtd import Gallery

    name, _, rest = engine.partition(" ")
    options = {"engine": name}
    options |= {"dtype": rest} if name == "exact" and rest else {"factory": rest} if rest else {}
    reopen = {"device": device} if name == "exact" else {}
    queries = _draw(_BATCH, dim, seed=1)
    before = _peak_mib()
    with tempfile.TemporaryDirectory() as folder:

        def build() -> Gallery:
            gallery = Gallery(folder=f"{folder}/a", **options)
            for start in range(0, size, 50_000):
                count = min(50_000, size - start)
                ids = [f"{i}" for i in range(start, start + count)]
                gallery.add_embeddings(_draw(count, dim, seed=start + 2), ids)
            return gallery

        seconds_build, gallery = _time(build)
        saved = {"collection": "copy"} if name == "milvus" else {}
        seconds_save, _ = _time(lambda: gallery.save(f"{folder}/b", **saved))
        gallery.close()
        seconds_load, gallery = _time(lambda: Gallery.load(f"{folder}/a", **reopen))
        gallery.search(queries, _TOP_K)
        batch, _ = _time(lambda: gallery.search(queries, _TOP_K), 5)
        single, _ = _time(lambda: gallery.search(queries[:1], _TOP_K), 5)
        peak = _peak_mib() - before
        row = {
            "engine": engine,
            "size": size,
            "build_s": seconds_build,
            "save_s": seconds_save,
            "load_s": seconds_load,
            f"search_{_BATCH}_s": batch,
            "search_1_s": single,
            "added_peak_mib": peak,
            "disk_mib": sum(path.stat().st_size for path in Path(folder, "a").rglob("*")) / 2**20,
            "recall": 1.0 if name == "exact" else gallery.measure_recall(queries, _TOP_K),
        }
        if name == "exact":
            rows = torch.from_numpy(np.concatenate([part for _, part, _ in gallery._engine.read()])).to(device)
            if device != "cpu" and rest == "float16":
                rows = rows.half()
            ready = torch.from_numpy(queries).to(device, rows.dtype)
            plain, _ = _time(lambda: (ready @ rows.T).topk(_TOP_K).indices.tolist(), 5)
            row["ratio"] = batch / plain
        gallery.close()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["exact", "exact float16", "faiss Flat", "milvus"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options.dim, options.device)))
        return
    rows = []
    for engine in options.engines:
        for size in options.sizes:
            command = [sys.executable, __file__, "--one", engine, str(size), "--dim", str(options.dim)]
            done = subprocess.run(
                [*command, "--device", options.device], stdout=subprocess.PIPE, text=True, check=True
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            if len(rows) == 1:
                print("| " + " | ".join([*rows[0], "ratio"][: len(rows[0]) + ("ratio" not in rows[0])]) + " |")
            shown = [f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in rows[-1].values()]
            print("| " + " | ".join(shown) + " |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
