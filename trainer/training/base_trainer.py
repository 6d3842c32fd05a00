"""What both trainers share: frozen companions, published optimisation, and runs that lose nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from modeling_rtd import RTDModel, RTDProcessor, RTDTextTower, has_adapters, hold_lock_file, write_json
from trainer.data.row_files import word_full_disk
from trainer.data.streams import RowStream
from trainer.encoding.captions import CaptionEmbeddings
from trainer.publishing.provenance import describe_stage, read_stages
from trainer.publishing.publication import prepare_publication, push
from trainer.publishing.saving import record_run, save_rtd_model
from trainer.training.checkpoints import (
    RUN_FILE,
    find_checkpoints,
    find_last_complete_checkpoint,
    is_complete,
    refuse_other_run,
)


__all__ = ["BaseTrainer", "check_batch_fills"]

logger = logging.get_logger(__name__)
# Own arguments that say where things are (what is there is in the facts of the run), or change no result. A run that
# a row has stopped continues without that row.
_PLACES = {"anchor_cache", "anchor_cache_dir", "bad_rows", "concepts", "length_groups", "phrases", "stage_dir"}
# Arguments of transformers that belong to a recipe. The number of steps does not: a run may be made longer.
_RECIPE = {
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "fp16",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "max_grad_norm",
    "seed",
    "warmup_steps",
    "weight_decay",
}


def check_batch_fills(args: TrainingArguments, num_rows: int) -> None:
    """Refuse data of which every batch would be dropped.

    Args:
        args (`transformers.TrainingArguments`): Arguments of the run.
        num_rows (`int`): Rows to train on.

    Raises:
        ValueError: If they do not fill one batch, and partial batches are dropped.
    """
    world_batch = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and num_rows < world_batch:
        raise ValueError(
            f"{num_rows} rows do not fill one batch of {world_batch}, and partial batches are dropped: lower "
            "per_device_train_batch_size (--per-device-train-batch-size), or bring more rows."
        )


def _settle_stream(args: TrainingArguments) -> None:
    """Refuse what a stream cannot have, and let each process read it whole and take its own part of each batch."""
    if args.max_steps <= 0:
        raise ValueError("a stream has no length: say how long to train with max_steps (--max-steps).")
    if args.anchor_cache == "always":
        raise ValueError(
            "anchor_cache='always' keeps the embeddings of a data set, and a stream is not kept: leave it out, and "
            "they are computed at each step."
        )
    args.accelerator_config.dispatch_batches = False


class BaseTrainer(Trainer):
    """Trainer of one network beside frozen companions.

    Differs from the stock Trainer as the published recipes do (weight decay on all parameters), and in what it
    refuses: several GPUs in one process, a loss that is not finite, and an output folder with another run in it.

    Args:
        whole ([`RTDModel`], *optional*): The whole model, of which a part is trained.
        processor ([`RTDProcessor`]): Saved with each checkpoint. Not handed on as `processing_class`, since the stock
            Trainer would write the tokenizer's special tokens into the model's configuration.
        run_facts (`dict`): What identifies a run besides its arguments, such as hashes of companions and data;
            stored with each checkpoint and compared on resume.
        stage (`str`): What is trained, for the record: `"rtd"` or the projection's method.
        data (`Mapping[str, str]`): Names of what is trained on, for the record.
        args, kwargs: As for `transformers.Trainer`.
    """

    # A mean over the batch. Left open, transformers takes the loss of a `forward` with **kwargs for a scaled one where
    # a batch has `labels`, and does not divide it by the accumulation steps.
    loss_is_scaled_for_ga = False
    _refused: tuple[str, ...] = ("compute_metrics",)  # arguments of the stock Trainer that would be ignored

    def __init__(
        self,
        *args,
        whole: RTDModel | None = None,
        processor: RTDProcessor,
        run_facts: dict,
        stage: str,
        data: Mapping[str, str],
        **kwargs,
    ):
        for name in ("compute_loss_func", "preprocess_logits_for_metrics", *self._refused):
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` has no effect here: {type(self).__name__} has its own; leave it out.")
        stream = kwargs.get("train_dataset")
        if isinstance(stream, RowStream):
            _settle_stream(args[1])
        super().__init__(*args, **kwargs)
        self._whole, self._saved, self._holds_folder = whole, None, False
        self.processor, self.stage, self.data = processor, stage, data
        # What made the model so far, for the record; a caller who knows more replaces it.
        self.earlier = [] if whole is None else read_stages(whole.name_or_path)
        # What a run cannot be resumed with otherwise; as JSON holds it, so that it compares equal when read back.
        self.run_facts = json.loads(json.dumps({**run_facts, **self._describe_recipe()}))
        self._check_arguments()
        self._check_optimizer()
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in self.model.parameters() if p.requires_grad):
            raise ValueError(
                "the weights to train are in half precision, in which small updates vanish: load them with "
                "dtype=torch.float32, and pass bf16=True for mixed precision."
            )
        if self.train_dataset is not None and not self._streams:
            check_batch_fills(self.args, len(self.train_dataset))

    def _check_arguments(self) -> None:
        args = self.args
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs in one process would split each batch and its negatives; start one process a "
                f"GPU with `torchrun --nproc_per_node {args.n_gpu} ...`, or show one with CUDA_VISIBLE_DEVICES=0."
            )
        if args.accelerator_config.dispatch_batches and not self._streams:
            raise ValueError(
                "`dispatch_batches` sends one process's batches to the others, and theirs are made of texts: leave it "
                "out, and each process makes its own."
            )
        if args.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor` is {args.label_smoothing_factor}, but the loss has no labels to smooth: "
                "leave it out."
            )
        if args.metric_for_best_model in ("loss", "eval_loss"):  # transformers' own where none is named
            raise ValueError(
                "an evaluation gives no loss to find the best model by. Name a metric of it with "
                "metric_for_best_model, such as 'recall@10' of a benchmark or 'text_recall@10' of text triplets."
            )

    def _check_optimizer(self) -> None:
        """Refuse an optimiser of other weights, with which a run would change nothing."""
        if self.optimizer is None:
            return
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        if held.isdisjoint(map(id, self.model.parameters())):
            raise ValueError(
                "`optimizers` holds none of the weights that are trained; of a whole model a copy is trained. Pass "
                "optimizer_cls_and_kwargs=(torch.optim.SGD, {...}), or learning_rate and optim in the arguments."
            )

    def _describe_recipe(self) -> dict:
        args = self.args
        own = {field.name for field in fields(args)} - {field.name for field in fields(TrainingArguments)}
        names = own - _PLACES | _RECIPE
        # Of all processes together: a run may be resumed on another number of GPUs.
        return {name: getattr(args, name) for name in sorted(names)} | {"batch_size": args.joined_batch_size}

    @property
    def _streams(self) -> bool:
        return isinstance(self.train_dataset, RowStream)

    @property
    def _rows_repeat(self) -> bool:
        args = self.args
        rows = args.max_steps * args.joined_batch_size * args.gradient_accumulation_steps
        return rows > len(self.train_dataset) if args.max_steps > 0 else args.num_train_epochs > 1

    def _embed_captions(self, text_model: RTDTextTower, captions: Iterable[str]) -> CaptionEmbeddings | None:
        """Cache the frozen embeddings of captions where the arguments ask for it or rows repeat."""
        wants = self.args.anchor_cache
        if wants == "never" or self._streams or (wants == "auto" and not self._rows_repeat):
            return None
        # The first one encodes, and the others read what it wrote.
        folder = self.args.anchor_cache_dir
        with self.args.main_process_first(desc="encoding captions"), word_full_disk(folder):
            return CaptionEmbeddings(text_model, self.processor, captions, self.run_facts["text_model"], folder)

    @property
    def _epoch(self) -> int:
        # transformers counts epochs in fractions; the noise changes with whole ones. A stream numbers rows on instead.
        return 0 if self._streams else int(self.state.epoch or 0)

    def get_decay_parameter_names(self, model) -> list[str]:
        """Name the parameters that weight decay applies to: all of them, as in the published recipes."""
        return [name for name, _ in model.named_parameters()]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and stop where the loss since the last log, or at the end that of the run, is not finite.

        To look at each step's loss would make the host wait for the device at each step. Checkpoints are looked at
        when they are saved, so all that a run loses is what it did since it went wrong.
        """
        super().log(logs, start_time)
        loss = logs.get("loss", logs.get("train_loss", 0.0))
        if not math.isfinite(loss):
            raise FloatingPointError(
                self._word_divergence(f"the loss became {loss} at or before", self.state.global_step)
            )

    def _word_divergence(self, what: str, step: int) -> str:
        last = find_last_complete_checkpoint(self.args.output_dir)
        return (
            f"{what} step {step}; lower the learning rate or train in float32, and resume from "
            f"{last or 'the start: no checkpoint was saved yet'}."
        )

    @contextlib.contextmanager
    def hold_folder(self) -> Iterator[None]:
        """Hold `.lock` in the run's folder, so that no other process can train there meanwhile.

        Raises:
            ValueError: If another process holds it.
        """
        # One lock a run: the other processes write nothing.
        if self._holds_folder or not self.is_world_process_zero():
            yield
            return
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        refusal = f"another process trains in '{folder}'; wait until it has ended, or choose another output_dir."
        with hold_lock_file(folder / ".lock", refusal):
            self._holds_folder = True
            try:
                yield
            finally:
                self._holds_folder = False

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """Train, or continue a run. The folder of the run is held meanwhile, see `hold_folder`.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint, or `True` for the newest complete one in the output folder.
            kwargs: As for `transformers.Trainer.train`.

        Returns:
            `TrainOutput`: Last step, mean loss, and metrics.

        Raises:
            ValueError: If the output folder holds checkpoints and no resume is asked for, or the checkpoint is
                incomplete, missing, or of a run with other companions or data, or if another process trains there.
        """
        with self.hold_folder():
            return self._train_or_resume(resume_from_checkpoint, **kwargs)

    def _train_or_resume(self, resume_from_checkpoint: str | bool | None, **kwargs) -> TrainOutput:
        self._saved = None
        output_dir = self.args.output_dir
        existing = find_checkpoints(output_dir)
        if not resume_from_checkpoint:
            if existing:
                raise ValueError(
                    f"'{output_dir}' holds an earlier run ({existing[0].name}); resume it with "
                    "train(resume_from_checkpoint=True), or choose another output_dir."
                )
            return self._train_from(0, **kwargs)
        checkpoint = find_last_complete_checkpoint(output_dir)
        if resume_from_checkpoint is not True:
            checkpoint = Path(resume_from_checkpoint) if is_complete(resume_from_checkpoint) else None
        # With save_only_model every checkpoint looks incomplete, and none was being written.
        if checkpoint is None and existing and resume_from_checkpoint is True and not self.args.save_only_model:
            logger.warning(f"{existing[0].name} was being written when the run stopped: the run starts again.")
            return self._train_from(0, **kwargs)
        if checkpoint is None:
            raise ValueError(
                f"no complete checkpoint to resume from: {resume_from_checkpoint!r} in '{output_dir}', which holds "
                f"{[path.name for path in existing] or 'none'}."
            )
        refuse_other_run(checkpoint, self.run_facts)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if 0 < self.args.max_steps <= state.global_step:
            # The stock Trainer would train one step more.
            best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
            self._load_from_checkpoint(best or str(checkpoint))
            self.state = state
            return TrainOutput(state.global_step, 0.0, {})
        return self._train_from(state.global_step, resume_from_checkpoint=str(checkpoint), **kwargs)

    def _train_from(self, step: int, **kwargs) -> TrainOutput:
        if not self._streams:
            return super().train(**kwargs)
        skips, self.args.ignore_data_skip = self.args.ignore_data_skip, True
        # The stock Trainer would collate every batch that it passes over.
        self.train_dataset.start = 0 if skips else step * self.args.gradient_accumulation_steps
        try:
            result = super().train(**kwargs)
        finally:
            self.args.ignore_data_skip = skips
        if skipped := self.train_dataset.count_skipped():
            logger.warning(f"{skipped} rows were left out, since they lacked a text or a readable image.")
        return result

    def predict(self, *args, **kwargs):
        """Refuse: a batch of a training holds no query to be answered.

        Raises:
            ValueError: Always; names what to call instead.
        """
        raise ValueError(
            f"{type(self).__name__} makes no predictions: `evaluate` gives metrics, and `rtd_model` embeds queries, "
            "as in a ComposedImageRetrievalPipeline."
        )

    @property
    def rtd_model(self) -> RTDModel:
        """[`RTDModel`]: The whole model, with what was trained so far in it."""
        return self._whole

    def save_model(
        self, output_dir: str | Path | None = None, _internal_call: bool = False, *, model: RTDModel | None = None
    ) -> Path | None:
        """Save the whole model, or its adapter, as it can be used and published.

        With the weights go the processor, the record of how the model was made, and a card; `training.json` and
        `losses.png` go to the run's folder. Checkpoints hold only what is trained.

        Args:
            output_dir (`str` or `Path`, *optional*): Defaults to `model` or `adapter` in the run's folder.
            model ([`RTDModel`], *optional*):
                The model that a text tower of your own belongs to. It is only needed if that tower was not loaded
                from a directory or the Hub.

        Returns:
            `Path` or `None`: The folder; `None` in all processes but the first.

        Raises:
            ValueError: If nothing was trained, or the rest of the model is not known.
            OSError: If it cannot be saved; the checkpoints stay.
        """
        # The stock Trainer calls it for each checkpoint, which holds the trained network alone.
        if _internal_call:
            return super().save_model(output_dir, _internal_call=True)
        if self.train_dataset is None:
            raise ValueError("there is nothing to save: this trainer has no `train_dataset`, so nothing was trained.")
        if not self.is_world_process_zero():
            return None
        self._whole = model or self._whole
        whole = self.rtd_model
        stages = [*self.earlier, describe_stage(record_run(self, self.data))]
        name = "adapter" if has_adapters(whole.text_model) else "model"
        try:
            self._saved = save_rtd_model(whole, self.processor, output_dir or Path(self.args.output_dir, name), stages)
        except OSError as error:
            raise OSError(
                f"{error} Free some space and start the same run again: it continues from the last checkpoint."
            ) from error
        return self._saved

    def push_to_hub(
        self,
        repo: str,
        base_model: str | None = None,
        license: str | None = None,
        results: Sequence[str | Path] = (),
        without: Sequence[str] = (),
        private: bool = False,
        endpoint: str | None = None,
    ) -> str | None:
        """Publish what was saved last, after the checks of `rtd publish`; it is saved first where it was not.

        Args:
            repo (`str`): Hub id, `org/name`.
            base_model, license, results, without: See [`prepare_publication`].
            private (`bool`, defaults to `False`): Whether a new repository is private.
            endpoint (`str`, *optional*): Another Hub; defaults to that of `HF_ENDPOINT`.

        Returns:
            `str` or `None`: Address of the repository; `None` in all processes but the first.

        Raises:
            ValueError: As [`prepare_publication`], and where `repo` is not a name.
            OSError: If the Hub cannot be reached or refuses.
        """
        if not self.is_world_process_zero():
            return None
        folder = self._saved or self.save_model()
        publication = prepare_publication(folder, repo, base_model, license, results, without, is_final=True)
        return push(publication, private, endpoint)[0]

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        self.processor.save_pretrained(folder)
        write_json(folder / RUN_FILE, self.run_facts, sort_keys=True)

    def _save_checkpoint(self, model, trial) -> None:
        # A step whose loss was finite may still have left weights that are not.
        if not all(torch.isfinite(p).all() for p in self.model.parameters() if p.requires_grad):
            raise FloatingPointError(self._word_divergence("weights are not finite after", self.state.global_step))
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            # Libraries word a full disk in three ways (OSError, RuntimeError, SafetensorError).
            partial = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(partial, ignore_errors=True)
            last = find_last_complete_checkpoint(self.args.output_dir)
            failure = OSError(
                f"saving {partial.name} failed ({error}); it was removed. "
                f"{f'{last.name} is complete' if last else 'No earlier checkpoint exists'}: free some space and "
                "resume the run (in Python with resume_from_checkpoint=True)"
            )
            # By it the command line adds the command that continues. Of a library's own errors it has none.
            if isinstance(error, OSError | RuntimeError | SafetensorError):
                failure.errno = getattr(error, "errno", None) or errno.ENOSPC
            raise failure from error
