"""Benchmarks, each declared on the one shared loop of `trainer.evaluation`."""

from trainer.benchmarks.base import Benchmark


__all__ = ["Benchmark"]
