"""Putting a model together from what a user names, and running its training to the end."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from accelerate import PartialState
from transformers import AutoConfig
from transformers.utils import cached_file

from modeling_rtd import RTDConfig, RTDModel, RTDProcessor, RTDTextModel
from trainer.adapters import has_adapters
from trainer.base_trainer import BaseTrainer
from trainer.checkpoints import RUN_FILE, find_checkpoints
from trainer.loss_curves import draw_loss_curves, get_loss_curve
from trainer.model_card import describe_model, render_card
from trainer.progress import LossBarCallback
from trainer.provenance import describe_hardware, describe_stage, write_stages


__all__ = ["finish_run", "load_model_and_processor"]


def load_model_and_processor(
    name_or_path: str, projection: str | None = None, alpha: float | None = None
) -> tuple[RTDModel, RTDProcessor]:
    """Load an RTD model or an adapter repository, or put a projection on a CLIP; in float32, on the process's device.

    Args:
        name_or_path (`str`): Directory or Hub id of an RTD model, of an adapter repository, or of a CLIP.
        projection (`str`, *optional*):
            On a CLIP: directory or Hub id of a projection, or the name of a method for a fresh, untrained one. With
            anything else it must be left out.
        alpha (`float`, *optional*):
            Where between the text towers from before (0) and after RTD (1); see [`RTDModel.interpolate_text_model`].

    Returns:
        `tuple`: Model in evaluation mode, and processor.

    Raises:
        ValueError: If there is no such model, a CLIP comes without a projection, anything else with one, or `alpha` is
            not accepted.
    """
    try:
        is_adapter = bool(cached_file(name_or_path, "rtd_adapter.json", _raise_exceptions_for_missing_entries=False))
        is_whole = is_adapter or AutoConfig.from_pretrained(name_or_path).model_type == RTDConfig.model_type
    except OSError as error:
        raise ValueError(
            f"'{name_or_path}' is no directory of a model, and as a Hub id it cannot be had: {error}"
        ) from error
    if is_whole and projection is not None:
        raise ValueError(
            f"'{name_or_path}' has a projection of its own; leave `projection` out, or name the CLIP underneath."
        )
    if not is_whole and projection is None:
        raise ValueError(
            f"'{name_or_path}' is a CLIP without a projection: name a trained one, or train it with "
            "`rtd train-projection`."
        )
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
    model = model.to(PartialState().device)
    return (model if alpha is None else model.interpolate_text_model(alpha)), processor


def finish_run(
    trainer: BaseTrainer,
    model: RTDModel,
    stage: str,
    original_repo: str | None = None,
    data: Mapping[str, str] | None = None,
    earlier: Sequence[Mapping] = (),
) -> Path | None:
    """Train, or go on with the run in the output folder, and save the whole model or its adapter, with its card.

    Args:
        trainer ([`BaseTrainer`]): Trainer of the model's projection or of a text tower.
        model ([`RTDModel`]): The model that the trained part belongs to.
        stage (`str`): What is trained: `"rtd"` or the projection's method.
        original_repo (`str`, *optional*): Where the text tower from before RTD stays; see `replace_text_model`.
        data (`Mapping[str, str]`, *optional*): Names of what is trained on, for the record.
        earlier (`Sequence[Mapping]`, defaults to none): What made the model so far, see [`read_stages`].

    Returns:
        `Path` or `None`: Folder `model` or `adapter` in the output folder, beside `training.json` and `losses.png`;
        `None` in all processes but the first.

    Raises:
        ValueError: If the output folder holds anything of another run.
        OSError: If the result cannot be saved; the checkpoints stay.
    """
    folder = Path(trainer.args.output_dir)
    _refuse_foreign_folder(folder, trainer.run_facts)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_FILE).write_text(json.dumps(trainer.run_facts, indent=2, sort_keys=True))
    LossBarCallback.install(trainer, stage)
    trainer.train(resume_from_checkpoint=bool(find_checkpoints(folder)))
    result = None
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if isinstance(trained, RTDTextModel) and not has_adapters(trained):
            model.replace_text_model(trained, original_repo)
        facts = _write_facts(trainer, stage, data)
        stages = [*earlier, describe_stage(facts)]
        result = _save_whole(model, trainer, folder / ("adapter" if has_adapters(trained) else "model"), stages)
    if dist.is_initialized():
        # Without it some processes end with an error after the work is done.
        dist.barrier()
        dist.destroy_process_group()
    return result


def _refuse_foreign_folder(folder: Path, run_facts: dict) -> None:
    """Refuse to write over anything that this very run has not made."""
    record = folder / RUN_FILE
    if record.is_file():
        recorded = json.loads(record.read_text())
        foreign = [name for name in run_facts if recorded.get(name) != run_facts[name]]
        if foreign:
            raise ValueError(
                f"'{folder}' is of another run: {', '.join(foreign)} differ(s). Go on with what it was started with, "
                "or choose another output_dir."
            )
    elif any(
        (folder / name).exists() for name in ("model", "adapter", "training.json", "metrics.json", "config.json")
    ):
        raise ValueError(f"'{folder}' holds something that is no run of `rtd`; choose another output_dir.")


def _save_whole(model: RTDModel, trainer: BaseTrainer, folder: Path, stages: Sequence[Mapping]) -> Path:
    """Save beside the place and then put it there, so that a full disk leaves no half a model."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (model.save_adapter if folder.name == "adapter" else model.save_pretrained)(partial)
        trainer.processor.save_pretrained(partial)
        write_stages(stages, partial)
        base = model.config.base_model
        is_public = base is not None and not Path(base).exists()
        card = describe_model(
            model, trainer.processor, folder.parent.name, base_model=base if is_public else None, stages=stages
        )
        render_card(card).save(partial / "README.md")
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"saving {folder} failed ({error}); free some space and start the same command again: it goes on from the "
            "last checkpoint."
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _write_facts(trainer: BaseTrainer, stage: str, data: Mapping[str, str] | None) -> dict:
    """Write what the run was and took: `training.json` and `losses.png` in the output folder."""
    args, curve, folder = trainer.args, get_loss_curve(trainer), Path(trainer.args.output_dir)
    runtime = next((log for log in reversed(trainer.state.log_history) if "train_runtime" in log), None)
    if runtime is None and (folder / "training.json").exists():
        return json.loads((folder / "training.json").read_text())  # nothing was trained that is not recorded
    runtime = runtime or {}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts = {
        "stage": stage,
        "data": data,
        **trainer.run_facts,
        "steps": trainer.state.global_step,
        "seconds": runtime.get("train_runtime"),
        "rows_per_second": runtime.get("train_samples_per_second"),
        "peak_resident_mib": round(peak_mib),
        "peak_gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "final_loss": curve[-1][1] if curve else None,
        "losses": curve,
        "evaluations": [log for log in trainer.state.log_history if any(name.startswith("eval_") for name in log)],
        "hardware": describe_hardware(args.world_size),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=2))
    if curve:
        draw_loss_curves({stage: [{"loss": curve}]}, folder / "losses.png")
    return facts
