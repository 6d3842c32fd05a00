"""Grammar of captions: the small words between nouns and modifiers, articles and plurals."""

import re
from collections.abc import Sequence


__all__ = [
    "ADVERBS",
    "COUNTS",
    "DETERMINERS",
    "NUMBERS",
    "OPENINGS",
    "PLACES",
    "PLURALS",
    "PREPOSITIONS",
    "TOKEN",
    "find_article",
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
OPENINGS = frozenset(f"{article} {noun} of" for article in ("a", "an") for noun in "photo picture image view".split())
ADVERBS = frozenset("next front top close side middle while there up down out back other another same".split())
PLURALS = {"man": "men", "woman": "women", "child": "children", "person": "people"}

_MULTIWORD = sorted((text for text in DETERMINERS | PLACES | OPENINGS if " " in text), key=lambda text: (-len(text), text))
TOKEN = re.compile(rf"\b(?:{'|'.join(_MULTIWORD)})\b|\w+(?:['’-]\w+)*|[^\w\s]")


def join_tokens(tokens: Sequence[str]) -> str:
    """Write tokens as text, punctuation close to the word before it.

    Args:
        tokens (`list[str]`): Tokens, as `TOKEN` finds them.

    Returns:
        `str`: The text.

    Examples:
        >>> join_tokens(["a pair of", "dogs", ",", "sleeping"])
        'a pair of dogs, sleeping'
    """
    return re.sub(r" ([.,;:!?%)])", r"\1", " ".join(tokens))


def is_plural(noun: str) -> bool:
    """Tell a plural by its form.

    Args:
        noun (`str`): A noun.

    Returns:
        `bool`: Whether it is one.

    Examples:
        >>> is_plural("dogs"), is_plural("women"), is_plural("dress")
        (True, True, False)
    """
    return noun in PLURALS.values() or re.fullmatch(r"\w{2,}[^siu\W]s", noun) is not None


def find_article(word: str) -> str:
    """Find the indefinite article before a word.

    Args:
        word (`str`): The word that follows.

    Returns:
        `str`: `"a"` or `"an"`.

    Examples:
        >>> find_article("orange"), find_article("unicorn")
        ('an', 'a')
    """
    return "an" if re.match(r"(?!one\b|eu)[aeio]|u(?!ni|s)|hour|honest", word) else "a"
