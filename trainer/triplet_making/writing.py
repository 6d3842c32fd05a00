"""Files of captions and of the triplets made from them: reading, writing and resuming."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from trainer.data.captions import read_captions
from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.triplet_making.maker import TripletMaker, hash_triplet


__all__ = ["write_triplets"]


def write_triplets(source: str | Path, output: str | Path, method: str = "rules", **options) -> dict:
    """Make triplets of a file of captions and write them as jsonl, with a report on their quality beside them.

    An interrupted run goes on where it stopped when it is called again, and ends with the same bytes. `output` gets
    companions: `.progress.jsonl` (settings, and where each finished block ends), `.report.json` and `.report.md`.

    Args:
        source (`str` or `Path`): See [`read_captions`].
        output (`str` or `Path`): The jsonl file.
        method (`str`, defaults to `"rules"`): See [`make_triplets`].
        options: As for [`make_triplets`].

    Returns:
        `dict`: The report: `settings`, `captions` (used, and skipped by reason, with up to 20 rows each), `triplets`,
        `templates`, `dropped`, `similarity` and a `sample` of 20.

    Raises:
        ValueError: As [`read_captions`] and [`make_triplets`]; if `output` was made with other settings or by
            something else; if no triplet could be made.
    """
    output = Path(output)
    captions, skipped = read_captions(source)
    maker = TripletMaker(captions, method, **options)
    output.parent.mkdir(parents=True, exist_ok=True)
    progress_path = _beside(output, "progress.jsonl")
    done = _read_progress(progress_path, output, maker.settings)
    output.touch()
    with output.open("r+b") as file, progress_path.open("w", encoding="utf-8") as progress:
        progress.writelines(json.dumps(entry) + "\n" for entry in (maker.settings, *done))
        file.truncate(done[-1]["bytes"] if done else 0)
        triplets = [json.loads(line) for line in file]
        seen = {hash_triplet([triplet[name] for name in TRIPLET_COLUMNS]) for triplet in triplets}
        for block in tqdm(range(len(done), len(maker)), desc="Making triplets", initial=len(done), total=len(maker)):
            made, dropped = maker.make_block(block, seen)
            triplets += made
            file.writelines(json.dumps(triplet, ensure_ascii=False).encode() + b"\n" for triplet in made)
            file.flush()
            done.append({"bytes": file.tell(), "dropped": dropped})
            progress.write(json.dumps(done[-1]) + "\n")
            progress.flush()
    dropped = sum((Counter(entry["dropped"]) for entry in done), Counter())
    if not triplets:
        raise ValueError(f"no triplet could be made of {len(maker.rows)} captions; dropped: {dict(dropped)}.")
    report = _report(triplets, maker, skipped, dropped)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    _beside(output, "report.json").write_text(text, encoding="utf-8")
    _beside(output, "report.md").write_text(_render(report), encoding="utf-8")
    return report


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _read_progress(path: Path, output: Path, settings: dict) -> list[dict]:
    """Read the blocks that are whole in the output, and make sure that they were made with the same settings."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    size = output.stat().st_size if output.exists() else 0
    if not lines and size:
        raise ValueError(f"'{output}' exists, and not from a run of this command; remove it or choose another output.")
    made, *done = map(json.loads, lines or [json.dumps(settings)])
    if other := [f"{name} ({made.get(name)!r})" for name in settings if made.get(name) != settings[name]]:
        raise ValueError(
            f"'{output}' was begun with another {', '.join(other)}; repeat those settings to go on, or choose another "
            "output."
        )
    return [entry for entry in done if entry["bytes"] <= size]


def _report(triplets: list[dict], maker: TripletMaker, skipped: dict[str, list[int]], dropped: Counter) -> dict:
    similarity: str | dict = "no model given"
    if maker.tower is not None:
        values = np.array([triplet["similarity"] for triplet in triplets])
        counts, edges = np.histogram(values, bins=10, range=maker.band)
        starts = [f"{edge:.3f}" for edge in edges[:-1]]
        similarity = {"mean": round(float(values.mean()), 4), "from": dict(zip(starts, counts.tolist(), strict=True))}
    order = sorted(np.random.default_rng(0).permutation(len(triplets))[:20])
    skipped = {name: {"count": len(rows), "rows": rows[:20]} for name, rows in skipped.items()}
    return {
        "settings": maker.settings,
        "captions": {"used": len(maker.rows), **skipped},
        "triplets": len(triplets),
        "templates": dict(Counter(triplet["template"] for triplet in triplets)),
        "dropped": dict(dropped),
        "similarity": similarity,
        "sample": [{name: triplets[i][name] for name in ("template", *TRIPLET_COLUMNS)} for i in order],
    }


def _render(report: dict) -> str:
    lines = [f"# {report['triplets']} text triplets", ""]
    lines += [f"- {name}: {fact}" for name, fact in report.items() if name not in ("triplets", "sample")]
    lines += ["", "| template | reference | condition | target |", "|---|---|---|---|"]
    rows = ([text.replace("|", "/") for text in triplet.values()] for triplet in report["sample"])
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows), ""])
