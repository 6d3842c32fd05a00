import pytest
from transformers import SchedulerType

from trainer.publishing.provenance import describe_stage, name_data, read_stages


@pytest.mark.parametrize("record", ["{", "[1]", '{"stages": [1]}', '{"stages": [{}]}'])
def test_a_record_that_is_none_is_refused(tmp_path, record):
    (tmp_path / "provenance.json").write_text(record)
    with pytest.raises(ValueError, match="provenance.json' is "):
        read_stages(tmp_path)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("shards/*.parquet", "*.parquet"),
        (["shards/0.jsonl", "shards/1.jsonl"], "0.jsonl and 1 more"),
        (["a red dress", "a cat"], "2 rows from memory"),
    ],
)
def test_data_are_named_without_their_folder(tmp_path, monkeypatch, data, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/0.jsonl").touch()
    assert name_data(data) == name


def test_a_stage_holds_plain_values_for_the_card():
    assert f"{describe_stage({'lr_scheduler_type': SchedulerType.CONSTANT})['lr_scheduler_type']}" == "constant"
