"""CLIP, MetaCLIP 2 or SigLIP of a world: a word-level tokenizer and contrastive training from scratch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from modeling_rtd import open_image, suggest
from trainer.training.progress import LossBarCallback
from trainer.worlds.data import WorldData
from trainer.worlds.world import World, WorldPreset


__all__ = ["build_tokenizer", "count_steps", "train_clip"]

_SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>", "eos_token": "<eos>"}
# Ids from 0 on, and what stands around a text. An end of text of 2 is what the released MetaCLIP 2 has.
_ORDERS = {
    "clip": ("<pad> <bos> <unk> <eos>", "<bos> $A <eos>"),
    "metaclip_2": ("<bos> <pad> <eos> <unk>", "<bos> $A <eos>"),
    "siglip": ("<pad> <bos> <unk> <eos>", "$A <eos>"),
}
_MAX_SHIFT_PX = 2


def build_tokenizer(world: World, preset: str | WorldPreset = "demo", family: str = "clip") -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer of a world.

    Args:
        world ([`World`]): The world.
        preset (`str` or [`WorldPreset`], defaults to `"demo"`): Sets the length; all presets share their words.
        family (`str`, defaults to `"clip"`): See [`train_clip`].

    Returns:
        `PreTrainedTokenizerFast`: Lower-cases, puts `<bos>` before (not for SigLIP) and `<eos>` after a text; `$` is
        an ordinary word.

    Raises:
        ValueError: If the preset or the family is unknown.
    """
    if family not in _ORDERS:
        raise ValueError(suggest("family of backbones", family, _ORDERS))
    specials, single = _ORDERS[family]
    length = world.find_preset(preset).context_length
    vocabulary = {word: i for i, word in enumerate([*specials.split(), *world.list_words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, vocabulary[token]) for token in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
        **_SPECIAL_TOKENS,
    )


def count_steps(preset: WorldPreset, family: str = "clip") -> int:
    """Count the steps of a backbone's training.

    Args:
        preset ([`WorldPreset`]): Sets the steps with the loss of CLIP.
        family (`str`, defaults to `"clip"`): See [`train_clip`].

    Returns:
        `int`: With those of SigLIP's own loss, a third as many.
    """
    return preset.clip_steps + (preset.clip_steps // 3 if family == "siglip" else 0)


def train_clip(
    data: WorldData,
    seed: int = 0,
    output_dir: str | Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    family: str = "clip",
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, CLIPImageProcessorPil | SiglipImageProcessorPil]:
    """Train a CLIP, a MetaCLIP 2 or a SigLIP from scratch on the images of a world, by the recipe of its preset.

    AdamW with a cosine schedule, gradients clipped at 1. Every visit of an image draws one of its captions, a shift of
    up to 2 px and a mirror image. (Captions never speak of left and right.) Where the world asks for hard batches,
    every other step is one. A SigLIP starts with the loss of CLIP, since a sigmoid loss from scratch aligns badly at
    small batches. It has a third as many further steps of its own loss.

    Args:
        data ([`WorldData`]): Images with captions; its preset sets the sizes and the recipe.
        seed (`int`, defaults to 0): Seed of weights, order and augmentation.
        output_dir (`str` or `Path`, *optional*): Where model, tokenizer and image processor are saved, if anywhere.
        callbacks (sequence of `transformers.TrainerCallback`, defaults to none): Passed to the `Trainer`.
        family (`str`, defaults to `"clip"`): `"clip"`, `"metaclip_2"` or `"siglip"`.

    Returns:
        `tuple`: The model in evaluation mode, its tokenizer, and an image processor that leaves images of the world's
        size as they are but for the family's mean and standard deviation.

    Raises:
        ValueError: If the family is unknown.
    """
    preset, tokenizer = data.preset, build_tokenizer(data.world, data.preset, family)
    image_processor = _build_image_processor(preset, family)
    set_seed(seed)
    model = _build_model(preset, tokenizer, family)
    steps = count_steps(preset, family)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=preset.clip_batch_size,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            max_grad_norm=1.0,
            seed=seed,
            logging_steps=50,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=False,
        )
        trainer = (_SiglipTrainer if family == "siglip" else _HardBatchTrainer)(
            data,
            model,
            arguments,
            data_collator=_PairCollator(data, tokenizer, image_processor, seed, is_full=family == "siglip"),
            train_dataset=range(len(data.images)),
            callbacks=list(callbacks),
            optimizers=_build_optimizer(model, preset, steps),
        )
        LossBarCallback.install(trainer, "CLIP")
        trainer.train()
    model.eval()
    if output_dir is not None:
        for part in (model, tokenizer, image_processor):
            part.save_pretrained(output_dir)
    return model, tokenizer, image_processor


def _build_optimizer(model: PreTrainedModel, preset: WorldPreset, steps: int) -> tuple:
    # "not on vectors": transformers would also decay the class embedding and the logit scale.
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": preset.clip_weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=preset.clip_learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=True)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, preset.clip_warmup_steps, steps)


class _HardBatchTrainer(Trainer):
    """Reads the rows of every other batch from few values of some attributes, where the world asks for it."""

    def __init__(self, data: WorldData, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.data = data

    def _get_train_sampler(self, *args, **kwargs) -> Sampler:
        if not self.data.world.hard_batches:
            return super()._get_train_sampler(*args, **kwargs)
        return _HardBatchSampler(self.data, self.args.per_device_train_batch_size, self.args.seed)


class _SiglipTrainer(_HardBatchTrainer):
    """Trains with the loss of CLIP for the steps of the preset, and with SigLIP's own from then on."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs, first = model(**inputs), self.data.preset.clip_steps
        if self.state.global_step < first:
            logits = outputs.logits_per_text
            rows = torch.arange(len(logits), device=logits.device)
            loss = (cross_entropy(logits, rows) + cross_entropy(logits.T, rows)) / 2
            return (loss, outputs) if return_outputs else loss
        if self.state.global_step == first:
            # A bias for batches of this size at the scale that is reached; CLIP's loss does not depend on it.
            with torch.no_grad():
                model.logit_bias.copy_(-0.5 * model.logit_scale.exp())
            outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class _HardBatchSampler(Sampler):
    """Gives row numbers batch by batch: any rows, then rows that agree in what `World.hard_batches` names."""

    def __init__(self, data: WorldData, batch_size: int, seed: int):
        self.columns = {name: np.array(data.images[name][:]) for name in data.world.hard_batches}
        self.counts, self.num_rows, self.batch_size = data.world.hard_batches, len(data.images), batch_size
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.num_rows // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        order = self.rng.permutation(self.num_rows)
        for batch, start in enumerate(range(0, len(self), self.batch_size)):
            yield from (self._draw_hard_batch() if batch % 2 else order[start : start + self.batch_size]).tolist()

    def _draw_hard_batch(self) -> np.ndarray:
        fits = np.ones(self.num_rows, dtype=bool)
        for name, count in self.counts.items():
            column = self.columns[name]
            fits &= np.isin(column, self.rng.choice(np.unique(column), count, replace=False))
        rows = np.flatnonzero(fits)
        return self.rng.choice(rows, self.batch_size, replace=len(rows) < self.batch_size)


class _PairCollator:
    """Turns row numbers into shifted, mirrored pictures, each with one of its captions; holds all images as bytes."""

    def __init__(self, data: WorldData, tokenizer, image_processor, seed: int, is_full: bool):
        # As bytes: a data set would decode each picture anew at each look.
        encoded = data.images.with_format("arrow")["image"]
        shift, side = (_MAX_SHIFT_PX, _MAX_SHIFT_PX), data.preset.image_size_px + 2 * _MAX_SHIFT_PX
        pixels = np.empty((len(encoded), side, side, 3), dtype=np.uint8)
        for row, image in zip(pixels, encoded, strict=True):
            # Edges go on, so that a shift shows no border that no picture has.
            row[:] = np.pad(np.asarray(open_image(image["bytes"].as_py())), (shift, shift, (0, 0)), mode="edge")
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (images, 3, height + 4, width + 4), uint8
        self.captions = list(data.images["captions"])
        # SigLIP sees its padding, and learns with rows of full length.
        self.tokenizer, self.padding = tokenizer, "max_length" if is_full else True
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (image_processor.image_mean, image_processor.image_std))
        self.scale, self.offset = 1 / (255 * std), -mean / std
        self.size = data.preset.image_size_px
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, rows: list[int]) -> dict:
        count, generator = len(rows), self.generator
        shifts = torch.randint(2 * _MAX_SHIFT_PX + 1, (count, 2), generator=generator).tolist()
        choices = torch.randint(len(self.captions[0]), (count,), generator=generator).tolist()
        mirrored = torch.rand(count, generator=generator) < 0.5
        corners = zip(rows, shifts, strict=True)
        crops = [self.pixels[i, :, y : y + self.size, x : x + self.size] for i, (y, x) in corners]
        pixel_values = torch.stack(crops) * self.scale + self.offset  # (batch, 3, size, size)
        pixel_values = torch.where(mirrored.view(-1, 1, 1, 1), pixel_values.flip(-1), pixel_values)
        texts = [self.captions[i][k] for i, k in zip(rows, choices, strict=True)]
        # No attention mask: the tower is causal, so that no token sees the padding behind it, or it is SigLIP's.
        input_ids = self.tokenizer(texts, padding=self.padding, return_tensors="pt")["input_ids"]
        return {"pixel_values": pixel_values, "input_ids": input_ids, "return_loss": True}


def _build_image_processor(preset: WorldPreset, family: str) -> CLIPImageProcessorPil | SiglipImageProcessorPil:
    size = {"height": preset.image_size_px, "width": preset.image_size_px}
    if family == "siglip":
        return SiglipImageProcessorPil(size=size)
    return CLIPImageProcessorPil(size={"shortest_edge": preset.image_size_px}, crop_size=size)


def _build_model(preset: WorldPreset, tokenizer: PreTrainedTokenizerFast, family: str) -> PreTrainedModel:
    # The plain GELU of OpenCLIP: one kernel where quick GELU is three; steps are 6 to 10 % shorter on CPU.
    tower = {
        "hidden_act": "gelu",
        "hidden_size": preset.hidden_size,
        "intermediate_size": 4 * preset.hidden_size,
        "num_attention_heads": preset.attention_heads,
    }
    text = {
        "num_hidden_layers": preset.text_layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": preset.context_length,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "num_hidden_layers": preset.vision_layers,
        "image_size": preset.image_size_px,
        "patch_size": preset.patch_size,
    }
    if family == "siglip":
        model = SiglipModel(SiglipConfig(text_config=tower | text, vision_config=tower | vision))
        torch.nn.init.constant_(model.logit_scale, CLIPConfig().logit_scale_init_value)  # SigLIP's own is 0
        return model
    tower["projection_dim"] = preset.hidden_size
    config, build = (CLIPConfig, CLIPModel) if family == "clip" else (MetaClip2Config, MetaClip2Model)
    return build(config(text_config=tower | text, vision_config=tower | vision, projection_dim=preset.hidden_size))
