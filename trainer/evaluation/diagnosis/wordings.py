"""Queries by kind of change and by wording: which edits a model reads, and which ways to ask for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset


__all__ = ["average_wordings", "compute_wordings", "write_wordings"]

_COLUMNS = ("kind", "wording")
_TWO = "two changes"


def compute_wordings(queries: Dataset, ranks: np.ndarray, k: int) -> dict[str, dict[str, dict]]:
    """Compute recall@k by kind of change, and by wording.

    Args:
        queries (`datasets.Dataset`):
            With the columns `kind` and `wording`, which list one of each for every phrase of the condition. Queries of
            several phrases are one group.
        ranks (`np.ndarray` of shape `(num_queries,)`): Ranks of the best target, from 1.
        k (`int`): Ranks that count as found.

    Returns:
        `dict[str, dict[str, dict]]`: Under `kind` and `wording`, the `count` of queries and `recall` of each group;
        without these columns nothing.

    Examples:
        >>> queries = Dataset.from_dict({"kind": [["colour"], ["colour"]], "wording": [["is {new}"], ["in {new}"]]})
        >>> compute_wordings(queries, np.array([1, 9]), k=5)["wording"]["colour: in {new}"]
        {'count': 1, 'recall': 0.0}
    """
    if not set(_COLUMNS) <= set(queries.column_names):
        return {}
    groups = {column: defaultdict(list) for column in _COLUMNS}
    for kinds, wordings, rank in zip(*(queries[column][:] for column in _COLUMNS), ranks, strict=True):
        # Of two changes nobody can tell which wording was read.
        single = len(kinds) == 1
        groups["kind"][kinds[0] if single else _TWO].append(rank <= k)
        groups["wording"][f"{kinds[0]}: {wordings[0]}" if single else _TWO].append(rank <= k)
    return {
        column: {
            name: {"count": len(found[name]), "recall": float(np.mean(found[name]))}
            # What is of no single wording comes last.
            for name in sorted(found, key=lambda name: (name == _TWO, name))
        }
        for column, found in groups.items()
    }


def average_wordings(runs: Sequence[Mapping]) -> dict[str, dict[str, dict]]:
    """Average recalls over runs on the same queries.

    Args:
        runs (sequence of `Mapping`): What [`compute_wordings`] gives, of each run.

    Returns:
        `dict[str, dict[str, dict]]`: The same for their mean.
    """
    return {
        column: {
            name: group | {"recall": float(np.mean([run[column][name]["recall"] for run in runs]))}
            for name, group in groups.items()
        }
        for column, groups in runs[0].items()
    }


def write_wordings(columns: Mapping[str, Mapping], k: int) -> list[str]:
    """Write tables of kinds of change and of wordings, and name the wordings that RTD makes worse.

    Args:
        columns (`Mapping[str, Mapping]`): What [`compute_wordings`] gives, as `after` and perhaps `before` RTD.
        k (`int`): Ranks that count as found.

    Returns:
        `list[str]`: Lines of Markdown.
    """
    after, lines = columns["after"], []
    for column, title in zip(_COLUMNS, ("kind of change", "wording of one change"), strict=True):
        lines += [f"| {title} | queries | {' | '.join(f'R@{k} {name}, %' for name in columns)} |"]
        lines += ["|---" * (2 + len(columns)) + "|"]
        for name, group in after[column].items():
            recalls = (f"{100 * groups[column][name]['recall']:.0f}" for groups in columns.values())
            lines.append(f"| {name} | {group['count']} | {' | '.join(recalls)} |")
        lines.append("")
    lines.pop()
    if "before" in columns:
        before = columns["before"]["wording"]
        worse = [f"`{name}`" for name, group in after["wording"].items() if group["recall"] < before[name]["recall"]]
        lines += ["", f"Wordings that find less after RTD than before: {', '.join(worse) or 'none'}."]
    return lines
