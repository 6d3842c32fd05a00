"""Rules that edit captions: how an edit is said, and which edits a caption admits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer.caption_triplets.grammar import (
    COUNTS,
    NUMBERS,
    PLACES,
    PREPOSITIONS,
    TOKEN,
    find_article,
    is_plural,
    join_tokens,
)
from trainer.caption_triplets.lexicon import Lexicon
from trainer.captions import get_keyword_fn


__all__ = ["WORDINGS", "Rules"]

# How a condition speaks of an edit. `a_...` and `the_...` are noun phrases with their article, the rest bare words.
WORDINGS = {
    "object": (
        "replace {the_old} with {a_new}",
        "change {the_old} to {a_new}",
        "{a_new} instead of {the_old}",
        "has {a_new} instead of {a_old}",
        "shows {a_new} instead of {a_old}",
    ),
    "attribute": (
        "make the {noun} {new} instead of {old}",
        "change {the_old} to {a_new}",
        "the {noun} {be} {new} and not {old}",
        "is {new} instead of {old}",
        "has {a_new} instead of {a_old}",
    ),
    "count": (
        "change {a_old} to {a_new}",
        "there {be} {a_new} instead of {a_old}",
        "has {a_new} instead of {a_old}",
        "shows {a_new} and no longer {a_old}",
    ),
    "add_attribute": ("make the {noun} {new}", "the {noun} {be} {new}", "has {a_new}", "the {noun} should be {new}"),
    "remove_attribute": (
        "the {noun} {be} not {old}",
        "the {noun} {be} no longer {old}",
        "make the {noun} not {old}",
        "is not {old}",
    ),
    "add_part": ("add {phrase}", "has {phrase} added", "comes with {phrase}", "also has {phrase}", "with {phrase}"),
    "remove_part": ("remove {the_phrase}", "without {phrase}", "no longer has {phrase}", "is without {phrase}"),
    "add_place": ("put the {noun} {phrase}", "the {noun} {be} now {phrase}", "{phrase}", "the {noun} {be} {phrase}"),
    "remove_place": ("the {noun} {be} no longer {phrase}", "the {noun} {be} not {phrase}", "is not {phrase}"),
}
_NEIGHBOURS = 6  # most similar words that a replacement is drawn from
_AGREEING = frozenset("is are was were has have he she it his its they their them each".split())  # with a number


class Rules:
    """Edits of captions by templates; words and phrases come from the other captions.

    Args:
        captions (`list[str]`): Captions.
        keyword_fn (`str`): Who tags their words, see [`get_keyword_fn`].
        is_known (callable): Tells whether a condition may be used.
    """

    def __init__(self, captions: Sequence[str], keyword_fn: str, is_known: Callable[[str], bool]):
        self.lexicon = Lexicon(captions, get_keyword_fn(keyword_fn))
        self._is_known = is_known

    def propose(self, caption: str, rng: np.random.Generator) -> Iterator[tuple[str, str, str, str]]:
        """Draw edits of a caption, one of each template in random order.

        Args:
            caption (`str`): One of the captions.
            rng (`numpy.random.Generator`): Decides the draws.

        Yields:
            `tuple`: Template, reference, condition, target.
        """
        tokens = TOKEN.findall(caption)
        phrases = [phrase for phrase in self.lexicon.find_noun_phrases(tokens) if self.lexicon.is_noun(tokens[phrase[2] - 1])]
        options = defaultdict(list)
        for find_edits in (_edit_words, _edit_counts, _edit_phrases):
            for template, edited, fields in find_edits(self.lexicon, tokens, phrases):
                options[template].append((edited, fields))
        for template in rng.permutation(list(options)):
            edited, fields = options[template][rng.integers(len(options[template]))]
            conditions = (wording.format(**fields) for wording in rng.permutation(WORDINGS[template]))
            condition = next(filter(self._is_known, conditions), None)
            if condition is not None:
                yield str(template), join_tokens(tokens), condition, join_tokens(edited)


def _describe(lexicon: Lexicon, determiner: str | None, words: Sequence[str]) -> tuple[str, str]:
    """Write a noun phrase with the article that fits its determiner, and with `the`."""
    text = join_tokens(words)
    if not determiner or is_plural(words[-1]):
        return text, f"the {text}" if determiner or is_plural(words[-1]) else text
    countable = COUNTS.get(determiner) == 1 or lexicon.has("a", words[0])
    return f"{find_article(text)} {text}" if countable else text, f"the {text}"


def _be(noun: str) -> str:
    return "are" if is_plural(noun) else "is"


def _edit_words(lexicon: Lexicon, tokens: list[str], phrases: list[tuple]) -> Iterator[tuple]:
    """Replace a noun or an adjective by one that stands in the same places, add an adjective, or remove one."""
    for start, first, end in phrases:
        determiner = tokens[first - 1] if first > start else None
        for i in range(first, end):
            for template, new, stop in _find_words(lexicon, tokens, first, i, end):
                a_old, the_old = _describe(lexicon, determiner, tokens[i:end])
                a_new, _ = _describe(lexicon, determiner, [*new, *tokens[stop:end]])
                fields = {"a_old": a_old, "the_old": the_old, "a_new": a_new, "be": _be(tokens[end - 1])}
                fields |= {"old": join_tokens(tokens[i:stop]), "new": join_tokens(new)}
                fields["noun"] = join_tokens([*tokens[first:i], *tokens[stop:end]])
                edited = [*tokens[:i], *new, *tokens[stop:]]
                if i and edited[i - 1] in ("a", "an"):
                    edited[i - 1] = find_article(edited[i])
                yield template, edited, fields


def _find_words(lexicon: Lexicon, tokens: list[str], first: int, i: int, end: int) -> Iterator[tuple]:
    """Find what may stand at a place of a noun phrase: template, new words, and where the old go on."""
    left, old, right = tokens[i - 1] if i else "^", tokens[i], tokens[i + 1 : end][:1]
    is_object = i + 1 == end or lexicon.is_noun(old)
    words = [word for word in lexicon.find_neighbours(tokens, i, end) if word not in tokens]
    if is_object:
        words = [word for word in words if lexicon.is_noun(word)]
    ...
