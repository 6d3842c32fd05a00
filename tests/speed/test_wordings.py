import pytest

from speed.wordings import add_old_first, group_orders
from trainer.worlds import WORLDS, find_world
from trainer.worlds.language import tell_order


@pytest.mark.parametrize("name", WORLDS)
def test_kinds_told_with_both_values_get_both_orders_of_known_words_that_no_query_uses(name):
    world = find_world(name)
    told, words = add_old_first(world).wordings["A"], set(world.list_words())
    for kind, texts in told.items():
        orders = set(map(tell_order, texts))
        assert ("old first" in orders) == ("new first" in orders)
        added = set(texts) - set(world.wordings["A"][kind])
        assert not added & set(world.wordings["B"][kind])
        assert words.issuperset(word for text in added for word in text.split() if "{" not in word)


def test_an_order_that_training_lacks_for_its_kind_is_a_group_of_its_own():
    learnt = {"colour": ("goes from {old} to {new}",), "backdrop": ("is on {new}",)}
    wordings = [["is not {old} but {new}"], ["has {old} changed to {new}"], ["is {new}"], ["is {new}", "is {old}"]]
    kinds = [["colour"], ["backdrop"], ["colour"], ["colour", "backdrop"]]
    assert group_orders(wordings, learnt, kinds) == {
        "new alone": [2],
        "old first": [0],
        "old first, no training wording of its kind": [1],
        "two changes": [3],
    }
