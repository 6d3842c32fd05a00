"""Measure `rtd triplets` by rules on one process and on several: captions a second, and memory.

    PYTHONPATH=. python speed/triplets.py --captions 10000 100000 1000000 --num-proc 1 2

Captions are drawn: noun phrases with adjectives, places and parts, whose words are as unevenly frequent as in English.
Each row is a process of its own. `lexicon_s` is the part that one process does alone, `per_second` counts captions of
the rest, `cpu_s` is the time of all processes' processors, and `peak_mib` the most memory of the largest. `same` tells
whether the bytes are those of the first row of as many captions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from speed.comparing import report


__all__ = ["draw_captions", "measure"]

_COLUMNS = ("captions", "num_proc", "lexicon_s", "per_second", "seconds", "cpu_s", "peak_mib", "triplets", "same")
_NOUNS, _ADJECTIVES = 2000, 300
_PLACES = ("on", "in", "near", "under", "next to", "in front of", "with")


def draw_captions(count: int, seed: int = 0) -> Iterator[str]:
    """Draw captions.

    Args:
        count (`int`): How many.
        seed (`int`, defaults to 0): Decides all draws.

    Yields:
        `str`: A caption.
    """
    rng = np.random.default_rng(seed)
    nouns = (rng.zipf(1.2, (count, 2)) - 1) % _NOUNS
    adjectives, places = (rng.zipf(1.2, (count, 2)) - 1) % _ADJECTIVES, rng.integers(len(_PLACES), size=count)
    for (first, second), (one, other), place in zip(nouns.tolist(), adjectives.tolist(), places.tolist(), strict=True):
        subject = f"a {_spell(one, 'ful')} {_spell(first, 'or')}"
        yield f"{subject} {_PLACES[place]} the {_spell(other, 'ful')} {_spell(second, 'or')}"


def _spell(number: int, ending: str) -> str:
    """Spell a number as a word that is like no other part of speech."""
    return "".join("bdgkmnprtv"[int(digit)] + "aeiouaeiou"[int(digit)] for digit in str(number)) + ending


def measure(count: int, num_proc: int) -> dict:
    """Make triplets in this process, which should be a fresh one.

    Args:
        count (`int`): Captions.
        num_proc (`int`): Processes that edit.

    Returns:
        `dict`: See above, but `same`.
    """
    from trainer.triplet_making import write_triplets
    from trainer.triplet_making.maker import TripletMaker

    seconds, init = {}, TripletMaker.__init__

    def time_lexicon(self, *args, **kwargs) -> None:
        start = time.perf_counter()
        init(self, *args, **kwargs)
        seconds["lexicon_s"] = time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder, patch.object(TripletMaker, "__init__", time_lexicon):
        source, output = Path(folder, "captions.txt"), Path(folder, "triplets.jsonl")
        with source.open("w") as file:
            file.writelines(f"{caption}\n" for caption in draw_captions(count))
        start = time.perf_counter()
        made = write_triplets(source, output, num_proc=num_proc)
        seconds["seconds"] = time.perf_counter() - start
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "captions": count,
        "num_proc": num_proc,
        "triplets": made["triplets"],
        "per_second": count / (seconds["seconds"] - seconds["lexicon_s"]),
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in used),
        "peak_mib": max(one.ru_maxrss for one in used) / 1024,
        "digest": digest,
        **seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--num-proc", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--plot", type=Path, help="picture of captions a second")
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.captions[0], options.num_proc[0])))
        return
    rows = []
    for count in options.captions:
        for num_proc in options.num_proc:
            command = [sys.executable, __file__, "--step", "--captions", str(count), "--num-proc", str(num_proc)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            first = next(row for row in rows if row["captions"] == count)
            rows[-1]["same"] = rows[-1]["agrees"] = rows[-1]["digest"] == first["digest"]
    report(rows, _COLUMNS, options)


if __name__ == "__main__":
    main()
