"""What both trainers do with the folder of a run."""

import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from modeling_rtd import RTDModel
from tests.factories import build_triplets
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.rtd_trainer import RTDTrainer


HOLDER = """
import sys
from huggingface_hub.utils import WeakFileLock
with WeakFileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def trainer(clip, processor, tmp_path):
    arguments = RTDTrainingArguments(str(tmp_path / "run"), max_steps=1, use_cpu=True, report_to="none")
    arguments.per_device_train_batch_size, arguments.anchor_cache = 8, "never"
    model = RTDModel.from_clip(clip, tokenizer=processor.tokenizer)
    return RTDTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(build_triplets(8)), processing_class=processor
    )


def test_train_refuses_a_folder_in_which_another_process_trains(trainer, tmp_path):
    lock = Path(trainer.args.output_dir) / ".lock"
    lock.parent.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        with pytest.raises(ValueError, match="another process trains in '.*run'"):
            trainer.train()
        holder.stdin.close()
    assert trainer.train().global_step == 1


def test_the_folder_is_held_once_however_often_it_is_asked_for(trainer):
    with trainer.hold_folder(), trainer.hold_folder():
        assert trainer.train().global_step == 1
