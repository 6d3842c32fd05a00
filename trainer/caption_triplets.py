"""Text triplets from plain captions: edits by rules, or by a local language model."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList

from modeling_rtd import RTDConfig, RTDProcessor, RTDTextModel, fingerprint
from trainer.caption_embeddings import encode_captions
from trainer.captions import clean_caption, get_keyword_fn
from trainer.triplets import TRIPLET_COLUMNS, load_table


__all__ = ["METHODS", "PROMPT", "WORDINGS", "make_triplets", "parse_output", "read_captions", "write_triplets"]

METHODS = ("rules", "lm")
MAX_CHARACTERS = 2000  # of a caption; longer lines are something else
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
PROMPT = """Write a short instruction that changes one thing in a picture, and the caption of the changed picture.

caption: a man rides a brown horse on the beach
condition: make the horse white => target: a man rides a white horse on the beach

caption: two dogs sleeping on a couch
condition: replace the dogs with a cat => target: a cat sleeping on a couch

caption: a bowl of soup with a spoon on a table
condition: remove the spoon => target: a bowl of soup on a table

caption: {caption}
condition:"""
_OUTPUT = re.compile(r"(?:condition:)?\s*([^=>:]+?)\s*=>\s*target:\s*([^=>:]+?)\s*")
_NOTHING_PARSED_AFTER = 64  # captions
_ATTEMPTS = 4  # edits tried for a triplet before it is given up
# Words are exchangeable where they stand in the same places: how many are drawn from, and the least cosine, which few
# common places shrink.
_NEIGHBOURS, _MIN_SIMILARITY = 6, {"modifier": 0.1, "singular": 0.2, "plural": 0.2}

_NUMBERS = {word: i for i, word in enumerate("one two three four five six seven eight nine ten".split(), start=1)}
_COUNTS = _NUMBERS | {"a": 1, "an": 1, "a single": 1, "a pair of": 2, "a couple of": 2}
_COUNTS |= {f"a group of {word}": number for word, number in _NUMBERS.items() if number > 1}
_DETERMINERS = frozenset(
    "the this these those some any each every all both most multiple various different his her their its my your our "
    "several many".split()
)
_QUANTITIES = ("a group of", "a bunch of", "a lot of", "a number of", "a few", "a variety of")
_PLACES = frozenset(
    "on in at near by under over behind beside beneath above below inside outside against along across among".split()
) | {"next to", "close to", "in front of", "on top of", "on the side of", "in the middle of", "in between", "between"}
_RELATIONS = _PLACES | {"with"}
_PREPOSITIONS = _RELATIONS | frozenset("of from for into onto through around off without like".split())
_OPENINGS = tuple(f"{article} {noun} of" for article in ("a", "an") for noun in ("photo", "picture", "image", "view"))
_ADVERBS = frozenset(
    "next front top close side middle while there up down out back other another several same".split()
)
_MULTIWORD = sorted(
    (text for text in (*_COUNTS, *_QUANTITIES, *_PLACES, *_OPENINGS) if " " in text), key=len, reverse=True
)
_TOKEN = re.compile(rf"\b(?:{'|'.join(_MULTIWORD)})\b|\w+(?:['’-]\w+)*|[^\w\s]")
_NUMBERED = frozenset("is are was were has have he she it his her its they them their each".split())
_PLURALS = {"man": "men", "woman": "women", "child": "children", "person": "people"}


def _render(tokens: Sequence[str]) -> str:
    return re.sub(r" ([.,;:!?%)])", r"\1", " ".join(tokens))


def _is_plural(word: str) -> bool:
    return word in _PLURALS.values() or re.fullmatch(r"\w{2,}[^siu\W]s", word) is not None


def _article(word: str) -> str:
    return "an" if re.match(r"(?!one\b|eu)[aeio]|u(?!ni|s)|hour|honest", word) else "a"


def _mend_article(tokens: list[str], place: int) -> list[str]:
    """Let the article before an edited place agree with what follows it now."""
    if 0 < place < len(tokens) and tokens[place - 1] in ("a", "an"):
        tokens[place - 1] = _article(tokens[place])
    return tokens


class _Lexicon:
    """What captions tell about their own words: which are nouns or modifiers, and which stand in the same places."""

    def __init__(self, rows: list[list[str]], open_words: set[str]):
        self._open = open_words - _PREPOSITIONS - _DETERMINERS - _COUNTS.keys() - _ADVERBS
        self.seen = Counter(word for tokens in rows for word in tokens)
        self._verbs = self._find_verbs(rows)
        self.bigrams, self.uses = set(), Counter()
        self.before, self.after = defaultdict(dict), defaultdict(dict)  # modifiers, phrases; dicts as ordered sets
        contexts, heads = defaultdict(Counter), defaultdict(set)
        for tokens in rows:
            plain = ["^", *("a" if word == "an" else word for word in tokens), "$"]
            self.bigrams.update(zip(plain, plain[1:], strict=False))
            phrases = self.noun_phrases(tokens)
            for (start, first, end), following in zip(phrases, [*phrases[1:], None], strict=False):
                for i in range(first, end):
                    entry = self.entry(tokens, i, end)
                    contexts[entry].update([("<", plain[i]), (">", plain[i + 2])])
                    if i + 1 < end:
                        contexts[entry]["head", tokens[end - 1]] += 1
                        self.before[tokens[i + 1], i + 2 == end][tokens[i]] = None
                        heads[tokens[i]].add(tokens[end - 1])
                if following and self.is_phrase(tokens, end, following) and self.is_subject(tokens, start):
                    self.after[tokens[end - 1]][tuple(tokens[end : following[2]])] = None
        self._index(contexts)
        for noun, found in self.after.items():
            self.after[noun] = {phrase: None for phrase in found if self.is_noun(phrase[-1])}
        nouns = sum(role != "modifier" for _, role in self.entries)
        self._adjectives = {  # the more a word is used, the more nouns it must go with: "red", but not "baseball"
            word
            for word, found in heads.items()
            if len(found) >= max(3, 0.3 * min(nouns, self.uses[word, "modifier"])) and "'" not in word
        }

    def _kind(self, word: str | None) -> str:
        if word in self._open:
            return "open"
        if word in _COUNTS or word in _DETERMINERS or word in _QUANTITIES:
            return "determiner"
        return "preposition" if word in _PREPOSITIONS else "other"

    def _find_verbs(self, rows: list[list[str]]) -> set[str]:
        """Find verbs: they stand behind words that end a phrase, and hardly ever behind determiner or preposition."""
        sides, lefts = defaultdict(Counter), defaultdict(Counter)
        for tokens in rows:
            for left, word, right in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
                if word in self._open:
                    sides[word].update(("<" + self._kind(left), ">" + self._kind(right)))
                    if left in self._open and word.endswith("s") != _is_plural(left):  # agree as subject and verb
                        lefts[word][left] += 1
        ends = {word: 1 - side[">open"] / self.seen[word] for word, side in sides.items()}
        return {
            word
            for word, side in sides.items()
            if side["<determiner"] + side["<preposition"] < 0.15 * self.seen[word]
            and side["<open"] >= 0.3 * self.seen[word]
            and sum(ends[left] * count for left, count in lefts[word].items()) >= 0.4 * side["<open"]
        }

    def noun_phrases(self, tokens: list[str]) -> list[tuple[int, int, int]]:
        """Find noun phrases that are safe to edit: places of determiner, first word behind it, and end."""
        phrases, i = [], 0
        while i < len(tokens):
            first = i
            while first < len(tokens) and self._kind(tokens[first]) == "determiner":
                first += 1
            end = first
            while end < len(tokens) and tokens[end] in self._open and tokens[end] not in self._verbs:
                end += 1
            rare = [j for j in range(first, end) if self.seen[tokens[j]] < 2]  # may be verbs
            previous = tokens[i - 1] if i else "and"
            bare = self._kind(previous) == "preposition" or re.fullmatch(r"and|\w+(?:ing|ed)|[^\w\s]", previous)
            known = not rare or (rare == [first] and (first > i or end > first + 1))
            if known and first < end <= first + 4 and (first > i or bare or previous in self._verbs):
                phrases.append((i, first, end))
            i = max(end, i + 1)
        return phrases

    def entry(self, tokens: list[str], i: int, end: int) -> tuple:
        """Say what a word is in its phrase: a modifier, or a noun in singular or plural."""
        return (tokens[i], "modifier" if i + 1 < end else "plural" if _is_plural(tokens[i]) else "singular")

    def _index(self, contexts: dict[tuple, Counter]) -> None:
        for entry, found in contexts.items():
            self.uses[entry] = sum(count for (side, _), count in found.items() if side == "<")
        used = sorted(entry for entry, count in self.uses.items() if count >= 3)
        self.entries = sorted(used, key=lambda entry: -self.uses[entry])[:5000]
        totals = Counter()
        for entry in self.entries:
            totals.update(contexts[entry])
        columns = {context: j for j, (context, count) in enumerate(totals.most_common(3000)) if count > 1}
        self._matrix = np.zeros((len(self.entries), len(columns)), dtype=np.float32)
        rarity = sum(totals.values()) / np.array([totals[context] for context in columns])
        for row, entry in zip(self._matrix, self.entries, strict=True):
            for context in contexts[entry].keys() & columns.keys():
                row[columns[context]] = contexts[entry][context]
            row[:] = np.log(np.maximum(1, row * rarity / contexts[entry].total()))  # positive mutual information
        self._present = (self._matrix > 0).astype(np.float32)
        self._matrix /= np.maximum(np.linalg.norm(self._matrix, axis=1, keepdims=True), 1e-9)
        self._rows = {entry: i for i, entry in enumerate(self.entries)}
        nouns = {word for word, role in self.entries if role != "modifier"}
        self.plurals = {}
        for word in sorted(nouns):
            forms = {_PLURALS.get(word), word + "s", word + "es", word[:-1] + "ies"} & nouns
            if forms and not _is_plural(word):
                self.plurals[word] = min(forms)
        self.singulars = {plural: word for word, plural in self.plurals.items()}
        self.neighbours = cache(self._find_neighbours)

    def _find_neighbours(self, entry: tuple) -> dict[str, None]:
        """Find words of the same role that stand in similar places, most similar first."""
        if entry not in self._rows:
            return {}
        own = self._matrix[self._rows[entry]]
        shared = self._present @ (own > 0).astype(np.float32)
        similar = (self._matrix @ own) * shared / (shared + 3)
        order = np.argsort(-similar, kind="stable")
        order = [i for i in order if self.entries[i][1] == entry[1] and self.entries[i] != entry]
        least = max(_MIN_SIMILARITY[entry[1]], 0.5 * similar[order[0]]) if order else 0
        return {self.entries[i][0]: None for i in order if similar[i] >= least}

    def is_noun(self, word: str) -> bool:
        """Tell whether a word stands at the end of noun phrases more often than before a noun."""
        return self.uses[word, "singular"] + self.uses[word, "plural"] > self.uses[word, "modifier"]

    def is_adjective(self, word: str) -> bool:
        """Tell whether a word modifies several nouns and is none itself."""
        return word in self._adjectives and not self.is_noun(word)

    def is_subject(self, tokens: list[str], start: int) -> bool:
        """Tell whether a noun phrase opens its caption."""
        return start == 0 or (start == 1 and tokens[0] in _OPENINGS)

    def is_phrase(self, tokens: list[str], end: int, noun_phrase: tuple[int, int, int]) -> bool:
        """Tell whether a place or a part begins at `end` and can be moved as a whole."""
        start, _, stop = noun_phrase
        following = tokens[stop] if stop < len(tokens) else "."
        closed = following in _RELATIONS or re.fullmatch(r"\.|and|while", following)
        return tokens[end] in _RELATIONS and start == end + 1 and closed is not None

    def fits(self, left: str, word: str, right: str | None = None) -> bool:
        """Tell whether the captions hold a word beside these."""
        left = "a" if left == "an" else left
        return (left, word) in self.bigrams and (right is None or (word, right) in self.bigrams)


class _Rules:
    """Edits of captions by templates; words and phrases come from the other captions."""

    def __init__(self, captions: Sequence[str], keyword_fn: str, is_known: Callable[[str], bool]):
        find, used, rows = get_keyword_fn(keyword_fn), Counter(), []
        for caption in captions:
            rows.append(_TOKEN.findall(caption))
            used.update(word for run in find(caption) for word in run.split())
        seen = Counter(word for tokens in rows for word in tokens)
        self.lexicon = _Lexicon(rows, {word for word in seen if word[0].isalpha() and 2 * used[word] >= seen[word]})
        self._is_known = cache(is_known)
        self._wordings = {
            name: [text for text in texts if self._is_known(re.sub(r"{\w+}", " ", text).strip() or "a")]
            for name, texts in WORDINGS.items()
        }

    def propose(self, caption: str, rng: np.random.Generator) -> Iterator[tuple[str, str, str, str]]:
        """Draw edits of a caption, one of each template in random order: template, reference, condition, target."""
        tokens = _TOKEN.findall(caption)
        phrases = [
            phrase for phrase in self.lexicon.noun_phrases(tokens) if self.lexicon.is_noun(tokens[phrase[2] - 1])
        ]
        for name in rng.permutation(list(_EDITS)):
            options = list(_EDITS[name](self.lexicon, tokens, phrases))
            if not options:
                continue
            kind, edited, fields = options[rng.integers(len(options))]
            wordings = [text for text in self._wordings[kind] if self._can_say(text, fields)]
            if wordings:
                condition = wordings[rng.integers(len(wordings))].format(**fields)
                yield kind, _render(tokens), condition, _render(edited)

    def _can_say(self, wording: str, fields: dict[str, str]) -> bool:
        names = set(re.findall(r"{(\w+)}", wording))
        return names <= fields.keys() and ("be" not in names or self._is_known(fields["be"]))


def _describe(lexicon: _Lexicon, determiner: str | None, words: Sequence[str]) -> tuple[str, str]:
    """Write a noun phrase with the article that fits its determiner, and with `the`."""
    text = _render(words)
    plural = _is_plural(words[-1])
    if not determiner or plural:
        return text, f"the {text}" if determiner or plural else text
    known = _COUNTS.get(determiner) == 1 or ("a", words[0]) in lexicon.bigrams
    return f"{_article(text)} {text}" if known else text, f"the {text}"


def _replace(tokens: list[str], start: int, end: int, new: Sequence[str] = ()) -> list[str]:
    return _mend_article([*tokens[:start], *new, *tokens[end:]], start)


def _edit_words(lexicon, tokens, phrases, wanted: str) -> Iterator[tuple]:
    """Replace a noun or a modifier by a word that stands in the same places."""
    for start, first, end in phrases:
        determiner = tokens[first - 1] if first > start else None
        for i in range(first, end):
            is_head = i + 1 == end
            kind = "object" if is_head or lexicon.is_noun(tokens[i]) else "attribute"
            same = lexicon.is_noun if kind == "object" else lexicon.is_adjective
            if kind != wanted or not same(tokens[i]):
                continue
            left = tokens[i - 1] if i else "^"
            right = None if is_head else tokens[i + 1]
            similar = lexicon.neighbours(lexicon.entry(tokens, i, end))
            fitting = [w for w in similar if w not in tokens and same(w) and lexicon.fits(left, w, right)]
            for word in fitting[:_NEIGHBOURS]:
                a_old, the_old = _describe(lexicon, determiner, tokens[i:end])
                a_new, _ = _describe(lexicon, determiner, [word, *tokens[i + 1 : end]])
                noun = _render(tokens[i + 1 : end])
                fields = {"old": tokens[i], "new": word, "noun": noun, "be": _be(tokens[end - 1])}
                fields |= {"a_old": a_old, "the_old": the_old, "a_new": a_new}
                yield kind, _replace(tokens, i, i + 1, [word]), fields


def _be(noun: str) -> str:
    return "are" if _is_plural(noun) else "is"


def _edit_counts(lexicon, tokens, phrases) -> Iterator[tuple]:
    """Change how many there are; a noun changes its number only to a form that the captions hold."""
    for start, first, end in phrases:
        old = _COUNTS.get(tokens[first - 1]) if first == start + 1 else None
        if old is None or (start and tokens[start - 1] == "of"):
            continue
        noun = tokens[end - 1]
        follows = tokens[end] if end < len(tokens) else "."
        agrees = follows in _PREPOSITIONS or re.fullmatch(r"\w+ing|[^\w\s]", follows)
        agrees = (
            agrees and not _NUMBERED & set(tokens) and (start == 0 or tokens[start - 1] not in _PLACES - {"next to"})
        )
        for word, number in _NUMBERS.items():
            forms = lexicon.plurals if old == 1 else lexicon.singulars
            form = noun if (old > 1) == (number > 1) else forms.get(noun) if agrees else None
            if (
                number == old
                or abs(number - old) > 2
                or form is None
                or word not in lexicon.seen
                or (old > 1) != (noun in lexicon.singulars)
            ):
                continue
            new, words = [word, *tokens[first : end - 1], form], tokens[first:end]
            a_old = _render([tokens[start] if tokens[start] not in ("a", "an") else "one", *words])
            fields = {"a_old": a_old, "a_new": _render(new), "be": _be(form)}
            yield "count", [*tokens[:start], *new, *tokens[end:]], fields


def _add_attributes(lexicon, tokens, phrases) -> Iterator[tuple]:
    """Put a modifier where the captions have it between the same two words."""
    for start, first, end in phrases:
        similar = {word for i in range(first, end - 1) for word in lexicon.neighbours(lexicon.entry(tokens, i, end))}
        determiner = tokens[first - 1] if first > start else None
        if start and not determiner and re.fullmatch(r"\w+(?:ing|ed)", tokens[start - 1]):
            continue  # "a living room"
        for i in range(first, end):
            for word in lexicon.before.get((tokens[i], i + 1 == end), ()):
                if word in tokens or word in similar or not lexicon.is_adjective(word):
                    continue
                if i > first and not lexicon.fits(tokens[i - 1], word):
                    continue
                a_new, _ = _describe(lexicon, determiner, [*tokens[first:i], word, *tokens[i:end]])
                fields = {"noun": _render(tokens[first:end]), "new": word, "a_new": a_new, "be": _be(tokens[end - 1])}
                yield "add_attribute", _replace(tokens, i, i, [word]), fields


def _remove_attributes(lexicon, tokens, phrases) -> Iterator[tuple]:
    for start, first, end in phrases:
        for i in range(first, end - 1):
            joined = i == start > 0 and tokens[i - 1] in ("and", ",")  # "orange and white cat"
            if lexicon.is_adjective(tokens[i]) and not joined:
                noun = _render([*tokens[first:i], *tokens[i + 1 : end]])
                fields = {"noun": noun, "old": tokens[i], "be": _be(tokens[end - 1])}
                yield "remove_attribute", _replace(tokens, i, i + 1), fields


def _add_phrases(lexicon, tokens, phrases) -> Iterator[tuple]:
    """Put a phrase behind the noun that opens the caption and has it in another: a part (`with ...`) or a place."""
    if not phrases or not lexicon.is_subject(tokens, phrases[0][0]):
        return
    _, first, end = phrases[0]
    if tokens[end : end + 1] == ["of"]:
        return
    for phrase in lexicon.after.get(tokens[end - 1], ()):
        is_place = phrase[0] in _PLACES
        if phrase[-1] in tokens or (_PLACES if is_place else {"with"}) & set(tokens):
            continue  # nothing is in two places
        fields = {"noun": _render(tokens[first:end]), "be": _be(tokens[end - 1])}
        fields["phrase"] = _render(phrase if is_place else phrase[1:])
        yield "add_place" if is_place else "add_part", [*tokens[:end], *phrase, *tokens[end:]], fields


def _remove_phrases(lexicon, tokens, phrases) -> Iterator[tuple]:
    for (before, first, end), (start, inner, stop) in zip(phrases, phrases[1:], strict=False):
        if not lexicon.is_phrase(tokens, end, (start, inner, stop)):
            continue
        is_place = tokens[end] in _PLACES
        _, the_phrase = _describe(lexicon, tokens[inner - 1] if inner > start else None, tokens[inner:stop])
        fields = {"the_phrase": the_phrase, "phrase": _render(tokens[end if is_place else start : stop])}
        if lexicon.is_subject(tokens, before):
            fields |= {"noun": _render(tokens[first:end]), "be": _be(tokens[end - 1])}
        yield "remove_place" if is_place else "remove_part", [*tokens[:end], *tokens[stop:]], fields


_EDITS = {
    "object": partial(_edit_words, wanted="object"),
    "attribute": partial(_edit_words, wanted="attribute"),
    "count": _edit_counts,
    "add_attribute": _add_attributes,
    "remove_attribute": _remove_attributes,
    "add_phrase": _add_phrases,
    "remove_phrase": _remove_phrases,
}


class _LanguageModel:
    """A local causal language model that writes edits after [`PROMPT`]: text in, text out."""

    def __init__(self, name: str):
        self.tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(name, dtype="auto").to(device).eval()
        self.name = name

    @torch.no_grad()
    def __call__(self, prompts: list[str], seed: int) -> list[str]:
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        batch, length = batch.to(self.model.device), batch["input_ids"].shape[1]
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            outputs = self.model.generate(
                **batch,
                do_sample=True,
                temperature=0.7,
                top_p=0.95,
                top_k=0,
                max_new_tokens=64,
                pad_token_id=self.tokenizer.pad_token_id,
                stopping_criteria=StoppingCriteriaList([partial(self._find_line_ends, length)]),
            )
        return self._decode(outputs, length)

    def _decode(self, ids: torch.Tensor, length: int) -> list[str]:
        return self.tokenizer.batch_decode(ids[:, length:], skip_special_tokens=True)

    def _find_line_ends(self, length: int, ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        return torch.tensor(["\n" in text.lstrip() for text in self._decode(ids, length)], device=ids.device)


def parse_output(text: str) -> tuple[str, str] | None:
    r"""Read condition and target from what a language model wrote after [`PROMPT`].

    Only the first line counts, and it must be `condition => target: caption` as a whole, with at most 30 words of
    condition and 75 of caption; what else there is may be a model rambling.

    Args:
        text (`str`): Output of the model, without the prompt.

    Returns:
        `tuple[str, str]`, or `None` where the line is of another form.

    Examples:
        >>> parse_output(" make the dog white => target: a white dog on a couch\n\ncaption: two")
        ('make the dog white', 'a white dog on a couch')
        >>> parse_output(" make the dog white") is None
        True
    """
    found = _OUTPUT.fullmatch(text.strip().partition("\n")[0])
    if not found or len(found[1].split()) > 30 or len(found[2].split()) > 75:
        return None
    return found[1], clean_caption(found[2])


def _load_tower(name: str) -> tuple[RTDTextModel, RTDProcessor]:
    is_rtd = AutoConfig.from_pretrained(name).model_type == RTDConfig.model_type
    processor = (RTDProcessor.from_pretrained if is_rtd else RTDProcessor.from_clip)(name)
    return RTDTextModel.from_pretrained(name).eval(), processor


def _load(name: str, load: Callable):
    try:
        return load(name)
    except OSError as error:
        raise ValueError(f"'{name}' cannot be loaded; give a directory or Hub id: {error}") from error


class _Maker:
    """Makes triplets block by block; a block depends on the captions and the settings, not on other blocks."""

    def __init__(
        self,
        captions: Sequence[str | None],
        method: str = "rules",
        seed: int = 0,
        per_caption: int = 1,
        *,
        keyword_fn: str = "rule",
        model: str | None = None,
        language_model: str | Callable[[list[str], int], list[str]] | None = None,
        similarity_band: tuple[float, float] = (0.5, 0.98),
    ):
        if method not in METHODS:
            close = difflib.get_close_matches(str(method), METHODS, n=1, cutoff=0.3)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}{hint}")
        if (method == "lm") != (language_model is not None):
            raise ValueError("method 'lm', and no other, needs a `language_model`: directory or Hub id.")
        if per_caption < 1 or seed < 0:
            raise ValueError(f"per_caption must be 1 or more and seed 0 or more, got {per_caption} and {seed}.")
        if not -1 <= similarity_band[0] < similarity_band[1] <= 1:
            raise ValueError(f"similarity_band must be two rising cosines in [-1, 1], got {similarity_band}.")
        cleaned = [_clean(caption) for caption in captions]
        self.rows = [(row, text) for row, text in enumerate(cleaned, start=1) if text]
        if not self.rows:
            raise ValueError("there is no usable caption.")
        self.seed, self.per_caption, self.band = seed, per_caption, similarity_band
        self.block_size = 256 if method == "rules" else max(1, 16 // per_caption)
        self.tower = self.processor = None
        if model is not None:
            self.tower, self.processor = _load(model, _load_tower)
        if method == "rules":
            self.rules = _Rules([text for _, text in self.rows], keyword_fn, self._is_known)
        else:
            self.rules, self.has_parsed = None, False
            self.write = language_model if callable(language_model) else _load(language_model, _LanguageModel)
        digest = hashlib.sha256("\0".join(f"{row} {text}" for row, text in self.rows).encode())
        self.settings = {
            "method": method,
            "seed": seed,
            "per_caption": per_caption,
            "keyword_fn": keyword_fn if self.rules else None,
            "model": fingerprint(self.tower) if self.tower else None,
            "language_model": None if self.rules else getattr(self.write, "name", "a function"),
            "similarity_band": list(similarity_band) if self.tower else None,
            "texts": hashlib.sha256((repr(WORDINGS) if self.rules else PROMPT).encode()).hexdigest()[:16],
            "captions": digest.hexdigest(),
        }

    def _is_known(self, text: str) -> bool:
        """Tell whether a word-level vocabulary has all words; byte-pair vocabularies always do."""
        tokenizer = self.processor and self.processor.tokenizer
        if tokenizer is None or tokenizer.unk_token_id in (None, tokenizer.eos_token_id):
            return True
        return tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.block_size)

    def make_block(self, block: int, seen: set[bytes]) -> tuple[list[dict], Counter]:
        """Make the triplets of a block that are not `seen` yet, and count what became of the rest."""
        start = block * self.block_size
        slots = [
            (row, text, k) for row, text in self.rows[start : start + self.block_size] for k in range(self.per_caption)
        ]
        counts: Counter = Counter()
        proposals = self._edit(slots) if self.rules else self._write(slots, block, counts)
        similarities = self._compare(proposals)
        triplets = []
        for (row, _, _), candidates in zip(slots, proposals, strict=True):
            for candidate in candidates:
                template, *texts = candidate
                key = _key(texts)
                similarity = similarities.get((texts[0], texts[2]))
                if texts[0].lower() == texts[2].lower():
                    counts["dropped/target_equal_to_reference"] += 1
                elif key in seen:
                    counts["dropped/duplicate"] += 1
                elif similarity is not None and not self.band[0] <= similarity <= self.band[1]:
                    counts["dropped/outside_similarity_band"] += 1
                else:
                    seen.add(key)
                    triplet = dict(zip(TRIPLET_COLUMNS, texts, strict=True)) | {"template": template, "row": row}
                    triplets.append(triplet if similarity is None else triplet | {"similarity": similarity})
                    counts[f"templates/{template}"] += 1
                    break
            else:
                counts["dropped/no_usable_edit"] += self.rules is not None
        return triplets, counts

    def _edit(self, slots: list[tuple]) -> list[list[tuple]]:
        edits = (self.rules.propose(text, np.random.default_rng([self.seed, row, k])) for row, text, k in slots)
        return [[edit for edit, _ in zip(found, range(_ATTEMPTS), strict=False)] for found in edits]

    def _write(self, slots: list[tuple], block: int, counts: Counter) -> list[list[tuple]]:
        seed = int(np.random.SeedSequence([self.seed, block]).generate_state(1)[0])
        outputs = self.write([PROMPT.format(caption=text) for _, text, _ in slots], seed)
        parsed = [parse_output(output) for output in outputs]
        counts["dropped/unparsable_output"] += parsed.count(None)
        self.has_parsed |= any(parsed)
        tried = min((block + 1) * self.block_size, len(self.rows))
        if not self.has_parsed and tried >= min(_NOTHING_PARSED_AFTER, len(self.rows)):
            raise ValueError(
                f"no output of the language model could be parsed after {tried} captions; it must continue the prompt "
                f"with 'condition => target: caption', but wrote for example {outputs[0][:200]!r}. Take another model."
            )
        return [[("lm", text, *found)] if found else [] for (_, text, _), found in zip(slots, parsed, strict=True)]

    def _compare(self, proposals: list[list[tuple]]) -> dict[tuple[str, str], float]:
        pairs = {(edit[1], edit[3]) for edits in proposals for edit in edits}
        if self.tower is None or not pairs:
            return {}
        texts = sorted({text for pair in pairs for text in pair})
        embeds = torch.nn.functional.normalize(encode_captions(self.tower, self.processor, texts, desc=None), dim=-1)
        place = {text: i for i, text in enumerate(texts)}
        return {(a, b): round(float(embeds[place[a]] @ embeds[place[b]]), 4) for a, b in pairs}


def _clean(caption: str | None) -> str:
    return " ".join(clean_caption(caption).split()).rstrip(" .")


def make_triplets(captions: Sequence[str | None], method: str = "rules", **options) -> Iterator[dict]:
    """Make text triplets from plain captions, no two alike, none whose target is its reference.

    `"rules"` edits a caption by the templates of [`WORDINGS`]; which words are nouns or adjectives, which of them are
    exchangeable and which phrases go with a noun is read off the captions themselves. `"lm"` asks a local causal
    language model with [`PROMPT`] and samples. Both are ours, neither is the data of the paper
    (https://huggingface.co/papers/2406.09188), which were made by a larger language model.

    Args:
        captions (`list[str]`): Captions; empty ones and `None` are skipped, but count as rows.
        method (`str`, defaults to `"rules"`): `"rules"` or `"lm"`.
        seed (`int`, defaults to 0): With the row (`"lm"`: block of rows) decides all draws.
        per_caption (`int`, defaults to 1): Triplets tried for each caption.
        keyword_fn (`str`, defaults to `"rule"`): For `"rules"`: who tags the words, see [`get_keyword_fn`].
        model (`str`, *optional*):
            Directory or Hub id of a CLIP or RTD model. Its text tower measures how similar reference and target are;
            wordings that its vocabulary lacks are not used.
        language_model (`str` or callable, *optional*):
            For `"lm"`: directory or Hub id, or a function from prompts and a seed to outputs.
        similarity_band (`tuple[float, float]`, defaults to `(0.5, 0.98)`):
            With `model`, cosines that are kept. Ours: the lower end drops what is another picture, the upper end what
            the tower cannot tell apart. Not tuned.

    Returns:
        Iterator of `dict`: The three columns of a triplet, `template`, `row` (of the caption, counted from 1), and
        with `model` their `similarity`.

    Raises:
        ValueError: If an option is not accepted, no caption is usable, or no output of a language model parses.

    Examples:
        >>> captions = [
        ...     f"a {size} {colour} {thing} on {ground}"
        ...     for size in ("big", "small")
        ...     for colour in ("red", "blue")
        ...     for thing in ("dog", "cat", "car")
        ...     for ground in ("sand", "snow", "grass")
        ... ]
        >>> triplets = list(make_triplets(captions, seed=1))
        >>> [triplets[0][name] for name in ("reference_caption", "conditioning_caption", "target_caption")]
        ['a big red dog on sand', 'the big red dog is no longer on sand', 'a big red dog']
    """
    maker, seen = _Maker(captions, method, **options), set()
    return (triplet for block in range(len(maker)) for triplet in maker.make_block(block, seen)[0])


def read_captions(source: str | Path) -> tuple[list[str | None], dict[str, list[int]]]:
    """Read captions, one a row; rows that are no caption become `None`.

    Args:
        source (`str` or `Path`):
            A txt file of one caption a line, UTF-8; or a jsonl, json, csv or parquet file or Hub id with a column
            `text` or `caption`.

    Returns:
        `tuple`: Captions, and for each reason the rows that were skipped, counted from 1: `blank`, `too_long` (over
        2,000 characters), `binary` (no UTF-8, or control characters).

    Raises:
        ValueError: If there is no such file, it has no such column, or most of it is binary.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".txt":
        lines: list = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        lines = lines[:-1] if lines[-1] == b"" else lines
    else:
        table = load_table(source)
        column = next((name for name in ("text", "caption") if name in table.column_names), None)
        if column is None:
            found = ", ".join(table.column_names)
            raise ValueError(f"captions must stand in a column 'text' or 'caption', found: {found}.")
        lines = table[column]
    captions: list[str | None] = []
    skipped: dict[str, list[int]] = {"blank": [], "too_long": [], "binary": []}
    for row, line in enumerate(lines, start=1):
        caption, reason = _screen(line)
        captions.append(caption)
        if reason:
            skipped[reason].append(row)
    if len(skipped["binary"]) > len(captions) / 2:
        raise ValueError(
            f"'{source}' looks binary: most lines are no UTF-8 text; give a text file, one caption a line."
        )
    return captions, skipped


def _screen(line: bytes | str | None) -> tuple[str | None, str | None]:
    """Return the caption of a line, or the reason to skip it."""
    if isinstance(line, bytes):
        try:
            line = line.decode()
        except UnicodeDecodeError:
            return None, "binary"
    if not isinstance(line, str) or not _clean(line):
        return None, "blank"
    if len(line) > MAX_CHARACTERS:
        return None, "too_long"
    return (None, "binary") if re.search(r"[\x00-\x08\x0e-\x1f\ufffd]", line) else (line, None)


def write_triplets(source: str | Path, output: str | Path, method: str = "rules", **options) -> dict:
    """Make triplets of a file of captions and write them as jsonl, with a report on their quality beside them.

    An interrupted run goes on where it stopped when it is called again, and ends with the same bytes. `output` gets
    companions: `.progress.jsonl` (settings, and where each finished block ends), `.report.json` and `.report.md`.

    Args:
        source (`str` or `Path`): See [`read_captions`].
        output (`str` or `Path`): The jsonl file.
        method (`str`, defaults to `"rules"`): See [`make_triplets`].
        options: As for [`make_triplets`].

    Returns:
        `dict`: The report: `settings`, `captions` (used, and skipped by reason, with up to 20 rows each), `triplets`,
        `templates`, `dropped`, `words` (mean, least and most of each column), `similarity` and a `sample` of 20.

    Raises:
        ValueError: As [`read_captions`] and [`make_triplets`]; if `output` was made with other settings or by
            something else; if no triplet could be made.
    """
    output = Path(output)
    captions, skipped = read_captions(source)
    maker = _Maker(captions, method, **options)
    output.parent.mkdir(parents=True, exist_ok=True)
    done, seen = _resume(output, maker)
    progress_path = _beside(output, "progress.jsonl")
    with output.open("ab") as file, progress_path.open("a", encoding="utf-8") as progress:
        for block in tqdm(range(len(done), len(maker)), desc="Making triplets", initial=len(done), total=len(maker)):
            triplets, counts = maker.make_block(block, seen)
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in triplets).encode())
            file.flush()
            done.append({"bytes": file.tell(), "counts": counts})
            progress.write(json.dumps(done[-1]) + "\n")
            progress.flush()
    total = sum((Counter(entry["counts"]) for entry in done), Counter())
    if not output.stat().st_size:
        raise ValueError(
            f"no triplet could be made of {len(maker.rows)} captions; dropped: {_group(total, 'dropped')}."
        )
    report = _report(output, maker, skipped, total)
    _beside(output, "report.json").write_text(
        json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    _beside(output, "report.md").write_text(_render_report(report), encoding="utf-8")
    return report


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")


def _resume(output: Path, maker: _Maker) -> tuple[list[dict], set[bytes]]:
    """Cut output and progress back to the last block that is whole in both; return the blocks and the keys."""
    progress_path, seen = _beside(output, "progress.jsonl"), set()
    lines = progress_path.read_text(encoding="utf-8").split("\n")[:-1] if progress_path.is_file() else []
    if not lines and output.exists() and output.stat().st_size:
        raise ValueError(f"'{output}' exists, and not from a run of this command; remove it or choose another output.")
    if lines and (made := json.loads(lines[0])) != maker.settings:
        names = [name for name in maker.settings if made.get(name) != maker.settings[name]]
        other = ", ".join(f"{name} ({made.get(name)!r})" for name in names)
        raise ValueError(
            f"'{output}' was begun with another {other}; repeat those settings to go on, or choose another output."
        )
    output.touch()
    size = output.stat().st_size
    done = [entry for entry in map(json.loads, lines[1:]) if entry["bytes"] <= size]
    with output.open("r+b") as file:
        file.truncate(done[-1]["bytes"] if done else 0)
        for line in file:
            triplet = json.loads(line)
            seen.add(_key([triplet[name] for name in TRIPLET_COLUMNS]))
    rest = [json.dumps(entry) for entry in (maker.settings, *done)]
    progress_path.write_text("\n".join(rest) + "\n", encoding="utf-8")
    maker.has_parsed = bool(seen)
    return done, seen


def _key(texts: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join(texts).lower().encode()).digest()[:12]


def _group(total: Counter, name: str) -> dict[str, int]:
    return {key.partition("/")[2]: count for key, count in sorted(total.items()) if key.startswith(name + "/")}


def _report(output: Path, maker: _Maker, skipped: dict[str, list[int]], total: Counter) -> dict:
    with output.open(encoding="utf-8") as file:
        triplets = [json.loads(line) for line in file]
    words = {name: np.array([len(triplet[name].split()) for triplet in triplets]) for name in TRIPLET_COLUMNS}
    similarity: str | dict = "no model given"
    if maker.tower is not None:
        values = np.array([triplet["similarity"] for triplet in triplets])
        counts, edges = np.histogram(values, bins=10, range=maker.band)
        histogram = {f"{edge:.3f}": int(count) for edge, count in zip(edges[:-1], counts, strict=True)}
        similarity = {"mean": round(float(values.mean()), 4), "from": histogram}
    order = np.random.default_rng(0).permutation(len(triplets))[:20]
    return {
        "settings": maker.settings,
        "captions": {
            "used": len(maker.rows),
            **{name: {"count": len(rows), "rows": rows[:20]} for name, rows in skipped.items()},
        },
        "triplets": len(triplets),
        "templates": _group(total, "templates"),
        "dropped": {"duplicate": 0, "target_equal_to_reference": 0, **_group(total, "dropped")},
        "words": {
            name: {"mean": round(float(n.mean()), 2), "least": int(n.min()), "most": int(n.max())}
            for name, n in words.items()
        },
        "similarity": similarity,
        "sample": [{name: triplets[i][name] for name in (*TRIPLET_COLUMNS, "template")} for i in sorted(order)],
    }


def _render_report(report: dict) -> str:
    skipped = {name: found["count"] for name, found in report["captions"].items() if name != "used"}
    facts = {
        "captions": f"{report['captions']['used']} used; skipped: {skipped}",
        "templates": report["templates"],
        "dropped": report["dropped"],
        "words": report["words"],
        "similarity of reference and target": report["similarity"],
        "settings": report["settings"],
    }
    lines = [f"# {report['triplets']} text triplets", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| template | reference | condition | target |", "|---|---|---|---|"]
    for triplet in report["sample"]:
        cells = [triplet["template"], *(triplet[name] for name in TRIPLET_COLUMNS)]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"
