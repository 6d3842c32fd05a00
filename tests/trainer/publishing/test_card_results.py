import json

import pytest
import yaml

from trainer.publishing.card_results import read_results, sort_results, write_eval_results


HASHES = {"text_model": "1", "projection": "2", "vision_model": "3"}
RECORD = {
    "benchmark": "cirr",
    "split": "val",
    "protocol": {"ties": "exact"},
    "metrics": {},
    "parts": {},
    "numbers": {},
    "comparable": True,
    "deviations": [],
    "data": {"license": "cc-by-4.0"},
    "system": {"name_or_path": "/data/model", "sha256": HASHES, "alpha": None, "mode": "composed"},
}
ABOUT = {"model": "/data/model", "benchmark": "cirr", "split": "val", "k": 5}
DIAGNOSIS = {"about": ABOUT | {"text_model_sha256": "1", "projection_sha256": "2"}, "alignment": {}}
SCORES = dict.fromkeys(["recall@1", "recall@5", "recall@10", "map@5", "subset_recall@1"], 0.5)
TABLE = [{"variant": "lincir + rtd", "seed": 0, "sha256": HASHES, "caption_recall@5": 0.5} | SCORES]


@pytest.fixture
def write(tmp_path):
    """Write contents to files of given names and read them as results."""

    def write(**contents):
        paths = [tmp_path / name.replace("__", "/").replace("_json", ".json") for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_results(paths, HASHES, "org/name")

    return write


def test_results_are_sorted_and_name_the_repository(write):
    kinds = sort_results(write(a_json=RECORD, b_json=RECORD | {"split": "test"}, c_json=DIAGNOSIS, d_json=TABLE))
    assert [record["split"] for record in kinds["evaluations"]] == ["val", "test"]
    assert {record["system"]["name_or_path"] for record in kinds["evaluations"]} == {"org/name"}
    assert kinds["diagnosis"]["about"]["model"] == "org/name"
    assert kinds["comparison"] == TABLE


def test_a_record_of_the_release_before_is_read(write):
    (record,) = write(a_json=RECORD | {"data": {"licence": "mit"}}).values()
    assert record["data"] == {"license": "mit"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (RECORD | {"system": RECORD["system"] | {"sha256": {}}}, "judges other weights than these"),
        (RECORD | {"system": RECORD["system"] | {"alpha": 0.5}}, "judges other weights than these"),
        (RECORD | {"system": RECORD["system"] | {"mode": "text"}}, "judges other weights than these"),
        (DIAGNOSIS | {"about": DIAGNOSIS["about"] | {"projection_sha256": "9"}}, "diagnoses other weights than these"),
        ([TABLE[0] | {"sha256": {}}], "compares other weights than these"),
        ([{name: value for name, value in TABLE[0].items() if name != "sha256"}], "does not say which"),
    ],
)
def test_results_of_other_weights_are_refused(write, content, complaint):
    with pytest.raises(ValueError, match=complaint):
        write(a_json=content)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        {},
        [1],
        1,
        {"benchmark": 1, "system": {}, "metrics": {}},
        {"about": {}, "alignment": {}},
        [{"variant": "x", "sha256": HASHES}],
    ],
    ids=str,
)
def test_what_is_no_result_is_refused(write, content):
    with pytest.raises(ValueError, match=r"a\.json' is (not a result|damaged)"):
        write(a_json=content)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as results"):
        read_results([tmp_path / "none.json"], HASHES, "org/name")


@pytest.mark.parametrize("content", [RECORD, DIAGNOSIS, TABLE], ids=["record", "diagnosis", "table"])
def test_what_is_told_twice_is_refused(write, content):
    with pytest.raises(ValueError, match="'a.json' and 'b.json'"):
        write(a_json=content, b_json=content)


def test_two_results_of_one_name_are_refused(write):
    with pytest.raises(ValueError, match="two results are named 'a.json'"):
        write(x__a_json=RECORD, y__a_json=RECORD | {"split": "test"})


def test_results_on_data_sets_of_the_hub_are_written_for_its_leaderboards(write):
    results = write(a_json=RECORD | {"metrics": {"recall@1": 0.25, "recall@5": 0.5}, "deviations": ["x is y"]})
    (content,) = write_eval_results(results, {"cirr": "org/cirr"}, "org/name").values()
    (entry,) = yaml.safe_load(content)
    assert entry["dataset"] == {"id": "org/cirr", "task_id": "default"}
    assert entry["value"] == 25.0
    assert entry["notes"] == "recall@1 on val, percent; x is y"
    assert write_eval_results(results, {}, "org/name") == {}


@pytest.mark.parametrize("data", [{"circo": "org/circo"}, {"cirr": "/data/cirr"}])
def test_a_benchmark_without_results_or_a_data_set_that_is_not_on_the_hub_is_refused(write, data):
    with pytest.raises(ValueError, match=r"did you mean 'cirr'|Repo id must"):
        write_eval_results(write(a_json=RECORD | {"metrics": {"recall@1": 0.25}}), data, "org/name")
