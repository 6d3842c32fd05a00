"""What made a model, stage by stage: kept beside its weights, so that a card can tell it without asking anyone."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers.utils import cached_file


__all__ = ["PROVENANCE_FILE", "describe_hardware", "describe_stage", "name_source", "read_stages", "write_stages"]

PROVENANCE_FILE = "provenance.json"
_CURVES = ("losses", "evaluations")  # too long to keep beside the weights


def name_source(place: str | Path) -> str:
    """Name data or a model without telling where on this machine they lie.

    Args:
        place (`str` or `Path`): File, directory or Hub id.

    Returns:
        `str`: The Hub id, or the name of the file or directory alone.

    Examples:
        >>> name_source("org/captions")
        'org/captions'
        >>> name_source("/nowhere/captions.txt")
        'captions.txt'
    """
    path = Path(place)
    return path.resolve().name if path.is_absolute() or path.exists() else str(place)


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
    kept = {name: value for name, value in facts.items() if name not in _CURVES}
    return kept | {"phrase_model": name_source(kept["phrase_model"])} if kept.get("phrase_model") else kept


def read_stages(name_or_path: str | Path) -> list[dict]:
    """Read what made a model.

    Args:
        name_or_path (`str` or `Path`): Directory or Hub id.

    Returns:
        `list[dict]`: Stages in the order in which they were run; empty where nothing is recorded.

    Raises:
        ValueError: If the record cannot be read.
    """
    try:
        file = cached_file(str(name_or_path), PROVENANCE_FILE, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return []  # neither a directory nor a repository that can be had: whoever loads the model says so
    if file is None:
        return []
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))["stages"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{file}' is no record of how a model was made; remove it or restore it.") from error


def write_stages(stages: Sequence[Mapping], folder: str | Path) -> None:
    """Write what made a model into its folder.

    Args:
        stages (`Sequence[Mapping]`): Stages in the order in which they were run.
        folder (`str` or `Path`): Folder of the model, which must exist.
    """
    content = json.dumps({"stages": list(stages)}, indent=2)
    Path(folder, PROVENANCE_FILE).write_text(content + "\n", encoding="utf-8")
