"""Families of backbones: their classes, what their repositories leave to be settled, and how they are loaded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import (
    CLIPModel,
    CLIPVisionModel,
    MetaClip2Model,
    MetaClip2VisionModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipModel,
    SiglipVisionModel,
)

from .configuration_rtd import find_placeholder_token_id, read_backbone_config, read_text_config
from .errors_rtd import pick_where, refuse_missing, suggest
from .modeling_text_rtd import RTDSiglipTextModel, RTDTextModel, RTDTextTower


__all__ = [
    "Backbone",
    "check_text_features",
    "find_backbone",
    "load_backbone",
    "load_text_model",
    "settle_text_config",
]

_TEXTS = ("a photo of a red dress", "two dogs")


class Backbone(NamedTuple):
    """What its configuration does not say about a family.

    Args:
        model (`type`): transformers' class of the whole.
        vision_model (`type`): transformers' vision tower.
        text_model (`type`): Our text tower.
        has_visual_projection (`bool`, defaults to `True`): Whether a linear layer leads from it to the joint space.
        has_logit_bias (`bool`, defaults to `False`): Whether a bias is beside the temperature, of shape `(1,)`.
        has_class_token (`bool`, defaults to `True`): Whether the first of the vision tower's tokens is of no patch.
    """

    model: type
    vision_model: type
    text_model: type
    has_visual_projection: bool = True
    has_logit_bias: bool = False
    has_class_token: bool = True


# By name and not by class, since the Hub copies our classes.
_BACKBONES = {
    "clip_text_model": Backbone(CLIPModel, CLIPVisionModel, RTDTextModel),
    "metaclip_2_text_model": Backbone(MetaClip2Model, MetaClip2VisionModel, RTDTextModel),
    "siglip_text_model": Backbone(SiglipModel, SiglipVisionModel, RTDSiglipTextModel, False, True, False),
}


def find_backbone(text_config: PreTrainedConfig) -> Backbone:
    """Find the family that a text configuration is of.

    Args:
        text_config ([`RTDTextConfig`] or [`RTDSiglipTextConfig`]): Of the text tower, ours or transformers' own.

    Returns:
        [`Backbone`]: The family.

    Raises:
        ValueError: If there is no tower for it here.
    """
    name = getattr(text_config, "model_type", None)
    if name not in _BACKBONES:
        raise ValueError(suggest("kind of text tower", name, _BACKBONES))
    return _BACKBONES[name]


def load_backbone(place: str, **kwargs) -> PreTrainedModel:
    """Load a backbone, or that of a saved [`RTDModel`], as the class of its family.

    Args:
        place (`str`): Directory or Hub id.
        kwargs: Passed to `from_pretrained`.

    Returns:
        `transformers.PreTrainedModel`: Whole.

    Raises:
        ValueError: If it is of another architecture, or lacks tensors.
    """
    config = read_backbone_config(place, **pick_where(kwargs))
    text_config = getattr(config, "text_config", None)
    if text_config is None:
        raise ValueError(f"'{place}' is a text tower alone: name a whole backbone, which has a vision tower too.")
    model, report = find_backbone(text_config).model.from_pretrained(place, output_loading_info=True, **kwargs)
    refuse_missing(report, place, f"a {type(model).__name__}")
    return model


def load_text_model(place: str, **kwargs) -> RTDTextTower:
    """Load a text tower from a backbone, from a tower saved alone, or from a saved [`RTDModel`].

    Args:
        place (`str`): Directory or Hub id.
        kwargs: Passed to `from_pretrained`.

    Returns:
        [`RTDTextModel`] or [`RTDSiglipTextModel`]: That of its family.

    Raises:
        ValueError: If it is of another architecture, or lacks tensors.
    """
    config = read_text_config(place, **pick_where(kwargs))
    return find_backbone(config).text_model.from_pretrained(place, config=config, **kwargs)


def settle_text_config(config: PreTrainedConfig, tokenizer) -> dict:
    """Settle what repositories say wrongly, or not at all, about their text tower.

    Args:
        config (`transformers.PreTrainedConfig`): Of the whole backbone.
        tokenizer (`transformers.PreTrainedTokenizerBase`): Its tokenizer.

    Returns:
        `dict`: Values of the text configuration.

    Raises:
        ValueError: If the tokenizer does not fit the tower: it has more ids, or it does not end a text where the tower
            pools.
    """
    text, ids = config.text_config, tokenizer(_TEXTS[0])["input_ids"]
    if len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} ids and the text tower {text.vocab_size}: it is that of another "
            "model; pass the tokenizer of this one."
        )
    settled = {"placeholder_token_id": find_placeholder_token_id(tokenizer)}
    if config.model_type == "siglip":
        return settled | {"pad_token_id": tokenizer.pad_token_id}  # see `read_text_config`
    is_largest = config.model_type == "clip" and text.eos_token_id == 2
    end = max(ids) if is_largest else text.eos_token_id
    if end != ids[-1] or ids.index(end) != len(ids) - 1:
        raise ValueError(
            f"the text tower pools at the id {end}, but the tokenizer ends a text with {ids[-1]}. Pass the tokenizer "
            "of this model, or correct `eos_token_id` of its text configuration."
        )
    # Some text parts keep the default of 512, which the whole model does not read.
    return settled | {"projection_dim": config.projection_dim}


@torch.no_grad()
def check_text_features(backbone: PreTrainedModel, tower: RTDTextTower, tokenizer) -> None:
    """Compare plain text features of two texts with those of the family's own class.

    Args:
        backbone (`transformers.PreTrainedModel`): Of the family's own class.
        tower ([`RTDTextModel`] or [`RTDSiglipTextModel`]): With its weights.
        tokenizer (`transformers.PreTrainedTokenizerBase`): Of both.

    Raises:
        ValueError: If they differ.
    """
    length, was_training = tower.config.max_position_embeddings, backbone.training
    # SigLIP pools the last position: its own class gives features of full rows alone.
    batch = tokenizer(list(_TEXTS), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    if backbone.config.model_type == "siglip":
        batch.pop("attention_mask", None)  # SigLIP was trained to see its padding
    names = [name for name in ("input_ids", "attention_mask") if name in batch]
    theirs = backbone.eval().get_text_features(**{name: batch[name].to(backbone.device) for name in names})
    backbone.train(was_training)
    theirs = theirs.pooler_output.float().cpu()
    ours = tower(input_ids=batch["input_ids"].to(tower.device)).text_embeds.float().cpu()
    difference = ((ours - theirs).norm() / theirs.norm()).item()
    if not difference < (1e-3 if backbone.dtype == torch.float32 else 5e-2):  # true of NaN too
        raise ValueError(
            f"text features differ from those of {type(backbone).__name__} by {difference:.3f} of their size. The "
            "configuration or the tokenizer of this repository does not fit its weights: name another one."
        )
