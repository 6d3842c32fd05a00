"""RTD: post-hoc, text-only training of the text tower with target-anchored contrastive learning."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import normalize

from modeling_rtd import PLACEHOLDER, RTDProcessor, RTDProjection, RTDTextModel, fingerprint, has_adapters
from trainer.data.tables import hash_rows, iterate_columns
from trainer.data.triplets import TRIPLET_COLUMNS, prepare_triplets
from trainer.encoding.captions import encode_batch, encode_captions
from trainer.encoding.noise import draw_noise
from trainer.encoding.processes import gather_embeds
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.evaluation.metrics import recall_at_k
from trainer.evaluation.ranking import rank_gallery
from trainer.publishing.provenance import name_data
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.base_trainer import BaseTrainer
from trainer.training.lora import load_adapter_weights
from trainer.training.losses import target_anchored_loss
from trainer.training.rtd_collator import HardNegativeTripletCollator


__all__ = ["RTDTrainer"]

_ENCODED_COLUMNS = ("reference_caption", "target_caption")


def _write_contexts(triplets: Dataset, processor: RTDProcessor, composition: bool = True) -> Dataset:
    """Write each triplet's prompt as the context that a projection reads, without pseudo-words."""
    template = processor.prompt_templates[processor.default_template].replace(PLACEHOLDER, processor.context_word)
    if not composition:
        template = template[: template.index(processor.context_word) + len(processor.context_word)]
    contexts = [template.replace("{condition}", text) for text in triplets["conditioning_caption"]]
    return triplets.add_column("context", contexts)


def _prepare_evaluation(data):
    if data is None or isinstance(data, RetrievalEvaluator):
        return data
    if isinstance(data, dict):
        return {name: _prepare_evaluation(part) for name, part in data.items()}
    return prepare_triplets(data)


class RTDTrainer(BaseTrainer):
    """Train an [`RTDTextModel`] with text triplets (RTD, https://huggingface.co/papers/2406.09188).

    The image side is never touched. The projection is a frozen companion; the anchors are embeddings of captions by
    the tower as it came, from a cache where rows repeat, from the base of an adapter, or from a frozen copy.

    Args:
        model ([`RTDTextModel`] or `peft.PeftModel` of it):
            The tower to train, as it is before RTD; with an adapter ([`add_lora`]) only that is trained.
        args ([`RTDTrainingArguments`], *optional*): The published recipe by default.
        projection ([`RTDProjection`]): The trained projection whose pseudo-words the tower learns to read.
        train_dataset (`str`, `Path` or `datasets.Dataset`): Text triplets, see [`load_triplets`].
        eval_dataset ([`RetrievalEvaluator`], text triplets, or a `dict` of them, *optional*):
            Judged as the arguments' `eval_strategy` says. An evaluator gives the benchmark's metrics, by which the
            best model may be kept (`metric_for_best_model="recall@10"`); triplets give text-side recall, which does
            not tell how images are retrieved.
        processing_class ([`RTDProcessor`]): Tokenizer and prompt templates.
        token_lift ([`TokenLift`], *optional*):
            Makes image tokens of caption embeddings, for a projection that reads them; see [`fit_token_lift`].
        kwargs: As for `transformers.Trainer`.

    Raises:
        ValueError: If the projection needs a lift that is not given, triplets are invalid, the projection's sizes do
            not fit the tower, or rows do not fill a batch.
    """

    def __init__(
        self,
        model: RTDTextModel,
        args: RTDTrainingArguments | None = None,
        *,
        projection: RTDProjection,
        train_dataset: Dataset,
        processing_class: RTDProcessor,
        eval_dataset=None,
        token_lift: torch.nn.Module | None = None,
        **kwargs,
    ):
        args = args or RTDTrainingArguments()
        projection.check_sizes(projection_dim=model.config.projection_dim, text_hidden_size=model.config.hidden_size)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            model.requires_grad_(True)  # a tower that served as a frozen companion before
        template = args.template or projection.rtd_template or processing_class.default_template
        processing_class = processing_class.with_template(template)
        if "image_tokens" in projection.consumes and token_lift is None:
            raise ValueError(
                f"a '{projection.config.projection_type}' projection reads image tokens, which text does not have: "
                "pass token_lift=fit_token_lift(...) (on the command line --images DIR), or "
                "invert_visual_projection(model)."
            )
        data = {"triplets": name_data(train_dataset)}
        train_dataset = prepare_triplets(train_dataset)
        if "context_embeds" in projection.consumes:
            train_dataset = _write_contexts(train_dataset, processing_class, args.composition)
        run_facts = {
            "text_model": fingerprint(model.get_base_model() if hasattr(model, "get_base_model") else model),
            "projection": fingerprint(projection),
            "triplets": hash_rows(train_dataset, TRIPLET_COLUMNS),
        }
        if token_lift is not None:
            run_facts["token_lift"] = fingerprint(token_lift)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=_prepare_evaluation(eval_dataset),
            processor=processing_class,
            run_facts=run_facts,
            stage="rtd",
            data=data,
            **kwargs,
        )
        # A copy, since the user's own may be of another type and in another place.
        self.projection = copy.deepcopy(projection).to(args.device, torch.float32).eval().requires_grad_(False)
        self.token_lift = None
        if token_lift is not None:
            self.token_lift = copy.deepcopy(token_lift).to(args.device, torch.float32).eval().requires_grad_(False)
        columns = [name for name in (*_ENCODED_COLUMNS, "context") if name in train_dataset.column_names]
        with self._frozen_tower(model) as tower:
            embeddings = self._embed_captions(tower, iterate_columns(train_dataset, columns))
        self._frozen_copy = None
        if embeddings is None and not has_adapters(model):
            self._frozen_copy = copy.deepcopy(model).eval().requires_grad_(False)
        if "data_collator" not in kwargs:
            self.data_collator = HardNegativeTripletCollator(
                processing_class,
                refined_batch=args.refined_batch,
                refined_concatenation=args.refined_concatenation,
                composition=args.composition,
                caption_embeddings=embeddings,
                with_captions=not args.target_anchored,
                length_groups=args.num_length_groups,
            )

    @contextlib.contextmanager
    def _frozen_tower(self, model):
        """Give the tower as it came: a base without its adapter, the frozen copy, or (before training) itself."""
        if hasattr(model, "disable_adapter"):  # a PeftModel
            with model.disable_adapter():
                yield model.get_base_model()
        elif has_adapters(model):
            model.disable_adapters()
            try:
                yield model
            finally:
                model.enable_adapters()
        else:
            yield getattr(self, "_frozen_copy", None) or model

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # The stock Trainer knows adapters as a PeftModel only, not on the tower itself.
        if getattr(self.model, "_hf_peft_config_loaded", False):
            load_adapter_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        if getattr(self.model, "_hf_peft_config_loaded", False):
            load_adapter_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the target-anchored loss of a batch.

        Args:
            model (`torch.nn.Module`): The wrapped text tower.
            inputs (`dict`): A batch of [`HardNegativeTripletCollator`].
            return_outputs (`bool`, defaults to `False`): Return the tower's output too.
            num_items_in_batch (`int`, *optional*): Not used: the loss is a mean over the batch.

        Returns:
            `torch.Tensor`, or a tuple of it and [`RTDTextOutput`].
        """
        reference, target, context = self._encode_anchors(inputs)
        prompt = {name: inputs[name] for name in ("input_ids", "length_groups", "branch_index") if name in inputs}
        if self.args.refined_concatenation:
            prompt["placeholder_mask"] = inputs["placeholder_mask"]
            prompt |= self._make_pseudo_tokens(reference, inputs["row"], context)
        output = model(**prompt)
        composed = output.text_embeds
        if not self.args.target_anchored:
            captions = model(input_ids=inputs["caption_input_ids"], length_groups=inputs["caption_groups"]).text_embeds
            reference, target = captions[inputs["reference_index"]], captions[inputs["target_index"]]
        pairs = []
        if self.args.composition:
            pairs.append((composed[:, 0] if composed.ndim == 3 else composed, target))
        if self.args.refined_batch:
            pairs.append((composed[:, 1] if composed.ndim == 3 else composed, reference))
        composed, anchors = (gather_embeds(torch.cat(side)) for side in zip(*pairs, strict=True))
        with torch.autocast(composed.device.type, enabled=False):
            loss = target_anchored_loss(composed.float(), anchors.float(), self.args.temperature, self.args.loss_type)
        return (loss, output) if return_outputs else loss

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Judge the tower as it is now.

        Args:
            eval_dataset ([`RetrievalEvaluator`], `datasets.Dataset`, or a `dict` of them, *optional*):
                As in the constructor, whose own is the default.
            ignore_keys (`list[str]`, *optional*): Not used.
            metric_key_prefix (`str`, defaults to `"eval"`): Prefix of the names.

        Returns:
            `dict[str, float]`: Fractions: the benchmark's metrics, or `text_recall@1` and `text_recall@10`.
        """
        data = self.eval_dataset if eval_dataset is None else _prepare_evaluation(eval_dataset)
        if data is None:
            raise ValueError("nothing to judge on: pass a RetrievalEvaluator or text triplets as `eval_dataset`.")
        if isinstance(data, dict):
            parts = (self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}") for name, part in data.items())
            return {name: value for metrics in parts for name, value in metrics.items()}
        tower = self.accelerator.unwrap_model(self.model).eval()
        if isinstance(data, RetrievalEvaluator):
            metrics = data.evaluate(
                data.model.with_parts(tower, self.projection), template=self.processor.default_template
            )
        else:
            metrics = self._evaluate_text_side(tower, data)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_text_side(self, tower, triplets: Dataset, batch_size: int = 256) -> dict[str, float]:
        """Rank the target captions for each reference caption and condition, both as text."""
        if "context_embeds" in self.projection.consumes:
            triplets = _write_contexts(triplets, self.processor)
        columns = [name for name in (*_ENCODED_COLUMNS, "context") if name in triplets.column_names]
        with self._frozen_tower(tower) as frozen:
            embeds = [encode_captions(frozen, self.processor, triplets[name][:], desc=None) for name in columns]
        reference, target, *contexts = (part.to(self.args.device) for part in embeds)
        prompts, _ = self.processor.build_prompts(triplets["conditioning_caption"][:])
        composed = []
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            words = self._project(reference[batch], contexts[0][batch] if contexts else None)
            padded = self.processor.pad(prompts[batch])
            inputs = {name: padded[name].to(self.args.device) for name in ("input_ids", "placeholder_mask")}
            composed.append(tower(**inputs, **words).text_embeds.float())
        similarities = normalize(torch.cat(composed), dim=-1) @ normalize(target, dim=-1).T
        ranking = rank_gallery(similarities.cpu().numpy())
        hits = ranking == np.arange(len(ranking))[:, None]
        return {f"text_recall@{k}": recall_at_k(hits, min(k, len(hits))) for k in (1, 10)}

    def _encode_anchors(self, inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if "reference_embeds" in inputs:
            return inputs["reference_embeds"], inputs["target_embeds"], inputs.get("context_embeds")
        with self._frozen_tower(self.accelerator.unwrap_model(self.model)) as tower:
            captions = encode_batch(tower, inputs["caption_input_ids"], inputs["caption_groups"])
        context = captions[inputs["context_index"]] if "context_index" in inputs else None
        return captions[inputs["reference_index"]], captions[inputs["target_index"]], context

    def _make_pseudo_tokens(self, reference: torch.Tensor, rows: list[int], context) -> dict[str, torch.Tensor]:
        noise = draw_noise(rows, reference.shape[1], self.args.seed, self._epoch, reference.device)
        return self._project(reference.float() + self.args.noise_scale * noise, context)

    @torch.no_grad()
    def _project(self, embeds: torch.Tensor, context: torch.Tensor | None) -> dict[str, torch.Tensor]:
        with torch.autocast(embeds.device.type, enabled=False):
            tokens = None if self.token_lift is None else self.token_lift(embeds)
            words, mask = self.projection(embeds, tokens, context)
        return {"pseudo_token_embeds": words, "pseudo_token_mask": mask}
