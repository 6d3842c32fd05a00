import pytest
from datasets import Dataset

from tests.factories import build_triplets
from trainer.training.projections.lincir import LinCIRTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer


CAPTIONS = [row["target_caption"] for row in build_triplets(40)]


@pytest.fixture
def build(model, processor, tmp_path):
    """Build a trainer of the model's projection."""

    def build(captions=CAPTIONS, projection=None, name="run", **arguments):
        defaults = {
            "output_dir": str(tmp_path / name),
            "max_steps": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "keyword_fn": "rule",
            "anchor_cache_dir": str(tmp_path / "anchors"),
        }
        model.projection = projection or model.projection
        return ProjectionTrainer(
            model,
            LinCIRTrainingArguments(**(defaults | arguments)),
            train_dataset=Dataset.from_dict({"text": captions}) if isinstance(captions, list) else captions,
            processing_class=processor,
        )

    return build
