"""Measure in the small world what changing conditions in training brings to conditions as people write them.

    PYTHONPATH=. python speed/conditions.py --output_dir runs/one_tower                # three seeds
    PYTHONPATH=. python speed/conditions.py --output_dir runs/one_tower --at_most 2    # two rows more, then stop

Worlds, CLIPs and projections are those of `speed/one_tower.py` in the same folder. Each row is judged on validation
queries with conditions as they are and edited: as `rtd diagnose` edits them, in notes without articles and verbs, and
with a clause that asks for nothing. The wordings of the queries do not occur in training.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch.nn.functional import cosine_similarity
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_rtd import Query, RTDModel, encode_composed, measure_edits, write_json
from speed.one_tower import Seed, measure_missing, read_options
from trainer.evaluation.diagnosis.condition_edits import CONDITION_EDITS, edit_queries
from trainer.evaluation.diagnosis.rank_changes import compare_ranks
from trainer.evaluation.metrics import relevance, target_ranks
from trainer.training.condition_augmentation import CONDITION_AUGMENTATIONS
from trainer.training.rtd_trainer import RTDTrainer


__all__ = ["VARIANTS", "format_moves", "format_table", "main"]

_BASE = "RTD as published"
_RECOMMENDED = "rewording,negation,irrelevant_clause,dropped_words,typo"
_KEPT = {"caption_weight": 2, "caption_interval": 8}
VARIANTS: dict[str, dict] = {
    _BASE: {},
    **{name: {"condition_augmentation": name} for name in CONDITION_AUGMENTATIONS},
    "all": {"condition_augmentation": ",".join(CONDITION_AUGMENTATIONS)},
    "recommended": {"condition_augmentation": _RECOMMENDED},
    "captions kept": _KEPT,
    "captions kept, recommended": _KEPT | {"condition_augmentation": _RECOMMENDED},
}
_SMALL = frozenset("a an the is are has have comes shows".split())
_EDITS = {
    "as it is": list,
    "notes": lambda texts: [" ".join(word for word in text.split() if word not in _SMALL) for text in texts],
    "with a clause": lambda texts: [f"{text}, and have a nice evening" for text in texts],
    **{name: edit for name, edit in CONDITION_EDITS.items() if name != "of another query"},
}
_LITTLE = 0.05  # from which on the page says no more that a condition changed little


class _Conditions(Seed):
    def measure(self, name: str) -> None:
        arguments = dict(VARIANTS[name])
        model, seconds = self.train(arguments, False, RTDTrainer)
        self.rows[name] = {"seconds": seconds, "ranks": {}, "to_reference": {}}
        queries, embeds = self.evaluator.benchmark.queries, {}
        variants = {edit: edit_queries(queries, change) for edit, change in _EDITS.items()}
        for paraphrase in queries[0]["paraphrases"]:
            texts = [row[paraphrase] for row in queries["paraphrases"]]
            variants[paraphrase] = edit_queries(queries, lambda _, texts=texts: texts)
        for edit, edited in variants.items():
            evaluator = copy.copy(self.evaluator)
            evaluator.benchmark = dataclasses.replace(evaluator.benchmark, queries=edited)
            embeds[edit] = evaluator.encode_queries(model)
            found = relevance(evaluator.rank(embeds[edit]), evaluator.gallery_ids, queries["target_ids"][:])
            self.rows[name]["ranks"][edit] = target_ranks(found).tolist()
        for edit, rows in embeds.items():
            self.rows[name]["to_reference"][edit] = cosine_similarity(rows, embeds["empty"]).mean().item()
        moved = (1 - cosine_similarity(embeds["as it is"], embeds["empty"])).tolist()
        self.rows[name]["moved"] = {"asked": moved, "fulfilled": self._ask_of_targets(model)}
        write_json(self.file, self.rows)
        print(self.seed, name, {edit: _recall(ranks) for edit, ranks in self.rows[name]["ranks"].items()}, flush=True)

    @torch.no_grad()
    def _ask_of_targets(self, model: RTDModel) -> list[float]:
        """Ask each condition of its target, which fulfils it already, and measure how far that moves the query."""
        queries, place = self.evaluator.benchmark.queries, {n: i for i, n in enumerate(self.evaluator.gallery_ids)}
        rows = [place[ids[0]] for ids in queries["target_ids"]]
        images = self.evaluator.images.gallery[rows][:, None]
        asked = [
            Query(text, features=BaseModelOutputWithPooling(pooler_output=image))
            for text, image in zip(queries["condition"], images, strict=True)
        ]
        return measure_edits(model, self.processor, asked, encode_composed(model, self.processor, asked))


def _recall(ranks: list[int]) -> float:
    return round(100 * float((np.array(ranks) <= 5).mean()), 1)


def format_table(seeds: list[dict[str, dict]], base: str = _BASE) -> str:
    """Write recall@5 by training and edit, and its paired change against a base, as a table.

    Args:
        seeds (`list[dict]`):
            Of each seed its rows by name: `ranks` by edit, and `to_reference`, mean cosines with the query of the
            reference alone.
        base (`str`, defaults to `"RTD as published"`): Row that the others are compared with.

    Returns:
        `str`: Markdown; percent, and the 95 % interval of the change over the queries of all seeds that have a row.
    """
    edits = [edit for edit in seeds[0][base]["ranks"] if edit not in ("empty", "of another query")]
    lines = [
        "| training | " + " | ".join(edits) + " | contradictory: cosine with the reference alone | time | seeds |"
    ]
    lines.append("|---" * (len(edits) + 4) + "|")
    for name in VARIANTS:
        if not (found := [rows for rows in seeds if name in rows]):
            continue
        cells = []
        for edit in edits:
            before, after = (np.concatenate([rows[key]["ranks"][edit] for rows in found]) for key in (base, name))
            change = compare_ranks(before, after, 5)
            low, high = (100 * end for end in change["interval"])
            points = "" if name == base else f" ({100 * change['recall_change']:+.1f}: {low:+.1f} to {high:+.1f})"
            cells.append(f"{100 * change['recall_after']:.1f}{points}")
        cells.append(f"{np.mean([rows[name]['to_reference']['contradictory'] for rows in found]):.2f}")
        cells.append(f"{np.mean([rows[name]['seconds'] / rows[base]['seconds'] for rows in found]):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(found)} |")
    return "\n".join(lines)


def format_moves(seeds: list[dict[str, dict]]) -> str:
    """Write how far conditions moved the query, of references that do not fulfil them and of targets, which do.

    Args:
        seeds (`list[dict]`): Of each seed its rows by name: `moved`, `edit_magnitude` of `asked` and of `fulfilled`.

    Returns:
        `str`: Markdown: medians, percent of either below 0.05, and of the queries whose target moves less.
    """
    lines = ["| training | asked | fulfilled | asked below 0.05 | fulfilled below 0.05 | target moves less |"]
    lines.append("|---" * 6 + "|")
    for name in VARIANTS:
        if found := [rows[name]["moved"] for rows in seeds if name in rows]:
            asked, fulfilled = (np.concatenate([moved[key] for moved in found]) for key in ("asked", "fulfilled"))
            shares = (asked < _LITTLE, fulfilled < _LITTLE, fulfilled < asked)
            cells = [f"{np.median(asked):.2f}", f"{np.median(fulfilled):.2f}"]
            cells += [f"{100 * share.mean():.0f}" for share in shares]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Train and judge what is not there yet, and print the table.

    Args:
        arguments (`list[str]`, *optional*): Command line; that of the process by default.
    """
    options = read_options(__doc__, VARIANTS, arguments)
    torch.set_num_threads(1)
    seeds = [_Conditions(options, seed, "conditions.json") for seed in options.seeds]
    measure_missing(seeds, (_BASE, *options.variants), options.at_most)
    measured = [seed.rows for seed in seeds if _BASE in seed.rows]
    print(format_table(measured), format_moves(measured), sep="\n\n")


if __name__ == "__main__":
    main()
