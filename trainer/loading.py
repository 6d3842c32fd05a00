"""Loading of models by the names that users give: a directory, a Hub id, a CLIP with a projection."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState
from transformers.utils import cached_file

from modeling_rtd import (
    ADAPTER_FACTS,
    OPEN_CLIP_CONFIG,
    PROJECTIONS,
    RTDConfig,
    RTDModel,
    RTDProcessor,
    RTDTextTower,
    check_path,
    name_damage,
    name_family,
    read_backbone_config,
)


__all__ = ["check_place", "check_processor", "load_model_and_processor", "load_processor"]


def check_place(name_or_path: str | Path) -> None:
    """Refuse a directory that holds no model, and a path at which there is none, without asking the Hub.

    A name is a path if it begins with `.`, `/` or `~`, has more than one slash, or begins with an existing folder.

    Args:
        name_or_path (`str` or `Path`): What a user names: directory or Hub id of a model, adapter, CLIP or projection.

    Raises:
        ValueError: If it is such a directory or path; names the model of a run.
    """
    check_path(name_or_path)
    name, folder = str(name_or_path), Path(name_or_path)
    if folder.is_dir():
        # What open_clip wrote is refused by name later.
        if not any((folder / file).is_file() for file in ("config.json", ADAPTER_FACTS, OPEN_CLIP_CONFIG)):
            inner = _find_result(folder)
            hint = f"it is a run: name '{inner}'." if inner else "name the folder of a model or an adapter."
            raise ValueError(f"'{folder}' holds no model; {hint}")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists() or _is_below_a_folder(name):
        near = _find_result(folder.parent)
        hint = f"; did you mean '{near}'?" if near else "."
        raise ValueError(f"there is no directory '{folder}'{hint}")


def _find_result(run: Path) -> Path | None:
    return next((run / name for name in ("model", "adapter") if (run / name).is_dir()), None)


def _is_below_a_folder(name: str) -> bool:
    return "/" in name and Path(name.partition("/")[0]).is_dir()


def load_model_and_processor(name_or_path: str, projection: str | None = None) -> tuple[RTDModel, RTDProcessor]:
    """Load an RTD model or an adapter repository, or put a projection on a CLIP; in float32, on the process's device.

    Args:
        name_or_path (`str`): Directory or Hub id of an RTD model, of an adapter repository, or of a CLIP.
        projection (`str`, *optional*):
            On a CLIP: directory or Hub id of a projection, or the name of a method for a fresh, untrained one. With
            anything else it must be left out.

    Returns:
        `tuple`: Model in evaluation mode, and processor.

    Raises:
        ValueError: If there is no such model (see [`check_place`]), a CLIP comes without a projection, anything else
            with one.
    """
    for place in (name_or_path, projection):
        if place is not None or place is name_or_path:
            check_path(place)
            # The name of a method is not a place.
            if place not in PROJECTIONS:
                check_place(place)
    try:
        # First of all, since an adapter has no configuration of a model.
        is_adapter = bool(cached_file(name_or_path, ADAPTER_FACTS, _raise_exceptions_for_missing_entries=False))
        with name_damage(name_or_path):
            config = None if is_adapter else read_backbone_config(name_or_path)
        is_whole = is_adapter or config.model_type == RTDConfig.model_type
    except OSError as error:
        raise ValueError(
            f"'{name_or_path}' is neither a model directory nor a repository that can be loaded from the Hub: {error}"
        ) from error
    if is_whole and projection is not None:
        raise ValueError(
            f"'{name_or_path}' has a projection of its own; leave `projection` out, or name the CLIP underneath."
        )
    if not is_whole and projection is None:
        raise ValueError(
            f"'{name_or_path}' is a CLIP without a projection: name a trained one, or train it with "
            "`rtd train-projection` (in Python ProjectionTrainer with method='lincir')."
        )
    with name_damage(name_or_path):
        if is_adapter:
            model = RTDModel.from_adapter(name_or_path, dtype=torch.float32)
        elif is_whole:
            model = RTDModel.from_pretrained(name_or_path, dtype=torch.float32)
        else:
            model = RTDModel.from_clip(name_or_path, projection, dtype=torch.float32)
        processor = (
            RTDProcessor.from_pretrained(name_or_path)
            if is_whole
            else RTDProcessor.from_clip(name_or_path, model.projection)
        )
    # Of several processes each has its own.
    return model.to(PartialState().device), processor


def check_processor(processor: RTDProcessor, tower: RTDTextTower) -> None:
    """Refuse a processor that reads texts for another family of backbones.

    Args:
        processor ([`RTDProcessor`]): The processor.
        tower ([`RTDTextTower`]): Text tower that reads its ids.

    Raises:
        ValueError: If it is of another family.
    """
    family = name_family(tower.config)
    made_for = getattr(processor, "family", type(processor).__name__)
    if made_for != family:
        raise ValueError(
            f"`processing_class` is made for {made_for} and the text tower is of {family}. Pass the RTDProcessor that "
            "was saved beside the model, or RTDProcessor.from_clip of the same backbone."
        )


def load_processor(model: RTDModel) -> RTDProcessor:
    """Load the processor that belongs to a model.

    Args:
        model ([`RTDModel`]): Loaded from a place, or put together on a CLIP that was.

    Returns:
        [`RTDProcessor`]: The one beside the model, or that of the CLIP with the prompt template of the projection.

    Raises:
        ValueError: If neither place is known or holds a processor.
    """
    place = model.name_or_path or model.config.base_model
    if not place:
        raise ValueError("the model was put together in memory: pass its RTDProcessor as processing_class=.")
    try:
        if model.name_or_path:
            return RTDProcessor.from_pretrained(place)
        return RTDProcessor.from_clip(place, model.projection)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no processor of the model could be loaded from '{place}' ({error}): pass it as processing_class=."
        ) from error
