"""Pictures of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


__all__ = [
    "draw_alignment",
    "draw_conditions",
    "draw_interpolation",
    "draw_modality_gap",
    "draw_single_modality",
    "draw_triplets",
]

_BEFORE, _AFTER, _THIRD = "C0", "C1", "C2"
_BINS = 40


def _panels(count: int, width: float = 5, height: float = 4):
    # Not pyplot, which keeps each figure open and may look for a display.
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes


def _draw_histograms(axis, rows: Mapping[str, np.ndarray], bins=_BINS) -> None:
    """Draw densities over shared bins, so that samples of unlike sizes can be compared."""
    edges = np.histogram_bin_edges(np.concatenate(list(rows.values())), bins=bins)
    for number, (name, values) in enumerate(rows.items()):
        axis.hist(values, edges, density=True, alpha=0.5, color=f"C{number}", label=name)
    axis.set_ylabel("density")
    axis.legend(fontsize=8)


def draw_alignment(
    before: np.ndarray,
    after: np.ndarray,
    ranks_before: np.ndarray,
    ranks_after: np.ndarray,
    drift: np.ndarray,
    path: Path,
) -> None:
    """Draw how near plain captions are to their images before and after RTD.

    Args:
        before, after (`np.ndarray` of shape `(num_captions,)`): Cosines of captions with their images.
        ranks_before, ranks_after (`np.ndarray` of shape `(num_queries,)`): Ranks that captions reach, from 1.
        drift (`np.ndarray` of shape `(num_captions,)`): Cosines of captions before with themselves after.
        path (`Path`): Picture to write.
    """
    figure, (left, middle, right) = _panels(3)
    _draw_histograms(left, {"before RTD": before, "after RTD": after})
    left.set(title="captions and their images", xlabel="cosine")
    depths = np.arange(1, 51)
    for name, ranks, colour in (("before RTD", ranks_before, _BEFORE), ("after RTD", ranks_after, _AFTER)):
        middle.plot(depths, [100 * (ranks <= depth).mean() for depth in depths], color=colour, label=name)
    middle.set(title="plain captions finding images", xlabel="k", ylabel="recall@k, %", ylim=(0, 100))
    middle.legend(fontsize=8)
    _draw_histograms(right, {"captions of targets": drift})
    right.set(title="drift: a caption before and after", xlabel="cosine")
    figure.savefig(path, dpi=110)


def draw_interpolation(rows: Sequence[Mapping], k: int, path: Path) -> None:
    """Draw what weights between the two towers trade.

    Args:
        rows (`Sequence[Mapping]`): `alpha`, and recalls of `composed` queries and plain `captions` (or `None`).
        k (`int`): Depth of the recalls.
        path (`Path`): Picture to write.
    """
    has_captions = rows[0]["captions"] is not None
    figure, axes = _panels(2 if has_captions else 1)
    alphas = [row["alpha"] for row in rows]
    names = ("composed", "captions") if has_captions else ("composed",)
    recalls = {name: [100 * row[name][f"recall@{k}"] for row in rows] for name in names}
    # Not strict: without captions there is a colour too many.
    for (name, values), colour in zip(recalls.items(), (_AFTER, _BEFORE), strict=False):
        axes[0].plot(alphas, values, marker="o", color=colour, label=name)
    axes[0].set(title="text towers between before and after RTD", xlabel="alpha", ylabel=f"recall@{k}, %")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    if has_captions:
        axes[1].plot(recalls["captions"], recalls["composed"], marker="o", color="0.3")
        for alpha, *point in zip(alphas, recalls["captions"], recalls["composed"], strict=True):
            axes[1].annotate(f"{alpha:g}", point, xytext=(6, 4), textcoords="offset points", fontsize=9)
        axes[1].set(
            title="the trade, by alpha", xlabel=f"plain captions, recall@{k}, %", ylabel=f"composed, recall@{k}, %"
        )
        axes[1].margins(0.12)
    figure.savefig(path, dpi=110)


def draw_modality_gap(words: Mapping[str, np.ndarray], token_table: np.ndarray, path: Path) -> None:
    """Draw norms of pseudo-words, and where those of images and texts are.

    Args:
        words (`Mapping[str, np.ndarray]`): Pseudo-words by source, each of shape `(num_words, hidden_size)`.
        token_table (`np.ndarray` of shape `(vocab_size, hidden_size)`): Token embeddings.
        path (`Path`): Picture to write.
    """
    figure, (left, right) = _panels(2)
    _draw_histograms(left, {name: np.linalg.norm(rows, axis=1) for name, rows in words.items()})
    tokens = np.linalg.norm(token_table, axis=1).mean()
    left.axvline(tokens, color="0.2", linestyle="--", label="mean of real tokens")
    left.set(title="norms of pseudo-words", xlabel="norm")
    left.legend(fontsize=8)
    centre = words["image"].mean(axis=0)
    across = words["text"].mean(axis=0) - centre
    # The two means may be the same.
    across /= max(np.linalg.norm(across), 1e-12)
    rest = np.concatenate([words["image"], words["text"]]) - centre
    # Without the gap, which may be the largest direction itself.
    rest -= np.outer(rest @ across, across)
    along = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)[2][0]
    for number, (name, rows) in enumerate(words.items()):
        place = (rows - centre) @ np.stack([across, along]).T
        right.scatter(*place.T, s=9, alpha=0.45, linewidths=0, color=f"C{number}", label=name)
    right.set(
        title="where pseudo-words lie",
        xlabel="from the mean of images to that of texts",
        ylabel="main other direction",
    )
    right.legend(fontsize=8, markerscale=2)
    figure.savefig(path, dpi=110)


def draw_single_modality(groups: Mapping[str, Mapping], k: int, path: Path) -> None:
    """Draw how many queries need no composition, and how composed queries do among each kind.

    Args:
        groups (`Mapping[str, Mapping]`): Results of [`compute_single_modality`], `after` and perhaps `before`.
        k (`int`): Depth of the recalls.
        path (`Path`): Picture to write.
    """
    figure, (left, right) = _panels(2)
    names = [name for name in groups["after"] if name != "lost"]
    places = np.arange(len(names))
    left.bar(places, [100 * groups["after"][name]["share"] for name in names], color="0.6")
    left.set(title=f"queries that one side alone finds (k = {k})", ylabel="% of queries")
    width = 0.8 / len(groups)
    for number, (label, colour) in enumerate({"before": _BEFORE, "after": _AFTER}.items()):
        if label not in groups:
            continue
        heights = [100 * (groups[label][name]["composed"] or 0) for name in names]
        offset = (number - 0.5) * width if len(groups) > 1 else 0
        right.bar(places + offset, heights, width, color=colour, label=f"{label} RTD" if len(groups) > 1 else None)
    right.set(title="composed queries among them", ylabel=f"recall@{k}, %", ylim=(0, 100))
    if len(groups) > 1:
        right.legend(fontsize=8)
    for axis in (left, right):
        axis.set_xticks(places, [f"{name}\n({groups['after'][name]['count']})" for name in names])
    figure.savefig(path, dpi=110)


def draw_conditions(variants: Mapping[str, Mapping], k: int, path: Path) -> None:
    """Draw recall with edited conditions.

    Args:
        variants (`Mapping[str, Mapping]`): Results of [`compare_ranks`] by edit, all against the same conditions.
        k (`int`): Depth of the recalls.
        path (`Path`): Picture to write.
    """
    figure, (axis,) = _panels(1, width=8, height=1.2 + 0.4 * len(variants))
    whole = 100 * next(iter(variants.values()))["recall_before"]
    places = np.arange(len(variants))[::-1]
    recalls = [100 * change["recall_after"] for change in variants.values()]
    # The interval is that of the change, drawn around the recall it leads to.
    ends = np.array([[whole + 100 * end for end in change["interval"]] for change in variants.values()])
    errors = np.abs(ends - np.array(recalls)[:, None]).T
    axis.barh(places, recalls, color=_AFTER, alpha=0.7)
    axis.errorbar(recalls, places, xerr=errors, fmt="none", color="0.2", capsize=3)
    axis.axvline(whole, color="0.2", linestyle="--", label="conditions as they are")
    axis.set_yticks(places, list(variants))
    axis.set(title="composed queries with edited conditions", xlabel=f"recall@{k}, % (95 % interval of the change)")
    axis.set_xlim(left=0)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def draw_triplets(
    lengths: Mapping[str, Sequence[int]], reference_cosines: np.ndarray, condition_cosines: np.ndarray, path: Path
) -> None:
    """Draw lengths and similarities of text triplets.

    Args:
        lengths (`Mapping[str, Sequence[int]]`): Numbers of words by column.
        reference_cosines, condition_cosines (`np.ndarray` of shape `(num_triplets,)`): Cosines with the target.
        path (`Path`): Picture to write.
    """
    figure, (left, right) = _panels(2)
    rows = {name: np.asarray(values) for name, values in lengths.items()}
    longest = max(values.max() for values in rows.values())
    _draw_histograms(left, rows, bins=np.arange(0.5, longest + 1, max(1, longest // _BINS)))
    left.set(title="lengths", xlabel="words")
    _draw_histograms(right, {"reference and target": reference_cosines, "condition and target": condition_cosines})
    right.set(title="similarity in the text tower from before RTD", xlabel="cosine")
    figure.savefig(path, dpi=110)
