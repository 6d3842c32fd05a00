"""Pic2Word's projection: two narrow layers that emit one pseudo-word."""

from __future__ import annotations

import torch
from torch import nn

from .configuration_rtd import RTDProjectionConfig
from .projection_rtd import Paper, RTDProjection


__all__ = ["Pic2WordProjection", "build_narrow_layers"]


def build_narrow_layers(in_features: int, width: int, dropout: float) -> nn.Sequential:
    """Build Pic2Word's two hidden layers, in which dropout is before the ReLU, as published.

    Args:
        in_features, width (`int`): Sizes.
        dropout (`float`): Probability.

    Returns:
        `nn.Sequential`: Two blocks.
    """
    sizes = (in_features, width)
    return nn.Sequential(*(nn.Sequential(nn.Linear(size, width), nn.Dropout(dropout), nn.ReLU()) for size in sizes))


class Pic2WordProjection(RTDProjection):
    """The network of Pic2Word (https://huggingface.co/papers/2302.03084): two narrow layers.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to 512, dropout to 0.1, as published.
    """

    paper = Paper(
        "Pic2Word",
        "saito2023pic2word",
        "Pic2Word: Mapping Pictures to Words for Zero-shot Composed Image Retrieval",
        "Saito, Kuniaki and Sohn, Kihyuk and Zhang, Xiang and Li, Chun-Liang and "
        "Lee, Chen-Yu and Saenko, Kate and Pfister, Tomas",
        "2302.03084",
    )
    prompt_template = "a photo of $ , {condition}"
    rtd_template = "rtd"  # RTD and LinCIR judge Pic2Word in their own prompt

    def __init__(self, config: RTDProjectionConfig):
        super().__init__(config)
        width = config.hidden_size or 512
        dropout = 0.1 if config.dropout is None else config.dropout
        self.layers = build_narrow_layers(config.projection_dim, width, dropout)
        self.fc_out = nn.Linear(width, config.text_hidden_size)
        self.post_init()

    def project(self, image_embeds: torch.Tensor):
        """See [`RTDProjection.project`]."""
        return self.fc_out(self.layers(image_embeds))[:, None], None  # (B, 1, H)
