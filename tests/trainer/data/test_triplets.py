import json

import pytest
from datasets import Dataset

from tests.factories import build_triplets
from trainer.data.tables import hash_rows
from trainer.data.triplets import TRIPLET_COLUMNS, load_triplets, prepare_triplets


ROWS = build_triplets(6)


def write(rows, path):
    table = Dataset.from_list(rows)
    {
        ".jsonl": lambda: table.to_json(path),
        ".json": lambda: path.write_text(json.dumps(rows)),
        ".csv": lambda: table.to_csv(path),
        ".parquet": lambda: table.to_parquet(path),
    }[path.suffix]()
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    assert load_triplets(write(ROWS, tmp_path / f"triplets{suffix}")).to_list() == ROWS


def test_a_json_file_of_columns_is_read_too(tmp_path):
    path = tmp_path / "columns.json"
    path.write_text(json.dumps({name: [row[name] for row in ROWS] for name in TRIPLET_COLUMNS}))
    assert load_triplets(path).to_list() == ROWS


def test_further_columns_are_left_out():
    assert load_triplets(Dataset.from_list([row | {"source": "x"} for row in ROWS])).column_names == list(
        TRIPLET_COLUMNS
    )


def test_a_missing_column_is_named():
    table = Dataset.from_list(ROWS).rename_column("target_caption", "target")
    with pytest.raises(ValueError, match=r"lack .*target_caption; found: .*Rename"):
        load_triplets(table)


@pytest.mark.parametrize("value", ["", "  ", None])
@pytest.mark.parametrize("name", TRIPLET_COLUMNS)
def test_an_empty_caption_is_refused_with_its_row(name, value):
    rows = [dict(row) for row in ROWS]
    rows[3][name] = value
    with pytest.raises(ValueError, match=rf"row 4: `{name}` must"):
        load_triplets(Dataset.from_list(rows))


def test_a_caption_that_is_no_string_is_refused_with_its_row(tmp_path):
    path = tmp_path / "triplets.jsonl"
    path.write_text("\n".join(json.dumps(row | {"target_caption": 7}) for row in ROWS))
    with pytest.raises(ValueError, match="row 1: `target_caption` .* got int 7"):
        load_triplets(path)


def test_a_caption_that_cleaning_empties_is_refused():
    with pytest.raises(ValueError, match="row 7: `reference_caption`"):
        prepare_triplets(Dataset.from_list([*ROWS, ROWS[0] | {"reference_caption": "$ $"}]))


def test_preparing_cleans_captions_and_leaves_the_condition():
    row = {"reference_caption": " A $5 <PERSON>", "conditioning_caption": "Is $RED", "target_caption": "B "}
    assert prepare_triplets(Dataset.from_list([row]))[0] == {
        "reference_caption": "a 5 person",
        "conditioning_caption": "Is $RED",
        "target_caption": "b",
        "row": 0,
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "neither a file nor a Hub data set"),
        ("notes.docx", "x", "is not a .jsonl, .json"),
        ("broken.jsonl", '{"reference_caption": "a', "cannot be read as json"),
        ("captions.txt", "a red dress", "plain captions and no triplets .* give them to `rtd train` with --captions"),
    ],
)
def test_unreadable_sources_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_triplets(tmp_path / name)


def test_the_hash_tells_data_apart_and_is_stable():
    table = Dataset.from_list(ROWS)
    assert hash_rows(table, TRIPLET_COLUMNS) == hash_rows(Dataset.from_list(ROWS), TRIPLET_COLUMNS)
    assert hash_rows(table, TRIPLET_COLUMNS) != hash_rows(table.select([1, 0, 2, 3, 4, 5]), TRIPLET_COLUMNS)


def test_the_real_triplets_are_valid(shared):
    table = prepare_triplets(shared / "data/text_triplets/real_triplets.jsonl")
    assert len(table) == 29773
