"""Saving whole models with the record of how they were made and a card, so that they can be published."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from modeling_rtd import (
    ADAPTER_FACTS,
    RTDModel,
    RTDProcessor,
    check_path,
    has_adapters,
    read_json,
    replace_folder,
    write_json,
)
from trainer.drawing.loss_curves import draw_loss_curves, get_loss_curve
from trainer.publishing.model_card import describe_model, render_card
from trainer.publishing.provenance import describe_hardware, describe_versions, read_stages, write_stages


__all__ = ["record_run", "save_rtd_model"]


def save_rtd_model(
    model: RTDModel, processor: RTDProcessor, folder: str | Path, stages: Sequence[Mapping] | None = None
) -> Path:
    """Save a model, or its adapter where it has one, so that `rtd publish` can publish the folder.

    It is saved beside the place and then put there, so that neither a kill nor a full disk leaves half a model.

    Args:
        model ([`RTDModel`]): The model.
        processor ([`RTDProcessor`]): Its processor.
        folder (`str` or `Path`): Where it goes; a model that is there is replaced.
        stages (`Sequence[Mapping]`, *optional*):
            What made the model. Defaults to the record at the place that it was loaded from.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If the folder holds anything that is not a model, or the adapter is of a kind that cannot be saved.
        OSError: If it cannot be saved; what was there stays.
    """
    check_path(folder, "folder")
    folder = Path(folder)
    if not hasattr(model, "save_adapter"):  # by what it has: the Hub copies our classes
        raise ValueError(f"a {type(model).__name__} is not a whole model: pass an RTDModel, as trainer.rtd_model is.")
    if folder.exists() and not _can_be_replaced(folder):
        raise ValueError(f"'{folder}' holds something that is not a model; choose another folder.")
    stages = read_stages(model.name_or_path) if stages is None else stages
    try:
        with replace_folder(folder) as partial:
            (model.save_adapter if has_adapters(model.text_model) else model.save_pretrained)(partial)
            processor.save_pretrained(partial)
            write_stages(stages, partial)
            base = model.config.base_model
            # A folder of this machine means nothing to those who read the card.
            is_public = base is not None and not Path(base).exists()
            name = folder.absolute().parent.name if folder.name in ("model", "adapter") else folder.name
            card = describe_model(model, processor, name, base_model=base if is_public else None, stages=stages)
            render_card(card).save(partial / "README.md")
    except ValueError:  # a refusal, and no trouble of the disk
        raise
    except Exception as error:
        # Libraries word a full disk in three ways (OSError, RuntimeError, SafetensorError).
        raise OSError(f"saving {folder} failed ({error}).") from error
    model.name_or_path = str(folder)  # where a next stage finds what made it
    return folder


def _can_be_replaced(folder: Path) -> bool:
    if not folder.is_dir():
        # What is not a model of ours may be somebody's work.
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or bool(names & {"config.json", ADAPTER_FACTS})


def record_run(trainer, data: Mapping[str, str]) -> dict:
    """Write what a run was and took: `training.json` and `losses.png` in the output folder.

    Args:
        trainer ([`BaseTrainer`]): Trainer, after training.
        data (`Mapping[str, str]`): Names of what was trained on.

    Returns:
        `dict`: What `training.json` holds.
    """
    args, curve, folder = trainer.args, get_loss_curve(trainer), Path(trainer.args.output_dir)
    runtime = next((log for log in reversed(trainer.state.log_history) if "train_runtime" in log), None)
    if runtime is None and (folder / "training.json").exists():
        # Nothing was trained that is not recorded.
        return read_json(folder / "training.json", "restore it, or remove it to have it written without times")
    runtime = runtime or {}
    facts = {
        "stage": trainer.stage,
        "data": data,
        **trainer.run_facts,
        "steps": trainer.state.global_step,
        "seconds": runtime.get("train_runtime"),
        "rows_per_second": runtime.get("train_samples_per_second"),
        "peak_resident_mib": _measure_peak_mib(),
        "peak_gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "final_loss": curve[-1][1] if curve else None,
        "losses": curve,
        "evaluations": [log for log in trainer.state.log_history if any(name.startswith("eval_") for name in log)],
        "hardware": describe_hardware(args.world_size),
        "versions": describe_versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if curve:
        draw_loss_curves({trainer.stage: [{"loss": curve}]}, folder / "losses.png")
    write_json(folder / "training.json", facts)
    return facts


def _measure_peak_mib() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    # In KiB on Linux, in bytes on macOS.
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10))
