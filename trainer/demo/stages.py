"""Stages of the demo: which of how many runs, how long each took, and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager

from tqdm.auto import tqdm


__all__ = ["Stages"]

# Seconds of each stage of the demo preset, judging included; others take as long as `_OTHER`.
_SECONDS = {"world": 30, "clip": 250}
_OTHER = 25


class Stages:
    """Announces and times the stages of a run.

    Args:
        names (sequence of `str`): All stages to come, in their order.
    """

    def __init__(self, names: Sequence[str]):
        self.shares, self.number, self.start = [_SECONDS.get(name, _OTHER) for name in names], 0, time.perf_counter()

    @contextmanager
    def __call__(self, name: str, title: str, seconds: MutableMapping[str, float]) -> Iterator[None]:
        """Announce the next stage, and note the seconds it takes.

        Args:
            name (`str`): Its name, under which the seconds are noted.
            title (`str`): What it does.
            seconds (`MutableMapping[str, float]`): Where to note them.
        """
        tqdm.write(f"\nStage {self.number + 1} of {len(self.shares)}: {title}{self._estimate()}")
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 2)
        self.number += 1

    def _estimate(self) -> str:
        """Scale the time that has passed by what is left of the shares."""
        done, left = sum(self.shares[: self.number]), sum(self.shares[self.number :])
        if not done:
            return ""
        return f" (about {max(1, round(left / done * (time.perf_counter() - self.start) / 60))} min left)"
