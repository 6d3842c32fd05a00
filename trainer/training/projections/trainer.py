"""Training of projections beside frozen CLIP towers."""

from __future__ import annotations

import warnings

from torch.optim.lr_scheduler import LambdaLR

from modeling_rtd import RTDModel, RTDProcessor
from trainer.publishing.provenance import name_data
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.base_trainer import BaseTrainer
from trainer.training.projections import find_objective


__all__ = ["ProjectionTrainer"]


class ProjectionTrainer(BaseTrainer):
    """Train the projection of a model by the objective of its method, in place; nothing else is trained.

    Args:
        model ([`RTDModel`]): CLIP and projection; `model.projection.config.projection_type` names the method.
        args ([`ProjectionTrainingArguments`], *optional*): LinCIR's published recipe by default.
        train_dataset (`str`, `Path` or `datasets.Dataset`):
            Captions in a column `text` (LinCIR), images in a folder or a column `image` (Pic2Word, SEARLE), or both
            (Context-I2W, FTI4CIR; see [`load_pairs`]).
        processing_class ([`RTDProcessor`]): Tokenizer, image processor and prompt templates.
        kwargs: As for `transformers.Trainer`.

    Raises:
        ValueError: If the method is unknown, rows are invalid, sizes do not fit, or rows do not fill a batch.
    """

    def __init__(
        self,
        model: RTDModel,
        args: ProjectionTrainingArguments | None = None,
        *,
        train_dataset,
        processing_class: RTDProcessor,
        **kwargs,
    ):
        args = args or ProjectionTrainingArguments()
        if kwargs.get("eval_dataset") is not None:
            raise ValueError("projections are judged after training: pass the model to a RetrievalEvaluator.")
        tower = model.text_model.config
        model.projection.check_sizes(projection_dim=tower.projection_dim, text_hidden_size=tower.hidden_size)
        method = model.projection.config.projection_type
        objective_class = find_objective(method)
        model = model.to(args.device).eval().requires_grad_(False)
        model.projection.requires_grad_(True)
        self.objective = objective_class(args, model, processing_class)
        data = {self.objective.reads: name_data(train_dataset)}
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
        if "text" in train_dataset.column_names:
            self.objective.caption_embeddings = self._embed_captions(model.text_model, train_dataset["text"])

    def get_decay_parameter_names(self, model) -> list[str]:
        """Name the parameters that weight decay applies to, as the method published."""
        return [name for name, _ in model.named_parameters() if self.objective.decays(name)]

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the scheduler that the arguments name, or FTI4CIR's single drop to a tenth."""
        args = self.args
        if args.get_warmup_steps(num_training_steps) >= num_training_steps:
            warnings.warn(
                f"the learning rate warms up for {args.warmup_steps} steps, but there are {num_training_steps} in "
                "all: it never reaches its value. Lower warmup_steps, or train longer.",
                stacklevel=2,
            )
        if args.lr_drop_epoch is None:
            return super().create_scheduler(num_training_steps, optimizer)
        rows = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        drop = args.lr_drop_epoch * max(len(self.train_dataset) // rows, 1)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: 0.1 if step >= drop else 1.0)
        return self.lr_scheduler

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
