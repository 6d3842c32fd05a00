"""RTD: post-hoc, text-only training of the text tower with target-anchored contrastive learning."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import normalize
from transformers import EvalPrediction, TrainerCallback

from modeling_rtd import (
    Query,
    RTDModel,
    RTDProcessor,
    RTDProjection,
    RTDTextOutput,
    RTDTextTower,
    encode_composed,
    has_adapters,
    hash_tensors,
    settle_place,
    suggest,
)
from trainer.data.captions import has_words
from trainer.data.row_files import is_stream
from trainer.data.streams import RowStream, identify_rows, sample_rows
from trainer.data.tables import add_column, iterate_columns
from trainer.data.triplets import TRIPLET_COLUMNS, prepare_triplets
from trainer.encoding.captions import encode_batch, encode_captions
from trainer.encoding.length_groups import run_in_groups
from trainer.encoding.noise import draw_noise, measure_noise, settle_noise_unit
from trainer.encoding.processes import gather_embeds
from trainer.evaluation.evaluator import RetrievalEvaluator
from trainer.evaluation.metrics import recall_at_k
from trainer.evaluation.ranking import rank_gallery
from trainer.loading import check_processor, load_processor
from trainer.publishing.provenance import name_data
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.base_trainer import BaseTrainer
from trainer.training.condition_augmentation import ConditionAugmentation, count_unread
from trainer.training.lora import load_adapter_weights
from trainer.training.losses import cosine_loss, target_anchored_loss
from trainer.training.rtd_collator import HardNegativeTripletCollator, write_contexts
from trainer.training.starting_model import check_untrained, fit_lift, load_rest, load_whole_model, take_tower


__all__ = ["RTDTrainer"]

_FIXED_IN_A_SEARCH = ("composition", "noise_unit", "template")
_ENCODED_COLUMNS = ("reference_caption", "target_caption")
_TEXT_METRICS = {"text_recall@1": 1, "text_recall@10": 10}


def _add_contexts(triplets: Dataset | RowStream, processor: RTDProcessor, composition: bool = True):
    if isinstance(triplets, RowStream):
        triplets.finish = partial(_add_contexts_to_rows, processor, composition)
        return triplets
    contexts = write_contexts(processor, triplets["conditioning_caption"], composition)
    return add_column(triplets, "context", contexts)


def _add_contexts_to_rows(processor: RTDProcessor, composition: bool, rows: list[dict]) -> list[dict]:
    contexts = write_contexts(processor, [row["conditioning_caption"] for row in rows], composition)
    return [row | {"context": context} for row, context in zip(rows, contexts, strict=True)]


def _prepare_evaluation(data, compute_metrics: Callable | None = None):
    if isinstance(data, dict):
        return {name: _prepare_evaluation(part, compute_metrics) for name, part in data.items()}
    if isinstance(data, RetrievalEvaluator) and compute_metrics is not None:
        raise ValueError(
            "`compute_metrics` is for evaluation on text triplets, but a RetrievalEvaluator has the metrics of its "
            "benchmark: leave one of the two out."
        )
    if is_stream(data):
        raise ValueError(
            "an evaluation goes through all triplets, and a stream has no end: load them with streaming=False."
        )
    return data if data is None or isinstance(data, RetrievalEvaluator) else prepare_triplets(data)


def _name_metrics(data) -> set[str]:
    if isinstance(data, dict):
        return {f"{part}_{name}" for part, inner in data.items() for name in _name_metrics(inner)}
    return set(data.benchmark.metrics if isinstance(data, RetrievalEvaluator) else _TEXT_METRICS)


def _choose_template(name: str | None, projection: RTDProjection, processor: RTDProcessor) -> RTDProcessor:
    return processor.with_template(name or projection.rtd_template or processor.default_template)


def _check_start(model, model_init, args) -> None:
    if not isinstance(args, RTDTrainingArguments):
        raise ValueError(f"`args` is a {type(args).__name__}: pass RTDTrainingArguments, which has RTD's recipe.")
    if (model is None) == (model_init is None):
        raise ValueError("pass `model`, or `model_init`, which returns it; one of the two.")


class _AugmentationCallback(TrainerCallback):
    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Before workers are started: the collator draws by epoch, as the noise is drawn.
        if augmentation := getattr(train_dataloader.collate_fn, "augmentation", None):
            augmentation.begin_epoch(int(state.epoch or 0))


@contextlib.contextmanager
def _switch_adapter_off(tower: RTDTextTower):
    is_training = tower.training
    tower.eval().disable_adapters()  # dropout would make each anchor another one
    try:
        yield
    finally:
        tower.enable_adapters()
        tower.train(is_training)


def _measure_noise(whole: RTDModel | None, tower: RTDTextTower, unit: str, processor: RTDProcessor, captions) -> float:
    """Measure the unit of noise on the tower of the anchors."""
    if whole is not None:
        return measure_noise(unit, whole.plain_text_model, processor, captions)
    with _switch_adapter_off(tower) if has_adapters(tower) else contextlib.nullcontext():
        return measure_noise(unit, tower.eval(), processor, captions)


def _find_frozen(whole: RTDModel | None, tower: RTDTextTower):
    """Find the tower of the anchors: `None` where the base of an adapter serves."""
    if whole is not None:
        return whole.plain_text_model
    return None if has_adapters(tower) else copy.deepcopy(tower).eval().requires_grad_(False)


def _settle_companions(
    whole: RTDModel | None, tower: RTDTextTower, projection: RTDProjection | None, processor: RTDProcessor | None
) -> tuple[RTDProjection, RTDProcessor]:
    if whole is not None:
        if projection is not None and projection is not whole.projection:
            raise ValueError("the model has a projection of its own: leave `projection` out.")
        projection, processor = whole.projection, processor or load_processor(whole)
    if projection is None or processor is None:
        raise ValueError(
            "a text tower alone needs `projection` and `processing_class`: pass them, or a whole RTDModel as `model`."
        )
    projection.check_text_tower(tower.config)
    check_processor(processor, tower)
    return projection, processor


def _copy_frozen(part: torch.nn.Module | None, device: torch.device) -> torch.nn.Module | None:
    # A copy, since the user's own may be of another type and in another place.
    return part and copy.deepcopy(part).to(device, torch.float32).eval().requires_grad_(False)


class RTDTrainer(BaseTrainer):
    """Train the text tower of a model with text triplets (RTD, https://huggingface.co/papers/2406.09188).

    The image side is never touched. The projection is a frozen companion. The anchors are embeddings of captions by
    the tower as it came. They are from a cache where rows repeat, from the base of an adapter, or from a frozen copy.

    Args:
        model (`str`, `Path`, [`RTDModel`], [`RTDTextModel`] or `peft.PeftModel` of it, *optional*):
            Directory or Hub id of a model with a trained projection, or the model itself, of which a copy of the text
            tower is trained. The model stays as it is, and `rtd_model` has the trained tower. A text tower alone is
            trained in place, and needs `projection` and `processing_class`. Not needed with `model_init`.
        args ([`RTDTrainingArguments`], *optional*): Defaults to the published recipe.
        projection ([`RTDProjection`], *optional*): The trained projection whose pseudo-words a tower alone reads.
        train_dataset (`str`, `Path`, `datasets.Dataset`, `datasets.IterableDataset` or [`FileStream`], *optional*):
            Text triplets, see [`load_triplets`], or a stream of them, see [`RowStream`]. Without it the trainer only
            evaluates, also a model after RTD.
        eval_dataset ([`RetrievalEvaluator`], text triplets, or a `dict` of them, *optional*):
            Judged as the arguments' `eval_strategy` says. An evaluator gives the benchmark's metrics, by which the
            best model may be kept (`metric_for_best_model="recall@10"`). Triplets give text-side recall, which does
            not measure how images are retrieved.
        processing_class ([`RTDProcessor`], *optional*): Defaults to the processor at the model's place.
        peft_config (`peft.LoraConfig`, *optional*):
            Train a new adapter instead of all weights; on all linear layers where it names no `target_modules`.
        images (`str`, `Path` or `datasets.Dataset`, *optional*):
            A few thousand unlabelled images, needed where the projection reads image tokens:
            [`fit_token_lift`] learns on them to feed it from text.
        lift_steps (`int`, defaults to 2000): Steps of that.
        token_lift ([`TokenLift`], *optional*): A fitted one, in place of `images`.
        original_text_model (`str`, *optional*):
            Directory or Hub id that holds the text tower from before RTD, such as the CLIP underneath. Without it the
            saved model carries a copy.
        model_init (callable, *optional*):
            Returns a model or its place, for each training anew, as `hyperparameter_search` needs it. It may take the
            trial; text tower and projection must be the same each time.
        compute_metrics (callable, *optional*):
            Metrics of an evaluation on text triplets, beside text-side recall, of a `transformers.EvalPrediction`:
            `predictions` are the composed embeddings and `label_ids` those of the target captions, both `np.ndarray`
            of shape `(num_triplets, projection_dim)`, not normalised.
        kwargs: As for `transformers.Trainer`.

    Raises:
        ValueError: If the model is none or is trained with RTD already, a lift is needed and neither it nor images are
            given, an adapter cannot be saved exactly, triplets are invalid, the projection's sizes do not fit the
            tower, rows do not fill a batch, or an argument would have no effect.
    """

    _refused = ()

    def __init__(
        self,
        model: str | Path | RTDModel | RTDTextTower | None = None,
        args: RTDTrainingArguments | None = None,
        *,
        projection: RTDProjection | None = None,
        train_dataset: str | Path | Dataset | None = None,
        processing_class: RTDProcessor | None = None,
        eval_dataset=None,
        peft_config=None,
        images=None,
        lift_steps: int = 2000,
        token_lift: torch.nn.Module | None = None,
        original_text_model: str | None = None,
        model_init: Callable | None = None,
        **kwargs,
    ):
        args = args or RTDTrainingArguments()
        _check_start(model, model_init, args)
        self.model_init, self._peft_config, self._original_place = model_init, peft_config, original_text_model
        self._is_for_training = train_dataset is not None
        self._has_own_collator = self._is_for_training and kwargs.get("data_collator") is None
        whole, tower = self._start(model if model_init is None else super().call_model_init(), args.device)
        projection, processing_class = _settle_companions(whole, tower, projection, processing_class)
        processing_class = _choose_template(args.template, projection, processing_class)
        run_facts, data = {"text_model": hash_tensors(tower), "projection": hash_tensors(projection)}, {}
        if train_dataset is not None:
            data = {"triplets": name_data(train_dataset)} | ({} if images is None else {"images": name_data(images)})
            args.noise_unit = settle_noise_unit(args.noise_unit, tower)  # which is compared when a run is resumed
            train_dataset = prepare_triplets(train_dataset, None, args.bad_rows, args.joined_batch_size)
            references, conditions = map(sample_rows(train_dataset).__getitem__, TRIPLET_COLUMNS[:2])
            size = run_facts["noise_size"] = _measure_noise(
                whole, tower, args.noise_unit, processing_class, references
            )
            run_facts["triplets"] = identify_rows(train_dataset, TRIPLET_COLUMNS)
            if "context_embeds" in projection.consumes:
                train_dataset = _add_contexts(train_dataset, processing_class, args.composition)
            if token_lift is None:
                token_lift = fit_lift(whole, projection, processing_class, images, conditions, args, lift_steps, size)
        if token_lift is not None:
            run_facts["token_lift"] = hash_tensors(token_lift)
        super().__init__(
            tower,
            args,
            train_dataset=train_dataset,
            eval_dataset=_prepare_evaluation(eval_dataset, kwargs.get("compute_metrics")),
            whole=whole,
            processor=processing_class,
            run_facts=run_facts,
            stage="rtd",
            data=data,
            **kwargs,
        )
        self.model_init = model_init  # the stock Trainer takes a model or this, but not both
        self.projection, self.token_lift = (_copy_frozen(part, args.device) for part in (projection, token_lift))
        self._frozen = _find_frozen(whole, tower)
        if self._has_own_collator:
            self.data_collator = self._build_collator(tower)
            self.add_callback(_AugmentationCallback)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        name = self.args.metric_for_best_model
        if name is None or self.eval_dataset is None or self.compute_metrics is not None:
            return
        # Before training: transformers would stop in the middle of it.
        known = _name_metrics(self.eval_dataset)
        if name.removeprefix("eval_").partition("/")[0] not in known:  # `semantic_map@10/cardinality` has a part
            raise ValueError(f"metric_for_best_model: {suggest('metric', name, known)}")

    def _start(self, model, device: torch.device) -> tuple[RTDModel | None, RTDTextTower]:
        """Settle the whole model, if there is one, and the tower to train."""
        whole = load_whole_model(model)
        if whole is not None:
            whole = whole.to(device).eval()
            if self._is_for_training:
                check_untrained(whole, self._original_place)
        return whole, take_tower(model, whole, self._peft_config)

    def call_model_init(self, trial=None) -> RTDTextTower:
        """Take the tower of a fresh model, as each training of a search does.

        Args:
            trial (*optional*): Handed to `model_init` where it takes an argument.

        Returns:
            [`RTDTextModel`]: The tower to train.

        Raises:
            ValueError: If text tower or projection are not those that the trainer was made with.
        """
        self._whole, tower = self._start(super().call_model_init(trial), self.args.device)
        projection = self.projection if self._whole is None else self._whole.projection
        for name, part in {"text_model": tower, "projection": projection}.items():
            if hash_tensors(part) != self.run_facts[name]:
                raise ValueError(f"`model_init` returned another {name} than before: it must give the same each time.")
        return tower

    def _hp_search_setup(self, trial) -> None:
        super()._hp_search_setup(trial)
        # The trial has changed the arguments after the run's facts and the collator were made from them.
        recipe = self._describe_recipe()
        changed = [name for name in recipe if recipe[name] != self.run_facts[name]]
        if fixed := [name for name in changed if name in _FIXED_IN_A_SEARCH]:
            raise ValueError(
                f"a search cannot vary {', '.join(fixed)}: the triplets are prepared with it once; start one search "
                "for each value."
            )
        self.run_facts |= recipe
        if changed and self._has_own_collator:
            self.data_collator = self._build_collator(self.model)

    def _build_collator(self, tower: RTDTextTower) -> HardNegativeTripletCollator:
        args, rows = self.args, self.train_dataset
        augmentation, embeddings = self._build_augmentation(), None
        columns = [name for name in (*_ENCODED_COLUMNS, "context") if name in sample_rows(rows).column_names]
        # A cache cannot know the contexts of conditions that are yet to be drawn, and a stream has none.
        if not self._streams and (augmentation is None or "context" not in columns):
            with self._frozen_tower(tower) as frozen:
                embeddings = self._embed_captions(frozen, iterate_columns(rows, columns))
        return HardNegativeTripletCollator(
            self.processor,
            refined_batch=args.refined_batch,
            refined_concatenation=args.refined_concatenation,
            composition=args.composition,
            caption_embeddings=embeddings,
            with_captions=not args.target_anchored,
            length_groups=args.num_length_groups,
            caption_interval=args.caption_interval if args.caption_weight else None,
            augmentation=augmentation,
        )

    def _build_augmentation(self) -> ConditionAugmentation | None:
        names, rows = self.args.condition_augmentation, sample_rows(self.train_dataset)
        if not names:
            return None
        if (unread := count_unread(rows)) and self.is_world_process_zero():
            warnings.warn(
                f"{unread} of {len(rows)} triplets are not in English, which is all that condition_augmentation "
                "knows: their conditions stay as they are.",
                stacklevel=2,
            )
        return ConditionAugmentation(names, self.args.seed, partial(has_words, self.processor.tokenizer))

    @property
    def rtd_model(self) -> RTDModel:
        """[`RTDModel`]: The whole model with the tower as it is trained so far, and the one from before RTD kept.

        It shares its other parts with the model that the trainer was given.

        Raises:
            ValueError: If the trainer was given a text tower alone, and the rest of the model cannot be loaded from
                where the tower was.
        """
        if not self._is_for_training:
            return self._whole
        tower = self.accelerator.unwrap_model(self.model)
        if self._whole is None:
            self._whole = load_rest(tower, self.projection)
        whole = self._whole
        if whole.text_model is tower and self._frozen is not None:
            # Trained in place: the frozen copy is what the tower was.
            whole = whole.with_parts(self._frozen, whole.projection)
        if hash_tensors(whole.text_model) != self.run_facts["text_model"]:
            raise ValueError(
                "the model has another text tower than the one that training started from, which a tower trained in "
                "place has not. Pass the whole RTDModel to the trainer, or as save_model(model=...)."
            )
        if has_adapters(tower):
            model = whole.with_parts(tower.eval(), whole.projection)
            model.config.base_model = whole.config.base_model or settle_place(whole.name_or_path)
            return model
        # A copy: the model that came keeps its own tower.
        model = whole.with_parts(whole.text_model, whole.projection)
        model.replace_text_model(tower, self._original_place)
        return model

    @contextlib.contextmanager
    def _frozen_tower(self, tower: RTDTextTower):
        """Give the tower as it came: the model's own, a frozen copy, or the base without its adapter."""
        if self._frozen is not None:
            yield self._frozen
            return
        with _switch_adapter_off(tower):
            yield tower

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
        """Compute the target-anchored loss of a batch, and with `caption_weight` the term of its plain captions.

        Args:
            model (`torch.nn.Module`): The wrapped text tower.
            inputs (`dict`): A batch of [`HardNegativeTripletCollator`].
            return_outputs (`bool`, defaults to `False`): Return the composed embeddings too.
            num_items_in_batch (`int`, *optional*): Not used: the loss is a mean over the batch.

        Returns:
            `torch.Tensor`, or a tuple of it and [`RTDTextOutput`].
        """
        reference, target, context = self._encode_anchors(inputs)
        prompt = {name: inputs[name] for name in ("input_ids", "branch_index") if name in inputs}
        if self.args.refined_concatenation:
            prompt["placeholder_mask"] = inputs["placeholder_mask"]
            # One draw of noise for both prompts of a triplet, as published.
            prompt |= self._make_pseudo_tokens(reference, inputs["row"], context)
        # Through the wrapper: the published code goes around it, so that its processes never average their gradients.
        composed = embeds = run_in_groups(model, inputs.get("length_groups"), **prompt)
        drift = self._measure_drift(model, inputs["plain"], reference, target) if "plain" in inputs else None
        if not self.args.target_anchored:
            # An ablation: captions run through the tower in training, so the anchors move too.
            captions = run_in_groups(model, inputs["caption_groups"], input_ids=inputs["caption_input_ids"])
            reference, target = captions[inputs["reference_index"]], captions[inputs["target_index"]]
        pairs = []
        if self.args.composition:
            pairs.append((composed[:, 0] if composed.ndim == 3 else composed, target))
        if self.args.refined_batch:
            pairs.append((composed[:, 1] if composed.ndim == 3 else composed, reference))
        loss = self._contrast(pairs)
        if drift is not None:
            loss = loss + self.args.caption_weight * drift
        return (loss, RTDTextOutput(text_embeds=embeds)) if return_outputs else loss

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
        data = self.eval_dataset
        if eval_dataset is not None:
            data = _prepare_evaluation(eval_dataset, self.compute_metrics)
        if data is None:
            raise ValueError("nothing to judge on: pass a RetrievalEvaluator or text triplets as `eval_dataset`.")
        if isinstance(data, dict):
            parts = (self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}") for name, part in data.items())
            return {name: value for metrics in parts for name, value in metrics.items()}
        tower = self.accelerator.unwrap_model(self.model).eval()
        if isinstance(data, RetrievalEvaluator):
            # With the evaluator's vision tower, which encoded its gallery once.
            metrics = data(data.model.with_parts(tower, self.projection), template=self.processor.default_template)
        else:
            metrics = self._evaluate_text_side(tower, data)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_text_side(self, tower, triplets: Dataset, batch_size: int = 256) -> dict[str, float]:
        """Rank the target captions for each reference caption and condition, both as text."""
        if "context_embeds" in self.projection.consumes:
            triplets = _add_contexts(triplets, self.processor)
        columns = [name for name in (*_ENCODED_COLUMNS, "context") if name in triplets.column_names]
        with self._frozen_tower(tower) as frozen:
            embeds = [encode_captions(frozen, self.processor, triplets[name][:], desc=None) for name in columns]
        reference, target, *contexts = (part.to(self.args.device) for part in embeds)
        conditions = triplets["conditioning_caption"][:]
        composed = []
        for start in range(0, len(conditions), batch_size):
            batch = slice(start, start + batch_size)
            words, mask = self._project(reference[batch], contexts[0][batch] if contexts else None).values()
            queries = [
                Query(text, pseudo_tokens=(words[row : row + 1], None if mask is None else mask[row : row + 1]))
                for row, text in enumerate(conditions[batch])
            ]
            composed.append(encode_composed(tower, self.processor, queries))
        similarities = torch.cat(composed) @ normalize(target, dim=-1).T.cpu()
        ranking = rank_gallery(similarities.numpy())
        hits = ranking == np.arange(len(ranking))[:, None]
        # A small evaluation is not an error.
        recall = {name: recall_at_k(hits, min(k, len(hits))) for name, k in _TEXT_METRICS.items()}
        return recall | self._compute_own_metrics(torch.cat(composed), target)

    def _compute_own_metrics(self, composed: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
        if self.compute_metrics is None:
            return {}
        return self.compute_metrics(EvalPrediction(composed.cpu().numpy(), target.cpu().numpy())) or {}

    def _encode_anchors(self, inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if "reference_embeds" in inputs:
            return inputs["reference_embeds"], inputs["target_embeds"], inputs.get("context_embeds")
        if "caption_input_ids" not in inputs:
            raise ValueError(
                f"`data_collator` made a batch of {sorted(inputs)}, which is not that of HardNegativeTripletCollator: "
                "leave it out, or derive yours from that one."
            )
        with self._frozen_tower(self.accelerator.unwrap_model(self.model)) as tower:
            captions = encode_batch(tower, inputs["caption_input_ids"], inputs["caption_groups"])
        context = captions[inputs["context_index"]] if "context_index" in inputs else None
        return captions[inputs["reference_index"]], captions[inputs["target_index"]], context

    def _contrast(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        # Negatives are those of all processes; the published code has those of one GPU.
        embeds, anchors = (gather_embeds(torch.cat(side)) for side in zip(*pairs, strict=True))
        # Half precision would round cosines before they are divided by 0.07.
        with torch.autocast(embeds.device.type, enabled=False):
            return target_anchored_loss(embeds.float(), anchors.float(), self.args.temperature, self.args.loss_type)

    def _measure_drift(self, model, plain: dict, reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the mean of 1 - cosine of plain captions with their own frozen anchors."""
        embeds = run_in_groups(model, plain["caption_groups"], input_ids=plain["caption_input_ids"])
        # Each triplet counts alike, though each distinct caption is read once: so processes agree with one.
        embeds = torch.cat([embeds[plain["reference_index"]], embeds[plain["target_index"]]])
        anchors = torch.cat([reference[plain["rows"]], target[plain["rows"]]])
        with torch.autocast(embeds.device.type, enabled=False):
            return cosine_loss(embeds.float(), anchors.float())

    def _make_pseudo_tokens(self, reference: torch.Tensor, rows: list[int], context) -> dict[str, torch.Tensor]:
        noise = draw_noise(rows, reference.shape[1], self.args.seed, self._epoch, reference.device)
        return self._project(reference.float() + self.args.noise_scale * self.run_facts["noise_size"] * noise, context)

    @torch.no_grad()
    def _project(self, embeds: torch.Tensor, context: torch.Tensor | None) -> dict[str, torch.Tensor]:
        with torch.autocast(embeds.device.type, enabled=False):
            tokens = None if self.token_lift is None else self.token_lift(embeds)
            words, mask = self.projection(embeds, tokens, context)
        return {"pseudo_token_embeds": words, "pseudo_token_mask": mask}
