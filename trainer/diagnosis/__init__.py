"""Diagnosis: what the numbers of a model mean. Pure functions on arrays and texts, and one that runs them all."""

from trainer.diagnosis.diagnosis import ALPHAS, run_diagnosis


__all__ = ["ALPHAS", "run_diagnosis"]
