import numpy as np
import pytest

from trainer.evaluation.diagnosis.modality_gap import compare_modalities, describe_words, find_neighbours


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_neighbours_equal_a_search_by_hand_over_block_borders(rng):
    rows, others = rng.normal(size=(1100, 5)), rng.normal(size=(30, 5))
    places, cosines = find_neighbours(rows, others)
    for row in (0, 1023, 1024, 1099):
        values = [rows[row] @ other / np.linalg.norm(rows[row]) / np.linalg.norm(other) for other in others]
        assert places[row] == np.argmax(values)
        assert cosines[row] == pytest.approx(max(values))
    assert (find_neighbours(rows, rows)[0] == np.arange(1100)).all()
    assert (find_neighbours(rows, rows, leave_out_self=True)[0] != np.arange(1100)).all()


def test_one_cloud_mixes_and_two_clouds_do_not(rng):
    images, texts = rng.normal(size=(400, 8)), rng.normal(size=(400, 8))
    same, apart = (compare_modalities(images, texts + shift, paired=False) for shift in (0.0, 30.0))
    assert same["mixing"] == pytest.approx(0.5, abs=0.06)
    assert apart["mixing"] < 0.01
    assert same["gap"] < 0.2 < apart["gap"]
    assert apart["pair_recall@1"] is None


def test_the_gap_is_the_distance_of_means_in_units_of_the_rms_norm():
    images, texts = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 2.0], [0.0, 4.0]])
    rms = np.sqrt((1 + 9 + 4 + 16) / 4)
    assert compare_modalities(images, texts, paired=True)["gap"] == pytest.approx(np.hypot(2, 3) / rms)


def test_pairs_are_told_from_mere_neighbours(rng):
    words = rng.normal(size=(50, 16))
    paired = compare_modalities(words, words + 0.01 * rng.normal(size=words.shape), paired=True)
    assert paired["pair_recall@1"] == 1
    assert paired["pair_cosine"] > 0.99
    assert compare_modalities(words, np.roll(words, 1, axis=0), paired=True)["pair_recall@1"] == 0


def test_pairs_need_equal_numbers():
    with pytest.raises(ValueError, match="got 2 image and 3 text words"):
        compare_modalities(np.ones((2, 4)), np.ones((3, 4)), paired=True)


def test_words_are_described_by_norms_and_nearest_tokens():
    words = np.array([[2.0, 0.1], [3.0, 0.0], [0.0, 1.0]])
    facts = describe_words(words, np.eye(2), ["red", "dress"])
    assert facts["common_tokens"] == {"red": 2 / 3, "dress": 1 / 3}
    assert facts["distinct_tokens"] == 2
    assert facts["norm"]["max"] == 3
