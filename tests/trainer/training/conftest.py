import copy

import pytest
from datasets import Dataset

from tests.factories import build_triplets
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.rtd_trainer import RTDTrainer


ROWS = build_triplets(48)


@pytest.fixture
def build(model, processor, tmp_path):
    """Build a trainer on a fresh copy of the tower."""

    def build(rows=ROWS, tower=None, name="run", callbacks=None, eval_dataset=None, **arguments):
        defaults = {
            "output_dir": str(tmp_path / name),
            "max_steps": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "anchor_cache_dir": str(tmp_path / "anchors"),
        }
        return RTDTrainer(
            tower if tower is not None else copy.deepcopy(model.text_model),
            RTDTrainingArguments(**(defaults | arguments)),
            projection=model.projection,
            train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
            processing_class=processor,
            callbacks=callbacks,
            eval_dataset=eval_dataset,
        )

    return build
