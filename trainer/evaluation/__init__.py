"""Judging: benchmarks, protocols, rankings, metrics and diagnosis."""
