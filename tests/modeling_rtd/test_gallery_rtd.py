import copy
import math
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from modeling_rtd import Gallery, RTDModel, RTDProcessor, encode_images
from tests.factories import build_clip, build_images, build_processor, build_tokenizer, hash_files


NUM_KILLED = 1000


def index_images(place, images, folder):
    model, processor = RTDModel.from_pretrained(place), RTDProcessor.from_pretrained(place)
    paths = sorted(images.iterdir())
    Gallery(folder=folder).add(model, processor, paths, [path.name for path in paths], batch_size=32)


@pytest.fixture
def other_model():
    """A model on another CLIP of the same sizes."""
    return RTDModel.from_clip(build_clip(seed=5), "lincir", tokenizer=build_tokenizer())


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folder of a gallery whose indexing was killed, the model, the images, and what a second writer was told."""
    root = tmp_path_factory.mktemp("killed")
    images, place, folder = root / "images", root / "model", root / "index"
    images.mkdir()
    for i, image in enumerate(build_images(NUM_KILLED, size=(12, 12))):
        image.save(images / f"{i:04}.bmp")
    (images / "0700.bmp").write_bytes(b"no image")
    torch.manual_seed(1)
    RTDModel.from_clip(build_clip(), "lincir", tokenizer=build_tokenizer()).save_pretrained(place)
    build_processor().save_pretrained(place)
    # A copy of this process, so that its imports take no time.
    process = multiprocessing.get_context("fork").Process(target=index_images, args=(place, images, folder))
    process.start()
    journal = folder / "journal.jsonl"
    while process.is_alive() and (not journal.exists() or journal.read_bytes().count(b"\n") < 5):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        Gallery.load(folder).remove("0000.bmp")
        told = None
    except ValueError as error:
        told = str(error)
    process.kill()
    process.join()
    return folder, place, images, told


def test_a_second_writer_is_refused_while_the_first_is_at_it(killed):
    assert "another process is writing the gallery" in killed[-1]


def test_indexing_that_was_killed_goes_on_and_ends_identical(killed, tmp_path):
    folder, place, images, _ = killed
    assert 5 * 32 <= len(Gallery.load(folder)) < NUM_KILLED - 1
    with (folder / "embeddings.bin").open("ab") as file:  # as if it had been killed between two writes
        file.write(bytes(100))
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"ids": ["00')
    paths = sorted(images.iterdir())
    names = [path.name for path in paths]
    model, processor = RTDModel.from_pretrained(place), RTDProcessor.from_pretrained(place)
    gallery = Gallery(folder=folder)
    gallery.add(model, processor, paths, names, batch_size=32)
    skipped = gallery.skipped
    Gallery(folder=tmp_path).add(model, processor, paths, names, batch_size=32)
    assert len(skipped) == 1
    assert "0700.bmp' cannot be read" in skipped[0]
    assert Gallery.load(folder).ids == [name for name in names if name != "0700.bmp"]
    assert hash_files(folder) == hash_files(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_tower_in_half_precision_passes(model, processor, index, dtype):
    cosine = Gallery.load(index).check_tower(model.to(dtype), processor)
    assert 0.999 <= cosine < 1


def test_another_tower_is_refused(other_model, processor, index, photos):
    gallery = Gallery.load(index)
    with pytest.raises(ValueError, match="another image tower.*cosine of .* 0.999"):
        gallery.check_tower(other_model, processor)
    with pytest.raises(ValueError, match="made by another image tower"):
        gallery.add(other_model, processor, photos, [f"new {i}" for i in range(6)])
    wide = RTDModel.from_clip(build_clip(projection_dim=16), "lincir", tokenizer=build_tokenizer())
    with pytest.raises(ValueError, match="24 numbers.* 16"):
        gallery.check_tower(wide, processor)


@torch.no_grad()
def test_swapping_the_text_side_changes_no_byte_of_the_gallery(model, processor, index):
    before = hash_files(index)
    rtd = copy.deepcopy(model)
    tuned = copy.deepcopy(model.text_model)
    tuned.text_projection.weight.add_(torch.randn_like(tuned.text_projection.weight))
    rtd.replace_text_model(tuned)
    inputs = processor(images=build_images(1), conditions="is red")
    results = []
    for one in (rtd, model):
        gallery = Gallery.load(index)
        assert gallery.check_tower(one, processor) == pytest.approx(1)
        results.append(gallery.search(one(**inputs).composed_embeds))
    assert results[0] != results[1]
    assert hash_files(index) == before


@pytest.fixture
def embeddings(model, processor, photos):
    return encode_images(model, processor, photos).numpy() * 7  # of any norm


@pytest.mark.parametrize("kind", ["array", "npy", "parquet", "faiss", "faiss without ids"])
def test_embeddings_made_elsewhere_are_taken_over(embeddings, tmp_path, kind):
    names, metadata = [f"{i}" for i in range(10, 16)], None
    place, ids = tmp_path / f"made.{kind.split()[0]}", names
    if kind == "array":
        place = embeddings
    elif kind == "npy":
        np.save(place, embeddings)
        ids = tmp_path / "ids.txt"
        ids.write_text("\n".join(names))
    elif kind == "parquet":
        pandas = pytest.importorskip("pandas")
        metadata = [{"shop": "a" if i % 2 else "b"} for i in range(6)]
        rows = {"id": names, "embedding": list(embeddings), "shop": [row["shop"] for row in metadata]}
        pandas.DataFrame(rows).to_parquet(place)
        ids = None
    else:
        faiss = pytest.importorskip("faiss")
        index = faiss.IndexFlatIP(24)
        if kind == "faiss":
            index, ids = faiss.IndexIDMap2(index), None
            index.add_with_ids(embeddings, np.arange(10, 16))
        else:
            index.add(embeddings)
        faiss.write_index(index, str(place))
    gallery = Gallery.from_embeddings(place, ids, folder=tmp_path / "taken")
    assert gallery.ids == names
    hits = gallery.search(embeddings, 1)
    assert [row[0]["id"] for row in hits] == names
    if metadata:
        assert [row[0]["metadata"] for row in hits] == metadata


def test_a_few_images_tell_whether_imported_embeddings_match(
    model, other_model, processor, embeddings, photos, tmp_path
):
    gallery = Gallery.from_embeddings(embeddings, [path.name for path in photos], folder=tmp_path / "taken")
    with pytest.warns(UserWarning, match="which image tower"):
        assert gallery.check_tower(model, processor) is None
    with pytest.raises(ValueError, match="Compare a few images with `verify_embeddings` first"):
        gallery.add(model, processor, build_images(1), ["new"])
    few = {path.name: path for path in photos[:2]}
    with pytest.raises(ValueError, match="do not match this image tower.*cosine"):
        gallery.verify_embeddings(other_model, processor, few)
    with pytest.raises(ValueError, match="has no image 'none'"):
        gallery.verify_embeddings(model, processor, {"none": photos[0]})
    assert gallery.verify_embeddings(model, processor, few) > 0.9999
    assert Gallery.load(tmp_path / "taken").check_tower(model, processor) == pytest.approx(1)


def test_a_gallery_moves_from_one_engine_and_type_to_another(index, tmp_path):
    pytest.importorskip("faiss")
    gallery = Gallery.load(index)
    gallery.save(tmp_path / "half", dtype="float16")
    Gallery.load(tmp_path / "half").save(tmp_path / "faiss", engine="faiss", factory="HNSW32")
    moved = Gallery.load(tmp_path / "faiss")
    assert "engine='faiss'" in repr(moved)
    assert moved.ids == gallery.ids
    assert moved._store.manifest.fingerprint == gallery._store.manifest.fingerprint
    assert (tmp_path / "half/embeddings.bin").stat().st_size * 2 == (index / "embeddings.bin").stat().st_size


def test_rows_that_are_refused_leave_none_of_them(tmp_path):
    rows = np.ones((9000, 2))
    rows[8500, 1] = np.nan
    ids = [f"{i}" for i in range(9000)]
    with pytest.raises(ValueError, match="first that of '8500'"):
        Gallery(rows, ids, folder=tmp_path)
    assert len(Gallery.load(tmp_path)) == 0


def test_a_save_that_was_interrupted_is_no_gallery(index, tmp_path, monkeypatch):
    def read(self, batch_size=8192):
        yield from [(["a"], np.ones((1, 24), np.float32), [None])]
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling_rtd.gallery_exact_rtd.ExactEngine.read", read)
    gallery, half = Gallery.load(index), tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        gallery.save(half)
    with pytest.raises(ValueError, match="half' holds no readable gallery"):
        Gallery.load(half)
    with pytest.raises(ValueError, match="interrupted; remove the folder"):
        gallery.save(half)


SMALL = Gallery(torch.eye(3), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gallery().search(torch.eye(3)), "the gallery is empty"),
        (lambda: Gallery().save("nowhere"), "nothing to save"),
        (lambda: Gallery.load("nowhere"), "'nowhere' holds no readable gallery"),
        (lambda: Gallery(torch.eye(2), ["a", "a"]), "'a' repeats"),
        (lambda: Gallery(torch.eye(2), ["a"]), "1 ids for 2 images"),
        (lambda: Gallery(torch.eye(2), [1, 2]), "ids must be strings, got 1"),
        (lambda: Gallery(torch.ones(2), ["a", "b"]), r"shape \(num_images, dim\), got \(2,\)"),
        (lambda: Gallery(torch.tensor([[1.0, torch.nan], [1, 1]]), ["a", "b"]), "finite .* first that of 'a'"),
        (lambda: Gallery(torch.tensor([[1.0, 1], [0, 0]]), ["a", "b"]), "not all zero.* first that of 'b'"),
        (lambda: Gallery(engine="fais"), "unknown engine 'fais'; did you mean 'faiss'"),
        (lambda: Gallery(torch.eye(2), ["a", "b"], dtype="int8"), "'float32' or 'float16', got 'int8'"),
        (lambda: Gallery(torch.eye(2), ["a", "b"], factory="Flat"), "engine 'exact' does not take"),
        (lambda: Gallery(torch.eye(2), ["a", "b"], engine="milvus"), "needs a folder for its manifest"),
        (lambda: SMALL.add_embeddings(torch.eye(4), list("wxyz")), "embeddings of 3 numbers, got 4"),
        (lambda: SMALL.add_embeddings(torch.eye(3), list("xya")), "1 of 3 ids are in the gallery.*'a'"),
        (lambda: SMALL.add_embeddings(torch.eye(3), list("xyz"), if_exists="keep"), "refuse, skip, replace"),
        (lambda: SMALL.add_embeddings(torch.eye(3), list("xyz"), [{}]), "1 entries of metadata for 3 images"),
        (lambda: SMALL.add_embeddings(torch.eye(3)[:1], ["x"], ["red"]), "must be a dictionary or None, got str"),
        (
            lambda: SMALL.add_embeddings(torch.eye(3)[:2], ["x", "y"], [{1: 2}, {"a": 2}]),
            r"texts as names, got \[1\]",
        ),
        (lambda: SMALL.search(torch.eye(3), exclude=["a", "b", "c"]), r"list of ids for each query, got \['a'"),
        (lambda: SMALL.search(torch.eye(3), exclude="abc"), "list of ids for each query, got 'abc'"),
        (lambda: SMALL.search(torch.eye(3), exclude=[None] * 3), "list of ids for each query, got"),
        (lambda: SMALL.search(torch.eye(3), exclude=[[3]] * 3), "needs texts as ids, got 3"),
        (lambda: SMALL.search(torch.eye(3), min_score=math.nan), "`min_score` must be a number, got nan"),
        (lambda: SMALL.search(torch.eye(3) * 1j), "real numbers, got an array of complex64"),
        (lambda: Gallery(np.eye(3) * 1j, ["x", "y", "z"]), "real numbers, got an array of complex128"),
        (lambda: Gallery([["1", "0"]], ["x"]), "real numbers, got an array of <U1"),
        (lambda: Gallery([[1, 0], [1]], ["x", "y"]), "rows of numbers of one length"),
        (lambda: Gallery(torch.eye(3), {"x", "y", "z"}), "in their order, got a set"),
        (lambda: Gallery(torch.eye(3), "xyz"), "in their order, got a str"),
        (lambda: Gallery(torch.eye(3), 3), "in their order, got a int"),
        (lambda: Gallery(torch.eye(3), ["x", "y", "z"], 3), "`metadata` must be a list.*int"),
        (lambda: Gallery.from_embeddings(torch.eye(3), {"x", "y", "z"}), "in their order, got a set"),
        (lambda: Gallery.from_embeddings(torch.eye(1), ["x"], [{}]), "dictionary of dictionaries by id, got a list"),
        (lambda: Gallery.from_embeddings(torch.eye(1), ["x"], {"x": None}), "dictionary of dictionaries by id"),
        (lambda: SMALL.remove(3), "in their order, got a int"),
        (lambda: SMALL.search(torch.eye(3), where=["x"]), r"`where` must be a dictionary .* got \['x'\]"),
        (lambda: SMALL.search(torch.eye(3), min_score="high"), "`min_score` must be a number, got 'high'"),
        (lambda: Gallery().measure_recall(torch.eye(3)), "the gallery is empty"),
        (lambda: Gallery(torch.eye(2), ["a", "b"], device="gpu"), "the device 'gpu' cannot be used here"),
        (lambda: Gallery(torch.eye(2), ["a", "b"], device="cuda:99"), "the device 'cuda:99' cannot be used here"),
        (lambda: Gallery().add(None, None, [Image.new("RGB", (2, 2))]), "position 0 is a Image and has no name"),
        (lambda: Gallery().add(None, None, "a.png"), "got the one 'a.png'; put it into a list"),
        (lambda: Gallery().add(None, None, iter([]), []), "a list or another sequence, got a list_iterator"),
        (lambda: Gallery().add(None, None, [], batch_size=0), "`batch_size` must be .* at least 1, got 0"),
        (lambda: SMALL.remove(["a", "z"]), "has no image 'z'"),
        (lambda: SMALL.search(torch.eye(3), 0), "`top_k` must be .* at least 1, got 0"),
        (lambda: SMALL.search(torch.eye(3), 2.5), "`top_k` must be a whole number"),
        (lambda: SMALL.search(torch.eye(4)), "were query and gallery encoded by the same CLIP"),
        (lambda: SMALL.search(torch.eye(3), exclude=[[]]), "got 1 for 3"),
        (lambda: SMALL.search(torch.eye(3), where={"x": 1}), "field 'x'. Known: none"),
        (lambda: SMALL.search(torch.full((1, 3), torch.inf)), "first that of 'query 0'"),
        (lambda: Gallery.from_embeddings("none.npy", []), "there is no file 'none.npy'"),
        (lambda: Gallery.from_embeddings(np.eye(2)), "come without ids"),
        (lambda: Gallery.from_embeddings(np.eye(2), "none.txt"), "no file of ids 'none.txt'"),
        (lambda: Gallery.from_embeddings(__file__, []), "none of .npy, .parquet, .faiss and .index"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("suffix", ["npy", "parquet", "faiss", "json"])
def test_files_of_embeddings_that_cannot_be_read_are_named(tmp_path, suffix):
    pytest.importorskip("faiss")
    (tmp_path / f"made.{suffix}").write_bytes(b"nonsense")
    np.save(tmp_path / "good.npy", np.eye(2))
    source, ids = ("good.npy", "made.json") if suffix == "json" else (f"made.{suffix}", [])
    with pytest.raises(ValueError, match=f"made.{suffix}'"):
        Gallery.from_embeddings(tmp_path / source, ids if suffix != "json" else tmp_path / ids)


def test_a_data_set_of_rows_is_refused_and_its_column_taken(model, processor):
    rows = Dataset.from_dict({"image": build_images(2), "name": ["a", "b"]}).cast_column("image", ImageFeature())
    with pytest.raises(ValueError, match=r"a data set with the columns \['image', 'name'\]: pass one of them"):
        Gallery.from_images(model, processor, rows)
    gallery = Gallery.from_images(model, processor, rows["image"], rows["name"])
    assert gallery.ids == ["a", "b"]
    with pytest.raises(ValueError, match="got a IterableDataset"):
        Gallery.from_images(model, processor, rows.to_iterable_dataset())


def test_images_come_as_arrays(model, processor):
    images = build_images(3)
    expected = Gallery.from_images(model, processor, images, ["a", "b", "c"])
    for arrays in ([np.asarray(image) for image in images], np.stack([np.asarray(image) for image in images])):
        gallery = Gallery.from_images(model, processor, arrays, ["a", "b", "c"])
        query = torch.randn(1, 24)
        assert gallery.search(query) == expected.search(query)


@pytest.mark.parametrize("engine", ["exact", "faiss"])
def test_a_search_counts_the_images_once(monkeypatch, engine):
    if engine == "faiss":
        pytest.importorskip("faiss")
    gallery, counted = Gallery(torch.eye(3), ["a", "b", "c"], engine=engine), []

    def count(self):
        counted.append(self._num_rows - self._names.num_removed)
        if len(counted) == 1:  # another thread empties the gallery right after
            self.remove(["a", "b", "c"])
        return counted[-1]

    monkeypatch.setattr(type(gallery._store.engine), "__len__", count)
    assert gallery.search(torch.eye(3)[:2], 5) == [[], []]
    assert counted == [3]
