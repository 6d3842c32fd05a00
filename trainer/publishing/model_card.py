"""Model cards: recorded facts in, huggingface_hub's own card out; what is not recorded is marked, never guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_rtd import PROJECTIONS, RTDModel, RTDProcessor, has_adapters
from trainer.methods import RTD_PAPER
from trainer.publishing.tables import format_table, write_cell


__all__ = ["PIPELINE_TAG", "CardFacts", "describe_model", "render_card", "write_card"]

# The Hub has a fixed list of tasks, without composed retrieval; the tags have it.
PIPELINE_TAG = "image-feature-extraction"
_TEMPLATE = Path(__file__).parent / "templates/model_card.md"
_UNFILLED = "**[unfilled: {}]**"
_FIRST_ROWS = ("data", "steps", "seconds", "hardware", "seed", "versions")
_HASHES = ("text_model", "vision_model", "projection", "token_lift")
_HIDDEN = ("stage", "rows_per_second")
_NOTES = {"caption_weight": "ours: times the mean of 1 - cosine of plain captions to their own frozen anchors"}


@dataclass(frozen=True)
class CardFacts:
    """All facts of a card.

    Args:
        repo (`str`): Hub id, or the directory's name before it has one.
        projection (`str`): Method of the projection.
        prompt (`str`): Prompt template.
        is_adapter (`bool`): Whether the repository holds an adapter, not a whole model.
        plain_tower (`str`, *optional*):
            Which text tower reads plain text queries, where RTD has trained the one that reads composed ones.
        one_tower (`str`, *optional*): How well that one reads plain text, where it reads both.
        base_model (`str`, *optional*): Hub id of the CLIP underneath; `"none"` where it is not on the Hub.
        license (`str`, *optional*): License of the weights, as the Hub names it.
        stages (`Sequence[Mapping]`): What made the model, see [`read_stages`].
        evaluations (`Sequence[Mapping]`): Records of [`evaluate`].
        diagnosis (`Mapping`, *optional*): What [`run_diagnosis`] found.
        comparison (`Sequence[Mapping]`): Rows of the demo's `metrics.json`.
        without (`Sequence[str]`): What the publisher says was not measured: `"evaluation"`, `"alignment"`.
        picture (`str`, *optional*): File of the repository that shows queries and what is found.
        license_name (`str`, *optional*): Name of a license that the Hub does not list (`license` is `"other"`).
        license_link (`str`, *optional*): Address of that license.
        exports_onnx (`bool`, defaults to `False`): Whether `rtd export` writes the model as ONNX files.
    """

    repo: str
    projection: str
    prompt: str
    is_adapter: bool
    plain_tower: str | None = None
    one_tower: str | None = None
    base_model: str | None = None
    license: str | None = None
    stages: Sequence[Mapping] = ()
    evaluations: Sequence[Mapping] = ()
    diagnosis: Mapping | None = None
    comparison: Sequence[Mapping] = ()
    without: Sequence[str] = ()
    picture: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    exports_onnx: bool = False

    @cached_property
    def alignment(self) -> Mapping | None:
        """`Mapping`: What training did to the alignment of captions with images, where that was measured."""
        part = (self.diagnosis or {}).get("alignment", {})
        found = part.get("target_captions", part)
        return found if "before" in found else None

    @property
    def unfilled(self) -> dict[str, str]:
        """`dict[str, str]`: Facts that are missing, each with what brings it."""
        nameless = [stage["stage"] for stage in self.stages if not (stage.get("data") or "converted_from" in stage)]
        missing = {
            "license": (self.license is None, "the license of the weights; --license ID"),
            "license_name": (
                self.license == "other" and not (self.license_name and self.license_link),
                "the name and the address of that license; --license-name NAME and --license-link URL",
            ),
            "base_model": (self.base_model is None, "the CLIP underneath; --base-model ID, or none"),
            "stages": (
                not self.stages,
                "how it was made; provenance.json, which runs and `save_rtd_model` write, is not there",
            ),
            "data": (bool(nameless), f"what {' and '.join(nameless)} was trained on; see provenance.json"),
            "evaluation": (
                not self.evaluations and "evaluation" not in self.without,
                "results; --results FILE of `rtd evaluate`, or --without evaluation",
            ),
            "alignment": (
                self.plain_tower is not None and self.alignment is None and "alignment" not in self.without,
                "alignment with images; --results diagnosis.json of `rtd diagnose`, or --without alignment",
            ),
        }
        return {name: text for name, (is_missing, text) in missing.items() if is_missing}


def describe_model(model: RTDModel, processor: RTDProcessor, repo: str, **facts) -> CardFacts:
    """Take from a model what its card states.

    Args:
        model ([`RTDModel`]): The model.
        processor ([`RTDProcessor`]): Its processor.
        repo (`str`): See [`CardFacts`].
        facts: Everything else of [`CardFacts`].

    Returns:
        [`CardFacts`]: For [`render_card`].
    """
    return CardFacts(
        repo=repo,
        projection=model.projection.config.projection_type,
        prompt=processor.prompt_templates[processor.default_template],
        is_adapter=has_adapters(model.text_model),
        plain_tower=_describe_plain_tower(model, facts.get("base_model")),
        one_tower=_describe_one_tower(model),
        exports_onnx=model.config.text_config.model_type == "clip_text_model"
        and tuple(model.projection.consumes) == ("image_embeds",),
        **facts,
    )


def _describe_plain_tower(model: RTDModel, base_model: str | None) -> str | None:
    original = model.config.original_text_model
    if has_adapters(model.text_model):
        return "that of the base, with the adapter switched off"
    if original is None:
        return None
    if original["repo"] is None:
        return f"the one in `{original['subfolder']}`, which this repository carries"
    # The base may have another name on the Hub than where the model was made.
    repo = base_model if original["repo"] == model.config.base_model else original["repo"]
    return f"that of {f'`{repo}`' if repo else 'the CLIP underneath'}, which is fetched from there"


def _describe_one_tower(model: RTDModel) -> str | None:
    original = model.config.original_text_model
    if original is None or original.get("plain_text", True):
        return None
    measured = original.get("measured")
    if not measured:
        return "How well it finds images for plain text was not measured"
    facts = ", ".join(
        f"{name} {100 * value:.1f} %" if isinstance(value, float) else f"{name} {value}"
        for name, value in measured.items()
    )
    return f"Plain captions of targets: {facts}"


def render_card(facts: CardFacts) -> ModelCard:
    """Render a card; facts that are missing appear in it as `[unfilled: ...]`.

    Args:
        facts ([`CardFacts`]): What is known.

    Returns:
        `huggingface_hub.ModelCard`: With metadata, results among them, in the Hub's form.
    """
    base = facts.base_model
    # Without a tower from before RTD, RTD has not trained the model.
    papers = ([RTD_PAPER] if facts.plain_tower else []) + [PROJECTIONS[facts.projection].paper]
    return ModelCard.from_template(
        _write_metadata(facts),
        template_path=str(_TEMPLATE),
        title=facts.repo.rpartition("/")[2],
        repo=facts.repo,
        summary=_write_summary(facts),
        picture=facts.picture,
        exports_onnx=facts.exports_onnx,
        is_adapter=facts.is_adapter,
        base_model=base or _UNFILLED.format(facts.unfilled.get("base_model")),
        base_text="a CLIP that is in this repository only" if base == "none" else _name_base(facts),
        prompt=facts.prompt,
        stages=[_describe_stage(stage) for stage in facts.stages],
        records=[_describe_record(record) for record in facts.evaluations],
        comparison=_describe_comparison(facts.comparison),
        plain_tower=facts.plain_tower,
        one_tower=facts.one_tower,
        alignment=_describe_alignment(facts),
        limits=_list_limits(facts),
        license=f"[{facts.license_name}]({facts.license_link})" if facts.license_name else facts.license,
        unfilled={name: _UNFILLED.format(text) for name, text in facts.unfilled.items()},
        # Figures may be shown on the terms of the data that they are of.
        data_licenses=sorted(
            f"Results on {record['benchmark']}: {record['data']['license'].rstrip('.')}."
            for record in facts.evaluations
        ),
        citation="\n\n".join(paper.bibtex for paper in papers),
    )


def write_card(facts: CardFacts, path: str | Path) -> None:
    """Write a card, and beside it as JSON the facts that it is rendered from.

    Args:
        facts ([`CardFacts`]): What is known.
        path (`str` or `Path`): File of the card, such as `model_cards/rtd-small-world.md`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    render_card(facts).save(path)
    path.with_suffix(".json").write_text(json.dumps(asdict(facts), indent=1) + "\n", encoding="utf-8")


def _write_metadata(facts: CardFacts) -> ModelCardData:
    base = None if facts.base_model == "none" else facts.base_model
    # Of all stages: the projection's data made the model, too.
    named = [name for stage in facts.stages for name in (stage.get("data") or {}).values()]
    results = [
        EvalResult(
            task_type="composed-image-retrieval",
            task_name="Composed image retrieval",
            dataset_type=record["benchmark"],
            dataset_name=record["benchmark"],
            dataset_split=record["split"],
            metric_type=metric,
            metric_name=metric,
            metric_value=_scale(metric, value),
        )
        for record in facts.evaluations
        for metric, value in record["metrics"].items()
    ]
    return ModelCardData(
        model_name=facts.repo.rpartition("/")[2],
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        base_model=base,
        # By this the Hub shows the model in the tree of its base.
        base_model_relation=None if base is None else ("adapter" if facts.is_adapter else "finetune"),
        # Only ids of the Hub, which the page turns into links.
        datasets=sorted({name for name in named if name.count("/") == 1}) or None,
        language="en",
        thumbnail=facts.picture and f"https://huggingface.co/{facts.repo}/resolve/main/{facts.picture}",
        tags=[
            "composed-image-retrieval",
            "image-retrieval",
            "zero-shot",
            "clip",
            facts.projection.replace("_", "-"),
            *(["rtd"] if facts.plain_tower else []),
            *(["peft", "lora"] if facts.is_adapter else ["sentence-transformers"]),
        ],
        eval_results=results or None,
    )


def _name_base(facts: CardFacts) -> str:
    return f"`{facts.base_model}`" if facts.base_model else "a CLIP"


def _write_summary(facts: CardFacts) -> str:
    base = "a CLIP of its own" if facts.base_model == "none" else _name_base(facts)
    paper = PROJECTIONS[facts.projection].paper
    text = f"A [{paper.name}]({paper.address}) projection on {base} turns an image into words for its text tower"
    if facts.plain_tower is None:
        return f"{text}."
    return f"{text}, and [RTD]({RTD_PAPER.address}) has taught that tower to compose."


def _describe_stage(stage: Mapping) -> dict:
    """Order the facts of a stage: what matters to all first, then its settings, then hashes."""
    # Off, as published: two settings without effect would only puzzle.
    unused = () if stage.get("caption_weight") else ("caption_weight", "caption_interval")
    settings = [name for name in stage if name not in (*_FIRST_ROWS, *_HASHES, *_HIDDEN, *unused)]
    order = (*_FIRST_ROWS, *sorted(settings), *_HASHES)
    rows = [(_name(name, stage[name]), _format(stage[name])) for name in order if stage.get(name) is not None]
    name = stage["stage"]
    title = RTD_PAPER.name if name == "rtd" else PROJECTIONS[name].paper.name if name in PROJECTIONS else name
    brief = [f"{stage['steps']:,} steps"] if stage.get("steps") else []
    brief += [f"{stage['seconds'] / 60:.1f} min"] if stage.get("seconds") else []
    return {"title": title, "brief": f": {', '.join(brief)}" if brief else "", "rows": rows}


def _name(name: str, value) -> str:
    if name in _NOTES:
        return f"{name} ({_NOTES[name]})"
    return f"{name.removesuffix('_sha256')} (SHA-256)" if _is_hash(value) else name


def _is_hash(value) -> bool:
    return isinstance(value, str) and len(value) == 64


def _format(value) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_format(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_format, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    text = write_cell(str(value))
    return f"`{text}`" if "$" in text or "{" in text or _is_hash(text) else text


def _scale(metric: str, value: float) -> float:
    return round(value if _is_rank(metric) else 100 * value, 2)


def _is_rank(metric: str) -> bool:
    return metric.endswith("_rank")


def _is_drawn(record: Mapping) -> bool:
    # A record is JSON: it has the license of its benchmark, and not the declaration.
    return record["data"]["license"].endswith("drawn by this package")


def _describe_record(record: Mapping) -> dict:
    columns = {"": record["metrics"], **{f" ({part})": scores for part, scores in record["parts"].items()}}
    numbers = [f"{title}: {n['queries']} queries, {n['gallery']} images" for title, n in record["numbers"].items()]
    verdict = "In the published protocol." if record["comparable"] else "Not comparable with published numbers: "
    if _is_drawn(record):
        verdict = "A drawn toy world: these numbers say nothing about photographs."
    elif not record["comparable"]:
        verdict += "; ".join(record["deviations"]) + "."
    return {
        "title": f"{record['benchmark']}, {record['split']}",
        "rows": [
            (f"{metric}{part}", f"{_scale(metric, value):.2f}{'' if _is_rank(metric) else ' %'}")
            for part, scores in columns.items()
            for metric, value in scores.items()
        ],
        "queries": "; ".join(numbers),
        "verdict": verdict,
        "protocol": _format(record["protocol"]),
    }


def _describe_comparison(rows: Sequence[Mapping]) -> dict | None:
    if not rows:
        return None
    seeds = len({row["seed"] for row in rows})
    text = f"Test queries of the demo's world, percent, {seeds} run(s), each with its own training data and networks"
    if seeds > 1:
        text += "; mean ± standard deviation. This model is of the first run"
    return {"text": f"{text}.", "table": format_table(list(rows))}


def _describe_alignment(facts: CardFacts) -> str | None:
    if facts.plain_tower is None or facts.alignment is None:
        return None
    before, after, recall = (facts.alignment[part] for part in ("before", "after", "recall"))
    reader = "That is why plain text queries go to the tower from before"
    if facts.one_tower:
        reader = "Plain text queries still go to the tower from after RTD, the only one in this repository"
    elif facts.is_adapter:
        reader = "That is why plain text queries go to the base, with the adapter switched off"
    # Empty and not missing: a drawn world has no files.
    drawn = "the drawn images of " if facts.diagnosis["about"].get("files") == {} else ""
    about, found = facts.diagnosis["about"], [100 * recall[f"recall_{when}"] for when in ("before", "after")]
    return (
        f"RTD trades plain caption retrieval for composition. On {drawn}{about['benchmark']} ({about['split']}), the "
        f"mean cosine of a plain caption with its own image went from {before['own']:.3f} to {after['own']:.3f}, and "
        f"its margin over any image from {before['margin']:.3f} to {after['margin']:.3f}. Plain captions find their "
        f"image with R@{about['k']} {found[0]:.1f} before and {found[1]:.1f} after. {reader}."
    )


def _list_limits(facts: CardFacts) -> list[str]:
    limits = [
        "It reads English. Models trained on tens of millions of image triplets are more accurate. This one is for "
        "keeping a CLIP index, for training on text alone, and for adapting to a domain.",
        "It inherits the biases and gaps of its CLIP and of the captions it was trained on. It is not for identifying "
        "people.",
        "It reads negations and unusual wordings of a condition only in part.",
    ]
    if any(map(_is_drawn, facts.evaluations)):
        limits.append("Results on a drawn toy world say nothing about photographs.")
    return limits
