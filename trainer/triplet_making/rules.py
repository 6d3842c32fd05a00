"""Rules that edit captions: how an edit is said, and which edits a caption admits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np

from trainer.triplet_making import grammar
from trainer.triplet_making.lexicon import Lexicon


__all__ = ["WORDINGS", "draw_edits"]

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
    "negate_object": ("not {a_old} but {a_new}", "is not {a_old} but {a_new}", "no {bare_old} but {a_new}"),
    "negate_attribute": ("not {old} but {new}", "is not {old} but {new}", "the {noun} {be} not {old} but {new}"),
    "negate_part": ("no {bare}", "has no {bare}", "with no {bare}"),
    "more": ("more {plural}", "has more {plural}", "there are more {plural}"),
    "fewer": ("fewer {plural}", "has fewer {plural}", "there are fewer {plural}"),
}
_NEGATIONS = {"object": "negate_object", "attribute": "negate_attribute"}
_NEIGHBOURS = 6  # most similar words that a replacement is drawn from
_AGREEING = frozenset("is are was were has have he she it his its they their them each".split())  # with a number


def draw_edits(
    lexicon: Lexicon, caption: str, rng: np.random.Generator, is_known: Callable[[str], bool]
) -> Iterator[tuple[str, str, str, str]]:
    """Draw edits of a caption, one of each template in random order: template, reference, condition, target."""
    tokens, options = grammar.TOKEN.findall(caption), defaultdict(list)
    phrases = [phrase for phrase in lexicon.find_noun_phrases(tokens) if lexicon.is_noun(tokens[phrase[2] - 1])]
    for find_edits in (_edit_words, _edit_counts, _edit_phrases):
        for template, write, choices in find_edits(lexicon, tokens, phrases):
            options[template].append((write, choices))
    templates = list(options)
    for template in (templates[place] for place in rng.permutation(len(templates))):
        # Only what was drawn is written out: most of the work, of which most would be for nothing.
        drawn = rng.integers(sum(len(choices) for _, choices in options[template]))
        pairs = ((write, choice) for write, choices in options[template] for choice in choices)
        write, choice = next(islice(pairs, drawn, None))
        edited, fields = write(choice)
        wordings = WORDINGS[template]
        conditions = (wordings[place].format(**fields) for place in rng.permutation(len(wordings)))
        condition = next(filter(is_known, conditions), None)
        if condition is not None:
            yield template, grammar.join_tokens(tokens), condition, grammar.join_tokens(edited)


def _describe(lexicon: Lexicon, determiner: str | None, words: Sequence[str]) -> tuple[str, str]:
    """Write a noun phrase with the article that fits its determiner, and with `the`."""
    text = grammar.join_tokens(words)
    if not determiner or grammar.is_plural(words[-1]):
        return text, f"the {text}" if determiner or grammar.is_plural(words[-1]) else text
    countable = grammar.COUNTS.get(determiner) == 1 or lexicon.has("a", words[0])
    return f"{grammar.find_article(text)} {text}" if countable else text, f"the {text}"


def _be(noun: str) -> str:
    return "are" if grammar.is_plural(noun) else "is"


def _edit_words(lexicon: Lexicon, tokens: list[str], phrases: list[tuple]) -> Iterator[tuple]:
    """Replace a noun or an adjective by one that is in the same places, add an adjective, or remove one."""
    for phrase in phrases:
        _, first, end = phrase
        for i in range(first, end):
            for template, words, stop in _find_swaps(lexicon, tokens, first, i, end):
                write = partial(_write_swap, lexicon, tokens, phrase, i, stop)
                yield template, write, words
                if template in _NEGATIONS:
                    yield _NEGATIONS[template], write, words


def _write_swap(lexicon: Lexicon, tokens: list[str], phrase: tuple, i: int, stop: int, word: str) -> tuple:
    (start, first, end), new = phrase, [word] if word else []
    determiner = tokens[first - 1] if first > start else None
    a_old, the_old = _describe(lexicon, determiner, tokens[i:end])
    a_new, _ = _describe(lexicon, determiner, [*new, *tokens[stop:end]])
    fields = {"a_old": a_old, "the_old": the_old, "a_new": a_new, "be": _be(tokens[end - 1])}
    fields |= {"old": grammar.join_tokens(tokens[i:stop]), "new": grammar.join_tokens(new)}
    fields["noun"] = grammar.join_tokens([*tokens[first:i], *tokens[stop:end]])
    fields["bare_old"] = grammar.join_tokens(tokens[i:end])
    edited = [*tokens[:i], *new, *tokens[stop:]]
    if i and edited[i - 1] in ("a", "an"):
        edited[i - 1] = grammar.find_article(edited[i])
    return edited, fields


def _find_swaps(lexicon: Lexicon, tokens: list[str], first: int, i: int, end: int) -> Iterator[tuple]:
    """Find what may be at a place of a noun phrase: template, choices of a word, and where the old ones continue."""
    left, right = tokens[i - 1] if i else "^", tokens[i + 1] if i + 1 < end else None
    is_object = lexicon.is_noun(tokens[i])
    is_same = lexicon.is_noun if is_object else lexicon.adjectives.__contains__
    if is_same(tokens[i]):
        behind = lexicon.find_next(left)
        similar = (word for word in lexicon.find_neighbours(tokens[i:end]) if word in behind and is_same(word))
        similar = (word for word in similar if word not in tokens and (not right or right in lexicon.find_next(word)))
        if words := list(islice(similar, _NEIGHBOURS)):
            yield "object" if is_object else "attribute", words, i + 1
        if not is_object:
            yield "remove_attribute", [""], i + 1
    barred = set(tokens).union(*(lexicon.find_neighbours(tokens[j:end]) for j in range(first, end - 1)))
    # No "red blue dog".
    if words := [word for word in lexicon.find_adjectives(left, tokens[i]) if word not in barred]:
        yield "add_attribute", words, i


def _edit_counts(lexicon: Lexicon, tokens: list[str], phrases: list[tuple]) -> Iterator[tuple]:
    """Change how many there are; a noun changes its number only to a form that the captions hold."""
    for start, first, end in phrases:
        old, noun = grammar.COUNTS.get(tokens[first - 1]) if first == start + 1 else None, tokens[end - 1]
        is_many = noun in lexicon.singulars
        if old is None or is_many != (old > 1) or (start and tokens[start - 1] in grammar.PLACES | {"of"}):
            continue
        follows = tokens[end] if end < len(tokens) else ","
        is_free = (follows in grammar.PREPOSITIONS | {","} or follows.endswith("ing")) and not _AGREEING & set(tokens)
        other = (lexicon.singulars if is_many else lexicon.plurals).get(noun) if is_free else None
        for word, number in grammar.NUMBERS.items():
            form = noun if is_many == (number > 1) else other
            if form and 0 < abs(number - old) <= 2 and word in lexicon.seen:
                many = form if number > 1 else noun if old > 1 else other
                write = partial(_write_count, tokens, (start, first, end), form, many)
                yield "count", write, [word]
                yield "more" if number > old else "fewer", write, [word]


def _write_count(tokens: list[str], phrase: tuple, form: str, many: str, word: str) -> tuple:
    start, first, end = phrase
    new = [word, *tokens[first : end - 1], form]
    # Numbers are told by numbers: "two dogs instead of one dog", not "instead of a dog".
    told = ["one" if tokens[start] in ("a", "an") else tokens[start], *tokens[first:end]]
    fields = {"a_old": grammar.join_tokens(told), "a_new": grammar.join_tokens(new), "be": _be(form)}
    fields["plural"] = grammar.join_tokens([*tokens[first : end - 1], many])
    return [*tokens[:start], *new, *tokens[end:]], fields


def _edit_phrases(lexicon: Lexicon, tokens: list[str], phrases: list[tuple]) -> Iterator[tuple]:
    """Remove a place or a part (`with ...`), or add one behind the first noun, as another caption has it there."""
    if not phrases:
        return
    _, first, end = phrases[0]
    for movable in grammar.find_movable(tokens, phrases):
        (*_, begin), (start, inner, stop) = movable
        kind = "place" if tokens[begin] in grammar.PLACES else "part"
        write = partial(_write_removal, lexicon, tokens, phrases[0], kind)
        yield f"remove_{kind}", write, [movable]
        if kind == "part" and tokens[start:inner] in ([], ["a"], ["an"]):
            yield "negate_part", write, [movable]
    held, found = set(tokens), defaultdict(list)
    has_place, has_part = not held.isdisjoint(grammar.PLACES), "with" in held  # nothing is in two places
    if (has_place and has_part) or tokens[end : end + 1] == ["of"]:
        return
    for phrase in lexicon.phrases.get(tokens[end - 1], ()):
        is_place = phrase[0] in grammar.PLACES
        if phrase[-1] not in held and not (has_place if is_place else has_part):
            found["place" if is_place else "part"].append(phrase)
    for kind, choices in found.items():
        yield f"add_{kind}", partial(_write_addition, tokens, phrases[0], kind), choices


def _write_removal(lexicon: Lexicon, tokens: list[str], subject: tuple, kind: str, movable: tuple) -> tuple:
    (*_, begin), (start, inner, stop) = movable
    _, the_phrase = _describe(lexicon, tokens[inner - 1] if inner > start else None, tokens[inner:stop])
    fields = {"the_phrase": the_phrase, "phrase": grammar.join_tokens(tokens[begin + (kind == "part") : stop])}
    fields["bare"] = grammar.join_tokens(tokens[inner:stop])
    return [*tokens[:begin], *tokens[stop:]], _name_subject(tokens, subject) | fields


def _write_addition(tokens: list[str], subject: tuple, kind: str, phrase: tuple[str, ...]) -> tuple:
    end, fields = subject[2], {"phrase": grammar.join_tokens(phrase[kind == "part" :])}
    return [*tokens[:end], *phrase, *tokens[end:]], _name_subject(tokens, subject) | fields


def _name_subject(tokens: list[str], subject: tuple) -> dict[str, str]:
    _, first, end = subject
    return {"noun": grammar.join_tokens(tokens[first:end]), "be": _be(tokens[end - 1])}
