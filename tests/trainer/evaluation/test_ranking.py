"""Ranking beside what test_metrics compares with its oracle."""

import numpy as np
import pytest

from trainer.evaluation.ranking import index_rankings, membership, rank_gallery


def test_minus_infinity_stays_before_what_is_not_allowed():
    assert rank_gallery([[-np.inf, 1.0]], allowed=[[True, False]]).tolist() == [[0, 1]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32])
def test_any_number_type_is_ranked(dtype):
    assert rank_gallery(np.array([[0, 3, 200 if dtype == np.uint8 else 2]], dtype=dtype))[0, -1] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: membership([["a"]], ["a", "b", "a"]), "unique, 'a' is at 0 and 2"),
        (lambda: membership([["a"], "ab"], ["a", "b"]), "the string 'ab' in row 1"),
        (lambda: rank_gallery([0.1, 0.2]), r"\(num_queries, num_gallery\), got \(2,\)"),
        (lambda: rank_gallery([[0.1], [np.nan]]), "1 queries .* first in row 1"),
        (lambda: rank_gallery([[0.1, 0.2]], allowed=[[True]]), r"\(1, 2\), got \(1, 1\)"),
        (lambda: rank_gallery([[0.1, 0.2]], last=[[True]]), r"`last` .* \(1, 2\), got \(1, 1\)"),
        (lambda: index_rankings([["a"], ["z"]], ["a"]), "'z', ranked in row 1, is not an id of the gallery"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
