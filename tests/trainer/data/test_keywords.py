import builtins
from functools import partial

import numpy as np
import pytest

from trainer.data import keywords
from trainer.data.keywords import KEYWORD_FN_NAMES, get_keyword_fn, is_latin, mask_keywords


RED_DRESS = "a red dress on a beach"


class NoDraw:
    """A generator that must not be asked."""


class Draw:
    """A generator that draws one known number, and records out of how many."""

    def __init__(self, number):
        self.number = number
        self.seen = []

    def integers(self, high):
        self.seen.append(high)
        return self.number


@pytest.mark.parametrize(
    ("caption", "keywords"),
    [
        (RED_DRESS, ["a red dress", "a beach"]),
        ("", []),
        ("of and with", []),
        ("a red t-shirt, the blue hat", ["a red t-shirt", "the blue hat"]),
        ("a dog and a dog", ["a dog", "a dog"]),  # duplicates stay
        ("two dogs sitting quietly in weeds", ["dogs", "weeds"]),
        ("a building and a striped bed", ["a building", "a striped bed"]),
        ("5 men", ["men"]),
    ],
)
def test_rule_keywords(caption, keywords):
    assert get_keyword_fn("rule")(caption) == keywords


@pytest.mark.parametrize(
    ("caption", "keywords"),
    [
        (RED_DRESS, ["a red dress", "a beach"]),
        ("", []),
        ("two dogs play in the grass", ["dogs", "the grass"]),
        ("red, white", ["red", "white"]),
    ],
)
def test_lexicon_keywords(caption, keywords):
    pytest.importorskip("textblob")
    assert get_keyword_fn("lexicon")(caption) == keywords


def test_spacy_keywords():
    spacy = pytest.importorskip("spacy")
    if not spacy.util.is_package("en_core_web_sm"):
        pytest.skip("the spaCy model en_core_web_sm is not installed")
    assert get_keyword_fn("spacy")(RED_DRESS) == ["a red dress", "a beach"]


def test_spacy_rule_on_given_tags():
    class Token:
        def __init__(self, text, pos):
            self.text, self.pos_ = text, pos

    tags = "DET ADJ NOUN PUNCT NOUN ADP PROPN PROPN SPACE NUM NOUN".split()
    words = ["a", "red", "t", "-", "shirt", "in", "new", "york", "  ", "two", "dogs"]
    tokens = [Token(word, tag) for word, tag in zip(words, tags, strict=True)]
    kept = {"noun", "name", "adjective", "determiner"}
    found = keywords._find_keywords(partial(keywords._tag_by_spacy, lambda caption: tokens), kept, "")
    assert found == ["a red t", "shirt", "new york", "dogs"]


@pytest.mark.parametrize(("name", "package"), [("lexicon", "textblob"), ("spacy", "spacy")])
def test_a_missing_package_is_named(monkeypatch, name, package):
    real_import = builtins.__import__

    def refuse(module, *args, **kwargs):
        if module.split(".")[0] == package:
            raise ImportError(module)
        return real_import(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install.*'rule'"):
        get_keyword_fn(name)


def test_unknown_keyword_function():
    with pytest.raises(ValueError, match="did you mean 'lexicon'"):
        get_keyword_fn("lexikon")
    with pytest.raises(ValueError, match=", ".join(sorted(KEYWORD_FN_NAMES))):
        get_keyword_fn("zzz")


@pytest.mark.parametrize("on", ["words", "substrings"])
@pytest.mark.parametrize(
    ("caption", "keywords", "pieces"),
    [
        (RED_DRESS, ["a red dress", "a beach"], ["", " on ", ""]),
        ("a dog and a dog", ["a dog", "a dog"], ["", " and ", ""]),  # every occurrence at once
        ("a red dress on a dress", ["a red dress", "a red"], ["", " on a dress"]),  # the second keyword is destroyed
        ("the c++ book (new)", ["c++", "(new)"], ["the ", " book ", ""]),
        ("a.b axb", ["a.b"], ["", " axb"]),
        ("black-and-white t-shirt", ["black-and-white t-shirt"], ["", ""]),
        ("a red t-shirt", ["a red t", "shirt"], ["", "-", ""]),
    ],
)
def test_keywords_that_both_ways_mask_alike(on, caption, keywords, pieces):
    assert mask_keywords(caption, keywords, NoDraw(), on=on) == pieces


@pytest.mark.parametrize(
    ("caption", "keywords", "words", "substrings"),
    [
        ("a red hat", ["a"], ["", " red hat"], ["", " red h", "t"]),
        ("t-shirt with text", ["t"], ["", "-shirt with text"], ["", "-shir", " wi", "h ", "ex", ""]),
        ("a cat, cats", ["cat"], ["a ", ", cats"], ["a ", ", ", "s"]),
        ("a man and a woman", ["man"], ["a ", " and a woman"], ["a ", " and a wo", ""]),
    ],
)
def test_short_keywords_inside_words(caption, keywords, words, substrings):
    assert mask_keywords(caption, keywords, NoDraw()) == words
    assert mask_keywords(caption, keywords, NoDraw(), on="substrings") == substrings


@pytest.mark.parametrize(
    ("caption", "pieces"),
    [
        ("красное платье на пляже", ["красное ", " на пляже"]),
        ("لڑکی فُسْتان میں", ["لڑکی ", " میں"]),
        ("שִׂמְלָה אדומה כאן", ["שִׂמְלָה ", " כאן"]),
        ("लाल पोशाक में लड़की", ["लाल ", " में लड़की"]),  # vowel signs belong to their words
        ("红色的裙子，海滩", ["红色的裙子，", ""]),  # all between two marks is one word
        ("un café noir", ["", ""]),
    ],
)
def test_of_captions_in_other_scripts_one_whole_word_is_masked(caption, pieces):
    find = get_keyword_fn("rule")
    assert mask_keywords(caption, find(caption), Draw(1)) == pieces
    assert is_latin(caption) == ("café" in caption)


@pytest.mark.parametrize("on", ["words", "substrings"])
@pytest.mark.parametrize("keywords", [[], [""], ["a bird", "a beach"], ["", "a beach"]])
def test_an_unmatched_keyword_masks_one_random_word_and_ends(on, keywords):
    rng = Draw(2)
    assert mask_keywords(RED_DRESS, keywords, rng, on=on) == ["a red ", " on a beach"]
    assert rng.seen == [6]


@pytest.mark.parametrize("on", ["words", "substrings"])
def test_keywords_before_the_unmatched_one_stay_masked(on):
    assert mask_keywords(RED_DRESS, ["a beach", "a bird", "a red dress"], Draw(1), on=on) == ["a ", " dress on ", ""]
    assert mask_keywords(RED_DRESS, ["a beach", "a bird"], Draw(5), on=on) == ["a red dress on ", ""]  # gone already


def test_a_keyword_inside_a_word_counts_as_unmatched_on_words():
    assert mask_keywords("red beaches", ["beach"], Draw(0)) == ["", " beaches"]


def test_keywords_on_words_match_across_blanks():
    assert mask_keywords("a red  dress", ["red dress"], NoDraw()) == ["a ", ""]


@pytest.mark.parametrize("caption", ["", "  ", "?! -"])
def test_nothing_to_mask_on_words(caption):
    assert mask_keywords(caption, [], NoDraw()) == [caption]


def test_published_behaviour_with_empty_words():
    assert mask_keywords("", [], Draw(0), on="substrings") == ["", ""]  # exactly one placeholder
    rng = Draw(1)
    assert mask_keywords("a  b", [""], rng, on="substrings") == ["", "a", " ", " ", "b", ""]
    assert rng.seen == [3]
    # The empty word also breaks up the placeholder that is there already.
    pieces = mask_keywords("a  b", ["b", ""], Draw(1), on="substrings")
    assert "[$]".join(pieces) == "a  [$]".replace("", "[$]")


def test_draws_follow_the_generator():
    masked = {tuple(mask_keywords(RED_DRESS, [], np.random.default_rng(seed))) for seed in range(50)}
    assert len(masked) == 5  # six words, and both "a" go together
    again = [mask_keywords(RED_DRESS, [], np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]


def test_bad_input():
    with pytest.raises(ValueError, match="'words' or 'substrings', got 'letters'"):
        mask_keywords(RED_DRESS, [], NoDraw(), on="letters")
    with pytest.raises(ValueError, match="clean_caption"):
        mask_keywords("a [$] b", ["b"], NoDraw(), on="substrings")


def test_keywords_without_determiners():
    assert keywords.get_keyword_fn("lexicon", determiners=False)("a red dress on the beach") == ["red dress", "beach"]
