"""A release: one recipe made, judged and published on a connected machine, step by step."""
