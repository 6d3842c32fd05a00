"""Condition augmentation: conditions as people write them, for triplets whose conditions are all of one kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import torch
from numpy.random import Generator

from modeling_rtd import suggest
from trainer.encoding.noise import iterate_generators
from trainer.triplet_making.grammar import is_plural


__all__ = ["CONDITION_AUGMENTATIONS", "ConditionAugmentation", "count_unread", "parse_augmentations"]

_IsKnown = Callable[[str], bool]
# Ways to say one edit, by what they tell of it. `be` is "is" or "are", `it` the noun or "it".
_WORDINGS = {
    "exchange": (
        "{verb} not {old} but {new}",
        "{verb} {new} instead of {old}",
        "{verb} {new} rather than {old}",
        "{verb} {new} in place of {old}",
        "goes from {old} to {new}",
        "change from {old} to {new}",
        "change {old} to {new}",
        "replace {old} with {new}",
        "turn {old} into {new}",
    ),
    "removal": (
        "no longer has {old}",
        "has no {old}",
        "is without {old}",
        "goes without {old}",
        "remove {old}",
        "without {old}",
        "no {old}",
    ),
    "loss": (
        "make {it} not {old}",
        "{noun} should not be {old}",
        "{noun} {be} no longer {old}",
        "{noun} {be} not {old}",
    ),
    "state": (
        "make {it} {new}",
        "{noun} should be {new}",
        "{noun} {be} now {new}",
        "{noun} {be} {new}",
    ),
    "possession": (
        "also has {new}",
        "now has {new}",
        "comes with {new}",
        "has {new}",
        "add {new}",
        "include {new}",
        "with {new}",
    ),
}
_NEGATIONS = {
    "exchange": ("{verb} not {old} but {new}", "no {old} but {new}", "{be} not {old}", "not {old}", "no {old}"),
    "removal": ("no {old}", "has no {old}", "without {old}", "does not have {old}", "not with {old}"),
    "loss": ("{noun} {be} not {old}", "not {old}"),
}
_CLAUSES = (
    "please",
    "thanks",
    "if there is one",
    "as you can see",
    "for a friend of mine",
    "i hope you can help",
    "it is for my website",
    "any day of the week",
)
_NOTHING = (
    "is not changed",
    "is the same",
    "the same",
    "as it is",
    "no change",
    "leave it as it is",
    "nothing changes",
)
_FIELDS = {
    "{verb} ": r"(?:(?P<verb>is|are|has|have|shows|comes as|comes in) )?",
    "{noun} ": r"(?:(?P<noun>(?!make )(?:(?! and ).)+?) )??",
    # What is made so is one word: in "make the dog on grass brown" nobody can tell where the noun ends.
    "{it} {new}": r"(?P<noun>(?:(?! and ).)+) (?P<new>\S+)",
    "{it} ": r"(?P<noun>(?:(?! and ).)+) ",
    "{be}": r"(?P<be>is|are)",
    "{old}": r"(?P<old>.+)",
    "{new}": r"(?P<new>(?:(?! added| removed| changed| as well| instead).)+)",
}
_JOINT = re.compile(r" and (?=(?:is|are|has|have|shows|comes|goes|with|without|make|change|replace|add|remove|no)\b)")
# "make the dog red instead of blue": what comes is not "make the dog red".
_CLAUSE = re.compile(r"\b(?:make|put|there|is|are|has|have|should)\b", re.IGNORECASE)
_MODIFIERS = frozenset("a an the is are has have it its that this them some very should be".split())
_ENGLISH = frozenset(
    "a an the is are has have with without of and not but instead from to by it its that this make change replace "
    "remove add include more less no longer shows should".split()
)
_OTHERS = frozenset(
    "een de het van op met zijn der die das den ein eine ist und mit un une le la les des du est et avec sans sur el "
    "los las una con sin es y lo gli il di che um uma os com sem e é o da do på og och en er med".split()
)


def _compile(template: str) -> re.Pattern:
    for field, expression in _FIELDS.items():
        template = template.replace(field, expression)
    return re.compile(template, re.IGNORECASE)


# Longer wordings first: "the dog is red" would fit most of them.
_PATTERNS = [(kind, template, _compile(template)) for kind, group in _WORDINGS.items() for template in group]


def _parse(clause: str) -> tuple[str, str, dict[str, str]] | None:
    """Find what a clause says: kind of wording, its template, and the fields."""
    for kind, template, pattern in _PATTERNS:
        if found := pattern.fullmatch(clause):
            fields = {name: text or "" for name, text in found.groupdict().items()}
            return None if kind == "exchange" and _CLAUSE.search(fields["new"]) else (kind, template, fields)
    return None


def _say(template: str, fields: dict[str, str]) -> str:
    noun = fields.get("noun", "")
    be = fields.get("be") or ("are" if noun and is_plural(noun.split()[-1]) else "is")
    said = template.format(**({"verb": "", "noun": ""} | fields | {"be": be, "it": noun or "it"}))
    return re.sub(r"\bno (?:the|an?|some) ", "no ", " ".join(said.split()))


def _choose(options: Iterable[str], rng: Generator, is_known: _IsKnown) -> str | None:
    """Draw one of the texts whose words the tokenizer has."""
    return next(filter(is_known, map(str, rng.permutation(list(options)))), None)


def _rewrite(row: dict, rng: Generator, is_known: _IsKnown, wordings: dict[str, tuple]) -> str | None:
    """Say one clause of a condition in another way."""
    clauses = _JOINT.split(row["conditioning_caption"].strip().rstrip("."))
    for place in rng.permutation(len(clauses)):
        kind, used, fields = _parse(clauses[place]) or ("", "", {})
        said = [_say(template, fields) for template in wordings.get(kind, ()) if template != used]
        if text := _choose(said, rng, is_known) if said else None:
            return " and ".join([*clauses[:place], text, *clauses[place + 1 :]])
    return None


def _reword(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    return _rewrite(row, rng, is_known, _WORDINGS)


def _negate(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    """Say what is no longer there, as the condition says it or else the captions, if they differ in one place."""
    if text := _rewrite(row, rng, is_known, _NEGATIONS):
        return text
    before, after = (row[f"{name}_caption"].rstrip(" .").split() for name in ("reference", "target"))
    # With autojunk, difflib passes over frequent words of texts of 200 and more.
    edits = [edit for edit in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if edit[0] != "equal"]
    if len(edits) != 1 or edits[0][0] == "insert":
        return None
    kind, start, stop, begin, end = edits[0]
    fields = {"old": " ".join(before[start:stop]), "new": " ".join(after[begin:end])}
    kind = "exchange" if kind == "replace" else "removal"
    return _choose([_say(template, fields) for template in _NEGATIONS[kind]], rng, is_known)


def _contradict(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    from trainer.evaluation.diagnosis.condition_edits import negate  # draws pictures, which training does not

    text = row["conditioning_caption"]
    # Not "X and not X", on which a diagnosis tests.
    return _choose([f"{text} but {negate(text)}", f"{negate(text)} and {text}"], rng, lambda _: True)


def _say_nothing(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    return _choose(_NOTHING, rng, is_known)


def _repeat_reference(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    """Repeat words of the reference that are also true of the target."""
    before, after = row["reference_caption"].rstrip(" .").split(), set(row["target_caption"].rstrip(" .").split())
    runs = [before[i : i + size] for size in (2, 3, 4) for i in range(len(before) - size + 1)]
    runs = [" ".join(run) for run in runs if after.issuperset(run) and run[-1] not in _MODIFIERS]
    text = row["conditioning_caption"]
    said = [f"{text} {run}" for run in runs] + [f"{run} {text}" for run in runs]
    return _choose(said, rng, lambda _: True) if said else None


def _add_clause(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    text, clause = row["conditioning_caption"], _CLAUSES[rng.integers(len(_CLAUSES))]
    return f"{text}, {clause}" if rng.random() < 0.5 else f"{clause}, {text}"


def _drop_words(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    """Drop articles and verbs, each by half, as in notes; never a `not`."""
    kept = [word for word in row["conditioning_caption"].split() if word not in _MODIFIERS or rng.random() < 0.5]
    return " ".join(kept) or None


def _misspell(row: dict, rng: Generator, is_known: _IsKnown) -> str | None:
    """Drop, double or swap letters of a word, or write all in capitals."""
    text = row["conditioning_caption"]
    words = [match.span() for match in re.finditer(r"[^\W\d_]{4,}", text)]
    if not words or rng.random() < 0.25:
        return text.upper()
    start, end = words[rng.integers(len(words))]
    i = int(rng.integers(start + 1, end - 1))
    letters = text[i : i + 2]
    return text[:i] + (letters[1], letters[0] + letters, letters[::-1])[rng.integers(3)] + text[i + 2 :]


class _Augmentation(NamedTuple):
    write: Callable[[dict, Generator, _IsKnown], str | None]
    share: float  # of the visits of a row
    changes_nothing: bool = False  # such a condition asks for the reference


# By name, in the order in which they act on a row. The order also numbers their draws: new ones go to the end.
CONDITION_AUGMENTATIONS = {
    "rewording": _Augmentation(_reword, 0.5),
    "negation": _Augmentation(_negate, 0.25),
    "contradiction": _Augmentation(_contradict, 0.1, changes_nothing=True),
    "reference_words": _Augmentation(_repeat_reference, 0.25),
    "irrelevant_clause": _Augmentation(_add_clause, 0.25),
    "dropped_words": _Augmentation(_drop_words, 0.25),
    "typo": _Augmentation(_misspell, 0.25),
    "empty": _Augmentation(_say_nothing, 0.1, changes_nothing=True),
}


def parse_augmentations(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Read names of augmentations, and put them into the order in which they act.

    Args:
        names (`str` or sequence of `str`, *optional*): Names, or one string with commas; none by default.

    Returns:
        `tuple[str, ...]`: Names, each once.

    Raises:
        ValueError: If a name is unknown.

    Examples:
        >>> parse_augmentations("typo, rewording")
        ('rewording', 'typo')
    """
    found = [name.strip() for name in (names.split(",") if isinstance(names, str) else names or ())]
    for name in filter(None, found):
        if name not in CONDITION_AUGMENTATIONS:
            raise ValueError(suggest("condition augmentation", name, CONDITION_AUGMENTATIONS))
    return tuple(name for name in CONDITION_AUGMENTATIONS if name in found)


def _is_read(row: dict) -> bool:
    """Decide by small words whether a triplet is English, which the rules know."""
    texts = (row[f"{name}_caption"] for name in ("reference", "conditioning", "target"))
    words = {word for text in texts for word in text.lower().split()}
    return len(words & _ENGLISH) > len(words & _OTHERS)


def count_unread(rows: Iterable[dict]) -> int:
    """Count triplets in a language that the rules do not know, which [`ConditionAugmentation`] leaves alone.

    Args:
        rows (iterable of `dict`): Triplets. English is recognised by its small words, such as "a", "is" and "with".

    Returns:
        `int`: Their number.

    Examples:
        >>> columns = ("reference_caption", "conditioning_caption", "target_caption")
        >>> count_unread([dict(zip(columns, ("ein roter Hund", "ist blau", "ein blauer Hund")))])
        1
    """
    return sum(not _is_read(row) for row in rows)


class ConditionAugmentation:
    """Change the conditions of triplets as people write them; ours, not the paper's.

    Each augmentation of [`CONDITION_AUGMENTATIONS`] acts on its own share of the visits of a row, where its rule
    applies. Its draws are keyed by seed, epoch and row, as those of [`draw_noise`] are. They are the same for any
    number of processes or loader workers, after a resume, and whichever other augmentations act.

    Args:
        names (`str` or sequence of `str`): See [`parse_augmentations`].
        seed (`int`): Seed of the run.
        is_known (callable, *optional*):
            Whether the tokenizer has a word. Wordings with other words are not used. Defaults to all words.
    """

    def __init__(self, names: str | Sequence[str], seed: int, is_known: _IsKnown | None = None):
        self.names, self.seed = parse_augmentations(names), seed
        self._is_known, self._known = is_known, {}
        # Shared, since workers that persist were started in an earlier epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def begin_epoch(self, epoch: int) -> None:
        """Draw anew.

        Args:
            epoch (`int`): Number of passes over the data before this one.
        """
        self._epoch.fill_(epoch)

    def _knows(self, text: str) -> bool:
        if self._is_known is None:
            return True
        words = text.split()
        # Kept by word: a call of a tokenizer takes longer than all the rest.
        self._known |= {word: self._is_known(word) for word in words if word not in self._known}
        return all(self._known[word] for word in words)

    def __call__(self, rows: Sequence[dict]) -> list[dict]:
        """Change rows.

        Args:
            rows (`list[dict]`): Rows of [`prepare_triplets`].

        Returns:
            `list[dict]`: Copies with another `conditioning_caption`. Where it is empty or contradicts itself,
            `target_caption` is that of the reference.
        """
        rows, read = [dict(row) for row in rows], [_is_read(row) for row in rows]
        numbers, epoch = [row["row"] for row in rows], int(self._epoch)
        for stream, (name, augmentation) in enumerate(CONDITION_AUGMENTATIONS.items(), start=1):
            if name not in self.names:
                continue
            generators = iterate_generators(numbers, self.seed, epoch, stream)
            for row, is_read, rng in zip(rows, read, generators, strict=True):
                if not is_read or rng.random() >= augmentation.share:
                    continue
                text = augmentation.write(row, rng, self._knows)
                if text is not None:
                    row["conditioning_caption"] = text
                    if augmentation.changes_nothing:
                        row["target_caption"] = row["reference_caption"]
        return rows
