"""Grammar of captions: the small words between nouns and modifiers, articles and plurals."""

import re
from collections.abc import Sequence
from functools import lru_cache


__all__ = [
    "CLOSED_CLASS",
    "COUNTS",
    "DETERMINERS",
    "NUMBERS",
    "PLACES",
    "PLURALS",
    "PREPOSITIONS",
    "TOKEN",
    "find_article",
    "find_movable",
    "is_plural",
    "join_tokens",
]

NUMBERS = {word: i for i, word in enumerate("one two three four five six seven eight nine ten".split(), start=1)}
COUNTS = NUMBERS | {"a": 1, "an": 1, "a single": 1, "a pair of": 2, "a couple of": 2}
COUNTS |= {f"a group of {word}": number for word, number in NUMBERS.items() if number > 1}
DETERMINERS = frozenset(
    "the this these those some any each every all both most multiple various different his her their its my your our "
    "several many".split()
) | {*COUNTS, "a group of", "a bunch of", "a lot of", "a number of", "a few", "a variety of"}
PLACES = frozenset(
    "on in at near by under over behind beside beneath above below inside outside against along across among".split()
) | {"next to", "close to", "in front of", "on top of", "on the side of", "in the middle of", "in between", "between"}
PREPOSITIONS = PLACES | frozenset("with of from for into onto through around off without like".split())
CLOSED_CLASS = (
    PREPOSITIONS
    | DETERMINERS
    | frozenset("next front top close side middle while there up down out back other another same".split())
    # What a caption denies is not edited: "without no sleeves" says the opposite.
    | {"no", "not"}
)
PLURALS = {"man": "men", "woman": "women", "child": "children", "person": "people"}
_OPENINGS = {f"{article} {noun} of" for article in ("a", "an") for noun in ("photo", "picture", "image", "view")}
_MULTIWORD = sorted((text for text in DETERMINERS | PLACES | _OPENINGS if " " in text), key=len, reverse=True)
# What has several words goes first, so that "in front of" is one token.
TOKEN = re.compile(rf"\b(?:{'|'.join(_MULTIWORD)})\b|\w+(?:['’-]\w+)*|[^\w\s]")


def join_tokens(tokens: Sequence[str]) -> str:
    """Write tokens as text, punctuation close to the word before it."""
    return re.sub(r" ([.,;:!?%)])", r"\1", " ".join(tokens))


@lru_cache(2**14)
def is_plural(noun: str) -> bool:
    """Recognise a plural by its form: "dogs" and "women", but not "dress"."""
    # Not -ss, -is and -us: dress, tennis, cactus.
    return noun in PLURALS.values() or re.fullmatch(r"\w{2,}[^siu\W]s", noun) is not None


@lru_cache(2**14)
def find_article(word: str) -> str:
    """Find the indefinite article before a word: "an" before "orange", "a" before "unicorn"."""
    return "an" if re.match(r"(?!one\b|eu)[aeio]|u(?!ni|s)|hour|honest", word) else "a"


def find_movable(tokens: Sequence[str], phrases: Sequence[tuple[int, int, int]]) -> list[tuple[tuple, tuple]]:
    """Find pairs of noun phrases of which the second is a place or a part of the first, and ends there."""
    return [
        (phrase, after)
        for phrase, after in zip(phrases, phrases[1:], strict=False)
        if after[0] == phrase[2] + 1
        and tokens[phrase[2]] in PLACES | {"with"}
        and (after[2] == len(tokens) or tokens[after[2]] in PLACES | {"with", "and", "while", "."})
    ]
