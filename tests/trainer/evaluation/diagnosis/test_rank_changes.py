import itertools

import numpy as np
import pytest

from trainer.evaluation.diagnosis.rank_changes import bootstrap_interval, compare_ranks, compute_sign_test


def test_the_sign_test_equals_an_enumeration_of_all_signs():
    for pairs in range(11):
        wins = [sum(signs) for signs in itertools.product((0, 1), repeat=pairs)]
        for seen in range(pairs + 1):
            as_uneven = [abs(2 * w - pairs) >= abs(2 * seen - pairs) for w in wins]
            assert compute_sign_test(seen, pairs - seen) == pytest.approx(np.mean(as_uneven))


def test_the_sign_test_of_many_pairs_is_exact_and_fast():
    assert compute_sign_test(20_000, 20_000) == 1
    assert 0 < compute_sign_test(3_300, 3_000) < 1e-3


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(50):
        low, high = bootstrap_interval(rng.normal(2.0, 1.0, 60))
        covered.append(low <= 2.0 <= high)
    assert 0.84 <= np.mean(covered) <= 1


def test_a_comparison_counts_what_changes_sides():
    change = compare_ranks(np.array([1, 4, 6, 9, 3]), np.array([2, 7, 1, 8, 3]), k=5)
    assert (change["gained"], change["lost"], change["better"], change["worse"]) == (1, 1, 2, 2)
    assert (change["recall_before"], change["recall_after"], change["recall_change"]) == (0.6, 0.6, 0.0)
    assert (change["median_rank_before"], change["median_rank_after"]) == (4, 3)
    assert change["interval"][0] < 0 < change["interval"][1]
    assert change["p_value"] == 1


def test_other_queries_are_no_pairs():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        compare_ranks(np.ones(2), np.ones(3), k=1)
