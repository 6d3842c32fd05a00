"""Lexicon of captions: what they tell about their own words."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from trainer.caption_triplets.grammar import ADVERBS, DETERMINERS, OPENINGS, PLACES, PLURALS, PREPOSITIONS, TOKEN
from trainer.caption_triplets.grammar import is_plural


__all__ = ["Lexicon"]

# Words are exchangeable where they stand in the same places: the least cosine, which few common places shrink.
_MIN_SIMILARITY = {"modifier": 0.1, "singular": 0.2, "plural": 0.2}


class Lexicon:
    """Which words are nouns or adjectives, which stand in the same places, and which phrases follow a noun.

    Args:
        captions (`list[str]`): Captions.
        find_keywords (callable): Finds the nouns, adjectives and determiners of a caption, see [`get_keyword_fn`].
    """

    def __init__(self, captions: Sequence[str], find_keywords: Callable[[str], list[str]]):
        rows = [TOKEN.findall(caption) for caption in captions]
        kept = Counter(word for caption in captions for run in find_keywords(caption) for word in run.split())
        self.seen = Counter(word for tokens in rows for word in tokens)
        nameable = self.seen.keys() - PREPOSITIONS - DETERMINERS - ADVERBS
        self._open = {word for word in nameable if word[0].isalpha() and 2 * kept[word] >= self.seen[word]}
        self._open -= self._find_verbs(rows)
        self._bigrams, self._uses = set(), Counter()
        contexts, heads, following = defaultdict(Counter), defaultdict(set), defaultdict(dict)
        for tokens in rows:
            plain = ["^", *("a" if word == "an" else word for word in tokens), "$"]
            self._bigrams.update(zip(plain, plain[1:], strict=False))
            phrases = self.find_noun_phrases(tokens)
            for _, first, end in phrases:
                for i in range(first, end):
                    entry = self._get_entry(tokens, i, end)
                    self._uses[entry] += 1
                    contexts[entry].update([("<", plain[i]), (">", plain[i + 2])])
                    if i + 1 < end:
                        contexts[entry]["head", tokens[end - 1]] += 1
                        heads[tokens[i]].add(tokens[end - 1])
            for phrase, after in self.find_movable(tokens, phrases):
                if phrase[0] == 0 or (phrase[0] == 1 and tokens[0] in OPENINGS):
                    following[tokens[phrase[2] - 1]][tuple(tokens[phrase[2] : after[2]])] = None  # an ordered set
        self._entries = sorted((e for e, n in self._uses.items() if n >= 3), key=lambda e: (-self._uses[e], e))[:5000]
        self._index(contexts)
        nouns = {word for word, role in self._entries if role != "modifier"}
        self.adjectives = [  # the more a word is used, the more nouns it must go with: "red", but not "baseball"
            word
            for word, found in heads.items()
            if len(found) >= max(3, 0.3 * min(len(nouns), self._uses[word, "modifier"]))
            and not self.is_noun(word)
            and "'" not in word
        ]
        self.phrases = {noun: [text for text in found if self.is_noun(text[-1])] for noun, found in following.items()}
        self.plurals = {}
        for word in sorted(nouns):
            forms = {PLURALS.get(word), word + "s", word + "es", word[:-1] + "ies"} & nouns
            if forms and not is_plural(word):
                self.plurals[word] = min(forms)
        self.singulars = {plural: word for word, plural in self.plurals.items()}
        self.find_neighbours = cache(self._find_neighbours)

    def _find_verbs(self, rows: list[list[str]]) -> set[str]:
        """Find verbs: they stand behind words that end a phrase, and hardly ever behind determiner or preposition."""
        bound, followed, lefts, agreeing = Counter(), Counter(), defaultdict(Counter), defaultdict(Counter)
        for tokens in rows:
            for left, word in zip(tokens, tokens[1:], strict=False):
                bound[word] += left in DETERMINERS or left in PREPOSITIONS
                if left in self._open and word in self._open:
                    followed[left] += 1
                    lefts[word] += 1
                    if word.endswith("s") != is_plural(left):  # as subject and verb
                        agreeing[word][left] += 1
        return {
            word
            for word, found in agreeing.items()
            if bound[word] < 0.15 * self.seen[word]
            and lefts[word] >= 0.3 * self.seen[word]
            and sum((1 - followed[left] / self.seen[left]) * n for left, n in found.items()) >= 0.4 * lefts[word]
        }

    def find_noun_phrases(self, tokens: list[str]) -> list[tuple[int, int, int]]:
        """Find noun phrases that are safe to edit: places of determiner, first word behind it, and end."""
        phrases, i = [], 0
        while i < len(tokens):
            first = i
            while first < len(tokens) and tokens[first] in DETERMINERS:
                first += 1
            end = first
            while end < len(tokens) and tokens[end] in self._open:
                end += 1
            is_bound = first > i or i == 0 or tokens[i - 1] in PREPOSITIONS
            # What is seen once may be a verb.
            if is_bound and first < end <= first + 4 and all(self.seen[word] > 1 for word in tokens[first:end]):
                phrases.append((i, first, end))
            i = max(end, i + 1)
        return phrases

    def find_movable(self, tokens: list[str], phrases: list[tuple]) -> list[tuple[tuple, tuple]]:
        """Find neighbouring noun phrases of which the second is a place or a part of the first, and ends there."""
        return [
            (phrase, after)
            for phrase, after in zip(phrases, phrases[1:], strict=False)
            if after[0] == phrase[2] + 1
            and tokens[phrase[2]] in PLACES | {"with"}
            and (after[2] == len(tokens) or tokens[after[2]] in PLACES | {"with", "and", "while", "."})
        ]

    def _get_entry(self, tokens: list[str], i: int, end: int) -> tuple[str, str]:
        return (tokens[i], "modifier" if i + 1 < end else "plural" if is_plural(tokens[i]) else "singular")

    def _index(self, contexts: dict[tuple, Counter]) -> None:
        """Let a row of a matrix stand for a word in a role, a column for a place; entries are mutual information."""
        totals = Counter()
        for entry in self._entries:
            totals.update(contexts[entry])
        columns = {context: j for j, (context, count) in enumerate(totals.most_common(3000)) if count > 1}
        rarity = totals.total() / np.array([totals[context] for context in columns])
        self._matrix = np.zeros((len(self._entries), len(columns)), dtype=np.float32)
        for row, entry in zip(self._matrix, self._entries, strict=True):
            for context in contexts[entry].keys() & columns.keys():
                row[columns[context]] = contexts[entry][context]
            row[:] = np.log(np.maximum(1, row * rarity / contexts[entry].total()))
        self._matrix /= np.maximum(np.linalg.norm(self._matrix, axis=1, keepdims=True), 1e-9)
        self._rows = {entry: i for i, entry in enumerate(self._entries)}

    def _find_neighbours(self, entry: tuple[str, str]) -> list[str]:
        """Find words of the same role that stand in similar places, most similar first."""
        if entry not in self._rows:
            return []
        own = self._matrix[self._rows[entry]]
        places = own > 0
        shared = (self._matrix[:, places] > 0).sum(axis=1)
        similar = self._matrix[:, places] @ own[places] * shared / (shared + 3)
        order = np.argsort(-similar, kind="stable")
        order = [i for i in order if self._entries[i][1] == entry[1] and self._entries[i] != entry]
        least = max(_MIN_SIMILARITY[entry[1]], 0.5 * similar[order[0]]) if order else 0
        return [self._entries[i][0] for i in order if similar[i] >= least]

    def is_noun(self, word: str) -> bool:
        """Tell whether a word stands at the end of noun phrases more often than before a noun.

        Args:
            word (`str`): A word.

        Returns:
            `bool`: Whether it is one.
        """
        return self._uses[word, "singular"] + self._uses[word, "plural"] > self._uses[word, "modifier"]

    def has(self, *words: str) -> bool:
        """Tell whether the captions hold words side by side.

        Args:
            words (`str`): Words in order; `"^"` and `"$"` are the ends of a caption.

        Returns:
            `bool`: Whether each two neighbours occur.
        """
        words = ["a" if word == "an" else word for word in words]
        return all(pair in self._bigrams for pair in zip(words, words[1:], strict=False))
