import numpy as np
import pytest

from trainer.worlds.small_world.declaration import WORLD
from trainer.worlds.world import is_held_out, pick


def test_a_preset_is_found_by_name_and_passes_as_itself():
    toy = WORLD.find_preset("toy")
    assert toy is WORLD.presets["toy"] is WORLD.find_preset(toy)
    with pytest.raises(ValueError, match="'minni'; did you mean 'mini'"):
        WORLD.find_preset("minni")


def test_what_is_held_out_depends_on_the_values_and_their_order_alone():
    triples = [(f"a{i}", f"b{j}", f"c{k}") for i in range(10) for j in range(10) for k in range(10)]
    assert sum(is_held_out(*triple) for triple in triples) == pytest.approx(200, abs=40)
    assert any(is_held_out(a, b, c) != is_held_out(b, a, c) for a, b, c in triples)


def test_a_scene_is_held_out_by_some_of_its_attributes():
    rng, preset = np.random.default_rng(0), WORLD.presets["demo"]
    scene = WORLD.draw_scene(preset, rng, True)
    assert WORLD.holds_out(scene)
    assert WORLD.holds_out(scene._replace(count=3, size="big"))
    assert not WORLD.holds_out(WORLD.draw_scene(preset, rng, False))


def test_all_options_have_equal_chances():
    rng = np.random.default_rng(0)
    drawn = [pick(rng, "abcd") for _ in range(4000)]
    assert {letter: drawn.count(letter) for letter in "abcd"} == pytest.approx(dict.fromkeys("abcd", 1000), abs=120)
