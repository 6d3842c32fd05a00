import numpy as np
import pytest
from PIL import Image

from trainer.drawing.contact_sheet import SheetRow, draw_contact_sheet


def draw(*groups, **row):
    return np.asarray(draw_contact_sheet([SheetRow(None, "is red", groups, **row)], ["results"] * len(groups)))


def count(sheet, colour):
    return int((sheet == colour).all(axis=-1).sum())


def test_a_hit_has_a_green_frame_of_four_pixels():
    blue = Image.new("RGB", (96, 96), "blue")
    assert count(draw([(blue, True)]), (20, 140, 60)) == 96**2 - 88**2
    assert count(draw([(blue, False)]), (20, 140, 60)) == 0


@pytest.mark.parametrize(("size", "shown"), [((48, 48), (96, 96)), ((24, 12), (96, 48)), ((960, 480), (96, 48))])
def test_an_image_is_fitted_into_its_cell(size, shown):
    blue = count(draw([(Image.new("RGB", size, "blue"), False)]), (0, 0, 255))
    frame = 4 * 95 if shown == (96, 96) else 2 * shown[1]  # of one pixel, over the edges of the image
    assert blue == shown[0] * shown[1] - frame


def test_a_sheet_is_as_wide_as_its_groups_and_as_high_as_its_captions():
    cell = (Image.new("RGB", (8, 8)), False)
    plain, wide, captioned = draw([cell]), draw([cell], [cell, cell]), draw([cell], captions=[["1"]])
    assert wide.shape[1] - plain.shape[1] == 2 * 104 + 16
    assert captioned.shape[0] - plain.shape[0] == 16


def test_no_reference_and_no_results_leave_blanks():
    assert draw([]).shape[0] > 96
