"""Diagnosis: what the numbers of a model mean. Pure functions on arrays and texts, and one that runs them all."""

from trainer.evaluation.diagnosis.diagnosis import ALPHAS, find_plain_retrieval, run_diagnosis
from trainer.evaluation.diagnosis.target_captions import add_target_captions


__all__ = ["ALPHAS", "add_target_captions", "find_plain_retrieval", "run_diagnosis"]
