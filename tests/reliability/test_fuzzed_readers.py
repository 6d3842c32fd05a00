"""Whatever a file holds, its reader says so or refuses it by name: see `fuzzing.py`."""

import copy
import json
import pickle
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image

from modeling_rtd import (
    IMAGE_FORMATS,
    Gallery,
    RTDModel,
    RTDProcessor,
    convert_open_clip,
    load_projection,
    read_checkpoint,
)
from tests.factories import build_circo, build_cirr, build_coco, build_imagenet_r, build_images, build_triplets
from tests.open_clip_repositories import BIN, SAFE, build_plain_clip, write_repository
from tests.reliability.fuzzing import fuzz
from trainer.app.history import SearchHistory
from trainer.cli.options import expand_recipe
from trainer.data.captions import read_captions
from trainer.data.triplets import TRIPLET_COLUMNS, load_triplets
from trainer.encoding.preprocessing import read_image
from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.diagnosis.target_captions import add_target_captions
from trainer.evaluation.precomputed import read_precomputed_embeddings, read_rankings
from trainer.evaluation.server_files import check_submission
from trainer.publishing.provenance import read_stages


pytestmark = pytest.mark.slow


class Evil:
    """Its pickle makes a file where it is loaded."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture
def folder(tmp_path):
    """A folder whose name no sentence holds by chance."""
    place = tmp_path / "zzfolder"
    place.mkdir()
    return place


def says_so(take):
    """Compare what was read with what JSON itself reads."""
    return lambda value, content: value == take(json.loads(content))


def test_captions(folder):
    path = folder / "zzcaptions.txt"
    path.write_text("a red dress\nä blue dog\n\n" * 20)
    fuzz(
        "captions",
        path,
        read_captions,
        lambda value, content: len(value[0]) == content.removesuffix(b"\n").count(b"\n") + 1,
    )


def test_a_table_of_captions(folder):
    path = folder / "zzcaptions.csv"
    path.write_text('text,image\n"a red, dress",a.jpg\nnull,b.jpg\n' * 5)
    fuzz("tables (csv)", path, read_captions)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_triplets(folder, ending):
    path, rows = folder / f"zztriplets.{ending}", build_triplets(8)
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    def is_right(table, content):
        wanted, text = [], content.decode().lstrip()
        while text:  # an object may span lines
            row, end = json.JSONDecoder().raw_decode(text)
            wanted, text = [*wanted, row], text[end:].lstrip()
        return [[row[name] for name in TRIPLET_COLUMNS] for row in table] == [
            [row[name] for name in TRIPLET_COLUMNS] for row in wanted
        ]

    fuzz(
        f"triplets ({ending})",
        path,
        lambda place: list(load_triplets(str(place))),
        is_right if ending == "jsonl" else None,
        150,
        [b"null", b"[null]", b"{}", b"[]", b"[{}]", b'{"a": 1}\nnull\n'] if ending == "jsonl" else (),
    )


@pytest.mark.parametrize("file", ["open_clip_config.json", BIN, SAFE])
def test_repositories_of_open_clip(folder, file):
    write_repository(folder, build_plain_clip(), SAFE if file == SAFE else BIN)
    fuzz(f"open_clip ({file})", folder / file, lambda place: convert_open_clip(folder), None, 100)


def test_recipes(folder):
    path = folder / "zzrecipe.yaml"
    path.write_text("max_steps: 9\nlearning_rate: 1.0e-3\nmodel: org/name\nbf16: true\n")
    bomb = "a: &a [x, x]\n" + "".join(
        f"{n}: &{n} [{', '.join([f'*{o}'] * 9)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)
    )

    def is_right(value, content):
        return value == [part for pair in yaml.safe_load(content).items() for part in (f"--{pair[0]}", str(pair[1]))]

    fuzz("recipes", path, lambda place: expand_recipe(["--recipe", str(place)]), is_right, 400, [bomb.encode()])


ROWS = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
IDS = [f"zz{i}.jpg" for i in range(12)]


@pytest.mark.parametrize(
    "file",
    ["manifest.json", "journal.jsonl", "embeddings.bin", "rows.bin", "ids.bin", "metadata.jsonl", "index.faiss"],
)
def test_galleries(folder, file):
    engine = "faiss" if file.endswith("faiss") else "exact"
    if engine == "faiss":
        pytest.importorskip("faiss")
    gallery = Gallery(folder=folder, engine=engine)
    for start in (0, 6):
        gallery.add_embeddings(ROWS[start : start + 6], IDS[start : start + 6], [{"n": i} for i in range(6)])

    def read(place):
        gallery = Gallery.load(folder)
        return [(hit["id"], hit.get("metadata")) for hits in gallery.search(ROWS, 1) for hit in hits]

    expected = [(name, {"n": i % 6}) for i, name in enumerate(IDS)]
    fuzz(f"galleries ({file})", folder / file, read, lambda value, content: value == expected)


def build_history(turns=2):
    query = {"image": "a.jpg", "text": "is red"}
    hits = [{"id": "a.jpg", "score": 0.5}, {"id": "b.jpg", "score": 0.25, "metadata": {"n": 1}}]
    turn = {"query": query, "options": {"top_k": 2}, "chosen": None, "results": hits}
    return {"turns": [turn, *[turn | {"chosen": {"turn": 1, "ranks": [2]}}] * (turns - 1)]}


def test_histories(folder):
    path = folder / "zzhistory.json"
    path.write_text(json.dumps(build_history()))

    def read(place):
        history = SearchHistory.load(None, place)
        _ = [hit["id"] + str(round(hit["score"], 3)) for turn in history.turns for hit in turn["results"]]
        return history.turns

    fuzz("histories", path, read, says_so(lambda content: content["turns"]), 300)


@pytest.mark.parametrize("ending", ["json", "npz", "parquet"])
@pytest.mark.parametrize("what", ["embeddings", "rankings"])
def test_what_other_systems_computed(folder, what, ending):
    path = folder / f"zz{what}.{ending}"
    rows = {f"{n}": ROWS[n].tolist() for n in range(4)}
    names = {f"{n}": IDS for n in range(4)}
    if ending == "json":
        path.write_text(json.dumps({"gallery": rows, "query": rows} if what == "embeddings" else names))
    elif ending == "npz":
        arrays = {
            f"{part}_{name}": value
            for part in ("gallery", "query")
            for name, value in (("ids", list(rows)), ("embeds", ROWS[:4]))
        }
        np.savez(path, **(arrays if what == "embeddings" else {"query_ids": list(names), "ranking": [IDS] * 4}))
    elif what == "embeddings":
        columns = {"kind": ["gallery"] * 4 + ["query"] * 4, "id": list(rows) * 2, "embedding": list(rows.values()) * 2}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        pyarrow.parquet.write_table(pyarrow.table({"query_id": list(names), "ranking": [IDS] * 4}), path)
    read = read_precomputed_embeddings if what == "embeddings" else read_rankings
    fuzz(f"{what} ({ending})", path, read, RIGHT[what] if ending == "json" else None, 150)


def are_embeddings(value, content):
    content = json.loads(content)
    return all(
        part.ids == list(content[name]) and np.array_equal(part.rows, np.array(list(content[name].values())))
        for part, name in zip(value, ("gallery", "query"), strict=True)
    )


def are_rankings(value, content):
    content = {k: v for k, v in json.loads(content).items() if k not in ("version", "metric")}
    return list(value.values())[0] == {k: [str(item) for item in v] for k, v in content.items()}


RIGHT = {"embeddings": are_embeddings, "rankings": are_rankings}


@pytest.mark.parametrize("file", ["rows.npy", "rows.parquet", "rows.faiss", "ids.json", "ids.npy", "ids.txt"])
def test_imports(folder, file):
    np.save(folder / "zzrows.npy", ROWS)
    np.save(folder / "zzids.npy", np.array(IDS))
    (folder / "zzids.json").write_text(json.dumps(IDS))
    (folder / "zzids.txt").write_text("\n".join(IDS))
    table = {"id": IDS, "embedding": list(ROWS), "year": list(range(12))}
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "zzrows.parquet")
    if file.endswith("faiss"):
        faiss = pytest.importorskip("faiss")
        index = faiss.IndexFlatIP(8)
        index.add(ROWS)
        faiss.write_index(index, str(folder / "zzrows.faiss"))
    path = folder / f"zz{file}"
    source, ids = (folder / "zzrows.npy", path) if file.startswith("ids") else (path, folder / "zzids.json")

    def read(place):
        gallery = Gallery.from_embeddings(source, None if file.endswith("parquet") else ids)
        assert len(gallery.search(ROWS, 1)) == 12
        return gallery.ids

    extra = [b"\x93NUMPY\x01\x00\x03\x00(((", pickle.dumps(["a"])] if file.endswith("npy") else ()
    fuzz(
        f"imports ({file})",
        path,
        read,
        says_so(lambda content: list(map(str, content))) if file == "ids.json" else None,
        150,
        extra,
    )


def test_submissions(folder, tmp_path):
    build_circo(tmp_path / "circo")
    path, gallery = (
        folder / "zzsubmission.json",
        json.loads((tmp_path / "circo/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json").read_text()),
    )
    ids = [image["id"] for image in gallery["images"]][:50]
    path.write_text(json.dumps({f"{n}": ids for n in range(7)}))

    def read(place):
        return check_submission(place, tmp_path / "circo")

    def is_right(value, content):
        content = json.loads(content)
        is_whole = content.keys() == {f"{n}" for n in range(7)} and all(
            isinstance(row, list)
            and len(row) == 50
            and {str(item) for item in row} <= {str(image["id"]) for image in gallery["images"]}
            for row in content.values()
        )
        return is_whole or bool(value[1])

    fuzz("submissions", path, read, is_right, 300, names=["split.rc2.test1"])


@pytest.mark.parametrize(
    ("name", "build", "file"),
    [
        ("cirr", build_cirr, "cirr/captions/cap.rc2.val.json"),
        ("cirr", build_cirr, "cirr/image_splits/split.rc2.val.json"),
        ("circo", build_circo, "annotations/val.json"),
        ("coco", build_coco, "coco_eval.csv"),
        ("imagenet_r/cartoon", build_imagenet_r, "imgnet/imgnet_targets.txt"),
    ],
)
def test_annotations(folder, name, build, file):
    build(folder)
    fuzz(
        "annotations",
        folder / file,
        lambda place: load_benchmark(name, root=folder),
        None,
        100,
        names=[name.partition("/")[0], "split"],
    )


def test_target_captions(folder, tmp_path):
    build_circo(tmp_path / "circo")
    benchmark = load_benchmark("circo", "val", tmp_path / "circo")
    names, path = benchmark.gallery["id"][:], folder / "zzcaptions.json"
    path.write_text(json.dumps(dict.fromkeys(names, "a dog")))

    def is_right(value, content):
        content = json.loads(content)
        return value == [content[targets[0]] for targets in benchmark.queries["target_ids"][:]]

    fuzz(
        "target captions",
        path,
        lambda place: add_target_captions(benchmark, place).queries["target_caption"][:],
        is_right,
    )


def test_records_of_training(folder):
    path = folder / "provenance.json"
    path.write_text(json.dumps({"stages": [{"stage": "projection", "date": "2020-01-02"}]}))
    fuzz("records of training", path, lambda place: read_stages(folder), says_so(lambda content: content["stages"]))


@pytest.mark.parametrize("method", ["searle", "fti4cir"])
def test_checkpoints(folder, tmp_path, method):
    path, mark = folder / "zzcheckpoint.pt", tmp_path / "mark"
    torch.save({"Phi": {"layers.0.weight": torch.eye(4)}} if method == "searle" else torch.nn.Linear(2, 2), path)
    evil = folder / "evil.pt"
    torch.save({"Phi": Evil(mark)}, evil)
    extra = [evil.read_bytes(), pickle.dumps(Evil(mark)), path.read_bytes() + evil.read_bytes()]
    evil.unlink()
    fuzz("checkpoints", path, lambda place: read_checkpoint(place, method), None, 300, extra, mark)


@pytest.fixture
def saved(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_models(saved, file):
    fuzz(f"models ({file})", saved / file, lambda place: RTDModel.from_pretrained(saved), None, 60)


def test_projections(folder, model):
    model.projection.save_pretrained(folder)
    for file in ("config.json", "model.safetensors"):
        fuzz("projections", folder / file, lambda place: load_projection(str(folder)), None, 60)


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_processors(saved, file):
    def read(place):
        return RTDProcessor.from_pretrained(saved)(images=build_images(1), conditions="is red")["input_ids"].shape

    fuzz(f"processors ({file})", saved / file, read, None, 60)


@pytest.mark.parametrize("file", ["rtd_adapter.json", "adapter_config.json", "adapter_model.safetensors"])
def test_adapters(folder, tmp_path, clip, tokenizer, processor, file):
    from trainer.training.lora import build_lora_config

    clip.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    model = RTDModel.from_clip(str(tmp_path / "clip"), "lincir")
    model.text_model.add_adapter(build_lora_config())
    model.save_adapter(str(folder))
    shutil.rmtree(folder / "projection")
    base = RTDModel.from_clip(str(tmp_path / "clip"), model.projection)

    def read(place):
        copy.deepcopy(base).load_adapter(str(folder))

    fuzz(f"adapters ({file})", folder / file, read, None, 60)


@pytest.mark.parametrize("format_name", IMAGE_FORMATS)
def test_images(folder, format_name):
    path = folder / f"zzimage{IMAGE_FORMATS[format_name][0]}"
    build_images(1, size=(24, 20))[0].save(path, format_name)

    def read(place):
        upright, plain = RTDProcessor.load_image(place), read_image(str(place))
        assert {upright.mode, plain.mode} == {"RGB"}
        return sorted(upright.size), sorted(plain.size)

    def is_right(value, content):
        with Image.open(path) as image:
            return value == (sorted(image.size),) * 2

    fuzz(f"images ({format_name})", path, read, is_right, 150)
