"""Context-I2W: a projection from images and the captions around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset

from modeling_rtd import RTDProjection
from trainer.data.captions import clean_caption
from trainer.data.keywords import get_keyword_fn, mask_keywords
from trainer.data.row_files import is_stream
from trainer.data.streams import RowStream, identify_rows
from trainer.data.tables import keep_texts
from trainer.methods import Method, register_method
from trainer.training.arguments import ImageProjectionTrainingArguments
from trainer.training.projections.pic2word import Pic2WordObjective


__all__ = ["METHOD", "ContextI2WObjective", "ContextI2WTrainingArguments"]


@dataclass
class ContextI2WTrainingArguments(ImageProjectionTrainingArguments):
    """Context-I2W's arguments; its paper states none, so the defaults are those of its code, which is Pic2Word's.

    Args:
        augment (`bool`, defaults to `True`): As for [`Pic2WordTrainingArguments`].
        keyword_fn (`str`, defaults to `"lexicon"`):
            Finds the objects of a caption: `"spacy"` (needs a spaCy model), `"lexicon"` or `"rule"`.
    """

    learning_rate: float = field(default=5e-4, metadata={"help": "Learning rate; published."})
    weight_decay: float = field(default=0.2, metadata={"help": "Weight decay; published."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of Adam; published."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Epsilon of Adam; published."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the rate; published: cosine."})
    warmup_steps: float = field(default=10000, metadata={"help": "Steps until the full rate; published."})
    max_steps: int = field(default=-1, metadata={"help": "Steps of training; -1 trains for num_train_epochs."})
    num_train_epochs: float = field(default=32, metadata={"help": "Epochs; published."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Rows a step, on each device; published."})
    augment: bool = field(default=True, metadata={"help": "Crop images at random (published)."})
    keyword_fn: str = field(default="lexicon", metadata={"help": "'spacy', 'lexicon' or 'rule'."})


class ContextI2WObjective(Pic2WordObjective):
    """Context-I2W's objective (https://huggingface.co/papers/2309.16137), from images with captions.

    Pic2Word's loss, where the pseudo-word also depends on a context: the embedding of the image's caption with its
    objects replaced by one token. Which words are objects is not published; here they are the runs of nouns and
    adjectives, as LinCIR finds its keywords but without determiners.
    """

    columns = ("text",)

    def prepare(self, source) -> Dataset | RowStream:
        """Find images, and write their contexts.

        Args:
            source (`datasets.Dataset`, `datasets.IterableDataset` or [`FileStream`]):
                Columns `image` and `text`, see [`load_pairs`], or a stream of them, see [`RowStream`].

        Returns:
            `datasets.Dataset` or [`RowStream`]: Columns `image` (not decoded), `text` and `row`. The text is the
            context. A stream keeps the caption, and `collate` writes its context.

        Raises:
            ValueError: If a column or a caption is missing.
        """
        self._find_keywords = get_keyword_fn(self.args.keyword_fn, determiners=False)
        self._reads_captions = is_stream(source)
        if self._reads_captions:
            return super().prepare(source)
        table = super().prepare(keep_texts(source, ["text"], self.args.bad_rows))
        return table.map(self._write_context, desc="Writing contexts")

    def _write_context(self, row: dict) -> dict:
        caption = clean_caption(row["text"])
        # By row: a context depends neither on processes nor on other rows.
        rng = np.random.default_rng([self.args.seed, row["row"]])
        masked = mask_keywords(caption, self._find_keywords(caption), rng)
        return {"text": self.processor.context_word.join(masked)}

    def _collate_others(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate contexts: `context_embeds` of shape `(batch_size, projection_dim)`, or the tokens to embed."""
        if self._reads_captions:
            rows = map(self._write_context, rows)
        return self._collate_captions("context", [row["text"] for row in rows])

    def compute_loss(self, projection: RTDProjection, batch: dict[str, torch.Tensor], epoch: int) -> torch.Tensor:
        """Compute the loss of a batch, see [`Pic2WordObjective.compute_loss`]."""
        contexts = {"context_embeds": self._embed_captions("context", batch)}
        return super().compute_loss(projection, batch | contexts, epoch)

    def describe(self, dataset: Dataset) -> dict[str, str]:
        """Say what identifies a run of this objective.

        Returns:
            `dict`: As [`Pic2WordObjective.describe`], the keyword function, and a hash of the contexts.
        """
        facts = {"keyword_fn": self.args.keyword_fn, "contexts": identify_rows(dataset, ["text"])}
        return super().describe(dataset) | facts


METHOD = register_method(
    Method(
        name="context_i2w",
        reads="pairs",
        arguments=ContextI2WTrainingArguments,
        objective=ContextI2WObjective,
        protocol="pic2word",
        files={"vitl": ""},
    )
)
