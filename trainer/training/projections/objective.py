"""What the objectives of all methods share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from modeling_rtd import RTDModel, RTDProcessor
from trainer.encoding.captions import encode_batch
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.rtd_collator import WarningOnce, collate_captions


__all__ = ["Objective"]


class Objective:
    """How rows become batches, and batches a loss.

    It defines `prepare`, `collate`, `compute_loss` and `describe`; see [`LinCIRObjective`] for what these take and
    return.

    Args:
        args ([`ProjectionTrainingArguments`]): Of the method's own class.
        model ([`RTDModel`]): Whose frozen towers encode.
        processor ([`RTDProcessor`]): Its processor.

    Attributes:
        streams (`bool`): Whether `prepare` takes a stream, see [`RowStream`].
        caption_embeddings ([`CaptionEmbeddings`], *optional*):
            Frozen embeddings of the column `text`; the trainer sets it where captions are encoded once.
    """

    streams = False
    caption_embeddings = None

    def __init__(self, args: ProjectionTrainingArguments, model: RTDModel, processor: RTDProcessor):
        self.args, self.model, self.processor = args, model, processor
        self._warning_once = WarningOnce()

    def _collate_captions(self, name: str, captions: Sequence[str]) -> dict:
        """Look the embeddings of a batch up as `NAME_embeds`, or collate the tokens to compute them from."""
        if self.caption_embeddings is not None:
            return {f"{name}_embeds": self.caption_embeddings(captions)}
        return collate_captions(self.processor, self._warning_once, self.args.num_length_groups, **{name: captions})

    def _embed_captions(self, name: str, batch: dict) -> torch.Tensor:
        """Give the frozen embeddings of a batch of `_collate_captions`."""
        if f"{name}_embeds" in batch:
            return batch[f"{name}_embeds"]
        captions = encode_batch(self.model.text_model, batch["caption_input_ids"], batch["caption_groups"])
        return captions[batch[f"{name}_index"]]

    @staticmethod
    def decays(name: str) -> bool:
        """Say whether weight decay applies to a parameter: to all, unless the method published otherwise.

        Args:
            name (`str`): Name of the parameter in the projection.

        Returns:
            `bool`: Whether it decays.
        """
        return True

    def create_scheduler(self, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler | None:
        """Create a scheduler that transformers does not have.

        Args:
            optimizer (`torch.optim.Optimizer`): Optimizer of the projection.
            steps_per_epoch (`int`): Steps of one pass over the data.

        Returns:
            `LRScheduler` or `None`: `None` uses the one that the arguments name.
        """
        return None
