"""The same command twice at the same time, and real signals, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modeling_rtd import Gallery, RTDModel, RTDProcessor
from tests.factories import build_clip, build_images, build_processor, build_triplets


pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--max-steps", "3", "--per-device-train-batch-size", "8", "--use-cpu", "--report-to", "none"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A CLIP, a model, photos, captions and triplets."""
    folder = tmp_path_factory.mktemp("files")
    processor = build_processor()
    RTDModel.from_clip(build_clip(), "lincir", tokenizer=processor.tokenizer).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for part in (build_clip(), processor.tokenizer, processor.image_processor):
        part.save_pretrained(folder / "clip")
    (folder / "photos").mkdir()
    for i, image in enumerate(build_images(40)):
        image.save(folder / "photos" / f"{i:02}.png")
    triplets = build_triplets(48)
    (folder / "triplets.jsonl").write_text("\n".join(map(json.dumps, triplets)))
    (folder / "captions.txt").write_text("\n".join(row["reference_caption"] for row in triplets))
    return folder


def start(arguments, folder):
    command = [sys.executable, "-m", "trainer.cli.main", *map(str, arguments)]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    error = process.communicate()[1]
    assert process.returncode == 0, error


def list_commands(files):
    return {
        "train": (["train", files / "model", "--triplets", files / "triplets.jsonl", "-o", "out", *SHORT], read_model),
        "train-projection": (
            ["train-projection", files / "clip", "--captions", files / "captions.txt", "-o", "out", *SHORT],
            read_model,
        ),
        "triplets": (["triplets", files / "captions.txt", "-o", "out"], lambda out: out.read_text()),
        "index": (
            ["index", files / "model", "--images", files / "photos", "-o", "out"],
            lambda out: (Gallery.load(out).ids, (out / "embeddings.bin").read_bytes()),
        ),
    }


def read_model(out):
    return {name: tensor.tolist() for name, tensor in load_file(out / "model" / "model.safetensors").items()}


@pytest.mark.parametrize("verb", ["train", "train-projection", "triplets", "index"])
def test_of_two_at_once_each_is_right_or_refused(verb, files, tmp_path):
    command, read = list_commands(files)[verb]
    for name in ("alone", "both"):
        (tmp_path / name).mkdir()
    finish(start(command, tmp_path / "alone"))
    both = [start(command, tmp_path / "both") for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, errors
    assert set(codes) <= {0, 2}, errors
    assert all("Traceback" not in error for error in errors), errors
    assert read(tmp_path / "both" / "out") == read(tmp_path / "alone" / "out")


def test_of_two_that_fill_one_table_at_once_each_is_right_or_refused(files, tmp_path, postgres):
    command = [*list_commands(files)["index"][0], "--engine", "pgvector"]
    both = [start(command, tmp_path) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, errors
    assert set(codes) <= {0, 2}, errors
    assert all("Traceback" not in error for error in errors), errors
    photos = sorted(str(path) for path in (files / "photos").iterdir())
    assert sorted(Gallery.load(tmp_path / "out").ids) == photos


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["train", "index"])
def test_after_a_signal_the_same_command_ends_as_one_that_ran_through(verb, number, files, tmp_path):
    command, read = list_commands(files)[verb]
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    finish(start(command, tmp_path / "alone"))
    process, out = start(command, tmp_path / "killed"), tmp_path / "killed" / "out"
    while process.poll() is None and not out.exists():
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate()
    if process.returncode != 0:  # it may have been through
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
        assert "Traceback" not in error
    finish(start(command, tmp_path / "killed"))
    assert read(out) == read(tmp_path / "alone" / "out")


def test_a_search_beside_an_indexer_sees_a_whole_gallery(files, tmp_path):
    command, _ = list_commands(files)["index"]
    indexer, model = start(command, tmp_path), RTDModel.from_pretrained(files / "model")
    processor = RTDProcessor.from_pretrained(files / "model")
    query = model(**processor(images=files / "photos" / "00.png", conditions="is red")).composed_embeds
    while indexer.poll() is None:
        if (tmp_path / "out" / "manifest.json").exists():
            gallery = Gallery.load(tmp_path / "out")
            assert not len(gallery) or len(gallery.search(query, top_k=50)[0]) == len(gallery)
    finish(indexer)
    assert len(Gallery.load(tmp_path / "out")) == 40
