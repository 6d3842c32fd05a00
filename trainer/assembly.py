"""Putting a model together from what a user names."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from transformers import AutoConfig

from modeling_rtd import RTDConfig, RTDModel, RTDProcessor, RTDTextModel
from trainer.adapters import has_adapters
from trainer.base_trainer import BaseTrainer
from trainer.checkpoints import find_checkpoints
from trainer.loss_curves import draw_loss_curves, get_loss_curve
from trainer.progress import LossBarCallback


__all__ = ["finish_run", "load_model_and_processor"]


def load_model_and_processor(name_or_path: str, projection: str | None = None) -> tuple[RTDModel, RTDProcessor]:
    """Load an RTD model, or put a projection on a CLIP.

    Args:
        name_or_path (`str`): Directory or Hub id of an RTD model or of a CLIP.
        projection (`str`, *optional*):
            On a CLIP: directory or Hub id of a projection, or the name of a method for a fresh, untrained one. On an
            RTD model it must be left out.

    Returns:
        `tuple`: Model in evaluation mode, and processor.

    Raises:
        ValueError: If a CLIP comes without a projection, or an RTD model with one.
    """
    if AutoConfig.from_pretrained(name_or_path).model_type == RTDConfig.model_type:
        if projection is not None:
            raise ValueError(
                f"'{name_or_path}' has a projection of its own; leave `projection` out, or name the CLIP underneath."
            )
        return RTDModel.from_pretrained(name_or_path), RTDProcessor.from_pretrained(name_or_path)
    if projection is None:
        raise ValueError(
            f"'{name_or_path}' is a CLIP without a projection: name a trained one, or train it with "
            "`rtd train-projection`."
        )
    model = RTDModel.from_clip(name_or_path, projection)
    return model, RTDProcessor.from_clip(name_or_path, model.projection)


def finish_run(trainer: BaseTrainer, model: RTDModel, title: str, original_repo: str | None = None) -> Path | None:
    """Train, or go on with the run in the output folder, and save the whole model or its adapter.

    Args:
        trainer ([`BaseTrainer`]): Trainer of the model's projection or of a text tower.
        model ([`RTDModel`]): The model that the trained part belongs to.
        title (`str`): Title of the progress bar.
        original_repo (`str`, *optional*): Where the text tower from before RTD stays; see `replace_text_model`.

    Returns:
        `Path` or `None`: Folder `model` or `adapter` in the output folder, beside `training.json` and `losses.png`;
        `None` in all processes but the first.
    """
    LossBarCallback.install(trainer, title)
    trainer.train(resume_from_checkpoint=bool(find_checkpoints(trainer.args.output_dir)))
    folder = None
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if has_adapters(trained):
            folder = Path(trainer.args.output_dir) / "adapter"
            model.save_adapter(folder)
        else:
            if isinstance(trained, RTDTextModel):
                model.replace_text_model(trained, original_repo)
            folder = Path(trainer.args.output_dir) / "model"
            model.save_pretrained(folder)
        trainer.processor.save_pretrained(folder)
        _write_facts(trainer, title)
    if dist.is_initialized():
        # Without it some processes end with an error after the work is done.
        dist.barrier()
        dist.destroy_process_group()
    return folder


def _write_facts(trainer: BaseTrainer, title: str) -> None:
    """Write what the run was and took: `training.json` and `losses.png` in the output folder."""
    args, curve = trainer.args, get_loss_curve(trainer)
    runtime = next((log for log in reversed(trainer.state.log_history) if "train_runtime" in log), {})
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts = {
        **trainer.run_facts,
        "steps": trainer.state.global_step,
        "batch_size": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "seconds": runtime.get("train_runtime"),
        "rows_per_second": runtime.get("train_samples_per_second"),
        "peak_resident_mib": round(peak_mib),
        "peak_gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "final_loss": curve[-1][1] if curve else None,
        "losses": curve,
        "arguments": {k: v for k, v in args.to_sanitized_dict().items() if v is not None and "token" not in k},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    folder = Path(args.output_dir)
    (folder / "training.json").write_text(json.dumps(facts, indent=2, default=str))
    if curve:
        draw_loss_curves({title: [{"loss": curve}]}, folder / "losses.png")
