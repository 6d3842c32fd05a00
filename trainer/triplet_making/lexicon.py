"""Lexicon of captions: what they show about their own words."""

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

from trainer.triplet_making import grammar


__all__ = ["Lexicon"]

# Words are exchangeable where they stand in the same places: the least cosine, which few common places shrink.
_MIN_SIMILARITY = {"modifier": 0.1, "singular": 0.2, "plural": 0.2}
_PHRASES = 256  # kept for a noun, the first that come: of millions of captions some have tens of thousands
_CACHED = 2**18  # questions whose answers are kept


class Lexicon:
    """Which words are nouns or adjectives, which are in the same places, and which phrases follow a noun.

    Args:
        captions (`list[str]`): Captions.
        find_keywords (callable): Finds the nouns, adjectives and determiners of a caption, see [`get_keyword_fn`].

    Attributes:
        seen (`Counter`): Words, and how often they occur.
        adjectives (`dict[str, None]`): Words that modify several nouns and are none; a dict as an ordered set.
        phrases (`dict[str, list[tuple]]`): For a noun, the places and parts that captions have behind it.
        plurals, singulars (`dict[str, str]`): Forms of nouns, where the captions hold both.
    """

    def __init__(self, captions: Sequence[str], find_keywords: Callable[[str], list[str]]):
        # One string a word, and not one for each time that it is used.
        rows = [tuple(map(sys.intern, grammar.TOKEN.findall(caption))) for caption in captions]
        kept = Counter(word for caption in captions for run in find_keywords(caption) for word in run.split())
        self.seen = Counter(word for tokens in rows for word in tokens)
        known = (word for word in self.seen.keys() - grammar.CLOSED_CLASS if word[0].isalpha())
        # A tagger errs in single captions: what it says of a word in most of them counts.
        self._open = {word for word in known if 2 * kept[word] >= self.seen[word]}
        self._verbs = self._find_verbs(rows)
        self._after, self._uses = defaultdict(set), Counter()
        places, following = defaultdict(Counter), defaultdict(dict)
        for tokens in rows:
            plain = ["^", *("a" if word == "an" else word for word in tokens), "$"]
            for left, word in zip(plain, plain[1:], strict=False):
                self._after[left].add(word)
            phrases = self.find_noun_phrases(tokens)
            for i, end in ((i, stop) for _, first, stop in phrases for i in range(first, stop)):
                word = _find_role(tokens[i:end])
                self._uses[word] += 1
                head = [("head", tokens[end - 1])] if i + 1 < end else []
                places[word].update([("<", plain[i]), (">", plain[i + 2]), *head])
            for (*_, begin), (*_, end) in grammar.find_movable(tokens, phrases)[:1]:
                if len(found := following[tokens[begin - 1]]) < _PHRASES:
                    found[tokens[begin:end]] = None
        self.phrases = {noun: [text for text in found if self.is_noun(text[-1])] for noun, found in following.items()}
        self._index({word: found for word, found in places.items() if self._uses[word] > 2})
        nouns = {word for word, role in self._vectors if role != "modifier"}
        self.plurals = {
            word: min(forms)
            for word in sorted(nouns)
            if (forms := {grammar.PLURALS.get(word), word + "s", word + "es", word[:-1] + "ies"} & nouns)
        }
        self.singulars = {plural: word for word, plural in self.plurals.items()}
        self.adjectives = {  # the more a word is used, the more nouns it must go with: "red", but not "baseball"
            word: None
            for (word, role), found in places.items()
            if sum(side == "head" for side, _ in found) >= max(3, 0.3 * min(len(nouns), self._uses[word, role]))
            and not (self.is_noun(word) or "'" in word)
        }
        self._keep_answers()

    def _keep_answers(self) -> None:
        # On the instance: on the method it would keep every lexicon alive.
        self._find_similar = cache(self._find_similar)
        self.has, self.find_adjectives = lru_cache(_CACHED)(self.has), lru_cache(_CACHED)(self.find_adjectives)

    def __getstate__(self):  # for another process, which has answers of its own
        return {name: part for name, part in vars(self).items() if not hasattr(part, "cache_info")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._keep_answers()

    def _find_verbs(self, rows: Sequence[Sequence[str]]) -> set[str]:
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
        self._vectors, self._words, totals = {}, defaultdict(list), Counter()
        for found in places.values():
            totals.update(found)
        for word, found in places.items():
            scale = totals.total() / found.total()
            # Only what is more frequent than chance says something of a word.
            vector = {place: math.log(max(1, n * scale / totals[place])) for place, n in found.items()}
            norm = math.hypot(*vector.values()) or 1
            self._vectors[word] = {place: weight / norm for place, weight in vector.items() if weight}
            for place in self._vectors[word]:
                self._words[place, word[1]].append(word)

    def _find_similar(self, word: tuple[str, str]) -> list[str]:
        shared, cosines = Counter(), Counter()
        for place, weight in self._vectors.get(word, {}).items():
            for other in self._words[place, word[1]]:
                shared[other] += 1
                cosines[other] += weight * self._vectors[other][place]
        del cosines[word]
        for other in cosines:
            # Few common places may be chance.
            cosines[other] *= shared[other] / (shared[other] + 3)
        # A frequent word is faintly like many: at least half of the best likeness is asked for.
        least = max(_MIN_SIMILARITY[word[1]], 0.5 * max(cosines.values(), default=0))
        return [other for (other, _), cosine in cosines.most_common() if cosine >= least]

    def find_neighbours(self, words: Sequence[str]) -> list[str]:
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
        return self._uses[word, "singular"] + self._uses[word, "plural"] > self._uses[word, "modifier"]

    def has(self, *words: str) -> bool:
        """Check whether the captions hold each two of these words side by side; "^" is where captions begin."""
        words = ["a" if word == "an" else word for word in words]
        return all(word in self._after.get(left, ()) for left, word in zip(words, words[1:], strict=False))

    def find_adjectives(self, left: str, right: str) -> list[str]:
        """Find the adjectives that the captions hold behind one word and before another."""
        behind = self._after.get("a" if left == "an" else left, ())
        return [word for word in self.adjectives if word in behind and self.has(word, right)]


def _find_role(words: Sequence[str]) -> tuple[str, str]:
    """Say what the first of the last words of a noun phrase is: a modifier, or a noun in singular or plural."""
    return words[0], "modifier" if len(words) > 1 else "plural" if grammar.is_plural(words[0]) else "singular"
