"""Training of projections beside frozen CLIP towers."""

from __future__ import annotations

import warnings
from pathlib import Path

from transformers import set_seed

from modeling_rtd import RTDModel, RTDProcessor
from trainer.data.row_files import is_stream
from trainer.data.tables import iterate_columns
from trainer.loading import check_processor, load_model_and_processor, load_processor
from trainer.methods import find_method
from trainer.publishing.provenance import name_data
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.base_trainer import BaseTrainer


__all__ = ["ProjectionTrainer"]


class ProjectionTrainer(BaseTrainer):
    """Train the projection of a model by the objective of its method, in place; nothing else is trained.

    Args:
        model (`str`, `Path` or [`RTDModel`]):
            CLIP and projection; the projection's type names the method. Or directory or Hub id of such a model, or,
            with `method`, of a CLIP.
        args ([`ProjectionTrainingArguments`], *optional*):
            Arguments of the method's own class, such as [`LinCIRTrainingArguments`]. Defaults to its published recipe.
        train_dataset (`str`, `Path`, `datasets.Dataset`, `datasets.IterableDataset` or [`FileStream`]):
            Captions in a column `text`, or a text file with one a line (LinCIR); images in a folder or a column
            `image` (Pic2Word, SEARLE). Or both, see [`load_pairs`]; as the record of the method says. LinCIR,
            Pic2Word and Context-I2W also take streams of them, see [`RowStream`].
        processing_class ([`RTDProcessor`], *optional*):
            Tokenizer, image processor and prompt templates. Defaults to those of the place that the model, or the CLIP
            underneath, was loaded from.
        method (`str`, *optional*):
            With the place of a CLIP: name of the projection to build; `args.seed` decides its first weights.
        kwargs: As for `transformers.Trainer`.

    Raises:
        ValueError: If the model is none, the method is unknown, the arguments are those of another one, rows are
            invalid, sizes do not fit, rows do not fill a batch, or no processor is given or found.
    """

    def __init__(
        self,
        model: str | Path | RTDModel,
        args: ProjectionTrainingArguments | None = None,
        *,
        train_dataset,
        processing_class: RTDProcessor | None = None,
        method: str | None = None,
        **kwargs,
    ):
        if kwargs.get("eval_dataset") is not None:
            raise ValueError("projections are judged after training: pass the model to a RetrievalEvaluator.")
        if kwargs.pop("data_collator", None) is not None:
            raise ValueError("`data_collator` has no effect here: the objective of a method makes its own batches.")
        if not isinstance(model, str | Path | RTDModel):
            raise ValueError(
                f"`model` is a {type(model).__name__}: pass an RTDModel, such as RTDModel.from_clip(clip, 'lincir', "
                "tokenizer=...), or the place of a CLIP with method='lincir'."
            )
        if method is not None:
            args = _settle_arguments(method, args)
            set_seed(args.seed)  # before the projection is built, so that equal commands give equal weights
        if not isinstance(model, RTDModel):
            model, found = load_model_and_processor(str(model), method)
            processing_class = processing_class or found
        method = model.projection.config.projection_type
        args = _settle_arguments(method, args)
        processing_class = processing_class or load_processor(model)
        model.projection.check_text_tower(model.text_model.config)
        check_processor(processing_class, model.text_model)
        record = find_method(method)
        # The published code of three methods computes gradients of CLIP's weights, and throws them away.
        model = model.to(args.device).eval().requires_grad_(False)
        model.projection.requires_grad_(True)
        self.objective = record.objective(args, model, processing_class)
        # Of what came: prepared rows have no name.
        data = {record.reads: name_data(train_dataset)}
        if is_stream(train_dataset) and not self.objective.streams:
            raise ValueError(
                f"{method} goes through its {record.reads} before it trains, which a stream does not allow. Load them "
                "with streaming=False, which keeps them on disk and not in memory."
            )
        # Before the stock Trainer is built: facts of the run are taken of prepared rows.
        train_dataset = self.objective.prepare(train_dataset)
        super().__init__(
            model.projection,
            args,
            train_dataset=train_dataset,
            whole=model,
            processor=processing_class,
            data_collator=self.objective.collate,
            stage=method,
            data=data,
            run_facts={"method": method, **self.objective.describe(train_dataset)},
            **kwargs,
        )
        if not self._streams and "text" in train_dataset.column_names:
            captions = iterate_columns(train_dataset, ["text"])
            self.objective.caption_embeddings = self._embed_captions(model.text_model, captions)

    def get_decay_parameter_names(self, model) -> list[str]:
        """Name the parameters that weight decay applies to, as the method published."""
        return [name for name, _ in model.named_parameters() if self.objective.decays(name)]

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the scheduler that the method has of its own, or that the arguments name."""
        args = self.args
        if args.get_warmup_steps(num_training_steps) >= num_training_steps:
            warnings.warn(
                f"the learning rate warms up for {args.warmup_steps} steps, but there are {num_training_steps} in "
                "all: it never reaches its value. Lower warmup_steps, or train longer.",
                stacklevel=2,
            )
        rows = args.joined_batch_size * args.gradient_accumulation_steps
        steps = num_training_steps if self._streams else max(len(self.train_dataset) // rows, 1)
        own = self.objective.create_scheduler(optimizer or self.optimizer, steps)
        if own is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = own
        return own

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss of the projection's method.

        Args:
            model (`torch.nn.Module`): The wrapped projection.
            inputs (`dict`): A batch of the objective's collator.
            return_outputs (`bool`, defaults to `False`): Return an (empty) dictionary of outputs too.
            num_items_in_batch (`int`, *optional*): Not used: the loss is a mean over the batch.

        Returns:
            `torch.Tensor`, or a tuple of it and a dictionary.
        """
        loss = self.objective.compute_loss(model, inputs, self._epoch)
        return (loss, {}) if return_outputs else loss


def _settle_arguments(method: str, args: ProjectionTrainingArguments | None) -> ProjectionTrainingArguments:
    record = find_method(method)
    args = record.arguments() if args is None else args
    record.check_arguments(args)
    return args
