"""Edits of conditions: what a query may still mean, or no longer mean, when its sentence is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset

from trainer.data.tables import add_column


__all__ = ["CONDITION_EDITS", "contradict", "edit_queries", "exchange", "misspell", "negate"]

_VERB = re.compile(r"\b(is|are|was|were|has|have|had|does|do|shows|show|comes|goes|with)\b( not\b)?", re.IGNORECASE)


def misspell(conditions: Sequence[str], seed: int = 0) -> list[str]:
    """Leave out an inner letter of one word in each condition, of four letters or more where there is one.

    Args:
        conditions (`Sequence[str]`): Conditions.
        seed (`int`, defaults to 0): Which word and which letter.

    Returns:
        `list[str]`: Conditions. One that has no word of three letters stays as it is.

    Examples:
        >>> misspell(["is blue"])
        ['is ble']
    """
    rng = np.random.default_rng(seed)
    edited = []
    for condition in conditions:
        words = [match.span() for match in re.finditer(r"[^\W\d_]{3,}", condition)]
        if words := [span for span in words if span[1] - span[0] > 3] or words:
            start, end = words[rng.integers(len(words))]
            letter = rng.integers(start + 1, end - 1)
            condition = condition[:letter] + condition[letter + 1 :]
        edited.append(condition)
    return edited


def negate(condition: str) -> str:
    """Turn a condition into its negation, in simple English: a `not` behind its first verb, or in front.

    Args:
        condition (`str`): Condition.

    Returns:
        `str`: The negation; that of a negated condition is the condition.

    Examples:
        >>> negate("is blue"), negate("is not blue"), negate("blue, please")
        ('is not blue', 'is blue', 'not blue, please')
    """
    verb = _VERB.search(condition)
    if verb is None:
        return f"not {condition}"
    return f"{condition[: verb.end(1)]}{'' if verb[2] else ' not'}{condition[verb.end() :]}"


def contradict(condition: str) -> str:
    """Turn a condition into a contradiction: itself, and its negation.

    Args:
        condition (`str`): Condition.

    Returns:
        `str`: The contradiction.

    Examples:
        >>> contradict("is blue")
        'is blue and is not blue'
    """
    return f"{condition} and {negate(condition)}"


def exchange(conditions: Sequence[str], seed: int = 0) -> list[str]:
    """Give each query the condition of another, each condition once.

    Args:
        conditions (`Sequence[str]`): Conditions.
        seed (`int`, defaults to 0): Which other.

    Returns:
        `list[str]`: Conditions in another order.

    Examples:
        >>> exchange(["is blue", "is red"])
        ['is red', 'is blue']
    """
    order = np.random.default_rng(seed).permutation(len(conditions))
    sources = np.empty_like(order)
    sources[order] = np.roll(order, 1)  # one cycle through all: none keeps its own
    return [conditions[i] for i in sources]


def edit_queries(queries: Dataset, edit: Callable[[Sequence[str]], Sequence[str]]) -> Dataset:
    """Edit the conditions of queries, and each of their wordings where a query has several that are averaged.

    Args:
        queries (`datasets.Dataset`): Column `condition`, and perhaps `wordings` (lists of one length).
        edit (`Callable`): Gives as many conditions as it gets.

    Returns:
        `datasets.Dataset`: The queries, otherwise as they were.
    """
    columns = {"condition": edit(queries["condition"][:])}
    if "wordings" in queries.column_names:
        wordings = [edit(wording) for wording in zip(*queries["wordings"], strict=True)]
        columns["wordings"] = [list(row) for row in zip(*wordings, strict=True)]
    for name, values in columns.items():
        queries = add_column(queries.remove_columns(name), name, list(values))
    return queries


CONDITION_EDITS: dict[str, Callable[[Sequence[str]], list[str | None]]] = {
    "typo": misspell,
    "contradictory": lambda conditions: [contradict(condition) for condition in conditions],
    "negated": lambda conditions: [negate(condition) for condition in conditions],
    "of another query": exchange,
    "empty": lambda conditions: [None] * len(conditions),  # not blank: the prompt of the reference alone
}
