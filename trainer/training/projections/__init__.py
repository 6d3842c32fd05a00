"""Objectives of the projections: how rows become batches, and batches a loss."""

from modeling_rtd import suggest
from trainer.training.projections.context_i2w import ContextI2WObjective
from trainer.training.projections.fti4cir import FTI4CIRObjective
from trainer.training.projections.lincir import LinCIRObjective
from trainer.training.projections.pic2word import Pic2WordObjective
from trainer.training.projections.searle import SEARLEObjective


__all__ = [
    "OBJECTIVES",
    "ContextI2WObjective",
    "FTI4CIRObjective",
    "LinCIRObjective",
    "Pic2WordObjective",
    "SEARLEObjective",
    "find_objective",
]

OBJECTIVES = {
    "context_i2w": ContextI2WObjective,
    "fti4cir": FTI4CIRObjective,
    "lincir": LinCIRObjective,
    "pic2word": Pic2WordObjective,
    "searle": SEARLEObjective,
}


def find_objective(method: str) -> type:
    """Look up the objective of a method.

    Args:
        method (`str`): A key of `OBJECTIVES`.

    Returns:
        `type`: The objective's class.

    Raises:
        ValueError: If the name is unknown.
    """
    if method not in OBJECTIVES:
        raise ValueError(suggest("training method", method, OBJECTIVES))
    return OBJECTIVES[method]
