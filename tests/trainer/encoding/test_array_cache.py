import numpy as np

from trainer.encoding.array_cache import keep_array, load_array, place_result


def test_a_result_is_named_by_all_that_made_it(tmp_path):
    first, again = (
        place_result(tmp_path / "new", "words", ".npy", **facts) for facts in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    )
    assert first == again != place_result(tmp_path / "new", "words", ".npy", a=1, b=3)
    assert first.name.startswith("words-")
    assert first.parent.is_dir()


def test_an_array_is_computed_once(tmp_path):
    computed = []
    for _ in range(2):
        array = keep_array(tmp_path / "a.npy", lambda: computed.append(1) or np.arange(6.0))
        np.testing.assert_array_equal(array, np.arange(6.0))
    assert computed == [1]


def test_an_array_that_is_cut_or_of_other_rows_is_not_there(tmp_path):
    path = tmp_path / "a.npy"
    assert load_array(path, 3) is None
    np.save(path, np.eye(3))
    assert load_array(path, 3).tolist() == np.eye(3).tolist()
    assert load_array(path, 2) is None
    path.write_bytes(path.read_bytes()[:-8])
    assert load_array(path, 3) is None
