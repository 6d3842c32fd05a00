import numpy as np
import pytest

from trainer.worlds.language import Phrase, choose_article, draw_omissions, join_phrases, tell_order, write_phrases
from trainer.worlds.small_world.declaration import WORLD
from trainer.worlds.small_world.scenes import draw_scene


@pytest.mark.parametrize(
    ("wording", "order"),
    [
        ("has {old} changed to {new}", "old first"),
        ("is {new} and not {old}", "new first"),
        ("is {new}", "new alone"),
        ("is not {old}", "old alone"),
    ],
)
def test_the_order_of_values_is_told(wording, order):
    assert tell_order(wording) == order


def test_each_attribute_that_differs_has_a_phrase():
    reference = draw_scene(WORLD.presets["demo"], np.random.default_rng(0))
    colours = [colour for colour in ("red", "blue") if colour != reference.colour]
    grounds = [ground for ground in ("white", "black") if ground != reference.background]
    target = reference._replace(colour=colours[0], background=grounds[0])
    phrases = write_phrases(WORLD, reference, target, "B", np.random.default_rng(0))
    assert len(phrases) == 2
    for phrase in phrases:
        assert phrase.wording in WORLD.wordings["B"][phrase.kind]
    assert write_phrases(WORLD, reference, reference, "B", np.random.default_rng(0)) == []


def test_phrases_are_joined_to_one_condition():
    assert join_phrases([Phrase("", "", "is red"), Phrase("", "", "has no hat")]) == "is red and has no hat"


@pytest.mark.parametrize(("word", "article"), [("orange", "an"), ("dress", "a")])
def test_an_article_follows_the_first_letter(word, article):
    assert choose_article(word) == article


def test_attributes_are_left_out_as_often_as_asked_for():
    rng = np.random.default_rng(0)
    assert draw_omissions(WORLD, rng, 1.0) == set(WORLD.scene._fields)
    assert draw_omissions(WORLD, rng, 0.0) == set()
