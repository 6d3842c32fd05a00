import json
import pickle
from itertools import islice

import pytest
from datasets import Dataset, IterableDataset, IterableDatasetDict
from datasets import Image as ImageFeature
from torch.utils.data import DataLoader

from tests.factories import build_images, build_triplets
from tests.trainer.data.test_row_files import encode, write_tar
from trainer.data.streams import BrokenStreamError, RowStream, identify_rows, open_rows, open_stream
from trainer.data.tables import load_table
from trainer.data.triplets import TRIPLET_COLUMNS, prepare_triplets


ROWS = build_triplets(40)


def write_shards(folder, rows=ROWS, size=20):
    paths = [folder / f"{i}.jsonl" for i in range(len(rows) // size)]
    for i, path in enumerate(paths):
        path.write_text("\n".join(json.dumps(row) for row in rows[i * size : (i + 1) * size]))
    return paths


def read(stream, count, workers=0):
    loader = DataLoader(stream, stream.batch_size, num_workers=workers, collate_fn=list)
    return [next_batch for next_batch, _ in zip(loader, range(count), strict=False)]


def test_a_stream_has_the_rows_of_the_table(tmp_path):
    table, write = prepare_triplets(ROWS), write_shards(tmp_path)
    sources = [
        open_stream(write),
        open_stream(f"{tmp_path}/*.jsonl"),
        Dataset.from_list(ROWS).to_iterable_dataset(num_shards=3),
        IterableDatasetDict(train=IterableDataset.from_generator(lambda: iter(ROWS))),
    ]
    for source in sources:
        stream = prepare_triplets(source, batch_size=8)
        assert [row for batch in read(stream, 5) for row in batch] == table.to_list()
        assert stream.head["reference_caption"][:] == table["reference_caption"][:]


def test_several_places_are_files_and_no_captions(tmp_path):
    places = [str(tmp_path / name) for name in ("part-0", "part-1")]
    with pytest.raises(ValueError, match="part-0' is neither a file"):
        load_table(open_rows(places))


def test_rows_are_numbered_on_and_what_fills_no_batch_is_left_out():
    batches = read(prepare_triplets(Dataset.from_list(ROWS).to_iterable_dataset(), batch_size=16), 5)
    assert [batch[0]["row"] for batch in batches] == [0, 16, 32, 48, 64]
    assert [batch[0]["target_caption"] for batch in batches] == [ROWS[i]["target_caption"] for i in (0, 16, 0, 16, 0)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_passes_over_batches_goes_on_as_one_that_read_them(tmp_path, workers):
    batches = []
    for start in (0, 7):
        stream = prepare_triplets(open_stream(write_shards(tmp_path), seed=3), batch_size=8)
        stream.start = start
        batches.append(read(stream, 12 - start, workers if start else 0))
    assert batches[0][7:] == batches[1]
    assert batches[0][0] != batches[0][5]  # passes are shuffled anew


def test_a_row_without_text_is_named_or_left_out_and_counted(tmp_path):
    rows = [dict(row) for row in ROWS * 60]
    rows[1500]["conditioning_caption"] = " "
    rows[1600]["target_caption"] = "$"
    paths = write_shards(tmp_path, rows, 1200)
    with pytest.raises(BrokenStreamError, match="row 1501: `conditioning_caption`"):
        read(prepare_triplets(open_stream(paths), batch_size=100), 20)
    stream = prepare_triplets(open_stream(paths), batch_size=100, bad_rows="skip")
    kept = [row["target_caption"] for batch in read(stream, 20) for row in batch]
    assert kept == [row["target_caption"] for i, row in enumerate(rows) if i not in (1500, 1600)][:2000]
    assert stream.count_skipped() == 2


def test_a_shuffled_stream_does_not_number_the_rows_of_a_file(tmp_path):
    (path,) = write_shards(tmp_path, [*ROWS[:19], ROWS[0] | {"target_caption": ""}])
    with pytest.raises(BrokenStreamError, match=r"shuffled order\): row \d+: `target_caption`"):
        prepare_triplets(open_stream(path, seed=0), batch_size=4)


def test_what_breaks_in_a_worker_comes_without_a_traceback():
    rows = [*ROWS * 30, ROWS[0] | {"target_caption": None}]
    stream = prepare_triplets(Dataset.from_list(rows).to_iterable_dataset(), batch_size=100)
    with pytest.raises(BrokenStreamError, match="^the stream stopped: row 1201: `target_caption`"):
        read(stream, 20, workers=1)


def test_a_shard_that_is_cut_while_a_run_goes_is_named_with_how_far_it_got(tmp_path):
    paths = write_shards(tmp_path, ROWS * 100, 2000)
    stream = prepare_triplets(open_stream(paths), batch_size=100)
    paths[1].write_bytes(paths[1].read_bytes()[:-9])
    with pytest.raises(
        BrokenStreamError, match=r"broke behind row 2000: '\S*1.jsonl': the last line .* cut off.*last checkpoint"
    ):
        read(stream, 40)


def test_a_file_that_grows_is_named(tmp_path):
    paths = write_shards(tmp_path)
    stream = prepare_triplets(open_stream(paths), batch_size=8)
    with paths[0].open("a") as file:
        file.write("\n" + json.dumps(ROWS[0]))
    with pytest.raises(BrokenStreamError, match="0.jsonl' changed while it was read"):
        read(stream, 9)


def test_streams_are_told_apart_by_their_first_rows_and_sizes(tmp_path):
    paths = write_shards(tmp_path, ROWS * 100, 2000)
    first = identify_rows(prepare_triplets(open_stream(paths)), TRIPLET_COLUMNS)
    assert identify_rows(prepare_triplets(open_stream(paths)), TRIPLET_COLUMNS) == first
    assert identify_rows(prepare_triplets(open_stream(paths, seed=1)), TRIPLET_COLUMNS) != first
    paths[1].write_text(paths[1].read_text() + "\n" + json.dumps(ROWS[0]))
    assert identify_rows(prepare_triplets(open_stream(paths)), TRIPLET_COLUMNS) != first


def test_a_stream_that_fills_no_batch_or_is_empty_is_refused():
    with pytest.raises(BrokenStreamError, match="40 rows do not fill one batch of 64"):
        read(prepare_triplets(Dataset.from_list(ROWS).to_iterable_dataset(), batch_size=64), 1)
    with pytest.raises(ValueError, match="empty"):
        prepare_triplets(IterableDataset.from_generator(lambda: iter([])))
    with pytest.raises(ValueError, match="lack the column"):
        prepare_triplets(Dataset.from_dict({"text": ["a"]}).to_iterable_dataset())


def test_a_stream_can_be_sent_to_another_process(tmp_path):
    stream = prepare_triplets(open_stream(write_shards(tmp_path), seed=0), batch_size=8)
    assert read(pickle.loads(pickle.dumps(stream)), 2) == read(stream, 2)


def test_images_that_cannot_be_opened_are_left_out_of_a_stream(tmp_path):
    contents = [encode(image) for image in build_images(6)]
    contents[2:4] = [b"<html>", contents[3][:99]]  # the beginning of the second is that of an image
    texts = [f"a dog {i}" for i in range(6)]
    path = write_tar(tmp_path / "a.tar", png=contents, txt=[text.encode() for text in texts])
    with pytest.warns(UserWarning, match="cannot be opened and is left out: .*<html>"):
        stream = RowStream(open_stream(path, images=True), ["text"], lambda rows: rows, 5, images=True)
    rows = list(islice(stream, 5))
    assert [row["text"] for row in rows] == [text for i, text in enumerate(texts) if i != 2]
    assert [row["image"]["bytes"] for row in rows] == [part for i, part in enumerate(contents) if i != 2]
    assert stream.count_skipped() == 1


def test_captions_are_streamed_without_decoding_what_is_beside_them(tmp_path):
    # EPS would start Ghostscript.
    path = write_tar(tmp_path / "a.tar", png=[b"%!PS-Adobe-3.0 EPSF-3.0"] * 4, txt=[b"a dog"] * 4)
    stream = RowStream(open_stream(path), ["text"], lambda rows: rows, 4)
    assert [row["text"] for row in read(stream, 1)[0]] == ["a dog"] * 4


def test_a_folder_of_images_is_a_stream_too(tmp_path):
    for i, image in enumerate(build_images(6)):
        image.save(tmp_path / f"{i}.png")
    streams = [RowStream(open_stream(tmp_path, seed=s, images=True), [], len, 6, images=True) for s in (0, 0, 1)]
    names = [[row["image"]["path"] for row in read(stream, 1)[0]] for stream in streams]
    assert names[0] == names[1] != names[2]
    assert sorted(names[0]) == [str(tmp_path / f"{i}.png") for i in range(6)]


@pytest.mark.parametrize("image", ["https://example.org/a.png", "gone.png", b"<html>"])
def test_a_stream_without_an_image_that_can_be_opened_is_refused_at_once(image):
    source = IterableDataset.from_generator(lambda: ({"image": image} for _ in range(5000)))
    with pytest.raises(BrokenStreamError, match="none of the first 100 images can be opened"):
        RowStream(source, [], len, 8, images=True)


def test_a_folder_of_tables_with_images_is_a_stream_and_one_of_files_has_no_split(tmp_path):
    build_images(1)[0].save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="leave --split out"):
        open_stream(tmp_path, split="test", images=True)
    rows = Dataset.from_dict({"image": build_images(6)}).cast_column("image", ImageFeature())
    (tmp_path / "tables").mkdir()
    rows.to_parquet(tmp_path / "tables/train.parquet")
    stream = RowStream(open_stream(tmp_path / "tables", images=True), [], len, 6, images=True)
    assert len(read(stream, 1)[0]) == 6


def test_an_image_folder_brings_its_captions_to_a_stream(tmp_path):
    for i, image in enumerate(build_images(6)):
        image.save(tmp_path / f"{i}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"a dog {i}"}) for i in range(6)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    stream = RowStream(open_stream(tmp_path, images=True), ["text"], lambda rows: rows, 6, images=True)
    (rows,) = read(stream, 1)
    assert {(row["image"]["path"][-5:], row["text"]) for row in rows} == {(f"{i}.png", f"a dog {i}") for i in range(6)}
