"""Training arguments: transformers' own, with the published recipes as defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from trainer.training.condition_augmentation import parse_augmentations


__all__ = ["ImageProjectionTrainingArguments", "ProjectionTrainingArguments", "RTDTrainingArguments"]


@dataclass
class _RecipeArguments(TrainingArguments):
    # Defaults that differ from transformers', since the published recipes do. The first four are silent differences
    # of the stock Trainer: linear decay, clipping at 1, no weight decay, and the last partial batch kept.
    lr_scheduler_type: str = field(
        default="constant", metadata={"help": "Schedule of the learning rate; published: constant."}
    )
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Largest norm of the gradients; published: 0, no clipping."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay; published, on all parameters."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last partial batch; published."})
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that collate batches. Defaults to 4 on a GPU and 0 elsewhere. With any, "
            "a resumed run draws other crops and phrases than an uninterrupted one."
        },
    )
    dataloader_pin_memory: bool | None = field(
        default=None,
        metadata={"help": "Send batches from pinned memory. Defaults to whether there is an accelerator."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search each step for unused weights; every trained weight is used."}
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "Send buffers to all processes; no buffer changes."},
    )
    seed: int = field(default=12345, metadata={"help": "Seed; published."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Remove columns that the model does not take; collators read them."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite; here they stop the run."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two points of the loss curve."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    anchor_cache: str = field(
        default="auto",
        metadata={
            "help": "Keep frozen caption embeddings on disk: 'always', 'never', or 'auto' (if rows "
            "are visited more than once)."
        },
    )
    anchor_cache_dir: str | None = field(default=None, metadata={"help": "Folder of that cache."})
    bad_rows: str = field(
        default="refuse",
        metadata={
            "help": "Rows without a text: 'refuse' names the first one, 'skip' leaves them out and counts them."
        },
    )
    length_groups: int | None = field(
        default=None,
        metadata={
            "help": "Number of groups by length in which a batch of texts runs, so that short texts "
            "are not padded to the longest. The result is the same. Defaults to 4 on a CPU and 1 elsewhere."
        },
    )

    def __post_init__(self):
        if self.push_to_hub or self.hub_token is not None:
            # The stock Trainer would upload a pickle of these arguments, with the token and the places in them.
            raise ValueError(
                "runs are not uploaded while they train: leave `push_to_hub` and `hub_token` out, and publish the "
                "result with `rtd publish`; the token belongs in the variable HF_TOKEN."
            )
        if self.length_groups is not None and self.length_groups < 1:
            raise ValueError(f"`length_groups` must be 1 or more, got {self.length_groups}.")
        if self.ddp_broadcast_buffers:
            raise ValueError(
                "`ddp_broadcast_buffers` hangs processes whose batches have different numbers of groups by length, "
                "and no buffer changes: leave it out."
            )
        if self.anchor_cache not in ("auto", "always", "never"):
            raise ValueError(f"`anchor_cache` must be 'auto', 'always' or 'never', got {self.anchor_cache!r}.")
        if self.bad_rows not in ("refuse", "skip"):
            raise ValueError(f"`bad_rows` must be 'refuse' or 'skip', got {self.bad_rows!r}.")
        # Before transformers' own checks, which take a number.
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 4 if torch.cuda.is_available() and not self.use_cpu else 0
        if self.dataloader_pin_memory is None:  # torch warns where there is nothing to send to
            self.dataloader_pin_memory = torch.accelerator.is_available()
        super().__post_init__()
        # Batches are sent to a GPU while it works.
        self.accelerator_config.non_blocking |= self.dataloader_pin_memory

    @property
    def joined_batch_size(self) -> int:
        """`int`: Rows of a batch of all processes together."""
        return self.per_device_train_batch_size * self.world_size

    @property
    def num_length_groups(self) -> int:
        """`int`: Groups by length to run texts in; whether several pay on a GPU is not measured."""
        return self.length_groups or (4 if self.device.type == "cpu" else 1)


@dataclass
class RTDTrainingArguments(_RecipeArguments):
    """Arguments of [`RTDTrainer`]; the defaults are what the published code of RTD effectively does.

    That is one device with 128 triplets a step for 2,000 steps, AdamW at 1e-5, constant, weight decay 0.01 on all
    parameters, in float32, without clipping. With gradient accumulation, or several processes, mind that the negatives
    of a pair are those of its batch joined over processes. Accumulated batches do not see each other's.

    Args:
        temperature (`float`, defaults to 0.07): Temperature of the loss.
        loss_type (`str`, defaults to `"nt_xent"`): `"nt_xent"` (published code) or `"info_nce"` (paper's text).
        noise_scale (`float`, defaults to 0.5):
            Scale of the noise of refined concatenation, in units of un-normalised embeddings.
        noise_unit (`str`, *optional*):
            `"absolute"` or `"rms"`, see [`settle_noise_unit`]. Defaults to `"absolute"` on a CLIP, and must be given
            on other families.
        target_anchored (`bool`, defaults to `True`):
            Anchor to frozen captions; otherwise the trained tower encodes them too (an ablation).
        refined_batch (`bool`, defaults to `True`): Refined batch sampling, the hard negatives.
        refined_concatenation (`bool`, defaults to `True`): Refined concatenation, pseudo-words in place of captions.
        composition (`bool`, defaults to `True`):
            Otherwise train on pairs of reference prompt and reference caption alone (a control).
        template (`str`, *optional*): Name of the prompt template. Defaults to that of the processor.
        caption_weight (`float`, defaults to 0.0):
            Ours, not the paper's. Adds `caption_weight * mean(1 - cos(t(c), a(c)))` to the loss, where `t` is the
            tower in training, `a` its frozen state and `c` the plain reference and target captions of the batch. The
            tower keeps reading plain text as before RTD. 0 is the published recipe. We recommend 2, with an interval
            of 8.
        caption_interval (`int`, defaults to 1):
            Read the captions of every Nth triplet of a batch for that term, such as 8 for an eighth of its
            cost. The mean, and so the weight, keeps its meaning. Processes train as one does where it divides the
            batch of each.
        condition_augmentation (`str` or sequence of `str`, *optional*):
            Ours, not the paper's. Names of `CONDITION_AUGMENTATIONS`, with commas: conditions are changed as people
            write them, see [`ConditionAugmentation`]. Without it conditions stay as they are, as published.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate; published."})
    max_steps: int = field(default=2000, metadata={"help": "Steps of training; published."})
    per_device_train_batch_size: int = field(
        default=128, metadata={"help": "Triplets a step, on each device; published."}
    )
    temperature: float = field(default=0.07, metadata={"help": "Temperature of the loss."})
    loss_type: str = field(default="nt_xent", metadata={"help": "'nt_xent' (published code) or 'info_nce' (paper)."})
    noise_scale: float = field(default=0.5, metadata={"help": "Scale of the noise of refined concatenation."})
    noise_unit: str | None = field(
        default=None,
        metadata={
            "help": "Unit of the noise: 'absolute' (published), or 'rms' of the captions' embeddings. Needed if the "
            "backbone is not a CLIP."
        },
    )
    target_anchored: bool = field(default=True, metadata={"help": "Anchor to frozen captions."})
    refined_batch: bool = field(default=True, metadata={"help": "Refined batch sampling (hard negatives)."})
    refined_concatenation: bool = field(default=True, metadata={"help": "Refined concatenation (pseudo-words)."})
    composition: bool = field(default=True, metadata={"help": "Train on composed prompts; without them, a control."})
    template: str | None = field(
        default=None, metadata={"help": "Name of the prompt template. Defaults to that of the processor."}
    )
    caption_weight: float = field(
        default=0.0, metadata={"help": "Weight of the term that keeps plain captions in place. Ours; 0 is published."}
    )
    caption_interval: int = field(
        default=1, metadata={"help": "Apply that term to every Nth triplet of a batch, which is cheaper."}
    )
    condition_augmentation: str | None = field(
        default=None,
        metadata={"help": "Ways to change conditions, such as 'typo,negation'. Ours; none by default."},
    )

    def __post_init__(self):
        if not 0 <= self.caption_weight < float("inf"):
            raise ValueError(f"`caption_weight` must be a finite number of at least 0, got {self.caption_weight}.")
        if self.caption_interval < 1:
            raise ValueError(f"`caption_interval` must be 1 or more, got {self.caption_interval}.")
        if self.loss_type not in ("nt_xent", "info_nce"):
            raise ValueError(f"`loss_type` must be 'nt_xent' or 'info_nce', got {self.loss_type!r}.")
        # In one order, since it is compared when a run is resumed.
        self.condition_augmentation = ",".join(parse_augmentations(self.condition_augmentation)) or None
        if self.condition_augmentation and not self.composition:
            raise ValueError("`condition_augmentation` has no effect without `composition`: leave one of them out.")
        if not self.composition and not self.refined_batch:
            raise ValueError("without `composition` and without `refined_batch` there is nothing to train on.")
        if not self.refined_concatenation and not self.composition:
            raise ValueError("`composition=False` needs `refined_concatenation=True`: it reads pseudo-words only.")
        super().__post_init__()


@dataclass
class ProjectionTrainingArguments(_RecipeArguments):
    """What the arguments of all projection methods share; each method has a class of its own, with its own recipe."""

    def _check_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")


@dataclass
class ImageProjectionTrainingArguments(ProjectionTrainingArguments):
    """What the arguments of the methods that read images share.

    Args:
        num_images (`int`, *optional*): Train on the first so many images. Defaults to all.
        padding (`str`, defaults to `"none"`):
            `"target"` pads long images to a ratio of 1.25 before they are cropped, as SEARLE published.
        stage_dir (`str`, *optional*):
            Folder where stages before the training keep results. Defaults to `stages` in `output_dir`.
    """

    num_images: int | None = field(default=None, metadata={"help": "Number of images to train on. Defaults to all."})
    padding: str = field(default="none", metadata={"help": "'target' pads long images, 'none' does not."})
    stage_dir: str | None = field(
        default=None, metadata={"help": "Folder for results of stages. Defaults to `stages` in the output folder."}
    )

    def __post_init__(self):
        self._check_counts("num_images")
        if self.padding not in ("none", "target"):
            raise ValueError(f"`padding` must be 'none' or 'target', got {self.padding!r}.")
        super().__post_init__()

    @property
    def stage_folder(self) -> Path:
        """`Path`: Where stages before the training keep results."""
        return Path(self.stage_dir or Path(self.output_dir, "stages"))
