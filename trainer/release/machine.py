"""Whether this machine can make a release: GPU, disk, network, token and data, and how much of them it takes."""

from __future__ import annotations

import importlib.util
import math
import platform
import shutil
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel, HfArgumentParser

from modeling_rtd import read_json
from trainer.data.triplets import load_triplets
from trainer.publishing.provenance import describe_hardware, describe_versions
from trainer.release.steps import Request, find_benchmarks
from trainer.training.arguments import RTDTrainingArguments


__all__ = ["SMOKE_RECORD", "Examination", "Finding", "Schedule", "describe_machine", "read_schedule"]

SMOKE_RECORD = "smoke.json"
_GB = 1e9
_CACHE_GB = 2  # embeddings of captions and images


class Schedule(NamedTuple):
    """How long RTD is trained, and on how much at a time.

    Args:
        steps (`int`): Steps, 2,000 as published; -1 where epochs decide.
        batch_size (`int`): Triplets that are each other's negatives, 128 as published.
        triplets (`int`): Triplets of a step: batches that are accumulated count together.
        checkpoints (`int`): Checkpoints that are kept.
    """

    steps: int
    batch_size: int
    triplets: int
    checkpoints: int


def read_schedule(options: Sequence[str]) -> Schedule:
    """Read from options of `rtd train` how long it will train.

    Args:
        options (`list[str]`): Options.

    Returns:
        [`Schedule`]: The published one but for the options.

    Raises:
        ValueError: If a value is not of its option's type.
    """
    parser = HfArgumentParser(RTDTrainingArguments, exit_on_error=False, allow_abbrev=False)
    try:
        given, _ = parser.parse_known_args(list(options))
    except ArgumentError as error:
        raise ValueError(f"the options of `rtd train` are not accepted: {error}.") from error
    # Below 1 it is a share of the steps.
    kept = given.max_steps / given.save_steps if given.save_steps >= 1 else 1 / given.save_steps
    kept = min(math.ceil(max(kept, 1)), given.save_total_limit or math.inf) if given.save_strategy != "no" else 0
    batch = given.per_device_train_batch_size
    return Schedule(given.max_steps, batch, batch * given.gradient_accumulation_steps, int(kept))


class Finding(NamedTuple):
    """One thing that was looked at.

    Args:
        name (`str`): What was looked at.
        text (`str`): What was found, and where it is not enough, what to do.
        is_fine (`bool`, defaults to `True`): Whether the release can continue.
    """

    name: str
    text: str
    is_fine: bool = True


class Examination:
    """A look at the machine before anything is done.

    Args:
        request ([`Request`]): What is asked for.

    Attributes:
        benchmarks (`dict[str, Path]`): Directories of the benchmarks that the model is judged on.
    """

    def __init__(self, request: Request):
        self.request, self.api = request, HfApi()
        self.benchmarks: dict[str, Path] = {}

    def look(self) -> Iterator[Finding]:
        """Look at everything, one thing after the other.

        Yields:
            [`Finding`]: What cannot be looked at is not fine.
        """
        looks: dict[str, Callable[[], Finding]] = {
            "GPU": self._look_at_gpu,
            "network": self._look_at_network,
            "disk": self._look_at_disk,
            "token": self._look_at_token,
            "projection": self._look_at_projection,
            "triplets": self._look_at_triplets,
            "benchmarks": self._look_at_benchmarks,
            "time": self._estimate_time,
        }
        for name, look in looks.items():
            try:
                yield look()
            except Exception as error:  # of the Hub's client, its own library, or a file
                yield Finding(name, " ".join(f"{type(error).__name__}: {error}".split()), is_fine=False)

    @cached_property
    def parameters(self) -> tuple[int, int]:
        """`tuple[int, int]`: Parameters of the backbone, and of its text tower, by its configuration alone."""
        config = AutoConfig.from_pretrained(self.request.clip, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        return model.num_parameters(), model.text_model.num_parameters()

    @cached_property
    def schedule(self) -> Schedule:
        """[`Schedule`]: Of the training of RTD."""
        return read_schedule(self.request.train)

    def _look_at_gpu(self) -> Finding:
        whole, text = self.parameters
        # Weights, a frozen text tower, and gradients and two averages of the one that is trained; in float32.
        needed = 4 * (whole + 4 * text) / _GB
        share = f"weights and optimizer take {needed:.1f} GB, activations come on top"
        if not torch.cuda.is_available():
            text = f"torch {torch.__version__} sees no GPU; {share}"
            remedy = "; install a torch for CUDA and a driver" if self.request.needs_gpu else "; training takes days"
            return Finding("GPU", text + remedy, is_fine=not self.request.needs_gpu)
        properties = torch.cuda.get_device_properties(0)
        has = properties.total_memory / _GB
        return Finding("GPU", f"{properties.name}, {has:.0f} GB; {share}", is_fine=has > needed)

    def _look_at_network(self) -> Finding:
        info = self.api.model_info(self.request.clip, files_metadata=True, timeout=20)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        kinds = ("model*.safetensors", "pytorch_model*.bin")  # the first of these that is there is loaded
        found = next((names for kind in kinds if (names := [name for name in sizes if Path(name).match(kind)])), [])
        size = sum(sizes[name] for name in found if "/" not in name)
        return Finding("network", f"{self.request.clip} is there, {size / _GB:.1f} GB to download")

    def _look_at_disk(self) -> Finding:
        whole, text = self.parameters
        checkpoints = 0 if self.request.is_smoke else self.schedule.checkpoints
        # The download and the model that is saved; checkpoints hold weights and two averages of the text tower.
        needed = 4 * (2 * whole + checkpoints * 3 * text) / _GB + _CACHE_GB
        free = shutil.disk_usage(self.request.folder).free / _GB
        text = f"at most {needed:.0f} GB are needed, {free:.0f} GB are free at {self.request.folder}"
        return Finding("disk", text, is_fine=free > needed)

    def _look_at_token(self) -> Finding:
        if self.request.is_dry:
            return Finding("token", "not needed, nothing is uploaded")
        facts, owner = self.api.whoami(), self.request.repo.partition("/")[0]
        role = facts.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            return Finding("token", "it may only read; `hf auth login` takes one that may write", is_fine=False)
        if owner not in (facts["name"], *(one["name"] for one in facts.get("orgs", ()))):
            return Finding("token", f"{facts['name']} is not a member of '{owner}'", is_fine=False)
        return Finding("token", f"{facts['name']}, may write to {owner}")

    def _look_at_projection(self) -> Finding:
        if self.request.trains_projection:
            return self._look_at_keywords()
        file = self.request.published_file
        if file is None:
            return Finding("projection", str(self.request.projection))
        if not file.startswith("https://") and not self.api.file_exists(*_split_file(file)):
            return Finding("projection", f"{file} is not there; name another one with --projection", is_fine=False)
        return Finding("projection", f"published as {file}")

    def _look_at_keywords(self) -> Finding:
        missing = [name for name in ("spacy", "en_core_web_sm") if importlib.util.find_spec(name) is None]
        if self.request.method == "lincir" and missing:
            remedy = "pip install spacy, then python -m spacy download en_core_web_sm, or name one with --projection"
            return Finding("projection", f"it is trained first, which needs {missing[0]}: {remedy}", is_fine=False)
        return Finding("projection", "it is trained first")

    def _look_at_triplets(self) -> Finding:
        if self.request.triplets is None:
            return Finding("triplets", f"made by rules from {self.request.captions}")
        rows = len(load_triplets(self.request.triplets))
        text = f"{rows:,} in {self.request.triplets}"
        if self.schedule.steps > 0:
            text += f"; training reads {self.schedule.triplets * self.schedule.steps:,}"
        return Finding("triplets", text, is_fine=rows >= self.schedule.batch_size)

    def _look_at_benchmarks(self) -> Finding:
        self.benchmarks, broken, images = find_benchmarks(self.request.root, self.request.method)
        text = f"{', '.join(self.benchmarks)}; {images:,} images" if self.benchmarks else "none"
        text += f" in '{self.request.root}'" if self.benchmarks else f" in '{self.request.root}': the card will say so"
        return Finding("benchmarks", text + "".join(f"; left out: {name}, {why}" for name, why in broken.items()))

    def _estimate_time(self) -> Finding:
        if self.request.is_smoke:
            return Finding("time", "about five minutes, after the download")
        if self.schedule.steps <= 0:
            return Finding("time", "not estimated, since epochs decide the number of steps")
        file = self.request.folder / SMOKE_RECORD
        known = read_json(file, "remove it") if file.exists() else {}
        seconds, measured = known.get("seconds_per_step"), known.get("triplets_per_step", 128)
        if seconds is None or measured != self.schedule.triplets:
            text = f"not measured with {self.schedule.triplets} triplets a step, --smoke does; RTD's authors report "
            return Finding("time", text + "23 min for ViT-L/14 on 4 A100, with 128")
        minutes = seconds * self.schedule.steps / 60
        return Finding("time", f"at most {minutes:.0f} min of training, by the ten steps of --smoke")


def _split_file(place: str) -> tuple[str, str]:
    owner, name, file = place.split("/", 2)
    return f"{owner}/{name}", file


def describe_machine() -> dict:
    """Describe the machine for somebody who cannot look at it.

    Returns:
        `dict`: Hardware, versions and memory; no name of the machine and no path.
    """
    facts = {"hardware": describe_hardware(), "versions": describe_versions(), "system": platform.platform()}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        facts["gpu"] = {"cuda": torch.version.cuda, "free_gb": round(free / _GB, 1), "total_gb": round(total / _GB, 1)}
    return facts
