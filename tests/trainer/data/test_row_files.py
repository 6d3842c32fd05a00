import errno
import io
import json
import tarfile
import uuid

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from tests.factories import build_images, build_triplets
from trainer.data import row_files
from trainer.data.row_files import FileWatch, find_broken, find_files, is_stream
from trainer.data.streams import RowStream, open_stream
from trainer.data.tables import load_table
from trainer.data.triplets import load_triplets, prepare_triplets


ROWS = build_triplets(6)


def write_tar(path, **members):
    """Write a web data set: under each suffix a list of contents."""
    with tarfile.open(path, "w") as tar:
        for i in range(len(next(iter(members.values())))):
            for suffix, contents in members.items():
                member = tarfile.TarInfo(f"{i:04}.{suffix}")
                member.size = len(contents[i])
                tar.addfile(member, io.BytesIO(contents[i]))
    return path


def encode(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def test_triplets_and_captions_of_a_web_data_set_are_read(tmp_path):
    tar = write_tar(tmp_path / "0.tar", json=[json.dumps(row).encode() for row in ROWS])
    assert load_triplets(tar).to_list() == ROWS
    assert [row for row, _ in zip(prepare_triplets(open_stream(tar)), ROWS, strict=False)][:2] == list(
        prepare_triplets(ROWS)
    )[:2]
    write_tar(tmp_path / "a.tar", txt=[b"a dress", b"a cat"])
    write_tar(tmp_path / "b.tar", txt=[b"a dog"])
    for source in (f"{tmp_path}/[ab].tar", [tmp_path / "a.tar", tmp_path / "b.tar"]):
        assert load_table(source)["text"][:] == ["a dress", "a cat", "a dog"]
        stream = RowStream(open_stream(source), ["text"], lambda rows: rows, batch_size=3)
        assert stream.head["text"][:] == ["a dress", "a cat", "a dog"]


def test_images_of_a_web_data_set_are_not_decoded(tmp_path):
    images = [encode(image) for image in build_images(2)]
    rows = load_table(write_tar(tmp_path / "0.tar", png=images, txt=[b"a", b"b"]))
    assert [row["image"]["bytes"] for row in rows] == images
    assert rows["text"][:] == ["a", "b"]


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_are_read_by_split(tmp_path, streaming):
    def read(split=None):
        if streaming:
            return list(open_stream(tmp_path / "x", split).rows)
        return load_table(tmp_path / "x", split).to_list()

    splits = DatasetDict(train=Dataset.from_list(ROWS), val=Dataset.from_list(ROWS[:2]))
    splits.save_to_disk(tmp_path / "x")
    assert [len(read(split)) for split in (None, "val")] == [6, 2]
    with pytest.raises(ValueError, match="'test'"):
        read("test")


@pytest.mark.parametrize("load", [load_table, open_stream])
def test_a_split_that_is_not_there_is_refused(tmp_path, load):
    Dataset.from_list(ROWS).to_parquet(tmp_path / "x.parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "x")
    for source in (tmp_path / "x.parquet", tmp_path / "x"):
        load(source, "train")
        with pytest.raises(ValueError, match="no split 'val'"):
            load(source, "val")


def test_a_folder_of_shards_is_read_by_split(tmp_path):
    for split, rows in {"train": ROWS, "test": ROWS[:2]}.items():
        Dataset.from_list(rows).to_parquet(tmp_path / "x" / f"{split}-0.parquet")
    assert load_triplets(tmp_path / "x", "test").to_list() == ROWS[:2]
    assert list(open_stream(tmp_path / "x").rows) == ROWS
    with pytest.raises(ValueError, match="the folder .*x' cannot be read"):
        load_table(tmp_path / "x", "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder .*empty' cannot be read"):
        load_table(tmp_path / "empty")


def test_files_that_are_cut_off_are_named_before_anything_is_read(tmp_path):
    Dataset.from_list(ROWS).to_json(tmp_path / "a.jsonl")
    Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    write_tar(tmp_path / "a.tar", txt=[b"a"] * 30)
    for path in [*tmp_path.iterdir()]:
        assert not find_broken([path])
        content = path.read_bytes()
        whole = path.with_stem("b")
        whole.write_bytes(content)
        path.write_bytes(content[: len(content) // 3 * 2 - 5])
        assert list(find_broken([whole, path])) == [path]
        for load in (load_table, open_stream):
            with pytest.raises(ValueError, match=f"{path.name}' cannot be read as .* cut off"):
                load([whole, path])


def test_a_long_last_row_is_read_to_its_start(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' + json.dumps({"text": "b" * 300_000}) + "\n")
    assert not find_broken([path])
    path.write_text(path.read_text()[:-5])
    assert list(find_broken([path])) == [path]


def test_a_file_that_is_whole_and_cannot_be_read_is_not_called_cut_off(tmp_path):
    path = tmp_path / "rows.parquet"
    Dataset.from_list(ROWS).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-40] + b"\xff" * 32 + path.read_bytes()[-8:])
    with pytest.raises(ValueError, match="rows.parquet' cannot be read as parquet: (?!.*cut off)"):
        load_table(path)
    (tmp_path / "folder.parquet").mkdir()
    assert find_broken([tmp_path / "folder.parquet", tmp_path / "absent.csv"]) == {
        tmp_path / "folder.parquet": "it cannot be opened (Is a directory)",
        tmp_path / "absent.csv": "it is missing",
    }


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    Dataset.from_list(ROWS).to_json(path)

    def load(*args, **kwargs):
        table = datasets.load_dataset(*args, **kwargs)
        path.write_text("{}")
        return table

    monkeypatch.setattr(row_files, "load_dataset", load)
    with pytest.raises(ValueError, match=r"rows.jsonl' changed while it was read .* 2 now"):
        load_table(path)


def test_a_file_that_goes_is_a_change(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}")
    watch = FileWatch([path])
    watch.check()
    path.unlink()
    with pytest.raises(ValueError, match="rows.jsonl' changed"):
        watch.check()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("192000 requested and 16352 written"),
        datasets.exceptions.DatasetGenerationError("An error occurred"),
    ],
)
def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch, error):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}')

    def fill(*args, **kwargs):
        raise error from OSError(errno.ENOSPC, "")

    monkeypatch.setattr(row_files, "load_dataset", fill)
    with pytest.raises(OSError, match="the disk is full.*HF_DATASETS_CACHE"):
        load_table(tmp_path / "rows.jsonl")


def test_places_are_told_apart(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert find_files("org/rows") == "org/rows"
    assert find_files(tmp_path) == str(tmp_path)
    assert find_files([f"{tmp_path}/*.jsonl"]) == [tmp_path / "a.jsonl"]
    assert not is_stream(["a"])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("README.md", "---\nconfigs:\n- config_name: a\n  data_files: 'https://example.com/a.jsonl'\n---\n"),
        ("README.md", "---\nconfigs:\n- {config_name: a, data_files: [{split: train, path: [../*]}]}\n---\n"),
        ("README.md", "---\nconfigs:\n- {config_name: a, data_files: '*', data_dir: /etc}\n---\n"),
        (".huggingface.yaml", "configs:\n- {config_name: a, data_files: 'zip://a::https://example.com/b'}\n"),
        ("state.json", '{"_data_files": [{"filename": "/a.arrow"}]}'),
        ("dataset_dict.json", '{"splits": ["train", "../other"]}'),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_that_names_data_elsewhere_is_refused(tmp_path, file, content, streaming):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match="names data outside of it"):
        row_files.load_repository(str(tmp_path), streaming=streaming)


def test_a_card_that_names_its_own_files_is_read(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/a.jsonl").write_text('{"text": "a"}\n')
    card = "---\nconfigs:\n- {config_name: a, data_files: [{split: train, path: part/*.jsonl}]}\n---\nhttps://x.org\n"
    (tmp_path / "README.md").write_text(card)
    assert load_table(tmp_path)["text"] == ["a"]


@pytest.fixture
def connected(hub, monkeypatch):
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_DATASETS_OFFLINE": False}.items():
        monkeypatch.setattr(datasets.config, name, value)
    hub.name = f"org/rows-{uuid.uuid4().hex[:8]}"  # clients remember what a repository held
    hub.files = hub.repos[f"datasets/{hub.name}"] = {}
    return hub


CONFIGS = "---\nconfigs:\n- {config_name: default, data_files: %s}\n---\n"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "files", ["'https://example.com/a.jsonl'", "'hf://datasets/other/rows/a.jsonl'", "/etc/a.csv"]
)
def test_a_hub_data_set_that_names_data_elsewhere_is_refused(connected, files, streaming):
    connected.files |= {"a.jsonl": b'{"text": "a"}\n', "README.md": (CONFIGS % files).encode()}
    with pytest.raises(ValueError, match=f"data set '{connected.name}' names data outside of it"):
        row_files.load_repository(connected.name, streaming=streaming)
    assert not any("a.jsonl" in call for call in connected.calls)


@pytest.mark.parametrize("load", [load_table, open_stream])
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a.csv", "reference_caption,text\na,b,c\n", "a.csv.*3 values for 2 columns"),
        ("a.jsonl", "null", "a.jsonl.*starts with b'n'"),
        ("a.tsv", "text\na\tb\n", "a.tsv.*not a .csv file"),
    ],
)
def test_files_of_a_hub_data_set_are_checked_as_local_ones(connected, load, file, content, words):
    connected.files[file] = content.encode()
    with pytest.raises(ValueError, match=words):
        load(connected.name)


@pytest.mark.parametrize("load", [load_table, lambda *args: open_stream(*args).rows])
def test_texts_of_a_hub_data_set_stay_as_they_are(connected, load):
    connected.files |= {"train.csv": b"text,n\nNA,1\n", "test.csv": b"text,n\nnull,2\n"}
    rows = [list(load(connected.name, split)) for split in ("train", "test")]
    assert rows == [[{"text": "NA", "n": "1"}], [{"text": "null", "n": "2"}]]


def test_a_hub_data_set_is_read_offline_once_it_was_read(connected, monkeypatch):
    connected.files["train.csv"] = b"text\nNA\n"
    assert load_table(connected.name)["text"][:] == ["NA"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.warns(UserWarning, match="the Hub cannot be reached"):
        assert load_table(connected.name)["text"][:] == ["NA"]


def test_a_streamed_csv_is_checked_as_it_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "a\n\n" * 1500 + "a,b\n" + "b\n" * 9)
    stream = RowStream(open_stream(path), ["text"], lambda rows: rows, batch_size=500)
    with pytest.raises(ValueError, match="row 3001 of .*rows.csv' has 2 values for 1 columns"):
        for number, _ in enumerate(stream):  # noqa: B007
            pass
    assert number == 999


HEAD, ROW = ",".join(ROWS[0]), json.dumps(ROWS[0])
DEEP = '{"a":' * 10_000 + "1" + "}" * 10_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("semicolons.csv", HEAD.replace(",", ";") + "\na;b;c\n", "not separated by commas"),
        ("excel.csv", f"sep=;\n{HEAD}\na;b;c\n", "not separated by commas"),
        ("twice.csv", f"{HEAD},target_caption\na,b,c,d\n", "repeat"),
        ("quotes.csv", f'{HEAD}\n"a "big" cat",b,c\n', "line 2 of .* quote"),
        ("shifted.csv", f"{HEAD}\na,b,c,d\n", "row 1 of .* 4 values for 3 columns"),
        ("latin.csv", f"{HEAD}\ncaf\u00e9,b,c\n".encode("latin-1"), "not UTF-8"),
        ("empty.csv", "", "is empty"),
        ("deep.json", DEEP, "nested too deeply"),
        ("deep.jsonl", f"{ROW}\n{DEEP}\n{ROW}\n", "nested too deeply"),
        ("repeated.json", "[" + ROW.replace("{", '{"target_caption": "a", ', 1) + "]", "'target_caption' repeats"),
        ("emoji.json", '[{"text": "a \\ud800 b"}]', "half an emoji"),
        ("null.json", "null", "starts with b'n'"),
    ],
)
def test_files_that_libraries_read_wrong_or_die_of_are_refused(tmp_path, name, content, words):
    path = tmp_path / "x" / name
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for load, source in ((load_table, path), (open_stream, path), (load_table, path.parent)):
        with pytest.raises(ValueError, match=f"{name}.*{words}"):
            load(source)


@pytest.mark.parametrize("date", ["2024-01-01", "2024-01-01 10:00:00", "2024-01-01T10:00:00Z"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "columns.json"])
def test_dates_in_json_are_texts(tmp_path, name, date):
    rows = [{"text": date, "n": 1}, {"text": None, "n": 2}]
    content = json.dumps({"text": [date, None], "n": [1, 2]} if name == "columns.json" else rows)
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)) if name == "a.jsonl" else content)
    assert sorted(load_table(tmp_path / name).to_list(), key=lambda row: row["n"]) == rows


def test_one_row_of_a_date_is_a_text(tmp_path):
    (tmp_path / "a.json").write_text('{"text": "2024-01-01"}')
    assert load_table(tmp_path / "a.json")["text"][:] == ["2024-01-01"]


def test_a_stream_of_dates_is_refused_in_words(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "2024-01-01"}\n')
    with pytest.raises(ValueError, match=r"row 1: `text`.*the date 2024-01-01.*a stream reads"):
        RowStream(open_stream(tmp_path / "a.jsonl"), ["text"], lambda rows: rows, 1)


@pytest.mark.parametrize("name", ["head.csv", "empty.jsonl", "list.json", "rows.parquet"])
def test_a_file_without_a_row_is_refused_in_words(tmp_path, name):
    (tmp_path / name).write_text({"head.csv": HEAD, "list.json": "[]"}.get(name, ""))
    if name == "rows.parquet":
        Dataset.from_list(ROWS[:1]).select([]).to_parquet(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}.*no row"):
        load_table(tmp_path / name)


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "a?.csv"])
def test_a_file_that_looks_like_a_pattern_is_read_alone(tmp_path, name):
    for other in ("a1.csv", "ab.csv", name):
        (tmp_path / other).write_text(f",text\n0,{other}\n")  # as pandas writes its index
    assert load_table(tmp_path / name)["text"][:] == [name]


@pytest.mark.parametrize("load", [load_table, lambda source: open_stream(source).rows])
@pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet", "png"])
def test_a_folder_that_looks_like_a_pattern_is_read(tmp_path, load, kind):
    folder = tmp_path / "d[2]"
    for place in (folder, tmp_path / "d2"):
        place.mkdir()
        if kind == "parquet":
            Dataset.from_dict({"text": [place.name]}).to_parquet(place / "train.parquet")
        elif kind == "png":
            build_images(1)[0].save(place / "a.png")
            (place / "metadata.csv").write_text(f"file_name,text\na.png,{place.name}\n")
        else:
            (place / f"a.{kind}").write_text(json.dumps({"text": place.name}) if kind == "jsonl" else place.name)
    sources = [folder] if kind == "png" else [folder, f"{folder}/*"]
    assert [[row["text"] for row in load(source)] for source in sources] == [["d[2]"]] * len(sources)


def test_brackets_in_texts_are_not_nesting(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": 'a [[ "{', "meta": {"a": [{"b": [1]}]}}) + "\n" + '{"text": "[\\""}\n' * 99)
    assert load_table(path)["text"][:2] == ['a [[ "{', '["']


def test_a_column_of_several_types_names_the_row_that_is_not_text(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(ROWS[0] | {"target_caption": t}) + "\n" for t in ("a", 3)))
    with pytest.raises(ValueError, match=r"x.jsonl.*row 2: `target_caption`"):
        load_triplets(tmp_path / "x.jsonl")
    with pytest.warns(UserWarning, match="1 of 2 rows lack a text"):
        assert len(load_triplets(tmp_path / "x.jsonl", bad_rows="skip")) == 1


@pytest.mark.parametrize("source", [None, 3, "", b"x", {}, [3]])
def test_what_is_not_a_place_is_refused(source):
    with pytest.raises(ValueError, match="file"):
        load_table(source)


def test_texts_of_another_layout_are_texts(tmp_path):
    pyarrow.parquet.write_table(
        pyarrow.table({name: pyarrow.array([text], pyarrow.string_view()) for name, text in ROWS[0].items()}),
        tmp_path / "x.parquet",
    )
    assert load_triplets(tmp_path / "x.parquet").to_list() == ROWS[:1]
    assert RowStream(open_stream(tmp_path / "x.parquet"), list(ROWS[0]), lambda rows: rows, 1).head[0] == ROWS[0]
