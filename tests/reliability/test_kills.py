"""Nothing is lost or locked out by a kill, wherever it comes."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import get_session
from safetensors.torch import load_file

from modeling_rtd import Gallery, RTDModel, RTDProcessor, files_rtd
from tests.factories import build_clip, build_images, build_processor, build_triplets, save_with_stages, shake
from tests.reliability.kills import Kill, Killed, check_kills, count_kill, read_tree
from trainer.cli.main import main
from trainer.encoding.array_cache import keep_array
from trainer.publishing.saving import save_rtd_model
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.projections.lincir import LinCIRTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer
from trainer.training.rtd_trainer import RTDTrainer
from trainer.training.run import finish_run
from trainer.triplet_making import write_triplets
from trainer.triplet_making.maker import TripletMaker


CAPTIONS = [
    f"a {size} {colour} {thing} with the {other}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue", "white", "black")
    for thing in ("dress", "shirt", "dog", "cat", "car")
    for other in ("house", "tree", "beach")
]


@pytest.fixture
def base():
    processor = build_processor()
    torch.manual_seed(1)
    return RTDModel.from_clip(build_clip(), "lincir", tokenizer=processor.tokenizer), processor


def read_weights(folder):
    return {name: tensor.tolist() for name, tensor in load_file(folder / "model/model.safetensors").items()}


@pytest.mark.slow
def test_triplets(tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS * 4))  # several blocks

    def run(folder):
        folder.mkdir(exist_ok=True)
        write_triplets(tmp_path / "captions.txt", folder / "triplets.jsonl")

    assert check_kills(run, tmp_path, read_tree) > 5


def test_a_block_that_was_not_finished_is_all_that_is_lost(tmp_path, monkeypatch):
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS * 4))
    made, original = [], TripletMaker.make_block

    def make_block(self, block, seen, proposals=None):
        made.append(block)
        if made.count(1) == 1 and block == 1:
            raise KeyboardInterrupt
        return original(self, block, seen)

    monkeypatch.setattr(TripletMaker, "make_block", make_block)
    with pytest.raises(KeyboardInterrupt):
        write_triplets(tmp_path / "captions.txt", tmp_path / "triplets.jsonl")
    write_triplets(tmp_path / "captions.txt", tmp_path / "triplets.jsonl")
    assert made == [0, 1, 1, 2]


def test_results_of_stages(tmp_path):
    def run(folder):
        folder.mkdir(exist_ok=True)
        keep_array(folder / "a.npy", lambda: np.arange(100))

    assert check_kills(run, tmp_path, read_tree) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_saved_model_is_always_one_that_loads(base, tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files_rtd, "_exchange", lambda one, other: False)
    model, processor = base
    new = copy.deepcopy(model)
    shake(new.projection)

    def replace(folder, number=0):
        save_rtd_model(model, processor, folder / "model", [])
        before = read_tree(folder / "model", ["README.md"])
        with Kill(folder, number) as kill:
            save_rtd_model(new, processor, folder / "model", [])
        return before, kill.count

    before, count = replace(tmp_path / "whole")
    after = read_tree(tmp_path / "whole/model", ["README.md"])
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        replace(folder, number)
        # Where folders cannot change places in one step, the old one has another name for a moment.
        places = [folder / "model"] if can_exchange else [folder / "model", folder / "model.replaced"]
        (found, *_) = (read_tree(place, ["README.md"]) for place in places if place.exists())
        assert found in (before, after)
        save_rtd_model(new, processor, folder / "model", [])
        assert read_tree(folder / "model", ["README.md"]) == after
        assert [path.name for path in folder.iterdir()] == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["exact", "faiss", "pgvector"])
def test_an_index(base, tmp_path, engine, request):
    model, processor = base
    images = build_images(6)
    if engine == "pgvector":
        request.getfixturevalue("postgres")

    def run(folder):
        gallery = Gallery(folder=folder, engine=engine, **({"table": folder.name} if engine == "pgvector" else {}))
        gallery.add(model, processor, images, [f"{i}" for i in range(6)], batch_size=2, if_exists="skip")

    def compare(folder):
        gallery = Gallery.load(folder)
        return gallery.search(torch.eye(24)[:4], top_k=6)

    assert check_kills(run, tmp_path, compare) > 3


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_publishing(base, tmp_path, hub, monkeypatch):
    """Publishing changes no file here: it is killed before each of its requests to the Hub."""
    model, processor = base
    save_with_stages(model.save_pretrained, processor, tmp_path / "model")
    ways = ["--license", "mit", "--base-model", "none", "--without", "evaluation", "alignment", "--push"]
    client = type(get_session())
    send, sent = client.send, []

    def publish(number=0):
        def count(*args, **kwargs):
            sent.append(number)
            if len(sent) == number:
                raise Killed
            return send(*args, **kwargs)

        sent.clear()
        monkeypatch.setattr(client, "send", count)
        return main(["publish", str(tmp_path / "model"), "someone/tiny", *ways])

    assert publish() == 0
    whole = hub.repos.pop("someone/tiny")
    for number in itertools.count(1):
        try:
            assert publish(number) == 0
        except Killed:
            count_kill()
        else:  # this run made fewer requests
            break
        assert hub.repos.pop("someone/tiny", {}) in ({}, whole)
        assert publish() == 0
        assert hub.repos.pop("someone/tiny") == whole
    assert number > 5


def train_rtd(base, folder, rows=None):
    model, processor = copy.deepcopy(base[0]), base[1]
    args = RTDTrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        per_device_train_batch_size=16,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
        logging_steps=1,
    )
    trainer = RTDTrainer(
        model,
        args,
        train_dataset=Dataset.from_list(build_triplets(48)) if rows is None else rows,
        processing_class=processor,
    )
    finish_run(trainer)


def check_records(folder):
    for name in ("run.json", "training.json"):
        assert not (folder / name).exists() or json.loads((folder / name).read_text())


@pytest.mark.slow
def test_training(base, tmp_path):
    assert check_kills(lambda folder: train_rtd(base, folder), tmp_path, read_weights, 3, check_records) > 10


@pytest.mark.slow
def test_training_on_a_stream(base, tmp_path):
    rows = Dataset.from_list(build_triplets(48)).to_iterable_dataset(num_shards=2).shuffle(0, buffer_size=20)
    assert check_kills(lambda folder: train_rtd(base, folder, rows), tmp_path, read_weights, 3, check_records) > 10


def test_a_run_whose_first_checkpoint_was_cut_starts_again(base, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RTDTrainer, "_save_optimizer_and_scheduler", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_rtd(base, folder)
    assert (folder / "checkpoint-2").is_dir()
    train_rtd(base, folder)
    assert RTDModel.from_pretrained(folder / "model")
    assert RTDProcessor.from_pretrained(folder / "model")


def test_a_second_run_in_a_folder_is_refused(base, tmp_path, monkeypatch):
    save = RTDTrainer.save_model
    seen = []

    def second(self, *args, **kwargs):
        monkeypatch.setattr(RTDTrainer, "save_model", save)
        with pytest.raises(ValueError, match="another process trains in"):
            train_rtd(base, tmp_path / "run")
        seen.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(RTDTrainer, "save_model", second)
    train_rtd(base, tmp_path / "run")
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["run.json", "training.json"])
def test_a_damaged_record_of_a_run_is_named(base, tmp_path, name):
    train_rtd(base, tmp_path / "run")
    (tmp_path / "run" / name).write_text("")
    with pytest.raises(ValueError, match=rf"{name}' is damaged, it is not JSON"):
        train_rtd(base, tmp_path / "run")


@pytest.mark.slow
def test_a_projection(base, tmp_path):
    def run(folder):
        model, processor = copy.deepcopy(base[0]), base[1]
        args = LinCIRTrainingArguments(
            output_dir=str(folder),
            max_steps=2,
            save_strategy="steps",
            save_steps=1,
            per_device_train_batch_size=8,
            use_cpu=True,
            disable_tqdm=True,
            report_to=[],
            anchor_cache="always",
            anchor_cache_dir=str(folder / "stages"),
        )
        trainer = ProjectionTrainer(
            model, args, train_dataset=Dataset.from_dict({"text": CAPTIONS[:32]}), processing_class=processor
        )
        finish_run(trainer)

    assert check_kills(run, tmp_path, read_weights, 9) > 1
