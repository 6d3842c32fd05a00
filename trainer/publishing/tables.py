"""Tables of results in Markdown."""

from __future__ import annotations

import numpy as np


__all__ = ["METRICS", "format_table", "write_cell"]

METRICS = ("recall@1", "recall@5", "recall@10", "map@5", "subset_recall@1")


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
        `str`: The table.
    """
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = ["| variant | R@1 | R@5 | R@10 | mAP@5 | subset R@1 |", "|---|---|---|---|---|---|"]
    for variant in variants:
        cells = []
        for metric in METRICS:
            values = 100 * np.array([row[metric] for row in rows if row["variant"] == variant])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)
