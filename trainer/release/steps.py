"""The steps of a release: which verbs of `rtd` it calls, with which options, and which of them are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from modeling_rtd import PROJECTIONS, read_json, write_json
from trainer.data.tables import load_table
from trainer.evaluation.benchmarks import BENCHMARKS, find_benchmark
from trainer.evaluation.evaluate import find_benchmark_root, open_parts
from trainer.methods import find_method
from trainer.publishing.recipes import find_recipe, write_projection_command


__all__ = ["Ledger", "Request", "Step", "find_benchmarks", "plan_steps", "take_few"]

_FEW_STEPS, _FEW_ROWS = ["--max-steps", "10"], 2000
# Of all benchmarks only drawn worlds have plain captions of their images, which tell what RTD did to plain text.
_WORLD, _TOY_WORLD = "wardrobe/demo", "wardrobe/toy"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        recipe (`str`): Name of a packaged recipe, such as `"rtd-vitl"`.
        repo (`str`): Hub id that the model is published under.
        folder (`Path`): Where everything is kept.
        triplets (`str`, *optional*): File or Hub id of text triplets. Without it they are made from the captions.
        captions (`str`, *optional*): File or Hub id of captions, for a projection that is trained from them.
        images (`str`, *optional*): Folder of images, for a projection that is trained from them or reads their tokens.
        projection (`str`, *optional*): A trained or published projection. Defaults to that of the recipe.
        root (`Path`): Folder with a directory for each benchmark.
        license (`str`, *optional*): License of the weights, as the Hub names it.
        license_name, license_link (`str`, *optional*): Name and address of the license. Needed if it is `"other"`.
        train (`Sequence[str]`): More options of `rtd train`.
        private (`bool`, defaults to `False`): Whether a new repository is private.
        is_dry (`bool`, defaults to `False`): Whether nothing is uploaded.
        is_smoke (`bool`, defaults to `False`): Whether every step is only tried: ten steps of training, 20 queries.
        needs_gpu (`bool`, defaults to `True`): Whether a machine without a GPU is refused.

    Raises:
        ValueError: If the recipe is unknown, or it needs data that are not named.
    """

    recipe: str
    repo: str
    folder: Path
    triplets: str | None = None
    captions: str | None = None
    images: str | None = None
    projection: str | None = None
    root: Path = Path("data")
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    train: Sequence[str] = ()
    private: bool = False
    is_dry: bool = False
    is_smoke: bool = False
    needs_gpu: bool = True

    def __post_init__(self):
        needed = self._list_license()
        if self.triplets is None and self.captions is None:
            needed["--triplets"] = "text triplets, or --captions to make some by rules"
        record = find_method(self.method)
        if self.trains_projection and "names.txt" in record.options:
            command = " ".join(write_projection_command(self.recipe))
            needed["--projection"] = f"a projection that `rtd {command}` made"
        elif self.trains_projection:
            for name in ("images", "captions"):
                if record.reads in (name, "pairs") and getattr(self, name) is None:
                    needed[f"--{name}"] = f"{name} to train the {record.paper.name} projection from, or --projection"
        if "image_tokens" in PROJECTIONS[self.method].consumes and self.images is None:
            needed["--images"] = "a few thousand unlabelled images, since the projection reads image tokens"
        if needed:
            lines = "\n".join(f"  {name}: {text}" for name, text in needed.items())
            raise ValueError(f"the release of {self.recipe} also needs\n{lines}")

    def _list_license(self) -> dict[str, str]:
        """List what the license lacks, by option."""
        if self.license is None and not self.is_smoke:
            return {"--license": "the license of the weights, by its name on the Hub, such as mit"}
        given = {"--license-name": self.license_name, "--license-link": self.license_link}
        if self.license == "other":
            return {name: "of the license, which the Hub does not list" for name, value in given.items() if not value}
        if wrong := next((name for name, value in given.items() if value), None):
            raise ValueError(f"{wrong} is for --license other, got --license {self.license}: leave it out.")
        return {}

    @property
    def clip(self) -> str:
        """`str`: Hub id of the backbone."""
        return find_recipe(self.recipe)["model"]

    @property
    def method(self) -> str:
        """`str`: Method of the projection."""
        return find_recipe(self.recipe)["projection_from"]

    @property
    def published_file(self) -> str | None:
        """`str` or `None`: Place of the projection that its authors publish, where that is used."""
        return None if self.projection else find_recipe(self.recipe).get("projection")

    @property
    def trains_projection(self) -> bool:
        """`bool`: Whether the projection is trained first."""
        return not (self.projection or self.published_file)

    @property
    def model(self) -> Path:
        """`Path`: The trained model, or its adapter."""
        adapter = self.folder / "rtd/adapter"
        return adapter if adapter.is_dir() else self.folder / "rtd/model"


class Step(NamedTuple):
    """One step.

    Args:
        name (`str`): Its name in the record.
        title (`str`): What it does.
        write (`Callable[[], list[str]]`): Writes its command, a verb of `rtd` with options, when it is its turn.
        result (`str`): Pattern of the file that is there once it is done, below the folder; empty where there is none.
    """

    name: str
    title: str
    write: Callable[[], list[str]]
    result: str = ""


def find_benchmarks(root: Path, method: str) -> tuple[dict[str, Path], dict[str, str], int]:
    """Find the benchmarks whose data are there.

    Args:
        root (`Path`): Folder with a directory for each benchmark.
        method (`str`): Method whose protocol is followed.

    Returns:
        `tuple`: Directories by name of the benchmark. By name what is wrong with directories that are left out; and
        the number of images to encode.
    """
    found, broken, images = {}, {}, 0
    for name in BENCHMARKS if root.is_dir() else ():
        if not find_benchmark(name).needs_root:
            continue
        try:
            folder = find_benchmark_root(root, name, is_one_of_many=True)
        except ValueError:
            continue  # there is no such directory
        try:
            parts = open_parts(name, None, folder, method)[0]
        except ValueError as error:
            broken[name] = str(error)
            continue
        found[name] = folder
        images += sum(len(part.gallery) + len(part.queries) for part in parts)
    return found, broken, images


def plan_steps(request: Request, benchmarks: dict[str, Path]) -> list[Step]:
    """List the steps of a release, in their order.

    Args:
        request ([`Request`]): What is asked for.
        benchmarks (`dict[str, Path]`): Directories of those to judge on, see [`find_benchmarks`].

    Returns:
        `list[Step]`: Each writes its command from what the steps before it have left.
    """
    steps, world = [], _TOY_WORLD if request.is_smoke else _WORLD
    if request.trains_projection:
        write = partial(_train_projection, request)
        steps.append(Step("projection", "train the projection", write, "projection/model"))
    steps.append(Step("train", "train RTD", partial(_train, request), "rtd/*/provenance.json"))
    places = {name: ["--root", str(root)] for name, root in benchmarks.items()}
    if request.is_smoke:
        places = {world: ["--split", "test"]}
    for name, place in places.items():
        result = f"evaluation/{name.replace('/', '-')}-*.json"
        steps.append(Step(name, f"judge on {name}", partial(_evaluate, request, name, place), result))
    steps.append(Step("diagnose", "diagnose", partial(_diagnose, request, world), "diagnosis/diagnosis.json"))
    steps.append(Step("card", "write the card, and list what would go up", partial(_publish, request), "card.md"))
    if not request.is_dry and not request.is_smoke:
        steps.append(Step("push", f"publish {request.repo}", lambda: [*_publish(request), "--push"]))
    return steps


def take_few(request: Request, folder: Path) -> Request:
    """Take the first rows of the data, so that a try does not read all of them.

    Args:
        request ([`Request`]): What is asked for.
        folder (`Path`): Folder of the try.

    Returns:
        [`Request`]: The same for this folder and these rows.
    """
    places = {}
    for name in ("triplets", "captions"):
        if place := getattr(request, name):
            rows, places[name] = load_table(place), str(folder / f"{name}.jsonl")
            rows.select(range(min(_FEW_ROWS, len(rows)))).to_json(places[name])
    return replace(request, folder=folder, **places)


def _train_projection(request: Request) -> list[str]:
    reads = find_method(request.method).reads
    named = {name: getattr(request, name) for name in ("images", "captions") if reads in (name, "pairs")}
    data = [part for name, place in named.items() for part in (f"--{name}", place)]
    few = _FEW_STEPS * request.is_smoke
    return [*write_projection_command(request.recipe, data), "--output-dir", str(request.folder / "projection"), *few]


def _train(request: Request) -> list[str]:
    projection = request.folder / "projection/model" if request.trains_projection else request.projection
    named = {"projection": projection, "output-dir": request.folder / "rtd"}
    named |= {"triplets": request.triplets} if request.triplets else {"captions": request.captions}
    if "image_tokens" in PROJECTIONS[request.method].consumes:
        named["images"] = request.images
    options = [part for name, value in named.items() if value is not None for part in (f"--{name}", str(value))]
    return ["train", "--recipe", request.recipe, *options, *request.train, *_FEW_STEPS * request.is_smoke]


def _evaluate(request: Request, name: str, place: list[str]) -> list[str]:
    out = str(request.folder / "evaluation")
    return ["evaluate", str(request.model), "--benchmark", name, *place, "--output-dir", out]


def _diagnose(request: Request, world: str) -> list[str]:
    folder = str(request.folder / "diagnosis")
    return ["diagnose", str(request.model), "--benchmark", world, "--split", "test", "--output-dir", folder]


def _publish(request: Request) -> list[str]:
    records, card = sorted(map(str, request.folder.glob("evaluation/*.json"))), str(request.folder / "card.md")
    license = request.license or "mit"  # of a try, which nobody sees
    command = ["publish", str(request.model), request.repo, "--license", license, "--card", card]
    if license == "other":
        command += ["--license-name", request.license_name, "--license-link", request.license_link]
    command += ["--results", *records, str(request.folder / "diagnosis/diagnosis.json")]
    command += [] if records else ["--without", "evaluation"]
    return [*command, "--private"] if request.private else command


class Ledger:
    """The record of the steps that are done, in `release.json` of the folder.

    Args:
        folder (`Path`): Folder of the release.
    """

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "release.json"
        self.steps: dict[str, dict] = {}
        if self.file.exists():
            self.steps = read_json(self.file, "remove it, and every step is done again", steps=dict)["steps"]

    def is_done(self, step: Step) -> bool:
        """Check whether a step was done by the very command, and its result is still there.

        Args:
            step ([`Step`]): The step.

        Returns:
            `bool`: Whether it is skipped.
        """
        if self.steps.get(step.name, {}).get("command") != step.write():
            return False
        return not step.result or any(self.folder.glob(step.result))

    def forget(self, step: Step, steps: Sequence[Step]) -> None:
        """Forget a step that begins, and those behind it, whose results are then of an earlier one.

        Args:
            step ([`Step`]): The step.
            steps (`Sequence[Step]`): All of them, in their order.
        """
        later = {one.name for one in steps[steps.index(step) :]}
        self._write({name: record for name, record in self.steps.items() if name not in later})

    def add(self, step: Step, seconds: float) -> None:
        """Record a step that is done.

        Args:
            step ([`Step`]): The step.
            seconds (`float`): Time that it took.
        """
        self._write(self.steps | {step.name: {"command": step.write(), "seconds": round(seconds, 1)}})

    def _write(self, steps: dict[str, dict]) -> None:
        self.steps = steps
        write_json(self.file, {"steps": steps}, indent=1)
