import pytest

from trainer.triplet_making.grammar import TOKEN, find_article, find_movable, is_plural, join_tokens


@pytest.mark.parametrize(
    ("word", "article"),
    [
        ("dog", "a"),
        ("orange", "an"),
        ("hour", "an"),
        ("umbrella", "an"),
        ("unicorn", "a"),
        ("one", "a"),
        ("euro", "a"),
    ],
)
def test_an_article_follows_the_sound(word, article):
    assert find_article(word) == article


@pytest.mark.parametrize(
    ("noun", "expected"), [("dogs", True), ("women", True), ("dress", False), ("bus", False), ("dog", False)]
)
def test_a_plural_is_known_by_its_form(noun, expected):
    assert is_plural(noun) is expected


def test_small_words_that_belong_together_are_one_token():
    text = "a photo of two dogs in front of a man's car, next to a tree."
    tokens = TOKEN.findall(text)
    assert tokens == "a photo of|two|dogs|in front of|a|man's|car|,|next to|a|tree|.".split("|")
    assert join_tokens(tokens) == text


def test_a_place_behind_a_noun_can_be_moved():
    tokens = ["a", "dog", "on", "a", "beach"]
    assert find_movable(tokens, [(0, 1, 2), (3, 4, 5)]) == [((0, 1, 2), (3, 4, 5))]
    assert find_movable(["a", "dog", "of", "a", "man"], [(0, 1, 2), (3, 4, 5)]) == []
