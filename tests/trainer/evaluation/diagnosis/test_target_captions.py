import json

import pytest

from trainer.evaluation.diagnosis.target_captions import add_target_captions
from trainer.worlds.small_world import build_benchmark


@pytest.fixture(scope="module")
def benchmark():
    return build_benchmark("toy", "test")


def test_each_query_gets_the_caption_of_its_first_target(benchmark, tmp_path):
    captions = {name: f"a picture of {name}" for name in benchmark.gallery["id"]}
    (tmp_path / "captions.json").write_text(json.dumps(captions | {"further": "one"}))
    queries = add_target_captions(benchmark, tmp_path / "captions.json").queries
    assert queries["target_caption"][:] == [captions[ids[0]] for ids in benchmark.queries["target_ids"]]
    assert len(queries) == len(benchmark.queries)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged, it is not JSON"),
        ('["a"]', "an object of image id"),
        ('{"a": 1}', "both strings"),
        ("{}", "lack 20 targets"),
    ],
)
def test_files_that_do_not_fit_are_refused(benchmark, tmp_path, content, message):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        add_target_captions(benchmark, tmp_path / "captions.json")
