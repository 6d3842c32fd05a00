import errno
import json
import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, are_progress_bars_disabled
from datasets.arrow_writer import ArrowWriter

from tests.factories import build_triplets
from trainer.data.captions import clean_caption, clean_captions
from trainer.data.tables import add_column, check_texts, hash_rows, load_table, map_blocks, take_rows
from trainer.data.triplets import TRIPLET_COLUMNS, load_triplets, prepare_triplets


ROWS = build_triplets(6)
SIGNS = ["<PERSON>", "$", " ", "\x1c", "\x85", "\u3000", "\u200b", "\0", "A", "b", "İ", "ΑΣ", "ẞ", "é", "😀", "\n"]


def draw_texts(count, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(SIGNS, k=rng.randrange(6))) for _ in range(count)]


def test_a_column_is_cleaned_as_each_caption_is():
    texts = [*draw_texts(5000), None]
    column = pa.chunked_array([texts[:70], texts[70:]], pa.string())
    assert clean_captions(column).to_pylist() == [clean_caption(text) for text in texts]


@pytest.mark.parametrize("seed", range(30))
def test_the_first_row_without_text_is_that_of_a_loop(seed):
    texts = [text or None for text in draw_texts(12, seed)]
    flaw = next((row for row, text in enumerate(texts, 1) if text is None or not text.strip()), None)
    if flaw is None:
        check_texts(Dataset.from_dict({"text": texts}), ["text"])
    else:
        with pytest.raises(ValueError, match=rf"row {flaw}: `text` must be"):
            check_texts(Dataset.from_dict({"text": texts}), ["text"])


def test_rows_that_were_chosen_are_counted_as_they_come():
    table = Dataset.from_dict({"text": ["", "a", "b", "c"]}).select([3, 1, 0])
    with pytest.raises(ValueError, match="row 3: `text`"):
        check_texts(table, ["text"])


def test_a_hash_tells_where_texts_end_and_what_is_missing():
    columns = [["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], ["abc"]]
    assert len({hash_rows(Dataset.from_dict({"text": texts}), ["text"]) for texts in columns}) == 5


def test_a_hash_does_not_depend_on_where_rows_lie(tmp_path):
    table = Dataset.from_list(ROWS)
    table.to_parquet(tmp_path / "rows.parquet")
    chosen = Dataset.from_list([*ROWS, *ROWS]).select(range(3, 9)).select([3, 4, 5, 0, 1, 2])
    for same in (load_table(tmp_path / "rows.parquet"), chosen):
        assert hash_rows(same, TRIPLET_COLUMNS) == hash_rows(table, TRIPLET_COLUMNS)


def test_rows_texts_and_splits_in_memory_are_read():
    assert load_triplets(ROWS).to_list() == ROWS
    assert load_table(["a dress", "a cat"])["text"][:] == ["a dress", "a cat"]
    splits = DatasetDict(train=Dataset.from_list(ROWS), val=Dataset.from_list(ROWS[:2]))
    assert [len(load_triplets(splits, split)) for split in (None, "val")] == [6, 2]
    with pytest.raises(ValueError, match="no split 'test', only 'train', 'val'"):
        load_table(splits, "test")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_several_files_and_patterns_are_read_in_order(tmp_path, suffix):
    paths = [tmp_path / f"{i}{suffix}" for i in range(3)]
    for i, path in enumerate(paths):
        part = Dataset.from_list(ROWS[2 * i : 2 * i + 2])
        {".jsonl": part.to_json, ".csv": part.to_csv, ".parquet": part.to_parquet}[suffix](path)
    for source in (paths, list(map(str, paths)), f"{tmp_path}/*{suffix}"):
        assert load_triplets(source).to_list() == ROWS


def test_a_shard_that_is_missing_or_cut_is_named(tmp_path):
    paths = [tmp_path / f"{i}.parquet" for i in range(2)]
    for path in paths:
        Dataset.from_list(ROWS).to_parquet(path)
    with pytest.raises(ValueError, match="absent.parquet"):
        load_table([*paths, tmp_path / "absent.parquet"])
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"1.parquet. cannot be read .* cut off"):
        load_table(paths)
    with pytest.raises(ValueError, match="matches no file"):
        load_table(f"{tmp_path}/*.csv")


def test_texts_of_a_csv_file_stay_texts(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("reference_caption,conditioning_caption,target_caption\nnull,NA,3\n1,true,nan\n")
    assert [list(row.values()) for row in load_triplets(path)] == [["null", "NA", "3"], ["1", "true", "nan"]]


@pytest.mark.parametrize("line", ["a, b,c,d", "a,b"])
def test_a_csv_row_of_other_columns_is_refused(tmp_path, line):
    path = tmp_path / "rows.csv"
    path.write_text(f"reference_caption,conditioning_caption,target_caption\na,b,c\n{line}\n")
    with pytest.raises(ValueError, match="row 2 of "):
        load_triplets(path)


@pytest.mark.parametrize("content", ["null", "\ufeff null", "3", '"a"', "<html>"])
def test_a_json_file_that_holds_no_rows_is_refused(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="rows.jsonl' cannot be read as json"):
        load_triplets(path)


def test_text_that_is_no_utf8_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"text\n\xff\xfe\n")
    with pytest.raises(ValueError, match="rows.csv' cannot be read"):
        load_table(tmp_path / "rows.csv")
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(ValueError, match="row 2: `text` .* got bytes"):
        check_texts(load_table(tmp_path / "rows.jsonl"), ["text"])


def test_half_an_emoji_is_refused(tmp_path):
    rows = [json.dumps({"text": "a"}), '{"text": "\\ud83d"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="cannot be read as json"):
        load_table(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="row 2"):
        load_table([{"text": "a"}, {"text": "\ud83d"}])


def test_rows_without_text_are_left_out_with_one_warning():
    texts = ["a", " ", "b", None, "$"]
    rows = [dict(zip(TRIPLET_COLUMNS, (text, "c", "d"), strict=True)) for text in texts]
    first = "2 of 5 rows lack a text and are left out, the first of them row 2"
    # Of the placeholder nothing is left, which shows later.
    with pytest.warns(UserWarning, match=first), pytest.warns(UserWarning, match="1 of 3 rows lack a text"):
        prepared = prepare_triplets(Dataset.from_list(rows), bad_rows="skip")
    assert prepared["reference_caption"][:] == ["a", "b"]
    with pytest.raises(ValueError, match="none of 1 rows"):
        prepare_triplets(Dataset.from_list(rows[1:2]), bad_rows="skip")


def test_a_disk_that_fills_leaves_no_part_of_a_table_and_what_others_write(tmp_path, monkeypatch):
    Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    table = load_table(tmp_path / "rows.parquet")
    folder = Path(table.cache_files[0]["filename"]).parent
    before = set(folder.iterdir())

    def copy(rows, indices):
        (folder / "tmpother").write_bytes(b"of another process")
        return rows

    def fill(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ArrowWriter, "finalize", fill)
    with pytest.raises(OSError, match="the disk is full"):
        map_blocks(table, copy, "Filling")
    assert set(folder.iterdir()) - before == {folder / "tmpother"}


def test_a_column_is_added_to_some_rows_without_a_progress_bar(capfd):
    table = Dataset.from_list(ROWS).select([4, 1])
    assert add_column(table, "row", [7, 8])["row"][:] == [7, 8]
    assert take_rows(table, [1])[:] == table.select([1])[:]
    assert capfd.readouterr().err == ""
    assert not are_progress_bars_disabled()


def test_a_stream_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="streaming=False"):
        load_table(IterableDataset.from_generator(lambda: iter(ROWS)))


@pytest.mark.parametrize("rows", [pd.DataFrame(ROWS), iter(ROWS), {"text": ["a dog"]}, Dataset.from_list(ROWS).data])
def test_rows_of_another_kind_are_refused_with_what_makes_a_data_set_of_them(rows):
    with pytest.raises(ValueError, match=f"the data are a {type(rows).__name__}.*from_pandas.*from_generator"):
        load_table(rows)


def test_a_transform_is_not_passed_over_in_silence():
    with pytest.raises(ValueError, match="has a transform.*`map`"):
        load_table(Dataset.from_list(ROWS).with_transform(lambda rows: rows))
    assert load_table(Dataset.from_list(ROWS).with_format("torch"))["target_caption"][0] == ROWS[0]["target_caption"]


def test_preparing_agrees_with_a_loop():
    texts = [f"x{text}" for text in draw_texts(90)]
    rows = [dict(zip(TRIPLET_COLUMNS, texts[i : i + 3], strict=True)) for i in range(0, 90, 3)]
    expected = [
        row | {name: clean_caption(row[name]) for name in ("reference_caption", "target_caption")} | {"row": i}
        for i, row in enumerate(rows)
    ]
    assert prepare_triplets(Dataset.from_list(rows)).to_list() == expected
