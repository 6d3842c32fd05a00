import pytest

from tests.factories import TINY_CAPTIONS
from trainer.data.keywords import get_keyword_fn
from trainer.triplet_making.lexicon import Lexicon


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon(TINY_CAPTIONS, get_keyword_fn("rule"))


def test_captions_say_which_words_are_nouns_and_which_are_adjectives(lexicon):
    assert {word for word in lexicon.seen if lexicon.is_noun(word)} == {
        "dress",
        "shirt",
        "dog",
        "cat",
        "sleeves",
        "tree",
    }
    assert set(lexicon.adjectives) == {"small", "large", "red", "green", "blue"}


def test_words_of_the_same_places_may_replace_each_other(lexicon):
    assert set(lexicon.find_neighbours(["red", "dog"])) == {"green", "blue"}
    assert set(lexicon.find_neighbours(["dog"])) == {"dress", "shirt", "cat"}


def test_phrases_that_follow_a_noun_are_known(lexicon):
    assert lexicon.phrases["dog"] == [("with", "sleeves"), ("with", "a", "tree")]


def test_two_words_are_known_only_side_by_side(lexicon):
    assert lexicon.has("^", "a", "small", "red", "dog")
    assert not lexicon.has("red", "small")
