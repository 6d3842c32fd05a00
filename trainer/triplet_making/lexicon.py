"""Lexicon of captions: what they show about their own words."""

import math
import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import lru_cache

import numpy as np

from trainer.triplet_making import grammar


__all__ = ["Lexicon"]

# Words are exchangeable where they stand in the same places: the least cosine, which few common places shrink.
_MIN_SIMILARITY = {"modifier": 0.1, "singular": 0.2, "plural": 0.2}
_PHRASES = 256  # kept for a noun, the first that come: of millions of captions some have tens of thousands
_CACHED = 2**14  # questions whose answers are kept


class Lexicon:
    """Which words are nouns or adjectives, which are in the same places, and which phrases follow a noun.

    Args:
        captions (iterable of `str`): Captions, which are gone through several times.
        find_keywords (callable): Finds the nouns, adjectives and determiners of a caption, see [`get_keyword_fn`].

    Attributes:
        seen (`Counter`): Words, and how often they occur.
        adjectives (`dict[str, None]`): Words that modify several nouns and are none; a dict as an ordered set.
        phrases (`dict[str, list[tuple]]`): For a noun, the places and parts that captions have behind it.
        plurals, singulars (`dict[str, str]`): Forms of nouns, where the captions hold both.
    """

    def __init__(self, captions: Iterable[str], find_keywords: Callable[[str], list[str]]):
        def read() -> Iterator[tuple[str, ...]]:
            # One string a word, and not one for each time that it is used. The words of all captions are not held.
            return (tuple(map(sys.intern, grammar.TOKEN.findall(caption))) for caption in captions)

        kept = Counter(word for caption in captions for run in find_keywords(caption) for word in run.split())
        self.seen = Counter(word for tokens in read() for word in tokens)
        known = (word for word in self.seen.keys() - grammar.CLOSED_CLASS if word[0].isalpha())
        # A tagger errs in single captions: what it says of a word in most of them counts.
        self._open = {word for word in known if 2 * kept[word] >= self.seen[word]}
        self._verbs = self._find_verbs(read())
        self._after, uses = defaultdict(set), Counter()
        places, following = defaultdict(Counter), defaultdict(dict)
        for tokens in read():
            plain = ["^", *("a" if word == "an" else word for word in tokens), "$"]
            for left, word in zip(plain, plain[1:], strict=False):
                self._after[left].add(word)
            phrases = self.find_noun_phrases(tokens)
            for i, end in ((i, stop) for _, first, stop in phrases for i in range(first, stop)):
                word = _find_role(tokens[i:end])
                uses[word] += 1
                head = [("head", tokens[end - 1])] if i + 1 < end else []
                places[word].update([("<", plain[i]), (">", plain[i + 2]), *head])
            for (*_, begin), (*_, end) in grammar.find_movable(tokens, phrases)[:1]:
                if len(found := following[tokens[begin - 1]]) < _PHRASES:
                    found[tokens[begin:end]] = None
        # Words that are at the end of noun phrases more often than before a noun.
        self._nouns = {
            word for word, _ in uses if uses[word, "singular"] + uses[word, "plural"] > uses[word, "modifier"]
        }
        self.phrases = {noun: [text for text in found if self.is_noun(text[-1])] for noun, found in following.items()}
        self._index({word: found for word, found in places.items() if uses[word] > 2})
        nouns = {word for word, role in self._numbers if role != "modifier"}
        self.plurals = {
            word: min(forms)
            for word in sorted(nouns)
            if (forms := {grammar.PLURALS.get(word), word + "s", word + "es", word[:-1] + "ies"} & nouns)
        }
        self.singulars = {plural: word for word, plural in self.plurals.items()}
        self.adjectives = {  # the more a word is used, the more nouns it must go with: "red", but not "baseball"
            word: None
            for (word, role), found in places.items()
            if sum(side == "head" for side, _ in found) >= max(3, 0.3 * min(len(nouns), uses[word, role]))
            and not (self.is_noun(word) or "'" in word)
        }
        self._keep_answers()

    def _keep_answers(self) -> None:
        # On the instance: on the method it would keep every lexicon alive.
        self._find_similar = lru_cache(_CACHED)(self._find_similar)
        self.find_adjectives = lru_cache(_CACHED)(self.find_adjectives)

    def __getstate__(self):  # for another process, which has answers of its own
        return {name: part for name, part in vars(self).items() if not hasattr(part, "cache_info")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._keep_answers()

    def _find_verbs(self, rows: Iterable[Sequence[str]]) -> set[str]:
        """Find verbs: they are behind words that end a phrase, and hardly ever behind determiner or preposition."""
        bound, followed, behind, agreeing = Counter(), Counter(), Counter(), defaultdict(Counter)
        for left, word in (pair for tokens in rows for pair in zip(tokens, tokens[1:], strict=False)):
            bound[word] += left in grammar.DETERMINERS or left in grammar.PREPOSITIONS
            if left in self._open and word in self._open:
                followed[left] += 1
                behind[word] += 1
                agreeing[word][left] += word.endswith("s") != grammar.is_plural(left)  # as subject and verb
        return {
            word
            for word, lefts in agreeing.items()
            if bound[word] < 0.15 * self.seen[word]
            and behind[word] >= 0.3 * self.seen[word]
            and sum((1 - followed[left] / self.seen[left]) * n for left, n in lefts.items()) >= 0.4 * behind[word]
        }

    def _index(self, places: dict[tuple, Counter]) -> None:
        """Turn the places of each word and role into a unit vector of positive mutual information."""
        totals, columns = Counter(), {}
        for found in places.values():
            totals.update(found)
        total = totals.total()
        ends, taken, weights = array("q", [0]), array("q"), array("d")
        for word, found in places.items():
            scale = total / found.total()
            # Only what is more frequent than chance says something of a word.
            vector = {place: math.log(max(1, n * scale / totals[place])) for place, n in found.items()}
            norm = math.hypot(*vector.values()) or 1
            for place, weight in vector.items():
                if weight:
                    taken.append(columns.setdefault((place, word[1]), len(columns)))
                    weights.append(weight / norm)
            ends.append(len(taken))
        self._words, self._numbers = list(places), {word: number for number, word in enumerate(places)}
        # A sparse matrix by rows, which are words, and again by columns.
        self._ends, self._taken, self._weights = (np.array(part) for part in (ends, taken, weights))
        order = np.argsort(self._taken, kind="stable")
        self._holders = np.repeat(np.arange(len(places)), np.diff(self._ends))[order]
        self._held = self._weights[order]
        self._column_ends = np.concatenate([[0], np.bincount(self._taken, minlength=len(columns)).cumsum()])

    def _find_similar(self, word: tuple[str, str]) -> dict[str, None]:
        number = self._numbers.get(word)
        mine = slice(0, 0) if number is None else slice(self._ends[number], self._ends[number + 1])
        if mine.start == mine.stop:
            return {}
        columns = [slice(*self._column_ends[column : column + 2]) for column in self._taken[mine]]
        others = np.concatenate([self._holders[column] for column in columns])
        parts = zip(self._weights[mine], columns, strict=True)
        cosines = np.bincount(others, np.concatenate([weight * self._held[column] for weight, column in parts]))
        # Few common places may be chance.
        shared = np.bincount(others)
        cosines *= shared / (shared + 3)
        cosines[number] = 0
        # A frequent word is faintly like many: at least half of the best likeness is asked for.
        found = np.flatnonzero(cosines >= max(_MIN_SIMILARITY[word[1]], 0.5 * cosines.max()))
        firsts = np.empty(len(cosines), np.int64)
        firsts[others[::-1]] = np.arange(len(others))[::-1]  # of equal ones that which is met first comes first
        order = np.lexsort((firsts[found], -cosines[found]))
        return dict.fromkeys(self._words[other][0] for other in found[order])

    def find_neighbours(self, words: Sequence[str]) -> dict[str, None]:
        """Find what may stand for the first of the last words of a noun phrase, most similar in its places first."""
        return self._find_similar(_find_role(words))

    def find_noun_phrases(self, tokens: Sequence[str]) -> list[tuple[int, int, int]]:
        """Find noun phrases that are safe to edit: places of determiner, first word behind it, and end."""
        phrases, i = [], 0
        while i < len(tokens):
            first = i
            while first < len(tokens) and tokens[first] in grammar.DETERMINERS:
                first += 1
            end = first
            while end < len(tokens) and tokens[end] in self._open and tokens[end] not in self._verbs:
                end += 1
            is_bound = first > i or i == 0 or tokens[i - 1] in grammar.PREPOSITIONS or tokens[i - 1] in self._verbs
            # What is seen once may be a verb.
            if is_bound and first < end <= first + 4 and all(self.seen[word] > 1 for word in tokens[first:end]):
                phrases.append((i, first, end))
            i = max(end, i + 1)
        return phrases

    def is_noun(self, word: str) -> bool:
        """Check whether a word is at the end of noun phrases more often than before a noun."""
        return word in self._nouns

    def find_next(self, word: str) -> Set[str]:
        """Find the words that the captions hold behind a word; "^" is where captions begin."""
        return self._after.get("a" if word == "an" else word, frozenset())

    def has(self, *words: str) -> bool:
        """Check whether the captions hold each two of these words side by side."""
        words = ["a" if word == "an" else word for word in words]
        return all(word in self.find_next(left) for left, word in zip(words, words[1:], strict=False))

    def find_adjectives(self, left: str, right: str) -> list[str]:
        """Find the adjectives that the captions hold behind one word and before another."""
        behind = self.find_next(left)
        return [word for word in self.adjectives if word in behind and right in self.find_next(word)]


def _find_role(words: Sequence[str]) -> tuple[str, str]:
    """Say what the first of the last words of a noun phrase is: a modifier, or a noun in singular or plural."""
    return words[0], "modifier" if len(words) > 1 else "plural" if grammar.is_plural(words[0]) else "singular"
