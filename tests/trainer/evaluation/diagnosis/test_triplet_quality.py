import numpy as np
import pytest

from trainer.evaluation.diagnosis.triplet_quality import measure_similarity, measure_triplets


ROWS = [
    ("a red dress", "is blue", "a blue dress"),
    ("A red dress.", "is blue!", "a blue dress"),  # the same again, but for case and punctuation
    ("a red dress", "is blue", "a blue shirt on a beach"),  # the same question, another answer
    ("a dog", "with a cat", "a dog with a cat"),
    ("a tree", "stays", "a tree"),
    ("a car", "a house", "a house"),
]


def test_flaws_are_counted():
    facts = measure_triplets(*zip(*ROWS, strict=True))
    assert facts["count"] == 6
    assert facts["duplicates"] == pytest.approx(1 / 6)
    assert facts["ambiguous"] == pytest.approx(3 / 6)
    assert facts["unchanged"] == pytest.approx(1 / 6)
    assert facts["copied"] == pytest.approx(1 / 6)
    assert facts["condition_in_target"] == pytest.approx(2 / 6)
    assert facts["common_conditions"]["is blue"] == pytest.approx(3 / 6)
    assert facts["words"]["target"]["max"] == 6


def test_a_condition_inside_a_longer_word_is_not_in_the_target():
    assert measure_triplets(["a sea"], ["a bee"], ["a beech"])["condition_in_target"] == 0


@pytest.mark.parametrize(
    ("row", "covered", "overlap", "unexplained"),
    [
        (("a red dress", "is blue", "a blue dress"), 1 / 2, 2 / 4, 0),
        (("a red dress", "is blue", "a blue shirt on a beach"), 1 / 2, 1 / 7, 3 / 5),
        (("a tree", "stays", "a tree"), 0, 1, 0),
    ],
)
def test_words_are_compared_as_sets(row, covered, overlap, unexplained):
    facts = measure_triplets(*([text] for text in row))
    measured = (facts["condition_covered"], facts["overlap"], facts["unexplained"])
    assert measured == pytest.approx((covered, overlap, unexplained))


def test_columns_of_unlike_length_are_refused():
    with pytest.raises(ValueError, match="of one length, got 1, 1, 2"):
        measure_triplets(["a"], ["b"], ["c", "d"])


def test_a_target_closer_to_its_condition_than_to_its_reference_is_counted():
    targets = np.array([[1.0, 0.0], [0.0, 1.0]])
    facts = measure_similarity(targets, np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.5, 1.0]]))
    assert facts["condition_closer"] == 0
    facts = measure_similarity(targets[::-1], targets, targets)
    assert facts["condition_closer"] == 1
    assert facts["reference_target"]["mean"] == 0
