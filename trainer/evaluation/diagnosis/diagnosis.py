"""Diagnosis: what a model's numbers on a benchmark mean, part by part, as a report with pictures."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from modeling_rtd import RTDModel, RTDProcessor, RTDTextTower, check_path, has_adapters, hash_tensors, write_json
from trainer.data.tables import hash_rows
from trainer.data.triplets import TRIPLET_COLUMNS, load_triplets
from trainer.encoding.captions import encode_captions
from trainer.encoding.noise import draw_noise
from trainer.evaluation.benchmarks import Benchmark
from trainer.evaluation.diagnosis import pictures
from trainer.evaluation.diagnosis.alignment import compute_alignment, compute_cosines, summarise
from trainer.evaluation.diagnosis.condition_edits import CONDITION_EDITS, edit_queries
from trainer.evaluation.diagnosis.modality_gap import compare_modalities, describe_words
from trainer.evaluation.diagnosis.rank_changes import compare_ranks
from trainer.evaluation.diagnosis.report import write_report
from trainer.evaluation.diagnosis.single_modality import compute_single_modality
from trainer.evaluation.diagnosis.triplet_quality import measure_similarity, measure_triplets
from trainer.evaluation.diagnosis.wordings import compute_wordings
from trainer.evaluation.evaluator import RetrievalEvaluator, write_template
from trainer.evaluation.metrics import relevance, target_ranks


__all__ = ["ALPHAS", "find_plain_retrieval", "run_diagnosis"]

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_WORDS, _MOST_TRIPLETS = 1000, 10_000  # more would change no digit that the report shows
_FILE = "diagnosis.json"


class _NotAvailableError(Exception):
    """What a part needs is not there; the message says what."""


def run_diagnosis(
    model: RTDModel,
    processor: RTDProcessor,
    benchmark: Benchmark,
    output_dir: str | Path,
    triplets: str | Path | Dataset | None = None,
    k: int = 5,
    noise_scale: float = 0.5,
    batch_size: int = 64,
    name: str | None = None,
    record: Mapping | None = None,
) -> dict:
    """Diagnose a model on a benchmark, and write `report.md`, `diagnosis.json` and pictures.

    A part whose data are missing is marked `not_available`, with the reason. Beside the columns of [`Benchmark`], the
    queries may have `target_caption` (a plain caption of a target), `paraphrases` (a `dict` of conditions that mean
    the same, by name), and `kind` and `wording`, see [`compute_wordings`].

    Args:
        model ([`RTDModel`]): Model; one that is not trained with RTD has no before and after.
        processor ([`RTDProcessor`]): Its processor.
        benchmark ([`Benchmark`]): Gallery and queries, whose targets must be known.
        output_dir (`str` or `Path`): Folder to write to; an earlier diagnosis in it is replaced.
        triplets (`str`, `Path` or `datasets.Dataset`, *optional*): Text triplets to judge, see [`load_triplets`].
        k (`int`, defaults to 5): Ranks that count as found.
        noise_scale (`float`, defaults to 0.5): Noise on texts in the modality gap, absolute; RTD's published.
        batch_size (`int`, defaults to 64): Images or queries in one pass.
        name (`str`, *optional*): The model's name in the report; where it was loaded from by default.
        record (`Mapping`, *optional*): What `trainer.evaluation.evaluate.make_record` says about the evaluation; the
            report states its protocol, files, missing images and deviations.

    Returns:
        `dict`: What `diagnosis.json` holds: fractions in [0, 1], cosines, and for each part what made it.

    Raises:
        ValueError: If the folder holds something else, `k` is out of range, no query's target is known, or the
            triplets are refused.
    """
    if not isinstance(benchmark, Benchmark):
        raise ValueError(
            f"`benchmark` must be a Benchmark, as load_benchmark gives one, got {benchmark!r:.40} "
            f"({type(benchmark).__name__})."
        )
    check_path(output_dir, "output_dir")
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir()) and not (folder / _FILE).exists()):
        raise ValueError(f"'{folder}' holds something that is not a diagnosis; choose another folder.")
    if not 1 <= k <= len(benchmark.gallery):
        raise ValueError(f"`k` must be between 1 and the size of the gallery ({len(benchmark.gallery)}), got {k}.")
    if not any(benchmark.queries["target_ids"][:]):
        raise ValueError(
            f"the targets of the split '{benchmark.split}' of {benchmark.name} are not public; diagnose on a split "
            "whose targets are."
        )
    # Before anything is encoded: a row without a text is refused at once.
    table = None if triplets is None else load_triplets(triplets)
    folder.mkdir(parents=True, exist_ok=True)
    diagnosis = _Diagnosis(model, processor, benchmark, folder, table, k, noise_scale, batch_size)
    facts = diagnosis.run(name or model.name_or_path or "a model", record)
    if PartialState().is_main_process:
        write_json(folder / _FILE, facts)
        write_report(facts, folder / "report.md")
    return facts


def find_plain_retrieval(facts: Mapping, model: RTDModel, alpha: float = 1.0) -> dict:
    """Find in a diagnosis what it costs that a tower after RTD reads plain text, too.

    Args:
        facts (`Mapping`): What [`run_diagnosis`] returned, or `diagnosis.json` holds.
        model ([`RTDModel`]): The model that was diagnosed.
        alpha (`float`, defaults to 1.0): Of the tower, see [`RTDModel.interpolate_text_model`]; one of [`ALPHAS`].

    Returns:
        `dict`: `benchmark`, and `before` and `after`: the share of target captions that find their image among the
        first `k`. To be passed to [`RTDModel.without_original_text_model`].

    Raises:
        ValueError: If the diagnosis is of another tower, or has no captions of targets or no such alpha.
    """
    about = facts.get("about", {})
    if about.get("text_model_sha256") != hash_tensors(model.text_model):
        raise ValueError("the diagnosis is of another text tower: run `rtd diagnose` on this model.")
    rows = {row["alpha"]: row["captions"] for row in facts["interpolation"].get("rows", ())}
    if not rows or rows[0.0] is None:
        raise ValueError(
            "the diagnosis has no plain captions by both towers: run `rtd diagnose` with --captions, on a model that "
            "keeps the tower from before RTD."
        )
    if alpha not in rows:
        raise ValueError(f"the diagnosis measured the alphas {', '.join(map(str, rows))}, not {alpha}: choose one.")
    k, place = about["k"], f"{about['benchmark']} ({about['split']})"
    return {"benchmark": place, "k": k} | {
        name: rows[at][f"recall@{k}"] for name, at in (("before", 0.0), ("after", alpha))
    }


class _Diagnosis:
    def __init__(self, model, processor, benchmark, folder, triplets, k, noise_scale, batch_size):
        self.model, self.processor, self.folder, self.triplets = model, processor, folder, triplets
        self.k, self.noise_scale = k, noise_scale
        self.evaluator = RetrievalEvaluator(model, processor, benchmark, batch_size)
        self.queries, self.target_ids = benchmark.queries, benchmark.queries["target_ids"][:]
        self.is_tuned, self.missing = True, "the text tower is the one from before RTD"
        try:
            self.has_before = self.is_tuned = model.original_text_model is not model.text_model
        except ValueError as error:
            if model.plain_text_model is not model.text_model:
                raise
            # A model of one tower, whose CLIP underneath cannot be had.
            self.has_before, self.missing = False, str(error).rstrip(".")
        self.one_tower = self.is_tuned and model.plain_text_model is model.text_model

    def run(self, name: str, record: Mapping | None) -> dict:
        parts: dict[str, Callable[[], dict]] = {
            "alignment": self.examine_alignment,
            "interpolation": self.examine_interpolation,
            "modality_gap": self.examine_modality_gap,
            "single_modality": self.examine_single_modality,
            "conditions": self.examine_conditions,
            "wordings": self.examine_wordings,
            "triplets": self.examine_triplets,
        }
        facts = {"about": {"model": name} | self.describe() | _choose_facts(record)}
        for part, examine in tqdm(parts.items(), desc="Diagnosing"):
            try:
                facts[part] = examine()
            except _NotAvailableError as error:
                facts[part] = {"not_available": str(error)}
        return facts

    def describe(self) -> dict:
        benchmark, processor = self.evaluator.benchmark, self.processor
        return {
            "trained_with_rtd": self.is_tuned,
            "one_tower": self.one_tower,
            "is_adapter": has_adapters(self.model.text_model),
            "projection": self.model.projection.config.projection_type,
            "text_model_sha256": hash_tensors(self.model.text_model),
            "projection_sha256": hash_tensors(self.model.projection),
            "benchmark": f"{benchmark.name}/{benchmark.part}" if benchmark.part else benchmark.name,
            "split": benchmark.split,
            "num_queries": len(self.queries),
            "num_gallery": len(self.evaluator.gallery_ids),
            "k": self.k,
            "method": processor.default_template,
            "protocol": dataclasses.asdict(benchmark.protocol)
            | {"template": write_template(processor, benchmark.protocol.template)},
            "noise_scale": self.noise_scale,
            "triplets_sha256": self.triplets and hash_rows(self.triplets, TRIPLET_COLUMNS),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def rank(self, embeds: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Find ranks of best targets and places of first images, since whole rankings are large."""
        ranking = self.evaluator.rank(embeds)
        found = relevance(ranking, self.evaluator.gallery_ids, self.target_ids)
        return target_ranks(found), ranking[:, 0].copy()

    def find_ranks(self, embeds: torch.Tensor) -> np.ndarray:
        return self.rank(embeds)[0]

    def encode(self, tower: RTDTextTower, texts: list[str]) -> torch.Tensor:
        return encode_captions(tower, self.processor, texts, desc=None)

    def draw(self, draw: Callable, name: str, *data) -> None:
        if PartialState().is_main_process:
            # All processes have the same numbers.
            draw(*data, self.folder / name)

    @cached_property
    def captions(self) -> list[str] | None:
        return self.queries["target_caption"][:] if "target_caption" in self.queries.column_names else None

    @cached_property
    def target_places(self) -> list[int | None]:
        """Where the first target of each query is in the gallery."""
        place = {item: i for i, item in enumerate(self.evaluator.gallery_ids)}
        return [next((place[item] for item in ids if item in place), None) for ids in self.target_ids]

    @cached_property
    def sweep(self) -> list[dict]:
        """Composed queries and plain captions by the towers between before and after RTD."""
        if not self.has_before:
            raise _NotAvailableError(self.missing)
        rows = []
        # Kept: five parts of the report read it, and each tower encodes once.
        for alpha in tqdm(ALPHAS, desc="Interpolating", leave=False):
            model = self.model.interpolate_text_model(alpha)
            composed = self.evaluator.encode_queries(model)
            row = {"alpha": alpha, "composed": composed, "composed_ranks": self.find_ranks(composed)}
            if self.captions is not None:
                row["captions"] = normalize(self.encode(model.text_model, self.captions), dim=-1)
                row["caption_ranks"] = self.find_ranks(row["captions"])
            rows.append(row)
        return rows

    @cached_property
    def composed(self) -> torch.Tensor:
        if self.has_before and not self.one_tower:
            return self.sweep[-1]["composed"]
        return self.evaluator.encode_queries(self.model)  # one tower reads contexts too, which the sweep leaves to two

    def examine_alignment(self) -> dict:
        before, after = self.sweep[0], self.sweep[-1]
        facts = {"triplet_captions": self._measure_drift_of_triplets()}
        if self.captions is None:
            if self.triplets is None:
                raise _NotAvailableError("the benchmark has no captions of its targets, and no triplets were given")
            return facts | {"target_captions": {"not_available": "the benchmark has no captions of its targets"}}
        found = [row for row, place in enumerate(self.target_places) if place is not None]
        gallery = self.evaluator.gallery_embeds.numpy()
        images = gallery[[self.target_places[row] for row in found]]
        texts = [row["captions"][found].numpy() for row in (before, after)]
        facts["target_captions"] = compute_alignment(*texts, images, gallery) | {
            "recall": compare_ranks(before["caption_ranks"], after["caption_ranks"], self.k)
        }
        cosines = [compute_cosines(text, images) for text in texts]
        ranks = [row["caption_ranks"] for row in (before, after)]
        self.draw(pictures.draw_alignment, "alignment.png", *cosines, *ranks, compute_cosines(*texts))
        return facts

    def _measure_drift_of_triplets(self) -> dict:
        if self.triplets is None:
            return {"not_available": "no triplets were given"}
        rows = self._sample_triplets()
        captions = sorted({*rows["reference_caption"], *rows["target_caption"]})
        # By interpolation, since at 0 it gives the base of an adapter as a tower of its own.
        before, after = (
            self.encode(self.model.interpolate_text_model(alpha).text_model, captions).numpy() for alpha in (0.0, 1.0)
        )
        return {"count": len(captions), "drift": summarise(compute_cosines(before, after))}

    def examine_interpolation(self) -> dict:
        rows = [
            {
                "alpha": row["alpha"],
                "composed": _count(row["composed_ranks"], self.k),
                "captions": _count(row["caption_ranks"], self.k) if "captions" in row else None,
            }
            for row in self.sweep
        ]
        ends = [row["composed_ranks"] for row in (self.sweep[0], self.sweep[-1])]
        self.draw(pictures.draw_interpolation, "interpolation.png", rows, self.k)
        return {"rows": rows, "change": compare_ranks(*ends, self.k)}

    @torch.no_grad()
    def examine_modality_gap(self) -> dict:
        if self.model.projection.consumes != ("image_embeds",):
            raise _NotAvailableError("this projection reads more of an image than its embedding, which no text has")
        places, texts, paired = self._choose_pairs()
        images = self.evaluator.images.gallery[places]
        captions = self.encode(self.model.plain_text_model, texts)
        noise = self.noise_scale * draw_noise(range(len(captions)), captions.shape[1], seed=0, epoch=0)
        words = {
            "image": self._project(images),
            "text": self._project(captions),
            "text with noise": self._project(captions + noise),
        }
        table = self.model.plain_text_model.get_input_embeddings().weight.detach().float().cpu().numpy()
        tokens = [str(token) for token in self.processor.tokenizer.convert_ids_to_tokens(range(len(table)))]
        self.draw(pictures.draw_modality_gap, "modality_gap.png", words, table)
        return {
            "paired": paired,
            "embedding_rms": {
                "image": images.square().mean().sqrt().item(),
                "text": captions.square().mean().sqrt().item(),
            },
            "token_norm": summarise(np.linalg.norm(table, axis=1)),
            "words": {name: describe_words(rows, table, tokens) for name, rows in words.items()},
            "against_image": {
                name: compare_modalities(words["image"], words[name], paired) for name in ("text", "text with noise")
            },
        }

    def _choose_pairs(self) -> tuple[list[int], list[str], bool]:
        """Choose gallery images and texts, those of the same row a pair where the benchmark has captions."""
        first_rows = {}  # no image twice
        for row, place in enumerate(self.target_places):
            if place is not None:
                first_rows.setdefault(place, row)
        places = _spread(list(first_rows), _MOST_WORDS)
        if self.captions is not None:
            return places, [self.captions[first_rows[place]] for place in places], True
        if self.triplets is None:
            raise _NotAvailableError("the benchmark has no captions of its targets, and no triplets were given")
        return places, _spread(self.triplets["reference_caption"][:], len(places)), False

    def _project(self, embeds: torch.Tensor) -> np.ndarray:
        projection = self.model.projection
        words, _ = projection(image_embeds=embeds.to(projection.device, projection.dtype))
        return words.flatten(0, 1).float().cpu().numpy()

    def examine_single_modality(self) -> dict:
        embeds = {mode: self.evaluator.encode_queries(self.model, mode) for mode in ("text", "image", "sum")}
        ranks = {mode: self.find_ranks(rows) for mode, rows in embeds.items()} | {
            "composed": self.find_ranks(self.composed)
        }
        groups = {"after": compute_single_modality(ranks["text"], ranks["image"], ranks["composed"], self.k)}
        if self.has_before:
            ranks["composed before RTD"] = self.sweep[0]["composed_ranks"]
            groups["before"] = compute_single_modality(
                ranks["text"], ranks["image"], ranks["composed before RTD"], self.k
            )
        self.draw(pictures.draw_single_modality, "single_modality.png", groups, self.k)
        return {"recall": {name: _count(values, self.k) for name, values in ranks.items()}, "groups": groups}

    def examine_conditions(self) -> dict:
        variants = {name: edit_queries(self.queries, edit) for name, edit in CONDITION_EDITS.items()}
        if "paraphrases" in self.queries.column_names:
            rows = self.queries["paraphrases"][:]
            texts = {name: [row[name] for row in rows] for name in rows[0]}
            # Bound as a default: all closures of the loop would see the last texts.
            variants = {name: edit_queries(self.queries, lambda _, t=t: t) for name, t in texts.items()} | variants
        ranks, first = self.rank(self.composed)
        facts = {}
        for name, edited in variants.items():
            embeds = self._compose(edited)
            ranks_after, first_after = self.rank(embeds)
            facts[name] = compare_ranks(ranks, ranks_after, self.k) | {
                "example": [queries[0]["condition"] for queries in (self.queries, edited)],
                "cosine": float(compute_cosines(self.composed.numpy(), embeds.numpy()).mean()),
                "same_first": float((first_after == first).mean()),
            }
        self.draw(pictures.draw_conditions, "conditions.png", facts, self.k)
        return {"has_paraphrases": "paraphrases" in self.queries.column_names, "variants": facts}

    def examine_wordings(self) -> dict:
        ranks = {"before": self.sweep[0]["composed_ranks"]} if self.has_before else {}
        ranks["after"] = self.find_ranks(self.composed)
        groups = {name: compute_wordings(self.queries, values, self.k) for name, values in ranks.items()}
        if not groups["after"]:
            raise _NotAvailableError("the benchmark does not name the wording of its conditions")
        return {"groups": groups}

    def _compose(self, queries: Dataset) -> torch.Tensor:
        """Compose the same references with other conditions."""
        evaluator = copy.copy(self.evaluator)  # shares the encoded images
        evaluator.benchmark = dataclasses.replace(self.evaluator.benchmark, queries=queries)
        return evaluator.encode_queries(self.model)

    def _sample_triplets(self) -> Dataset:
        return self.triplets.select(_spread(range(len(self.triplets)), _MOST_TRIPLETS))

    def examine_triplets(self) -> dict:
        if self.triplets is None:
            raise _NotAvailableError("no triplets were given")
        texts = measure_triplets(*(self.triplets[name][:] for name in TRIPLET_COLUMNS))
        sample = self._sample_triplets()
        tower = self.model.plain_text_model
        embeds = [self.encode(tower, sample[name][:]).numpy() for name in TRIPLET_COLUMNS]
        kept, asked = (compute_cosines(column, embeds[2]) for column in embeds[:2])
        names = ("reference", "condition", "target")
        lengths = {
            name: [len(text.split()) for text in sample[column]]
            for name, column in zip(names, TRIPLET_COLUMNS, strict=True)
        }
        self.draw(pictures.draw_triplets, "triplets.png", lengths, kept, asked)
        # Without start and end of text.
        longest = self.processor.max_length - 2
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*the end of the text is cut off")
            tokens = [len(row) - 2 for name in TRIPLET_COLUMNS for row in self.processor.tokenize_texts(sample[name])]
        return {
            "texts": texts,
            "embedded": len(sample),
            "similarity": measure_similarity(*embeds),
            "fill_the_tower": float(np.mean([length >= longest for length in tokens])),
        }


def _choose_facts(record: Mapping | None) -> dict:
    if record is None:
        return {}
    named = {name: record[name] for name in ("protocol", "deviations", "missing_images")}
    return named | {"files": record["data"]["files"]}


def _spread(items, most: int) -> list:
    """Take at most so many items, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int).tolist()]


def _count(ranks: np.ndarray, k: int) -> dict[str, float]:
    """Count the queries found: recall at 1, `k` and 10."""
    return {f"recall@{depth}": float((ranks <= depth).mean()) for depth in sorted({1, k, 10})}
