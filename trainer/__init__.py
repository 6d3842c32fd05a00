"""Training and judging of RTD and its projections."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING


if TYPE_CHECKING:  # so that editors and type checkers see what is imported on first use
    from trainer.data.streams import open_stream
    from trainer.data.triplets import load_triplets
    from trainer.evaluation.benchmarks import Benchmark, load_benchmark
    from trainer.evaluation.diagnosis import run_diagnosis
    from trainer.evaluation.evaluate import evaluate
    from trainer.evaluation.evaluator import RetrievalEvaluator
    from trainer.methods import find_method, register_method
    from trainer.publishing.saving import save_rtd_model
    from trainer.training.arguments import RTDTrainingArguments
    from trainer.training.lora import add_lora, merge_adapter
    from trainer.training.losses import target_anchored_loss
    from trainer.training.projections.context_i2w import ContextI2WTrainingArguments
    from trainer.training.projections.fti4cir import FTI4CIRTrainingArguments
    from trainer.training.projections.lincir import LinCIRTrainingArguments
    from trainer.training.projections.pic2word import Pic2WordTrainingArguments
    from trainer.training.projections.searle import SEARLETrainingArguments
    from trainer.training.projections.trainer import ProjectionTrainer
    from trainer.training.rtd_collator import HardNegativeTripletCollator
    from trainer.training.rtd_trainer import RTDTrainer
    from trainer.worlds.small_world import build_small_world

_MODULES = {
    "Benchmark": "trainer.evaluation.benchmarks",
    "ContextI2WTrainingArguments": "trainer.training.projections.context_i2w",
    "FTI4CIRTrainingArguments": "trainer.training.projections.fti4cir",
    "HardNegativeTripletCollator": "trainer.training.rtd_collator",
    "LinCIRTrainingArguments": "trainer.training.projections.lincir",
    "Pic2WordTrainingArguments": "trainer.training.projections.pic2word",
    "ProjectionTrainer": "trainer.training.projections.trainer",
    "RTDTrainer": "trainer.training.rtd_trainer",
    "RTDTrainingArguments": "trainer.training.arguments",
    "RetrievalEvaluator": "trainer.evaluation.evaluator",
    "SEARLETrainingArguments": "trainer.training.projections.searle",
    "add_lora": "trainer.training.lora",
    "build_small_world": "trainer.worlds.small_world",
    "evaluate": "trainer.evaluation.evaluate",
    "find_method": "trainer.methods",
    "load_benchmark": "trainer.evaluation.benchmarks",
    "load_triplets": "trainer.data.triplets",
    "open_stream": "trainer.data.streams",
    "register_method": "trainer.methods",
    "merge_adapter": "trainer.training.lora",
    "run_diagnosis": "trainer.evaluation.diagnosis",
    "save_rtd_model": "trainer.publishing.saving",
    "target_anchored_loss": "trainer.training.losses",
}

__all__ = [
    "Benchmark",
    "ContextI2WTrainingArguments",
    "FTI4CIRTrainingArguments",
    "HardNegativeTripletCollator",
    "LinCIRTrainingArguments",
    "Pic2WordTrainingArguments",
    "ProjectionTrainer",
    "RTDTrainer",
    "RTDTrainingArguments",
    "RetrievalEvaluator",
    "SEARLETrainingArguments",
    "add_lora",
    "build_small_world",
    "evaluate",
    "find_method",
    "load_benchmark",
    "load_triplets",
    "merge_adapter",
    "open_stream",
    "refuse_other_trainer",
    "register_method",
    "run_diagnosis",
    "save_rtd_model",
    "target_anchored_loss",
]


def refuse_other_trainer() -> None:
    """Refuse to work beside another distribution that installs a package named `trainer` too.

    Raises:
        ImportError: If one is installed: the files of the two overwrite each other.
    """
    for name in ("trainer", "coqui-tts-trainer"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        raise ImportError(
            f"the distribution '{name}' {found} installs a package named 'trainer' as rtd-cir does, and their files "
            "overwrite each other. Use a separate environment, or uninstall both and install rtd-cir again."
        )


def __getattr__(name: str):
    # Imported on first use, so that the command line answers at once.
    if name not in _MODULES:
        raise AttributeError(f"module 'trainer' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


refuse_other_trainer()
