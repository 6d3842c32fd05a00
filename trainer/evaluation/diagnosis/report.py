"""Report of a diagnosis: tables, pictures, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.evaluation.diagnosis.wordings import write_wordings


__all__ = ["format_report", "write_report"]


def write_report(facts: dict, path: Path) -> None:
    """Write the report of a diagnosis.

    Args:
        facts (`dict`): What [`run_diagnosis`] returns.
        path (`Path`): Markdown file to write; pictures are looked for beside it.
    """
    path.write_text(format_report(facts), encoding="utf-8")


def format_report(facts: dict) -> str:
    """Format the report of a diagnosis as Markdown.

    Args:
        facts (`dict`): What [`run_diagnosis`] returns.

    Returns:
        `str`: The report; a part whose data are missing says so.
    """
    about = facts["about"]
    k = about["k"]
    tuned = (
        "trained with RTD" if about["trained_with_rtd"] else "not trained with RTD, so there is no before and after"
    )
    if about.get("one_tower"):
        tuned += ", whose text tower reads plain text too"
    lines = [
        f"# Diagnosis of {about['model']} on {about['benchmark']} ({about['split']})",
        "",
        f"{about['num_queries']} queries, {about['num_gallery']} gallery images, projection {about['projection']}, "
        f"{tuned}. A query counts as found where a target is among the first {k}. Intervals are 95 % bootstrap "
        "intervals over queries; p is of the exact sign test, gained against lost.",
    ]
    if about.get("deviations"):
        lines += ["", f"Not comparable with published numbers: {'; '.join(about['deviations'])}."]
    for name, (title, write) in _PARTS.items():
        part = facts[name]
        if name == "alignment":
            part = part | {"reader": _name_reader(about)}
        lines += ["", f"## {title}", ""]
        if "not_available" in part:
            lines.append(f"Not available: {part['not_available']}.")
        else:
            lines += write(part, k)
    lines += ["", "## How it was made", "", *_list_facts(about), ""]
    return "\n".join(lines)


def _name_reader(about: dict) -> str:
    """Name what reads plain text."""
    if about.get("one_tower"):
        return "the tower from after RTD, the only one that the model keeps"
    if about.get("is_adapter"):
        return "the base, with the adapter switched off"
    return "the tower from before RTD, which the model keeps"


def _write_alignment(part: dict, k: int) -> list[str]:
    lines, captions, triplets = [], part["target_captions"], part["triplet_captions"]
    if "not_available" in captions:
        lines.append(f"Captions of targets: not available, {captions['not_available']}.")
    else:
        rows = [
            [name, *(f"{captions[name][column]:.3f}" for column in ("own", "any", "margin")), _percent(recall)]
            for name, recall in (
                ("before", captions["recall"]["recall_before"]),
                ("after", captions["recall"]["recall_after"]),
            )
        ]
        margin, drift = captions["margin_change"], captions["drift"]
        head = ["text tower", "cosine with own image", "with any image", "margin", f"plain caption R@{k}, %"]
        lines += [
            "Captions of the targets, read plainly, by the text towers from before and after RTD. Retrieval lives on "
            "the margin of the own image over any.",
            "",
            *_table(head, rows),
            "",
            f"The margin changes by {margin['mean']:+.3f} ({margin['interval'][0]:+.3f} to "
            f"{margin['interval'][1]:+.3f}), R@{k} by {_change(captions['recall'])}. A caption before and the same "
            f"after have a mean cosine of {drift['mean']:.3f} (5 % of them below {drift['p5']:.3f}). Plain text "
            f"queries go to {part['reader']}.",
            "",
            "![Alignment](alignment.png)",
        ]
    if "not_available" in triplets:
        return [*lines, "", f"Drift of the triplets' captions: not available, {triplets['not_available']}."]
    drift = triplets["drift"]
    return [
        *lines,
        "",
        f"Captions of the triplets ({triplets['count']} distinct) drift to a mean cosine of {drift['mean']:.3f} (5 % "
        f"of them below {drift['p5']:.3f}).",
    ]


def _write_interpolation(part: dict, k: int) -> list[str]:
    depths = list(part["rows"][0]["composed"])
    has_captions = part["rows"][0]["captions"] is not None
    head = ["alpha", *(f"composed {_short(depth)}" for depth in depths)]
    head += [f"captions {_short(depth)}" for depth in depths] if has_captions else []
    rows = [
        [
            f"{row['alpha']:g}",
            *(_percent(row["composed"][depth]) for depth in depths),
            *(_percent(row["captions"][depth]) for depth in depths if has_captions),
        ]
        for row in part["rows"]
    ]
    note = "" if has_captions else " Plain captions: not available, the benchmark has none of its targets."
    return [
        "Weights `(1 - alpha) * before + alpha * after`: alpha 0 is the projection alone, alpha 1 the trained tower; "
        f"the prompt is the same for all.{note} `rtd interpolate` saves a model at the alpha you choose.",
        "",
        *_table(head, rows),
        "",
        f"From alpha 0 to 1 composed R@{k} changes by {_change(part['change'])}.",
        "",
        "![Interpolation](interpolation.png)",
    ]


def _write_modality_gap(part: dict, k: int) -> list[str]:
    rows = [
        [
            name,
            f"{words['norm']['mean']:.2f} ± {words['norm']['std']:.2f}",
            f"{words['token_cosine']['mean']:.3f}",
            str(words["distinct_tokens"]),
            ", ".join(f"{token} {100 * share:.0f} %" for token, share in list(words["common_tokens"].items())[:4]),
        ]
        for name, words in part["words"].items()
    ]
    against = [
        [
            name,
            f"{facts['gap']:.3f}",
            _percent(facts["mixing"]),
            "-" if facts["pair_cosine"] is None else f"{facts['pair_cosine']:.3f}",
            "-" if facts["pair_recall@1"] is None else _percent(facts["pair_recall@1"]),
        ]
        for name, facts in part["against_image"].items()
    ]
    norm, rms = part["token_norm"], part["embedding_rms"]
    paired = (
        "Images are targets, texts their captions."
        if part["paired"]
        else "Images are targets, texts the triplets' reference captions; they are no pairs."
    )
    return [
        f"Training reads pseudo-words of texts, search those of images. {paired} Real tokens have norms of "
        f"{norm['mean']:.2f} ± {norm['std']:.2f}; embeddings have an rms of {rms['image']:.3f} (images) and "
        f"{rms['text']:.3f} (texts), to which the noise relates.",
        "",
        *_table(["pseudo-words of", "norm", "cosine with nearest token", "distinct nearest", "most common"], rows),
        "",
        *_table(
            [
                "against images",
                "distance of means / rms",
                "nearest of other kind, %",
                "cosine of pairs",
                "own pair first, %",
            ],
            against,
        ),
        "",
        "Where the two kinds are one cloud, half of the words have a nearest word of the other kind; where they lie "
        "apart, none has.",
        "",
        "![Modality gap](modality_gap.png)",
    ]


def _write_single_modality(part: dict, k: int) -> list[str]:
    after, before = part["groups"]["after"], part["groups"].get("before")
    rows = [
        [
            name,
            _percent(after[name]["share"]),
            *(
                [
                    "-" if group[name]["composed"] is None else _percent(group[name]["composed"])
                    for group in (before, after)
                    if group
                ]
            ),
        ]
        for name in after
        if name != "lost"
    ]
    composed = [f"composed R@{k} before, %", f"composed R@{k} after, %"] if before else [f"composed R@{k}, %"]
    depths = list(part["recall"]["composed"])
    recalls = [[name, *(_percent(recall[depth]) for depth in depths)] for name, recall in part["recall"].items()]
    return [
        "The condition alone (text), the reference alone (image), their plain sum, and composed queries. What "
        "`neither` side finds alone is what needs composition.",
        "",
        *_table(["query", *(f"{_short(depth)}, %" for depth in depths)], recalls),
        "",
        *_table([f"found alone by (k = {k})", "share of queries, %", *composed], rows),
        "",
        f"{_percent(after['lost'])} % of the queries are found by one side alone and missed by the composed query.",
        "",
        "![Single modality](single_modality.png)",
    ]


def _write_conditions(part: dict, k: int) -> list[str]:
    rows = [
        [
            name,
            _percent(facts["recall_after"]),
            _points(facts),
            f"{facts['gained']} / {facts['lost']}",
            f"{facts['p_value']:.2g}",
            f"{facts['median_rank_before']:g} to {facts['median_rank_after']:g}",
            f"{facts['better']} / {facts['worse']}",
            _percent(facts["same_first"]),
            f"{facts['cosine']:.3f}",
        ]
        for name, facts in part["variants"].items()
    ]
    whole = next(iter(part["variants"].values()))
    examples = [
        f"- {name}: " + ("nothing" if facts["example"][1] is None else f"`{facts['example'][1]}`")
        for name, facts in part["variants"].items()
    ]
    head = ["conditions", f"R@{k}, %", "change, points", "gained / lost", "p", "median rank", "better / worse"]
    missing = [] if part["has_paraphrases"] else ["Paraphrases: not available, the benchmark has none.", ""]
    return [
        f"The same queries with edited conditions, against R@{k} {_percent(whole['recall_before'])} with conditions "
        "as they are; targets stay what they were. A paraphrase should change nothing. A negated or contradictory "
        "condition that still finds the target is one whose `not` was not read. Empty is the prompt of the reference "
        "alone.",
        "",
        *missing,
        *_table([*head, "same first image, %", "cosine"], rows),
        "",
        f"The first condition, `{whole['example'][0]}`, became:",
        "",
        *examples,
        "",
        "![Conditions](conditions.png)",
    ]


def _write_wordings(part: dict, k: int) -> list[str]:
    return [
        "Queries of one change by its kind and by how it is worded; those of two changes are one group.",
        "",
        *write_wordings(part["groups"], k),
    ]


def _write_triplets(part: dict, k: int) -> list[str]:
    texts, similarity = part["texts"], part["similarity"]
    shares = {
        "repeats of an earlier triplet": texts["duplicates"],
        "same reference and condition, several targets": texts["ambiguous"],
        "reference equals target": texts["unchanged"],
        "condition equals target": texts["copied"],
        "whole condition stands in the target": texts["condition_in_target"],
        "words of the condition that the target has (mean)": texts["condition_covered"],
        "words that reference and target share (mean)": texts["overlap"],
        "words of the target that neither reference nor condition has (mean)": texts["unexplained"],
        "target closer to the condition than to the reference": similarity["condition_closer"],
        "texts as long as the text tower takes, or cut": part["fill_the_tower"],
    }
    lengths = [
        [
            name,
            f"{words['mean']:.1f}",
            f"{words['p5']:g} to {words['p95']:g}",
            f"{words['max']:g}",
            _percent(texts["distinct"][name]),
        ]
        for name, words in texts["words"].items()
    ]
    pairs = {name: similarity[f"{name}_target"] for name in ("reference", "condition")}
    common = ", ".join(f"`{text}` {100 * share:.1f} %" for text, share in list(texts["common_conditions"].items())[:5])
    return [
        f"{texts['count']} triplets; {part['embedded']} of them were embedded. Case and punctuation do not count.",
        "",
        *_table(["property", "%"], [[name, _percent(share)] for name, share in shares.items()]),
        "",
        *_table(["column", "words (mean)", "5 % to 95 %", "longest", "distinct, %"], lengths),
        "",
        *(
            f"- Cosine of {name} and target: {values['mean']:.3f} ± {values['std']:.3f} ({values['p5']:.3f} to "
            f"{values['p95']:.3f})."
            for name, values in pairs.items()
        ),
        f"- Most common conditions: {common}.",
        "",
        "![Triplets](triplets.png)",
    ]


_PARTS = {
    "alignment": ("Is the alignment of text and images preserved?", _write_alignment),
    "interpolation": ("What do weights in between trade?", _write_interpolation),
    "modality_gap": ("How far apart are pseudo-words of images and of texts?", _write_modality_gap),
    "single_modality": ("How many queries need composition?", _write_single_modality),
    "conditions": ("Does the model read the condition?", _write_conditions),
    "wordings": ("Which kinds of change and which wordings does it read?", _write_wordings),
    "triplets": ("How good are the triplets?", _write_triplets),
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), "|---" * len(head) + "|", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    # A bar would end the cell.
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _points(change: dict) -> str:
    low, high = change["interval"]
    return f"{100 * change['recall_change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _change(change: dict) -> str:
    counts = f"{change['gained']} gained, {change['lost']} lost, p = {change['p_value']:.2g}"
    return f"{_points(change)} points ({counts})"


def _short(depth: str) -> str:
    return depth.replace("recall", "R")


def _list_facts(about: dict) -> list[str]:
    # Not `if value`: no and zero are facts too.
    return [f"- {name}: {_plain(value)}" for name, value in about.items() if value not in (None, [], {})]


def _plain(value) -> str:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else f"{value}"
