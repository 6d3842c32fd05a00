"""Recipes of RTD for each backbone and projection, and the page that lists them.

`python -m trainer.publishing.recipes` renders everything in the folder `model_cards` again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Template

from modeling_rtd import PROJECTIONS, read_json, suggest
from trainer.methods import RTD_PAPER, find_method, list_methods
from trainer.publishing.model_card import CardFacts, render_card


__all__ = [
    "BACKBONES",
    "Backbone",
    "find_recipe",
    "list_recipes",
    "render_cards",
    "render_recipes",
    "write_projection_command",
]

_HERE = Path(__file__).parent
_DATA = {
    "captions": "--captions captions.txt",
    "images": "--images DIR",
    "pairs": "--images DIR --captions captions.jsonl",
}


class Backbone(NamedTuple):
    """A backbone that RTD is trained on.

    Args:
        title (`str`): Name that people read.
        clip (`str`): Hub id.
        method (`str`): Projection that the recipe without a method in its name is over.
        family (`str`, defaults to `"clip"`): `"clip"`, `"metaclip_2"` or `"siglip"`.
    """

    title: str
    clip: str
    method: str
    family: str = "clip"

    @property
    def methods(self) -> list[str]:
        """`list[str]`: Projections that it can have, that of its first recipe in front."""
        # SigLIP has no class token, which these projections read.
        names = [name for name in list_methods() if self.family != "siglip" or not _reads_tokens(name)]
        return sorted(names, key=lambda name: (name != self.method, name))

    @property
    def noise(self) -> dict[str, str]:
        """`dict[str, str]`: What must be said of noise; the published scale goes with the embeddings of CLIP."""
        return {} if self.family == "clip" else {"noise_unit": "rms"}


def _reads_tokens(method: str) -> bool:
    return "image_tokens" in PROJECTIONS[method].consumes


# The CLIPs of LinCIR's and RTD's code. LinCIR has no recipe for ViT-B/32, hence SEARLE.
BACKBONES = {
    "vitb32": Backbone("ViT-B/32", "openai/clip-vit-base-patch32", "searle"),
    "vitl": Backbone("ViT-L/14", "openai/clip-vit-large-patch14", "lincir"),
    "vith": Backbone("ViT-H/14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "lincir"),
    "vitg": Backbone("ViT-G/14", "Geonmo/CLIP-Giga-config-fixed", "lincir"),
    "siglip": Backbone("SigLIP B/16", "google/siglip-base-patch16-224", "lincir", "siglip"),
    "siglip2": Backbone("SigLIP 2 B/16", "google/siglip2-base-patch16-224", "lincir", "siglip"),
    "siglip2-so400m": Backbone("SigLIP 2 So400m/14", "google/siglip2-so400m-patch14-384", "lincir", "siglip"),
    "metaclip2": Backbone("MetaCLIP 2 H/14", "facebook/metaclip-2-worldwide-huge-quickgelu", "lincir", "metaclip_2"),
}


def list_recipes() -> dict[str, tuple[str, str]]:
    """List the recipes: every backbone with every projection that it can have.

    Returns:
        `dict[str, tuple[str, str]]`: Backbone and method, by a name such as `rtd-vitl` or `rtd-vitl-searle`.
    """
    names = {}
    for key, backbone in BACKBONES.items():
        for method in backbone.methods:
            suffix = "" if method == backbone.method else f"-{method.replace('_', '-')}"
            names[f"rtd-{key}{suffix}"] = (key, method)
    return names


def find_recipe(name: str) -> dict[str, str]:
    """Look up what a recipe sets; the rest is the defaults of [`RTDTrainingArguments`], which are RTD's recipe.

    Args:
        name (`str`): A name of [`list_recipes`].

    Returns:
        `dict[str, str]`: Options of `rtd train`.

    Raises:
        ValueError: If there is no such recipe.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise ValueError(suggest("recipe", name, recipes))
    key, method = recipes[name]
    clip, file = BACKBONES[key].clip, find_method(method).files.get(key)
    options = {
        "model": clip,
        # Without a published file too: a projection of another method is then refused.
        "projection_from": method,
        "original_text_model": clip,
        "output_dir": f"runs/{name}",
    }
    return options | BACKBONES[key].noise | ({"projection": file} if file else {})


def write_projection_command(name: str, data: Sequence[str] = ()) -> list[str]:
    """Write the command that trains the projection of a recipe, as its method was published.

    Args:
        name (`str`): A name of [`list_recipes`].
        data (`Sequence[str]`, defaults to none): Options that name the data.

    Returns:
        `list[str]`: Verb of `rtd` and options, without the output folder.
    """
    key, method = list_recipes()[name]
    backbone, record = BACKBONES[key], find_method(method)
    # Methods that read images add no noise.
    has_unit = backbone.noise and "noise_unit" in {field.name for field in fields(record.arguments)}
    options = [*record.options.split(), *["--noise-unit", "rms"] * bool(has_unit)]
    return ["train-projection", backbone.clip, "--method", method, *data, *options]


def render_recipes() -> str:
    """Render the page of all recipes.

    Returns:
        `str`: Markdown.
    """
    recipes = list_recipes()
    figures, methods = _list_figures(), [find_method(name) for name in list_methods()]
    template = Template((_HERE / "templates/recipes.md").read_text(encoding="utf-8"))
    page = template.render(
        rtd=RTD_PAPER,
        rows=[_describe_recipe(name, *place) for name, place in recipes.items()],
        figures=figures,
        citation="\n\n".join(paper.bibtex for paper in (RTD_PAPER, *(method.paper for method in methods))),
    )
    return page.strip() + "\n"


def _describe_recipe(name: str, key: str, method: str) -> dict[str, str]:
    record, recipe, commands = find_method(method), find_recipe(name), []
    train = f"rtd train --recipe {name} --triplets triplets.jsonl"
    if "projection" not in recipe:
        place = f"runs/{method}-{key}"
        command = write_projection_command(name, _DATA[record.reads].split())
        commands.append(f"rtd {' '.join(command)} --output-dir {place}")
        train += f" --projection {place}/model"
    if _reads_tokens(method):
        train += " --images DIR"
    return {
        "name": name,
        "backbone": BACKBONES[key].title,
        "clip": recipe["model"],
        "note": ", not yet run on real weights" if BACKBONES[key].noise else "",
        "method": f"[{record.paper.name}]({record.paper.address})",
        "source": _describe_source(record.files.get(key)),
        "commands": "<br>".join(f"`{command}`" for command in [*commands, train]),
    }


def _describe_source(file: str | None) -> str:
    if file:
        return f"published as `{file}`"
    return "trained first" if file is None else "trained first, or `--projection FILE` with the authors' file"


def _list_figures() -> list[dict[str, str]]:
    data = yaml.safe_load((_HERE / "reference_figures.yaml").read_text(encoding="utf-8"))
    rows = []
    for key, methods in data["figures"].items():
        for method, benchmarks in methods.items():
            for name, (*values, source) in benchmarks.items():
                benchmark = data["benchmarks"][name]
                pairs = zip(benchmark["metrics"], values, strict=True)
                rows.append(
                    {
                        "backbone": BACKBONES[key].title,
                        "method": find_method(method).paper.name,
                        "benchmark": benchmark["title"],
                        "figures": ", ".join(f"{metric} {value}" for metric, value in pairs),
                        "source": data["sources"][source],
                    }
                )
    return rows


def render_cards(folder: str | Path) -> dict[str, str]:
    """Render the pages of a folder: that of the recipes, and the cards of models whose facts it holds as JSON.

    Args:
        folder (`str` or `Path`): The folder `model_cards`.

    Returns:
        `dict[str, str]`: Markdown by file name.
    """
    cards = {"recipes.md": render_recipes()}
    for path in sorted(Path(folder).glob("*.json")):
        facts = CardFacts(**read_json(path, "write the facts of the model again"))
        cards[f"{path.stem}.md"] = str(render_card(facts))
    return cards


if __name__ == "__main__":
    place = Path(__file__).parents[2] / "model_cards"
    for file, text in render_cards(place).items():
        (place / file).write_text(text, encoding="utf-8")
