"""Training of projections beside frozen CLIP towers."""

from __future__ import annotations

from modeling_rtd import RTDProcessor, RTDProjection, RTDTextModel, fingerprint
from trainer.arguments import ProjectionTrainingArguments
from trainer.base_trainer import BaseTrainer, check_sizes
from trainer.objectives import find_objective


__all__ = ["ProjectionTrainer"]


class ProjectionTrainer(BaseTrainer):
    """Train a projection by the objective of its method; nothing else is trained.

    Args:
        model ([`RTDProjection`]): The projection; its `config.projection_type` names the method.
        args ([`ProjectionTrainingArguments`], *optional*): LinCIR's published recipe by default.
        text_model ([`RTDTextModel`]): CLIP's text tower, frozen.
        train_dataset (`str`, `Path` or `datasets.Dataset`): For LinCIR captions in a column `text`.
        processing_class ([`RTDProcessor`]): Tokenizer and prompt templates.
        kwargs: As for `transformers.Trainer`.

    Raises:
        ValueError: If the method is unknown, rows are invalid, sizes do not fit, or rows do not fill a batch.
    """

    def __init__(
        self,
        model: RTDProjection,
        args: ProjectionTrainingArguments | None = None,
        *,
        text_model: RTDTextModel,
        train_dataset,
        processing_class: RTDProcessor,
        **kwargs,
    ):
        args = args or ProjectionTrainingArguments()
        check_sizes(model, text_model)
        text_model = text_model.to(args.device).eval().requires_grad_(False)
        self.objective = find_objective(model.config.projection_type)(args, text_model, processing_class)
        train_dataset = self.objective.prepare(train_dataset)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            processor=processing_class,
            data_collator=self.objective.collate,
            run_facts={"text_model": fingerprint(text_model), **self.objective.describe(train_dataset)},
            **kwargs,
        )
        self.objective.caption_embeddings = self._embed_captions(text_model, train_dataset["text"])

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
