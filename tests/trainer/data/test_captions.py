import pytest

from tests.factories import write_lines
from trainer.data.captions import clean_caption, read_captions, split_subject
from trainer.data.keywords import get_tagger


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (None, ""),
        ("", ""),
        ("  $ ", ""),
        ("<PERSON> in a Hat", "person in a hat"),
        ("<person> stays", "<person> stays"),  # only the spelling of the data sets
        ("[$] costs $$5\n", "[] costs 5"),
        ("a  b", "a  b"),  # blanks inside stay, as published
    ],
)
def test_clean_caption(text, cleaned):
    assert clean_caption(text) == cleaned


@pytest.mark.parametrize("name", ["rule", "lexicon"])
@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red dress on a beach", ("a red dress", "on a beach")),
        ("dogs running in the snow snow snow", ("dogs", "running in the snow")),
        ("a dress", None),  # fewer than 4 words
        ("a small red dress", None),  # nothing behind the noun
        ("from here to there", None),  # no noun
    ],
)
def test_a_caption_is_split_behind_its_first_noun(name, caption, expected):
    assert split_subject(caption, get_tagger(name)) == expected


def test_rows_that_are_no_captions_are_skipped_and_named(tmp_path):
    lines = ["a dog", "", "   ", "x" * 2001, b"\xff\xfe\x00", "a\x00b", "a cat\r"]
    captions, skipped = read_captions(write_lines(tmp_path / "captions.txt", lines))
    assert captions == ["a dog", None, None, None, None, None, "a cat"]
    assert skipped == {"blank": [2, 3], "too_long": [4], "binary": [5, 6]}
