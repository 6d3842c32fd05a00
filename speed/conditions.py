"""Measure in the small world what changing conditions in training brings to conditions as people write them.

    PYTHONPATH=. python speed/conditions.py --output_dir runs/one_tower                # three seeds
    PYTHONPATH=. python speed/conditions.py --output_dir runs/one_tower --at_most 2    # two rows more, then stop

Worlds, CLIPs and projections are those of `speed/one_tower.py` in the same folder. Each row is judged on validation
queries with conditions as they are and edited: as `rtd diagnose` edits them, in notes without articles and verbs, and
with a clause that asks for nothing. The wordings of the queries do not occur in training.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from modeling_rtd import write_json
from speed.one_tower import Seed
from trainer.demo.recipes import RECIPES
from trainer.evaluation.diagnosis.condition_edits import CONDITION_EDITS, edit_queries
from trainer.evaluation.diagnosis.rank_changes import compare_ranks
from trainer.evaluation.metrics import relevance, target_ranks
from trainer.training.condition_augmentation import CONDITION_AUGMENTATIONS
from trainer.training.rtd_trainer import RTDTrainer


__all__ = ["VARIANTS", "format_table", "main"]

_BASE = "RTD as published"
_RECOMMENDED = "rewording,negation,irrelevant_clause,dropped_words,typo"
_KEPT = {"caption_weight": 10, "caption_interval": 8}
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
    **CONDITION_EDITS,
}


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
        write_json(self.file, self.rows)
        print(self.seed, name, {edit: _recall(ranks) for edit, ranks in self.rows[name]["ranks"].items()}, flush=True)


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
    edits = list(seeds[0][base]["ranks"])
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


def main(arguments: list[str] | None = None) -> None:
    """Train and judge what is not there yet, and print the table.

    Args:
        arguments (`list[str]`, *optional*): Command line; that of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--at_most", type=int, default=10**6, help="rows to add before the run stops")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/one_tower"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    left = options.at_most
    seeds = [_Conditions(options.preset, seed, options.output_dir, "conditions.json") for seed in options.seeds]
    for seed in seeds:
        missing = [name for name in dict.fromkeys((_BASE, *options.variants)) if name not in seed.rows][:left]
        if missing:
            seed.prepare()
        for name in missing:
            seed.measure(name)
        left -= len(missing)
    print(format_table([seed.rows for seed in seeds if _BASE in seed.rows]))


if __name__ == "__main__":
    main()
