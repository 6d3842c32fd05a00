"""What made a model, stage by stage: kept beside its weights, so that a card can state it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import transformers
from peft import get_peft_model_state_dict
from safetensors.torch import save
from transformers.utils import cached_file

from modeling_rtd import RTDModel, has_adapters, hash_tensors, read_json, write_json


__all__ = [
    "PROVENANCE_FILE",
    "describe_hardware",
    "describe_stage",
    "describe_versions",
    "hash_parts",
    "name_data",
    "name_source",
    "read_stages",
    "write_stages",
]

PROVENANCE_FILE = "provenance.json"
_CURVES = ("losses", "evaluations")  # too long to keep beside the weights


def name_source(place: str | Path | Sequence[str | Path]) -> str:
    """Name data or a model without its path on this machine.

    Args:
        place (`str`, `Path`, or list of them): File, directory or Hub id; or several.

    Returns:
        `str`: The Hub id, or the name of the file or directory alone; of several the first, and their number.

    Examples:
        >>> name_source("org/captions")
        'org/captions'
        >>> name_source("/nowhere/captions.txt")
        'captions.txt'
        >>> name_source("shards/*.parquet")
        '*.parquet'
    """
    if isinstance(place, list | tuple):
        return name_source(place[0]) + (f" and {len(place) - 1} more" if len(place) > 1 else "")
    path = Path(place)
    if path.is_absolute() or path.exists():
        return path.resolve().name
    # A card would take a pattern of two parts for a data set of the Hub.
    return path.name if set("*?[") & set(str(place)) else str(place)


def name_data(data) -> str:
    """Name what is trained on.

    Args:
        data (`str`, `Path`, list of files, or `datasets.Dataset`): As a trainer takes it.

    Returns:
        `str`: As [`name_source`]; for rows in memory, their number.
    """
    from trainer.data.tables import are_files  # `datasets` is not needed to name a model

    if isinstance(data, str | Path) or (isinstance(data, list | tuple) and are_files(data)):
        return name_source(data)
    return f"{len(data)} rows from memory" if hasattr(data, "__len__") else "a stream"


def describe_versions() -> dict[str, str]:
    """Give the versions of what a run ran with.

    Returns:
        `dict[str, str]`: Of this package, where it is installed, of Python, torch and transformers.
    """
    found = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    # A clone on the path is not installed, and has no version.
    try:
        return {"rtd-cir": version("rtd-cir"), **found}
    except PackageNotFoundError:
        return found


def describe_hardware(processes: int = 1) -> dict[str, str | int]:
    """Describe what a run ran on.

    Args:
        processes (`int`, defaults to 1): Number of processes.

    Returns:
        `dict`: `device`, the name of the GPU or the number of cores, and `processes`.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return {"device": device, "cores": os.cpu_count(), "processes": processes}


def describe_stage(facts: Mapping) -> dict:
    """Take from the record of a training what is kept beside the weights.

    Args:
        facts (`Mapping`): What `training.json` holds.

    Returns:
        `dict`: All but the curves, and without places on this machine.
    """
    # As JSON holds them: an enum of transformers would show its Python name on the card.
    kept = json.loads(json.dumps({name: value for name, value in facts.items() if name not in _CURVES}))
    return kept | {"phrase_model": name_source(kept["phrase_model"])} if kept.get("phrase_model") else kept


def read_stages(name_or_path: str | Path) -> list[dict]:
    """Read what made a model.

    Args:
        name_or_path (`str` or `Path`): Directory or Hub id; empty for a model that was put together in memory.

    Returns:
        `list[dict]`: Stages in the order in which they were run; empty where nothing is recorded.

    Raises:
        ValueError: If the record cannot be read.
    """
    if not name_or_path:
        return []  # a model that was put together in memory
    try:
        file = cached_file(str(name_or_path), PROVENANCE_FILE, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return []  # neither a directory nor a repository that can be had: whoever loads the model says so
    if file is None:
        return []
    stages = read_json(file, "remove it or restore it").get("stages")
    with contextlib.suppress(KeyError, TypeError):
        if all(isinstance(stage["stage"], str) for stage in stages):
            return stages
    raise ValueError(f"'{file}' is not a record of how a model was made; remove it or restore it.")


def write_stages(stages: Sequence[Mapping], folder: str | Path) -> None:
    """Write what made a model into its folder.

    Args:
        stages (`Sequence[Mapping]`): Stages in the order in which they were run.
        folder (`str` or `Path`): Folder of the model, which must exist.
    """
    write_json(Path(folder, PROVENANCE_FILE), {"stages": list(stages)})


_PARTS = ("vision_model", "visual_projection", "projection", "text_model")


def hash_parts(model: RTDModel) -> dict[str, str]:
    """Hash what a result depends on.

    Args:
        model ([`RTDModel`]): The model, in the type in which it was judged.

    Returns:
        `dict[str, str]`: SHA-256 of each part, and of the active adapter where there is one.
    """
    hashes = {name: hash_tensors(getattr(model, name)) for name in _PARTS}
    if has_adapters(model.text_model):
        # `hash_tensors` leaves adapters out, and peft's own names of them are as good as any.
        tensors = get_peft_model_state_dict(model.text_model, adapter_name=model.text_model.active_adapters()[0])
        hashes["adapter"] = hashlib.sha256(save(tensors)).hexdigest()
    return hashes
