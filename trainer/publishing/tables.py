"""Tables of results in Markdown."""

from __future__ import annotations

import numpy as np


__all__ = ["METRICS", "format_table", "write_cell"]

METRICS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "map@5": "mAP@5",
    "subset_recall@1": "subset R@1",
}
_CAPTIONS = {"caption_recall@5": "captions R@5"}


def write_cell(text: str) -> str:
    """Write a text as a cell of a Markdown table.

    Args:
        text (`str`): Text of any lines.

    Returns:
        `str`: One line, in which a `|` is a letter.
    """
    return " ".join(text.split()).replace("|", "\\|")


def format_table(rows: list[dict]) -> str:
    """Format rows as a Markdown table, in percent; mean ± standard deviation where there are several seeds.

    Args:
        rows (`list[dict]`): Rows of `metrics.json`.

    Returns:
        `str`: The table. Where rows have R@5 of plain captions of the targets, it is the last column.
    """
    columns = METRICS | (_CAPTIONS if any(_CAPTIONS.keys() & row for row in rows) else {})
    lines = [f"| variant | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        chosen = [row for row in rows if row["variant"] == variant]
        cells = [_format_cell([row[m] if m in METRICS else row.get(m) for row in chosen]) for m in columns]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_cell(values: list[float | None]) -> str:
    if None in values:
        return ""
    percent = 100 * np.array(values)
    # n - 1: a few runs are a sample of all.
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")
