"""What strength, negative text and a second reference do, measured where every attribute of every image is known."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.functional import normalize

from modeling_rtd import RTDModel, RTDProcessor, encode_images, exclude_text, join_references, weigh_condition
from trainer.evaluation.diagnosis.rank_changes import compare_ranks
from trainer.evaluation.metrics import relevance, target_ranks
from trainer.evaluation.ranking import membership, rank_gallery
from trainer.worlds.small_world import build_benchmark, find_preset
from trainer.worlds.small_world.scenes import ATTRIBUTES, Scene, render_scene


__all__ = ["QueryStudy", "format_study", "run_query_study"]

STRENGTHS = tuple(i / 10 for i in range(11))
NEGATIVE_WEIGHTS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
SECOND_WEIGHTS = (0.0, 0.1, 0.25, 0.5)
_K = 5
_NUMBERS = {1: "one object", 2: "two objects", 3: "three objects"}


class QueryStudy:
    """Queries of the small world, varied by the query algebra.

    Args:
        model ([`RTDModel`]): Trained on this world.
        processor ([`RTDProcessor`]): Its processor.
        preset (`str`, defaults to `"demo"`): Size of the world.
        split (`str`, defaults to `"test"`): `"test"` or `"validation"`.
    """

    @torch.no_grad()
    def __init__(self, model: RTDModel, processor: RTDProcessor, preset: str = "demo", split: str = "test"):
        self.model, self.processor = model, processor
        benchmark = build_benchmark(preset, split)
        self.preset, self.queries = find_preset(preset), benchmark.queries
        self.gallery_ids = benchmark.gallery["id"][:]
        columns = [benchmark.gallery[name][:] for name in ATTRIBUTES]
        self.scenes = [Scene(*row) for row in zip(*columns, strict=True)]
        self.place = {name: row for row, name in enumerate(self.gallery_ids)}
        self.images = benchmark.gallery["image"]
        self.gallery = encode_images(model, processor, self.images, desc="Encoding the gallery")
        self.references = [Scene(**row) for row in self.queries["reference_scene"]]
        self.targets = [self.scenes[self.place[names[0]]] for names in self.queries["target_ids"]]
        self.conditions = self.queries["condition"][:]
        self.composed = self.compose(self.queries["reference_image"], self.conditions)
        self.ranking, self.ranks = self.rank(self.composed)

    @torch.no_grad()
    def compose(self, images: Sequence[Image.Image], conditions: Sequence[str]) -> torch.Tensor:
        """Compose references and conditions; an empty condition gives the prompt of the reference alone."""
        rows = []
        for start in range(0, len(conditions), 64):
            part = slice(start, start + 64)
            prompts = self.processor.pad(self.processor.build_prompts(conditions[part])[0])
            pixels = self.processor.prepare_images(list(images[part]))
            rows.append(self.model.get_composed_features(**prompts, pixel_values=pixels).pooler_output)
        return normalize(torch.cat(rows).float(), dim=-1)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Read plain texts by the text tower from before RTD."""
        return normalize(self.model.get_text_features(**self.processor(text=list(texts))).pooler_output, dim=-1)

    def rank(self, embeds: torch.Tensor, left_out: Sequence[Sequence[str]] | None = None) -> tuple:
        """Rank the gallery without some images of each query: the ranking, and the rank of each best target."""
        allowed = None if left_out is None else ~membership(left_out, self.gallery_ids)
        ranking = rank_gallery((embeds.double() @ self.gallery.double().T).float().numpy(), allowed)
        return ranking, target_ranks(relevance(ranking, self.gallery_ids, self.queries["target_ids"][:]))

    def judge(self, embeds: torch.Tensor, base: np.ndarray, left_out=None, unwanted: Sequence | None = None) -> dict:
        """Judge queries by their targets, and by the attributes of what they show first.

        Args:
            embeds (`torch.Tensor` of shape `(num_queries, dim)`): Queries.
            base (`np.ndarray` of shape `(num_queries,)`): Ranks of the best targets to compare with.
            left_out (`list[list[str]]`, *optional*): Gallery ids that each query leaves out.
            unwanted (`list[tuple | None]`, *optional*): Attribute and value that each query does not want.

        Returns:
            `dict`: `recall@1`, `recall@5`, `recall@10`; the `change` of recall@5 with its 95 % `interval`; among the
            first five, the shares `obeyed` of changed attributes with the wanted value, `kept` of the others with the
            reference's, and `unwanted` of images that show what is not wanted.
        """
        ranking, ranks = self.rank(embeds, left_out)
        shown = [[self.scenes[place] for place in row[:_K]] for row in ranking]
        obeyed, kept, bad = [], [], []
        for row, scenes in enumerate(shown):
            changed, target = set(self.queries[row]["changed"]), self.targets[row]
            equal = np.array([[ours == theirs for ours, theirs in zip(s, target, strict=True)] for s in scenes])
            marked = np.array([name in changed for name in ATTRIBUTES])
            obeyed.append(equal[:, marked].mean())
            kept.append(equal[:, ~marked].mean())  # what is not changed is the reference's in the target too
            if unwanted is not None and unwanted[row] is not None:
                name, value = unwanted[row]
                bad.append(np.mean([getattr(scene, name) == value for scene in scenes]))
        change = compare_ranks(base, ranks, _K)
        facts = {f"recall@{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}
        facts |= {"change": change["recall_change"], "interval": change["interval"]}
        facts |= {"obeyed": float(np.mean(obeyed)), "kept": float(np.mean(kept))}
        return facts | ({"unwanted": float(np.mean(bad))} if bad else {})

    def vary_strength(self) -> dict[str, dict]:
        """Weigh conditions against their references."""
        alone = self.compose(self.queries["reference_image"], [""] * len(self.conditions))
        return {f"{s:g}": self.judge(weigh_condition(alone, self.composed, s), self.ranks) for s in STRENGTHS}

    def vary_negative(self, kind: str, seed: int = 0) -> dict[str, dict]:
        """Exclude an attribute that each query does not want.

        Args:
            kind (`str`):
                `"old"`: what the reference has and the condition changes. `"seen"`: what the first wrong result has
                and the target has not, as someone would say who looks at the results.
            seed (`int`, defaults to 0): Which attribute, where there are several.

        Returns:
            `dict[str, dict]`: Results by weight, and `in the condition`, where it is said there instead.
        """
        rng = np.random.default_rng(seed)
        find = {"old": self._find_old, "seen": self._find_seen}[kind]
        unwanted = [find(row, rng) for row in range(len(self.conditions))]
        texts = ["" if one is None else _say(*one) for one in unwanted]
        negatives = self.read([text or "a" for text in texts])
        facts = {}
        for weight in NEGATIVE_WEIGHTS:
            weights = [weight if text else 0.0 for text in texts]
            embeds = exclude_text(self.composed, negatives, weights)
            facts[f"{weight:g}"] = self.judge(embeds, self.ranks, unwanted=unwanted)
        said = [f"{c} and is not {t}" if t else c for c, t in zip(self.conditions, texts, strict=True)]
        embeds = self.compose(self.queries["reference_image"], said)
        facts["in the condition"] = self.judge(embeds, self.ranks, unwanted=unwanted)
        return facts

    def _find_old(self, row: int, rng: np.random.Generator) -> tuple | None:
        reference = self.references[row]
        return _pick(rng, [(n, getattr(reference, n)) for n in self.queries[row]["changed"] if getattr(reference, n)])

    def _find_seen(self, row: int, rng: np.random.Generator) -> tuple | None:
        target = self.targets[row]
        wrong = next((self.scenes[i] for i in self.ranking[row][:_K] if self.scenes[i] != target), target)
        pairs = zip(ATTRIBUTES, wrong, target, strict=True)
        return _pick(rng, [(name, ours) for name, ours, theirs in pairs if ours != theirs and ours])

    def vary_second_reference(self, kind: str, seed: int = 0) -> dict[str, dict]:
        """Give each query a second reference, composed with the same condition.

        Args:
            kind (`str`):
                `"same"`: another picture of the reference's scene. `"other"`: another object, for which the condition
                is true already. `"near"`: an image that differs from the target in one attribute or two. The last two
                are of the gallery, and left out of the ranking, also where their weight is 0.
            seed (`int`, defaults to 0): Of the drawing.

        Returns:
            `dict[str, dict]`: Results by the weight of the second reference; the first has the rest.
        """
        if kind == "same":
            rng, left_out = np.random.default_rng(seed), None
            size = self.preset.image_size_px
            images = [Image.open(io.BytesIO(render_scene(scene, size, rng))) for scene in self.references]
        else:
            # Of a subset the last is another object, and before it stand three near misses.
            names = [names[-1 if kind == "other" else -2] for names in self.queries["subset_ids"]]
            images, left_out = [self.images[self.place[name]] for name in names], [[name] for name in names]
        second = self.compose(images, self.conditions)
        base = self.rank(self.composed, left_out)[1]
        facts = {}
        for weight in SECOND_WEIGHTS:
            pairs = zip(self.composed, second, strict=True)
            embeds = torch.stack([join_references(torch.stack(pair), [1 - weight, weight]) for pair in pairs])
            facts[f"{weight:g}"] = self.judge(embeds, base, left_out)
        return facts


def _pick(rng: np.random.Generator, options: list) -> tuple | None:
    return options[int(rng.integers(len(options)))] if options else None


def _say(name: str, value) -> str:
    if name == "count":
        return _NUMBERS[value]
    if name == "background":
        return f"a thing on a {value} background"
    return f"a {value}" if name in ("shape", "extra") else f"a {value} object"


_TITLES = {
    "strength": ("Strength", "strength"),
    "negative_old": ("Negative text: what the condition changes", "weight"),
    "negative_seen": ("Negative text: what the first wrong result shows", "weight"),
    "second_same": ("Two references: another picture of the same scene", "weight of the second"),
    "second_other": ("Two references: another object, for which the condition is true", "weight of the second"),
    "second_near": ("Two references: a near miss of the target", "weight of the second"),
}


def run_query_study(
    model: RTDModel, processor: RTDProcessor, folder: str | Path, preset: str = "demo", split: str = "test"
) -> dict[str, dict]:
    """Measure all of the query algebra in the small world.

    Args:
        model ([`RTDModel`]): Trained on this world.
        processor ([`RTDProcessor`]): Its processor.
        folder (`str` or `Path`): Where `queries.json`, `queries.md` and `queries.png` are written.
        preset (`str`, defaults to `"demo"`): Size of the world.
        split (`str`, defaults to `"test"`): `"test"` or `"validation"`.

    Returns:
        `dict[str, dict]`: Results by part and setting, see [`QueryStudy`].
    """
    study = QueryStudy(model, processor, preset, split)
    parts = {"strength": study.vary_strength()}
    parts |= {f"negative_{kind}": study.vary_negative(kind) for kind in ("old", "seen")}
    parts |= {f"second_{kind}": study.vary_second_reference(kind) for kind in ("same", "other", "near")}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "queries.json").write_text(json.dumps(parts, indent=1))
    (folder / "queries.md").write_text(format_study(parts))
    _draw(parts, folder / "queries.png")
    return parts


def format_study(parts: dict[str, dict]) -> str:
    """Format the results as tables.

    Args:
        parts (`dict[str, dict]`): What [`run_query_study`] returns.

    Returns:
        `str`: Markdown; percent.
    """
    lines = []
    for part, rows in parts.items():
        title, setting = _TITLES[part]
        columns = ["recall@1", "recall@5", "recall@10", "obeyed", "kept"]
        columns += ["unwanted"] if "unwanted" in next(iter(rows.values())) else []
        lines += ["", f"### {title}", "", f"| {' | '.join([setting, *columns, 'change of recall@5'])} |"]
        lines.append("|---" * (len(columns) + 2) + "|")
        for name, facts in rows.items():
            low, high = facts["interval"]
            change = f"{100 * facts['change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            lines.append(f"| {' | '.join([name, *(f'{100 * facts[c]:.1f}' for c in columns), change])} |")
    return "\n".join([*lines[1:], ""])


def _draw(parts: dict[str, dict], path: Path) -> None:
    figure = Figure(figsize=(13.5, 7), layout="constrained")
    for axis, (part, rows) in zip(figure.subplots(2, 3).flat, parts.items(), strict=True):
        title, setting = _TITLES[part]
        points = {float(name): facts for name, facts in rows.items() if name[0].isdigit()}
        shown = {
            "recall@5": "recall@5",
            "obeyed": "wanted changes, in the first 5",
            "kept": "the rest as in the reference",
        }
        if "unwanted" in next(iter(points.values())):
            shown["unwanted"] = "show what is not wanted"
        for number, (column, label) in enumerate(shown.items()):
            heights = [100 * facts[column] for facts in points.values()]
            axis.plot(list(points), heights, marker="o", markersize=3, color=f"C{number}", label=label)
        axis.set(xlabel=setting, ylabel="%", ylim=(0, 100))
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
