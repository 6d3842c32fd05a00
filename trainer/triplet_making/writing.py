"""Files of captions and of the triplets made from them: reading, writing and resuming."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from modeling_rtd import check_path, hold_lock_file, read_json, replace_file, write_json
from trainer.data.captions import read_captions
from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.publishing.tables import write_cell
from trainer.triplet_making.maker import TripletMaker, hash_triplet


__all__ = ["write_triplets"]


def write_triplets(
    source: str | Path | Sequence[str | Path],
    output: str | Path,
    method: str = "rules",
    num_proc: int = 1,
    split: str | None = None,
    **options,
) -> dict:
    """Make triplets of a file of captions and write them as jsonl, with a report on their quality beside them.

    An interrupted run continues where it stopped when it is called again, and ends with the same bytes. A kill or a
    full disk loses the block that it was in. `output` gets companions: `.progress.jsonl` (settings, and where
    each finished block ends), `.report.json`, `.report.md` and `.lock`.

    Args:
        source, split: See [`read_captions`].
        output (`str` or `Path`): The jsonl file.
        method, num_proc: See [`make_triplets`].
        options: As for [`make_triplets`].

    Returns:
        `dict`: The report: `settings`, `captions` (used, and skipped by reason, with up to 20 rows each), `triplets`,
        `templates`, `dropped`, `similarity` and a `sample` of 20.

    Raises:
        ValueError: As [`read_captions`] and [`make_triplets`]. If `output` was made with other settings or by
            something else, or another process is making it; if no triplet could be made.
    """
    check_path(output, "output")
    output = Path(output)
    captions, skipped = read_captions(source, split=split)
    maker = TripletMaker(captions, method, **options)
    del captions  # which the maker keeps in less memory
    output.parent.mkdir(parents=True, exist_ok=True)
    # What is finished is only read: in a training, all processes but the first come here at the same time.
    if report := _read_report(output, maker):
        return report
    refusal = f"another process is making '{output}'; wait until it has ended, or choose another output."
    with hold_lock_file(_beside(output, "lock"), refusal):
        return _write_blocks(output, maker, skipped, num_proc)


def _write_blocks(output: Path, maker: TripletMaker, skipped: dict[str, list[int]], num_proc: int) -> dict:
    progress_path = _beside(output, "progress.jsonl")
    done = _read_progress(progress_path, output, maker.settings)
    with replace_file(progress_path) as partial:
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in (maker.settings, *done)), encoding="utf-8")
    output.touch()
    with output.open("r+b") as file, progress_path.open("a", encoding="utf-8") as progress:
        # What follows the last block of the progress was cut off, and is made again.
        file.truncate(done[-1]["bytes"] if done else 0)
        seen = {hash_triplet([triplet[name] for name in TRIPLET_COLUMNS]) for triplet in map(json.loads, file)}
        blocks = maker.make_blocks(len(done), seen, num_proc)
        for made, dropped in tqdm(blocks, desc="Making triplets", initial=len(done), total=len(maker)):
            file.writelines(json.dumps(triplet, ensure_ascii=False).encode() + b"\n" for triplet in made)
            file.flush()
            os.fsync(file.fileno())  # before the progress says that they are there
            done.append({"bytes": file.tell(), "dropped": dropped})
            progress.write(json.dumps(done[-1]) + "\n")
            progress.flush()
    dropped = sum((Counter(entry["dropped"]) for entry in done), Counter())
    if not seen:
        raise ValueError(f"no triplet could be made of {len(maker.rows)} captions; dropped: {dict(dropped)}.")
    report = _report(output, len(seen), maker, skipped, dropped)
    with replace_file(_beside(output, "report.md")) as partial:
        partial.write_text(_render(report), encoding="utf-8")
    write_json(_beside(output, "report.json"), report, ensure_ascii=False)
    return report


def _read_report(output: Path, maker: TripletMaker) -> dict | None:
    """Read the report of a finished run with the same settings; it is the last thing that such a run writes."""
    path = _beside(output, "report.json")
    if not (path.is_file() and output.is_file()):
        return None
    done = _read_progress(_beside(output, "progress.jsonl"), output, maker.settings)
    if len(done) < len(maker) or output.stat().st_size != done[-1]["bytes"]:
        return None
    return read_json(path, "remove it to have it written again", triplets=int, captions=dict)


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _read_progress(path: Path, output: Path, settings: dict) -> list[dict]:
    """Read the blocks that are whole in the output, and make sure that they were made with the same settings."""
    # A line without an end is of a block that was being written down.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
    size = output.stat().st_size if output.exists() else 0
    if not lines and size:
        raise ValueError(f"'{output}' exists, and not from a run of this command; remove it or choose another output.")
    try:
        made, *done = map(json.loads, lines or [json.dumps(settings)])
        sizes = [entry["bytes"] for entry in done]
        is_record = isinstance(made, dict) and sizes == sorted(sizes)
    except (ValueError, TypeError, KeyError):
        is_record = False
    if not is_record:
        raise ValueError(f"'{path}' is damaged; remove it and '{output.name}', or choose another output.")
    if other := [f"{name} ({made.get(name)!r})" for name in settings if made.get(name) != settings[name]]:
        raise ValueError(
            f"'{output}' was begun with another {', '.join(other)}; repeat those settings to "
            "continue, or choose another "
            "output."
        )
    # Of a later block not all bytes reached the disk.
    return [entry for entry in done if entry["bytes"] <= size]


def _report(output: Path, count: int, maker: TripletMaker, skipped: dict[str, list[int]], dropped: Counter) -> dict:
    # From the file, line by line: memory does not grow with the triplets.
    chosen = sorted(np.random.default_rng(0).permutation(count)[:20].tolist())
    templates, values, sample = Counter(), array("d"), []
    with output.open(encoding="utf-8", newline="\n") as file:
        for place, triplet in enumerate(map(json.loads, file)):
            templates[triplet["template"]] += 1
            values.append(triplet.get("similarity", 0.0))
            if place in chosen:
                sample.append({name: triplet[name] for name in ("template", *TRIPLET_COLUMNS)})
    similarity: str | dict = "no model given"
    if maker.tower is not None:
        counts, edges = np.histogram(values, bins=10, range=maker.band)
        starts = [f"{edge:.3f}" for edge in edges[:-1]]
        mean = round(float(np.mean(values)), 4)
        similarity = {"mean": mean, "from": dict(zip(starts, counts.tolist(), strict=True))}
    skipped = skipped | {"other_script": maker.other_script}
    skipped = {name: {"count": len(rows), "rows": rows[:20]} for name, rows in skipped.items()}
    return {
        "settings": maker.settings,
        "captions": {"used": len(maker.rows), **skipped},
        "triplets": count,
        "templates": dict(templates),
        "dropped": dict(dropped),
        "similarity": similarity,
        "sample": sample,
    }


def _render(report: dict) -> str:
    lines = [f"# {report['triplets']} text triplets", ""]
    lines += [f"- {name}: {fact}" for name, fact in report.items() if name not in ("triplets", "sample")]
    lines += ["", "| template | reference | condition | target |", "|---|---|---|---|"]
    rows = (map(write_cell, triplet.values()) for triplet in report["sample"])
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows), ""])
