from __future__ import annotations

import pytest

from trainer.worlds import find_world
from trainer.worlds.data import build_world


WARDROBE = find_world("wardrobe")


def test_an_unknown_world_or_preset_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'wardrobe'"):
        find_world("wardrob")
    with pytest.raises(ValueError, match="did you mean 'mini'"):
        build_world(WARDROBE, "minni")
