"""What the objectives of all methods share."""

from __future__ import annotations

from functools import cached_property

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.training.rtd_collator import WarningOnce


__all__ = ["Objective"]


class Objective:
    """How rows become batches, and batches a loss.

    An objective is built from `(args, model, processor)` and defines `prepare`, `collate`, `compute_loss` and
    `describe`; see [`LinCIRObjective`] for what these take and return.

    Attributes:
        caption_embeddings ([`CaptionEmbeddings`], *optional*):
            Frozen embeddings of the column `text`; the trainer sets it where captions are encoded once.
    """

    caption_embeddings = None

    @cached_property
    def warning_once(self) -> WarningOnce:
        """[`WarningOnce`]: Of all batches."""
        return WarningOnce()

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
