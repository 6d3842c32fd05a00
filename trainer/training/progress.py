"""Progress of a training stage: one titled bar with the newest loss in it."""

from __future__ import annotations

import sys

from transformers import ProgressCallback, Trainer


__all__ = ["LossBarCallback"]


class LossBarCallback(ProgressCallback):
    """The stock progress bar with a title, and the newest loss beside it instead of a line for every log.

    Args:
        title (`str`): Title of the bar.
    """

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    @classmethod
    def install(cls, trainer: Trainer, title: str) -> None:
        """Take the place of the stock bar of a trainer, where it shows one.

        Args:
            trainer (`transformers.Trainer`): The trainer.
            title (`str`): Title of the bar.
        """
        # With disable_tqdm there is no bar to replace.
        if trainer.pop_callback(ProgressCallback) is not None:
            trainer.add_callback(cls(title))

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar, and say above it where a run continues."""
        super().on_train_begin(args, state, control, **kwargs)
        # The first process alone has one.
        if self.training_bar is not None:
            self.training_bar.set_description(self.title)
            if state.global_step:
                self.training_bar.write(f"continuing at step {state.global_step}", file=sys.stderr)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the newest loss in the bar, and metrics above it."""
        if self.training_bar is None or not logs:
            return
        if "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)
        metrics = {name: value for name, value in logs.items() if name.startswith("eval_")}
        if metrics:
            shown = ", ".join(f"{name.removeprefix('eval_')} {value:.4f}" for name, value in metrics.items())
            self.training_bar.write(f"step {state.global_step}: {shown}")
