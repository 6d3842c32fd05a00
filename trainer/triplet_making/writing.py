"""Files of captions and of the triplets made from them: reading, writing and resuming."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
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
    num_shards: int = 1,
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
        num_shards (`int`, defaults to 1):
            Files, at most one for each block of captions. With several, `triplets.jsonl` stands for
            `triplets-00000-of-00008.jsonl` and so on, which hold the same lines in the same order.
        options: As for [`make_triplets`].

    Returns:
        `dict`: The report: `settings`, `captions` (used, and skipped by reason, with up to 20 rows each), `triplets`,
        `templates`, `dropped`, `similarity` and a `sample` of 20.

    Raises:
        ValueError: As [`read_captions`] and [`make_triplets`]. If `output` was made with other settings or by
            something else, or another process is making it. If no triplet could be made, or there are fewer blocks
            than shards.
    """
    check_path(output, "output")
    output = Path(output)
    captions, skipped = read_captions(source, split=split)
    maker = TripletMaker(captions, method, **options)
    del captions  # which the maker keeps in less memory
    shards = _Shards(output, num_shards, maker)
    output.parent.mkdir(parents=True, exist_ok=True)
    # What is finished is only read: in a training, all processes but the first come here at the same time.
    if report := _read_report(shards):
        return report
    refusal = f"another process is making '{output}'; wait until it has ended, or choose another output."
    with hold_lock_file(_beside(output, "lock"), refusal):
        return _write_blocks(shards, skipped, num_proc)


class _Shards:
    """The files of a run: each holds as many blocks as the others, or one more."""

    def __init__(self, output: Path, num_shards: int, maker: TripletMaker):
        if not 1 <= num_shards <= len(maker):
            raise ValueError(
                f"num_shards must be from 1 to {len(maker)}, one for each block of {maker.block_size} captions, got "
                f"{num_shards}."
            )
        self.output, self.maker, self.files, self.settings = output, maker, [output], maker.settings
        if num_shards > 1:
            names = (f"{output.stem}-{i:05d}-of-{num_shards:05d}{output.suffix}" for i in range(num_shards))
            self.files = list(map(output.with_name, names))
            self.settings = self.settings | {"num_shards": num_shards}

    def number(self, block: int) -> int:
        """Compute in which file a block is."""
        return block * len(self.files) // len(self.maker)

    def find_ends(self, done: Sequence[dict]) -> list[int]:
        """List where each file ends that holds these blocks and no more."""
        ends = [0] * len(self.files)
        for block, entry in enumerate(done):
            ends[self.number(block)] = entry["bytes"]
        return ends

    def find_sizes(self) -> list[int]:
        return [file.stat().st_size if file.exists() else 0 for file in self.files]

    def read(self) -> Iterator[dict]:
        """Read all triplets in turn."""
        for path in self.files:
            with path.open(encoding="utf-8", newline="\n") as file:
                yield from map(json.loads, file)


def _write_blocks(shards: _Shards, skipped: dict[str, list[int]], num_proc: int) -> dict:
    output, maker = shards.output, shards.maker
    progress_path = _beside(output, "progress.jsonl")
    done = _read_progress(progress_path, shards)
    with replace_file(progress_path) as partial:
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in (shards.settings, *done)), encoding="utf-8")
    for file, end in zip(shards.files, shards.find_ends(done), strict=True):
        file.touch()
        # What follows the last block of the progress was cut off, and is made again.
        os.truncate(file, end)
    seen = {hash_triplet([triplet[name] for name in TRIPLET_COLUMNS]) for triplet in shards.read()}
    blocks = maker.make_blocks(len(done), seen, num_proc)
    with progress_path.open("a", encoding="utf-8") as progress:
        for made, dropped in tqdm(blocks, desc="Making triplets", initial=len(done), total=len(maker)):
            with shards.files[shards.number(len(done))].open("ab") as file:
                file.writelines(json.dumps(triplet, ensure_ascii=False).encode() + b"\n" for triplet in made)
                file.flush()
                os.fsync(file.fileno())  # before the progress says that they are there
                done.append({"bytes": file.tell(), "dropped": dropped})
            progress.write(json.dumps(done[-1]) + "\n")
            progress.flush()
    dropped = sum((Counter(entry["dropped"]) for entry in done), Counter())
    if not seen:
        raise ValueError(f"no triplet could be made of {len(maker.rows)} captions; dropped: {dict(dropped)}.")
    report = _report(shards, len(seen), skipped, dropped)
    with replace_file(_beside(output, "report.md")) as partial:
        partial.write_text(_render(report), encoding="utf-8")
    write_json(_beside(output, "report.json"), report, ensure_ascii=False)
    return report


def _read_report(shards: _Shards) -> dict | None:
    """Read the report of a finished run with the same settings; it is the last thing that such a run writes."""
    path = _beside(shards.output, "report.json")
    if not (path.is_file() and all(file.is_file() for file in shards.files)):
        return None
    done = _read_progress(_beside(shards.output, "progress.jsonl"), shards)
    if len(done) < len(shards.maker) or shards.find_sizes() != shards.find_ends(done):
        return None
    return read_json(path, "remove it to have it written again", triplets=int, captions=dict)


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _read_progress(path: Path, shards: _Shards) -> list[dict]:
    """Read the blocks that are whole in the output, and make sure that they were made with the same settings."""
    # A line without an end is of a block that was being written down.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
    output, settings, sizes = shards.output, shards.settings, shards.find_sizes()
    if not lines and (found := [file for file, size in zip(shards.files, sizes, strict=True) if size]):
        raise ValueError(
            f"'{found[0]}' exists, and not from a run of this command; remove it or choose another output."
        )
    try:
        made, *done = map(json.loads, lines or [json.dumps(settings)])
        places = [(shards.number(block), entry["bytes"]) for block, entry in enumerate(done)]
        is_record = isinstance(made, dict) and (made != settings or places == sorted(places))
    except (ValueError, TypeError, KeyError):
        is_record = False
    if not is_record:
        raise ValueError(f"'{path}' is damaged; remove it and '{output.name}', or choose another output.")
    if other := [f"{name} ({made.get(name)!r})" for name in made | settings if made.get(name) != settings.get(name)]:
        raise ValueError(
            f"'{output}' was begun with another {', '.join(other)}; repeat those settings to "
            "continue, or choose another "
            "output."
        )
    # Of a later block not all bytes reached the disk.
    whole = takewhile(lambda place: place[1] <= sizes[place[0]], places)
    return [entry for entry, _ in zip(done, whole, strict=False)]


def _report(shards: _Shards, count: int, skipped: dict[str, list[int]], dropped: Counter) -> dict:
    maker = shards.maker
    # From the files, line by line: memory does not grow with the triplets.
    chosen = sorted(np.random.default_rng(0).permutation(count)[:20].tolist())
    templates, values, sample = Counter(), array("d"), []
    for place, triplet in enumerate(shards.read()):
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
        "settings": shards.settings,
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
