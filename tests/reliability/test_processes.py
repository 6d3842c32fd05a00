"""Several gloo processes on one machine, started as users start them."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from modeling_rtd import RTDModel
from tests.factories import build_clip, build_images, build_processor, build_triplets
from tests.forks import run_in_two
from tests.reliability.kills import read_tree
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.rtd_trainer import RTDTrainer


ENVIRONMENT = {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
SCRIPT = """
import json, sys
import torch
from datasets import Dataset
from modeling_rtd import RTDModel
from tests.factories import build_clip, build_processor, build_triplets
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.lora import add_lora
from trainer.training.rtd_trainer import RTDTrainer

folder, batch_size, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
processor = build_processor()
torch.manual_seed(0)
model = RTDModel.from_clip(build_clip(), tokenizer=processor.tokenizer)
if mode == "lora":
    add_lora(model.text_model, r=4)
model.text_model.double()
args = RTDTrainingArguments(output_dir=folder, max_steps=6, per_device_train_batch_size=batch_size, learning_rate=1e-3,
    logging_steps=1, save_strategy="steps", save_steps=2, use_cpu=True, disable_tqdm=True, optim="sgd",
    anchor_cache="never" if mode == "stream" else "always", anchor_cache_dir=folder + "/anchors")
rows = Dataset.from_list(build_triplets(64))
rows = rows.to_iterable_dataset(num_shards=2).shuffle(0, buffer_size=20) if mode == "stream" else rows
trainer = RTDTrainer(model.text_model, args, projection=model.projection, processing_class=processor,
    train_dataset=rows)
trainer.data_collator.length_groups = 1 + 2 * args.process_index  # processes call the tower as often as they need
if mode == "dies":
    step = trainer.training_step
    def die_at_four(*arguments):
        if trainer.state.global_step == 3 and args.process_index == 1:
            raise SystemExit("a process dies")
        return step(*arguments)
    trainer.training_step = die_at_four
trainer.train()
if trainer.is_world_process_zero():
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    torch.save({"losses": losses, "weights": trainer.model.state_dict()}, folder + "/result.pt")
if torch.distributed.is_initialized():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


ABLATIONS = """
import copy, sys
import torch
from datasets import Dataset
from modeling_rtd import RTDModel
from tests.factories import build_clip, build_processor, build_triplets
from trainer import RTDTrainer, RTDTrainingArguments
from trainer.training.lora import add_lora

folder = sys.argv[1]
torch.set_num_threads(1)
processor = build_processor()
torch.manual_seed(0)
model = RTDModel.from_clip(build_clip(), tokenizer=processor.tokenizer)
for ablation in ("target_anchored", "refined_batch", "refined_concatenation", "composition", "lora"):
    tower = copy.deepcopy(model.text_model)
    if ablation == "lora":
        add_lora(tower, r=4)
    arguments = {} if ablation == "lora" else {ablation: False}
    args = RTDTrainingArguments(output_dir=f"{folder}/{ablation}", max_steps=3, per_device_train_batch_size=8,
        save_strategy="no", use_cpu=True, disable_tqdm=True, **arguments)
    trainer = RTDTrainer(tower, args, projection=model.projection, processing_class=processor,
        train_dataset=Dataset.from_list(build_triplets(64)))
    trainer.train()
    assert not trainer.model_wrapped.find_unused_parameters
    if trainer.is_world_process_zero():
        print("trained:", ablation)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def train(model, processor, batch_size, folder):
    """Train a copy of the text tower, in whatever processes there are, and leave what came of it."""
    tower = copy.deepcopy(model.text_model).double()
    args = RTDTrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=batch_size,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        optim="sgd",
        anchor_cache="never",
    )
    rows = Dataset.from_list(build_triplets(64))
    trainer = RTDTrainer(tower, args, projection=model.projection, processing_class=processor, train_dataset=rows)
    trainer.data_collator.length_groups = 1 + 2 * args.process_index  # processes call the tower as often as they need
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    torch.save((args.world_size, losses, trainer.model.state_dict()), folder / f"{args.process_index}.pt")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a copy of a process has no accelerator")
def test_two_copies_of_a_process_train_as_one(model, processor, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    train(model, processor, 16, tmp_path / "one")
    run_in_two(train, model, processor, 8, tmp_path / "two")
    expected, *results = [torch.load(tmp_path / name) for name in ("one/0.pt", "two/0.pt", "two/1.pt")]
    assert [size for size, *_ in (expected, *results)] == [1, 2, 2]
    assert results[0][1] == pytest.approx(expected[1], abs=1e-5)
    for _, _, weights in results:
        for name, tensor in expected[2].items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-7, rtol=0, msg=name)


def launch(folder, processes, batch_size, mode="all weights", text=SCRIPT):
    script = folder / "train.py"
    folder.mkdir()
    script.write_text(text)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*command, str(script), str(folder), str(batch_size), mode],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["all weights", "lora", "stream"])
def test_two_processes_equal_one_on_the_joined_batch(tmp_path, mode):
    results = {}
    for processes, batch_size in ((1, 16), (2, 8)):
        run = launch(tmp_path / str(processes), processes, batch_size, mode)
        assert run.returncode == 0, run.stderr[-3000:]
        results[processes] = torch.load(tmp_path / str(processes) / "result.pt")
    assert results[2]["losses"] == pytest.approx(results[1]["losses"], abs=1e-5)
    for name, tensor in results[1]["weights"].items():
        torch.testing.assert_close(results[2]["weights"][name], tensor, atol=1e-7, rtol=0, msg=name)


@pytest.mark.slow
def test_all_ablations_train_in_two_processes_without_a_search_for_unused_weights(tmp_path):
    run = launch(tmp_path / "run", 2, 8, text=ABLATIONS)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("trained: ") == 5


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_the_last_checkpoint_stays_good(tmp_path):
    from trainer.training.checkpoints import find_last_complete_checkpoint

    run = launch(tmp_path / "run", 2, 8, "dies")
    assert run.returncode != 0
    assert find_last_complete_checkpoint(tmp_path / "run").name == "checkpoint-2"


@pytest.mark.slow
def test_the_command_line_trains_an_adapter_in_two_processes_and_ends_cleanly(tmp_path):
    processor = build_processor()
    for part in (build_clip(), processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path / "clip")
    torch.manual_seed(0)
    RTDModel.from_clip(str(tmp_path / "clip")).projection.save_pretrained(tmp_path / "projection")
    rows = "\n".join(json.dumps(row) for row in build_triplets(64))
    (tmp_path / "triplets.jsonl").write_text(rows)
    command = f"""-m torch.distributed.run --standalone --nproc_per_node=2 -m trainer.cli.main train
        {tmp_path}/clip --lora_r 4 --projection {tmp_path}/projection --triplets {tmp_path}/triplets.jsonl
        --output_dir {tmp_path}/run --max_steps 3 --per_device_train_batch_size 8 --use_cpu True""".split()
    run = subprocess.run([sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("adapter: ") == 1
    assert RTDModel.from_adapter(str(tmp_path / "run/adapter")).text_model.active_adapters() == ["default"]


@pytest.mark.slow
def test_two_processes_index_what_one_does_byte_for_byte(tmp_path):
    processor, count = build_processor(), 2000
    torch.manual_seed(0)
    RTDModel.from_clip(build_clip(), "lincir", tokenizer=processor.tokenizer).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for i, image in enumerate(build_images(count, size=(12, 12))):
        image.save(tmp_path / f"images/{i:04}.bmp")
    (tmp_path / "images/0004.bmp").write_bytes(b"no image")
    for processes in (1, 2):
        command = f"""-m torch.distributed.run --standalone --nproc_per_node={processes} -m trainer.cli.main index
            {tmp_path}/model --images {tmp_path}/images -o {tmp_path}/{processes} --batch-size 16""".split()
        run = subprocess.run([sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.count(f"index: {count - 1} images") == 1
        assert run.stderr.count("0004.bmp' cannot be read") == 1
    assert read_tree(tmp_path / "1") == read_tree(tmp_path / "2")
