"""Keywords of captions: tagging words, and cutting a caption at its keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial

import numpy as np
import regex as re  # whose \w holds the vowel signs of all scripts

from modeling_rtd import suggest


__all__ = ["KEYWORD_FN_NAMES", "get_keyword_fn", "get_tagger", "is_latin", "mask_keywords"]

# Words that are neither noun, proper noun, adjective nor determiner, as far as a list can tell.
_CLOSED_CLASS = frozenset(
    """
    about above across after against along among around as at before behind below beneath beside between beyond by
    down during for from in inside into like near of off on onto out outside over past per through to toward towards
    under until up upon with within without and but if nor or so than that then when where which while who whom whose
    because although though i me my mine you your yours he him his she her hers it its we us our ours they them their
    theirs it's there there's am is are was were be been being has have had having do does did can could may might
    must shall should will would not n't don't isn't aren't doesn't very too also just only again away back here now
    together zero one two three four five six seven eight nine ten dozen
    """.split()
)
# Nouns and adjectives that end like a verb or an adverb.
_OPEN_CLASS = frozenset(
    "building ceiling clothing evening morning painting wedding checkered colored coloured striped curly family "
    "friendly lovely silly".split()
)
_DETERMINERS = frozenset("a an the this that these those some any each every all both another no".split())
_WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")
# A suffix counts only behind a stem with a vowel, as in Porter's stemmer: "parked", but not "red"; nor in "weed".
_VERB_OR_ADVERB = re.compile(r"\w*[aeiouy]\w*(?:ing|(?<!e)ed|ly)")
_PLACEHOLDER = "[$]"
_LATIN, _LETTER = re.compile(r"\p{Latin}"), re.compile(r"\p{L}")


def get_tagger(name: str) -> Callable[[str], list[tuple[str, str]]]:
    """Get the function that tags the words of a caption.

    Args:
        name (`str`):
            `"spacy"`: the model `en_core_web_sm`, as published. `"lexicon"`: the lexicon inside TextBlob, offline.
            `"rule"`: word lists and suffixes, nothing to install. It takes bare verbs for nouns, and of the words
            before a verb or a preposition the last for the noun. It knows English, and tags no word of another script.

    Returns:
        `Callable[[str], list[tuple[str, str]]]`: From a caption to its words, each with `"noun"`, `"name"` (a proper
        noun, which `"rule"` does not separate from a noun), `"adjective"`, `"determiner"` or `""` for any other.

    Raises:
        ValueError: If there is no such function.
        ImportError: If its package or its model is not installed.

    Examples:
        >>> get_tagger("rule")("a red dress on")
        [('a', 'determiner'), ('red', 'adjective'), ('dress', 'noun'), ('on', '')]
    """
    if name not in _TAGGERS:
        raise ValueError(suggest("keyword function", name, _TAGGERS))
    return _TAGGERS[name]()


def is_latin(text: str) -> bool:
    """Check whether a text is written in Latin letters, as English is.

    Args:
        text (`str`): The text.

    Returns:
        `bool`: Whether at least half of its letters are Latin.

    Examples:
        >>> [is_latin(text) for text in ("a café on the beach", "красное платье", "3 × 4")]
        [True, False, True]
    """
    return text.isascii() or 2 * len(_LATIN.findall(text)) >= len(_LETTER.findall(text))


def get_keyword_fn(name: str, determiners: bool = True) -> Callable[[str], list[str]]:
    """Get the function that finds the keywords of a caption.

    Keywords are the runs of nouns, proper nouns, adjectives and determiners in the published code of LinCIR
    (https://huggingface.co/papers/2312.01998; the paper speaks of nouns and adjectives). Words of a run are joined by
    one blank; order and duplicates are kept.

    Args:
        name (`str`): Who tags the words, see [`get_tagger`].
        determiners (`bool`, defaults to `True`): Whether determiners belong to a run.

    Returns:
        `Callable[[str], list[str]]`: From a cleaned caption to its keywords, possibly none.

    Raises:
        ValueError: If there is no such function.
        ImportError: If its package or its model is not installed.

    Examples:
        >>> get_keyword_fn("rule")("a red dress on a beach")
        ['a red dress', 'a beach']
        >>> get_keyword_fn("rule", determiners=False)("a red dress on a beach")
        ['red dress', 'beach']
    """
    # LinCIR's code keeps determiners, although its paper speaks of nouns and adjectives.
    kinds = {"noun", "name", "adjective"} | ({"determiner"} if determiners else set())
    return partial(_find_keywords, get_tagger(name), kinds)


def _find_keywords(tag: Callable, kinds: set[str], caption: str) -> list[str]:
    return _join_runs((word, kind in kinds) for word, kind in tag(caption))


def mask_keywords(caption: str, keywords: Sequence[str], rng: np.random.Generator, on: str = "words") -> list[str]:
    """Cut a caption at its keywords: each keyword gives way to a placeholder for the pseudo-word.

    Keywords are taken in order, every occurrence of each. At the first keyword that the caption does not hold, or
    where there is no keyword, one random word of it is masked instead. Then the remaining keywords are dropped
    (LinCIR, https://huggingface.co/papers/2312.01998, in its published code). A keyword that an earlier one has
    destroyed changes nothing.

    Args:
        caption (`str`): A cleaned caption, see [`clean_caption`].
        keywords (`Sequence[str]`): Its keywords, see [`get_keyword_fn`].
        rng (`numpy.random.Generator`): Draws the random word; untouched where none is needed.
        on (`str`, *optional*, defaults to `"words"`):
            `"words"`, our deviation, masks whole words only; a word is a run of letters, digits and underscores.
            `"substrings"` is the published behaviour: the keyword `a` is masked inside `beach` as well, words are
            what single blanks separate, and an empty word is masked between all letters.

    Returns:
        `list[str]`: The text before, between and behind the placeholders: `len(pieces) - 1` placeholders. One piece,
        the caption itself, where nothing can be masked (`"words"` only: a caption without any word).

    Raises:
        ValueError: If `on` is unknown, or the caption holds a literal `[$]`.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> mask_keywords("a red dress on a beach", ["a red dress", "a beach"], rng)
        ['', ' on ', '']
        >>> mask_keywords("a beach", ["a"], rng)
        ['', ' beach']
        >>> mask_keywords("a beach", ["a"], rng, on="substrings")
        ['', ' be', 'ch']
    """
    if on == "words":
        return _mask_words(caption, keywords, rng)
    if on == "substrings":
        return _mask_substrings(caption, keywords, rng)
    raise ValueError(f"keywords are masked on 'words' or 'substrings', got {on!r}.")


def _mask_words(caption: str, keywords: Sequence[str], rng: np.random.Generator) -> list[str]:
    pieces = [caption]
    for keyword in keywords or [""]:
        pattern = _whole_words(keyword)
        known = bool(keyword.strip()) and pattern.search(caption) is not None
        if not known:
            words = re.findall(r"\w+", caption)
            if not words:
                break
            # As published: in place of a keyword that is not found one random word is masked, and no more.
            pattern = _whole_words(words[rng.integers(len(words))])
        pieces = [part for piece in pieces for part in pattern.split(piece)]
        if not known:
            break
    return pieces


def _whole_words(keyword: str) -> re.Pattern:
    words = r"\s+".join(re.escape(word) for word in keyword.split())
    return re.compile(rf"(?<!\w){words}(?!\w)")


def _mask_substrings(caption: str, keywords: Sequence[str], rng: np.random.Generator) -> list[str]:
    if _PLACEHOLDER in caption:
        raise ValueError(
            f"the caption {caption!r} holds a literal {_PLACEHOLDER}; clean it with `clean_caption` first."
        )
    masked = caption
    for keyword in keywords or [""]:
        known = bool(keyword) and keyword in caption
        if not known:
            words = caption.split(" ")
            keyword = words[rng.integers(len(words))]
        # On the text with its placeholders, as published: an empty word or a bracket also lands in those.
        masked = masked.replace(keyword, _PLACEHOLDER)
        if not known:
            break
    return masked.split(_PLACEHOLDER)


def _join_runs(tagged: Iterable[tuple[str, bool]]) -> list[str]:
    """Join the words of each run of kept words: pairs of a word and whether its tag is kept."""
    runs, run = [], []
    for word, keep in tagged:
        if keep:
            run.append(word)
        elif run:
            runs.append(" ".join(run))
            run = []
    return runs + ([" ".join(run)] if run else [])


def _tag_by_rule(caption: str) -> list[tuple[str, str]]:
    words = _WORD.findall(caption)
    kinds = ["" if not _is_open_class(word.lower()) else "adjective" for word in words]
    for place, word in enumerate(words):
        if kinds[place] and word.lower() in _DETERMINERS:
            kinds[place] = "determiner"
        elif kinds[place] and (place + 1 == len(words) or not _is_open_class(words[place + 1].lower())):
            kinds[place] = "noun"  # English puts the noun last
    return list(zip(words, kinds, strict=True))


@lru_cache(2**16)
def _is_open_class(word: str) -> bool:
    # Else a whole caption of another script would be one noun.
    if word in _CLOSED_CLASS or not _LATIN.match(word):
        return False
    return word in _OPEN_CLASS or _VERB_OR_ADVERB.fullmatch(word) is None


def _tag_by_lexicon(tag: Callable[[str], list[tuple[str, str]]], caption: str) -> list[tuple[str, str]]:
    kinds = {"NN": "noun", "NNS": "noun", "NNP": "name", "NNPS": "name", "DT": "determiner", "PDT": "determiner"}
    kinds |= dict.fromkeys(("JJ", "JJR", "JJS"), "adjective")
    return [(word, kinds.get(name.partition("-")[0], "")) for word, name in tag(caption)]


def _tag_by_spacy(nlp: Callable, caption: str) -> list[tuple[str, str]]:
    kinds = {"NOUN": "noun", "PROPN": "name", "ADJ": "adjective", "DET": "determiner"}
    return [(token.text, kinds.get(token.pos_, "")) for token in nlp(caption)]


def _build_lexicon() -> Callable[[str], list[tuple[str, str]]]:
    try:
        from textblob.en import tag
    except ImportError as error:
        raise ImportError(
            "keyword function 'lexicon' needs TextBlob: `pip install 'textblob<0.21'`; or use 'rule'."
        ) from error
    return partial(_tag_by_lexicon, tag)


def _build_spacy() -> Callable[[str], list[tuple[str, str]]]:
    try:
        import spacy

        return partial(_tag_by_spacy, spacy.load("en_core_web_sm"))
    except (ImportError, OSError) as error:  # spaCy raises OSError where the model is missing
        raise ImportError(
            "keyword function 'spacy' needs spaCy and its model: `pip install spacy`, then `python -m spacy download "
            "en_core_web_sm`; or use 'lexicon' or 'rule'."
        ) from error


_TAGGERS = {"spacy": _build_spacy, "lexicon": _build_lexicon, "rule": lambda: _tag_by_rule}
KEYWORD_FN_NAMES = tuple(_TAGGERS)
