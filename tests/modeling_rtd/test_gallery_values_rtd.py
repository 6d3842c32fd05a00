"""What a gallery keeps of ids and metadata."""

import datetime
import json

import numpy as np
import pytest
import torch

from modeling_rtd import Gallery, settle_ids
from modeling_rtd.gallery_values_rtd import settle_metadata


DEEP = []
DEEP.append(DEEP)


def test_ids_come_from_texts_bytes_and_whole_numbers():
    assert settle_ids([b"\xc3\xa4.jpg", "b", 7, np.int64(8), np.str_("c")]) == ["ä.jpg", "b", "7", "8", "c"]


@pytest.mark.parametrize("value", [None, 1.0, float("nan"), True, ["a"], b"\xff", "", "a\0b", "\ud83d"])
def test_what_is_no_id_is_refused(value):
    with pytest.raises(ValueError, match="the id"):
        settle_ids(["a", value])
    if isinstance(value, str):
        with pytest.raises(ValueError, match="the id"):
            Gallery(torch.eye(2), ["a", value])


def test_metadata_is_what_json_gives_back():
    row = {
        "nan": float("nan"),
        "day": datetime.date(2020, 1, 2),
        "number": np.float32(0.5),
        "list": [np.int64(1), np.nan],
    }
    row |= {
        "list": [np.int64(1), np.nan],
        "when": np.datetime64("2020-01-02T03:04"),
        "never": np.datetime64("NaT"),
        "part": {"inf": np.inf},
    }
    kept = {"nan": None, "day": "2020-01-02", "number": 0.5, "list": [1, None]}
    kept |= {"when": "2020-01-02T03:04", "never": None, "part": {"inf": None}}
    (settled,) = settle_metadata([row])
    assert settled == kept
    json.dumps(settled, allow_nan=False)


def test_pandas_missing_values_are_null():
    pandas = pytest.importorskip("pandas")
    row = {"a": pandas.NaT, "b": pandas.NA, "c": pandas.Timestamp("2020-01-02")}
    assert settle_metadata([row]) == [{"a": None, "b": None, "c": "2020-01-02T00:00:00"}]


@pytest.mark.parametrize(
    "value", [{1}, b"x", 1j, object(), [b"x"], {"x": {1}}, "\ud83d", {1: 2}, {"\ud83d": 1}, 10**4000, DEEP]
)
def test_what_cannot_be_kept_is_left_out_and_named(value):
    with pytest.warns(UserWarning, match="left out: 'bad'"):
        gallery = Gallery(torch.eye(1), ["a"], [{"bad": value, "good": 1}])
    assert gallery.search(torch.eye(1))[0][0]["metadata"] == {"good": 1}
