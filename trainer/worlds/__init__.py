"""Embedded worlds: each a data set and a benchmark, drawn in code."""
