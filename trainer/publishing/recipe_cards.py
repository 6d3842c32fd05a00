"""Recipe cards: how a checkpoint that nobody has published yet is made, and what is known of its projection.

`python -m trainer.publishing.recipe_cards` writes all cards of the folder `model_cards` again.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData

from modeling_rtd import suggest
from trainer.publishing.citations import PAPERS, write_bibtex
from trainer.publishing.model_card import PIPELINE_TAG, CardFacts, render_card


__all__ = ["RECIPE_NAMES", "render_cards", "render_recipe_card"]

_HERE = Path(__file__).parent
_BACKBONES = {"vitb32": "ViT-B/32", "vitl": "ViT-L/14", "vith": "ViT-H/14", "vitg": "ViT-G/14"}
_PLACES = ("model", "projection", "projection_from", "original_text_model", "output_dir")
# What each method's projection is trained on, beside the CLIP.
_TRAINING = {
    "lincir": "--captions captions.txt --recipe lincir",
    "searle": "--images DIR --concepts names.txt --phrases lm --phrase-model EleutherAI/gpt-neo-2.7B",
    "pic2word": "--images DIR",
    "context_i2w": "--images DIR --captions captions.jsonl",
    "fti4cir": "--images DIR --captions captions.jsonl",
}
_ELSEWHERE = {("vitl", "context_i2w"), ("vitl", "fti4cir"), ("vitb32", "fti4cir")}

RECIPE_NAMES = tuple(sorted(path.stem for path in (_HERE.parent / "configs").glob("rtd-*.yaml")))


def render_recipe_card(name: str) -> str:
    """Render the card of a recipe.

    Args:
        name (`str`): One of `RECIPE_NAMES`.

    Returns:
        `str`: Markdown.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in RECIPE_NAMES:
        raise ValueError(suggest("recipe", name, RECIPE_NAMES))
    recipe = yaml.safe_load((_HERE.parent / f"configs/{name}.yaml").read_text(encoding="utf-8"))
    backbone, method = name.split("-")[1], recipe["projection_from"]
    figures = _list_figures(backbone, method)
    is_published = (backbone, method) == ("vitl", "lincir")
    card = ModelCard.from_template(
        ModelCardData(
            license="apache-2.0",
            library_name="transformers",
            pipeline_tag=PIPELINE_TAG,
            base_model=recipe["model"],
            base_model_relation="finetune",
            language="en",
            tags=["composed-image-retrieval", "zero-shot", "clip", "rtd", method.replace("_", "-"), "recipe"],
        ),
        template_path=str(_HERE / "templates/recipe_card.md"),
        name=name,
        rtd_arxiv=PAPERS["rtd"].arxiv,
        backbone=_BACKBONES[backbone],
        clip=recipe["model"],
        method=PAPERS[method].name,
        arxiv=PAPERS[method].arxiv,
        commands=_list_commands(name, backbone, recipe),
        projection_text=_write_projection_text(backbone, recipe),
        data_text=_write_data_text(method),
        settings=[(setting, value) for setting, value in recipe.items() if setting not in _PLACES],
        recipe_text="This is RTD's published recipe."
        if is_published
        else "RTD's recipe is published for ViT-L/14 over LinCIR only; its values are used here unchanged.",
        figures=figures,
        has_genecis=any(row["title"].startswith("GeneCIS") for row in figures),
        citation="\n\n".join(write_bibtex(paper) for paper in ("rtd", method)),
    )
    return f"{card}".rstrip() + "\n"


def _list_commands(name: str, backbone: str, recipe: dict) -> list[str]:
    method, folder, commands = recipe["projection_from"], recipe["output_dir"], []
    train = f"rtd train --recipe {name} --triplets triplets.jsonl"
    if "projection" not in recipe:
        place = f"runs/{method}-{backbone}"
        commands.append(
            f"rtd train-projection --clip {recipe['model']} --method {method} {_TRAINING[method]} --output-dir {place}"
        )
        train += f" --projection {place}/model"
    if method in ("context_i2w", "fti4cir"):
        train += " --images DIR"
    record, submission = f"runs/evaluate/{name}", f"runs/submit/{name}"
    return [
        *commands,
        train,
        f"rtd evaluate {folder}/model --benchmark cirr,circo,fashioniq,genecis --root data --output-dir {record}",
        f"rtd submit {folder}/model --benchmark cirr --root data/cirr --output-dir {submission}",
        f"rtd submit {folder}/model --benchmark circo --root data/circo --output-dir {submission}",
        f"rtd publish {folder}/model org/{name} --license ID --results {record}/*.json --without alignment",
    ]


def _write_projection_text(backbone: str, recipe: dict) -> str:
    name = PAPERS[recipe["projection_from"]].name
    if "projection" in recipe:
        return (
            f"The projection of {name} is published as `{recipe['projection']}`. It is fetched by name, read without "
            "running anything that it holds, and checked against the CLIP tensor by tensor; its SHA-256 is recorded. "
            "`--projection DIR` takes another one."
        )
    if (backbone, recipe["projection_from"]) in _ELSEWHERE:
        return (
            f"{name}'s authors publish a file for this backbone where a program cannot fetch it by name. With that "
            "file, `--projection FILE` takes the place of the first command."
        )
    text = f"No file of {name}'s projection for this backbone is published by name, so it is trained first."
    if recipe["projection_from"] == "lincir":
        text += " `--recipe lincir` finds keywords as published, with spaCy's English model; without it, by a lexicon."
    return text


def _write_data_text(method: str) -> str:
    if method in ("context_i2w", "fti4cir"):
        return (
            "This projection reads image tokens, which text does not have: `--images` names a few thousand unlabelled "
            "images, on which a small network learns to feed it from text. That is ours, and not published."
        )
    if method == "pic2word":
        return "RTD's published code trains over the network of SEARLE and LinCIR only; over Pic2Word it is ours."
    return "RTD trains from text alone."


@cache
def _read_figures() -> dict:
    return yaml.safe_load((_HERE / "reference_figures.yaml").read_text(encoding="utf-8"))


def _list_figures(backbone: str, method: str) -> list[dict[str, str]]:
    data = _read_figures()
    rows = []
    for name, (*values, source) in data["figures"].get(backbone, {}).get(method, {}).items():
        benchmark = data["benchmarks"][name]
        pairs = zip(benchmark["metrics"], values, strict=True)
        text = ", ".join(f"{metric} {value}" for metric, value in pairs)
        rows.append({"title": benchmark["title"], "figures": text, "source": data["sources"][source]})
    return rows


def render_cards(folder: str | Path) -> dict[str, str]:
    """Render all cards of a folder: those of the recipes, and those of models whose facts lie there as JSON.

    Args:
        folder (`str` or `Path`): The folder `model_cards`.

    Returns:
        `dict[str, str]`: Markdown by file name.
    """
    cards = {f"{name}.md": render_recipe_card(name) for name in RECIPE_NAMES}
    for path in sorted(Path(folder).glob("*.json")):
        facts = CardFacts(**json.loads(path.read_text(encoding="utf-8")))
        cards[f"{path.stem}.md"] = str(render_card(facts))
    return cards


if __name__ == "__main__":
    place = _HERE.parent / "model_cards"
    for file, text in render_cards(place).items():
        (place / file).write_text(text, encoding="utf-8")
