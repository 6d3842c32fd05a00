"""Checkpoint files as the methods' authors publish them: fetched by name, and put on a CLIP by the safe converter."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import torch
from accelerate import PartialState
from huggingface_hub import hf_hub_download

from modeling_rtd import RTDModel, RTDProcessor, convert_checkpoint
from trainer.loading import check_place, load_model_and_processor
from trainer.publishing.provenance import name_source, read_stages


__all__ = ["describe_conversion", "fetch_file", "load_start"]

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def fetch_file(place: str) -> Path:
    """Fetch a file, once; nothing in it is run.

    Args:
        place (`str`): A file, a file on the Hub, as `org/name/file.pt`; or an address that begins with `https://`.

    Returns:
        `Path`: The file on this machine.

    Raises:
        ValueError: If it is none of these, or could not be loaded.
    """
    if Path(place).is_file():
        return Path(place)
    parts = PurePosixPath(place).parts
    try:
        if place.startswith("https://"):
            # Authors give their files the same names: one at another address is another file.
            digest = hashlib.sha256(place.encode()).hexdigest()[:8]
            target = Path(torch.hub.get_dir(), "checkpoints", f"{digest}-{parts[-1]}")
            target.parent.mkdir(parents=True, exist_ok=True)
            # Whole if it is there: torch downloads to another name, and moves it.
            if not target.exists():
                torch.hub.download_url_to_file(place, str(target))
            return target
        if len(parts) >= 3 and not PurePosixPath(place).is_absolute():
            return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the published file '{place}' could not be loaded ({error}); download it where there is a network, and "
            "name the file itself with --projection."
        ) from error
    raise ValueError(f"there is no file '{place}'.")


def describe_conversion(file: str | Path, method: str, place: str | None = None) -> dict:
    """Describe a conversion for the record of how a model was made.

    Args:
        file (`str` or `Path`): The published file.
        method (`str`): Its method.
        place (`str`, *optional*): Where it was published. Defaults to the file's name.

    Returns:
        `dict`: A stage, see [`read_stages`].
    """
    with Path(file).open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"stage": method, "converted_from": name_source(place or file), "converted_from_sha256": digest}


def load_start(
    name_or_path: str, projection: str | None = None, projection_from: str | None = None
) -> tuple[RTDModel, RTDProcessor, list[dict]]:
    """Load what RTD starts from.

    Args:
        name_or_path (`str`): Directory or Hub id of an RTD model, or of a CLIP.
        projection (`str`, *optional*):
            On a CLIP: directory or Hub id of a projection, or a published file of one, see [`fetch_file`].
        projection_from (`str`, *optional*): Method of the projection; needed with a published file.

    Returns:
        `tuple`: Model in evaluation mode and float32, its processor, and what made it so far.

    Raises:
        ValueError: As [`load_model_and_processor`] and [`convert_checkpoint`]; if a file comes without its method, or
            the projection is of another one.
    """
    if projection is None or not projection.endswith(_SUFFIXES):
        model, processor = load_model_and_processor(name_or_path, projection)
        found = model.projection.config.projection_type
        # Recipes set it: their figures are those of one method.
        if projection_from not in (None, found):
            raise ValueError(
                f"'{projection or name_or_path}' holds a projection of {found}, but {projection_from} is asked for "
                "(--projection_from, which recipes set); name another projection, or the recipe of that method."
            )
        return model, processor, read_stages(projection or name_or_path)
    if projection_from is None:
        raise ValueError(f"'{projection}' is a published file: say of which method, with --projection_from METHOD.")
    check_place(name_or_path)
    # Once on each machine.
    with PartialState().local_main_process_first():
        file = fetch_file(projection)
    model = convert_checkpoint(file, projection_from, name_or_path).float().to(PartialState().device)
    processor = RTDProcessor.from_clip(name_or_path, model.projection)
    return model, processor, [describe_conversion(file, projection_from, projection)]
