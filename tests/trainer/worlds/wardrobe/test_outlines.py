from collections import Counter

import pytest

from trainer.worlds.wardrobe.outlines import VARIANTS, lay_out


def bounds(layout):
    """The highest and the lowest corner of a garment, and its width."""
    xs, ys = zip(*(point for part in layout.parts for point in part.points), strict=True)
    return min(ys), max(ys), max(xs) - min(xs)


@pytest.mark.parametrize("variant", range(VARIANTS))
def test_long_sleeves_reach_further_than_short_ones(variant):
    widths = [bounds(lay_out("tee", sleeves, "midi", "", variant))[2] for sleeves in ("", "short", "long")]
    assert widths == sorted(set(widths))


@pytest.mark.parametrize("garment", ["dress", "coat", "tee", "jumper", "skirt", "trousers", "dungarees"])
def test_the_longer_a_garment_the_lower_its_hem(garment):
    hems = [bounds(lay_out(garment, "", length, "", 0))[1] for length in ("cropped", "midi", "maxi")]
    assert hems == sorted(set(hems))
    assert hems[-1] <= 1


@pytest.mark.parametrize("detail", ["belt", "buttons"])
def test_a_detail_is_added_over_the_same_garment(detail):
    plain, more = (lay_out("coat", "long", "midi", name, 1).parts for name in ("", detail))
    assert len(more) > len(plain)
    assert not Counter(part.kind for part in plain) - Counter(part.kind for part in more)
