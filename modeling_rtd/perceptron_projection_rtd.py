"""Projections of the pooled image embedding: small perceptrons that emit one pseudo-word."""

from __future__ import annotations

import torch
from torch import nn

from .configuration_rtd import RTDProjectionConfig
from .projection_rtd import RTDProjection


__all__ = ["Pic2WordProjection", "SEARLEProjection", "build_narrow_layers", "build_wide_layers"]


def build_wide_layers(in_features: int, width: int, out_features: int, dropout: float) -> nn.Sequential:
    """Build SEARLE's perceptron: two hidden layers with GELU, dropout after each.

    Args:
        in_features, width, out_features (`int`): Sizes.
        dropout (`float`): Probability.

    Returns:
        `nn.Sequential`: Its linear layers at places 0, 3 and 6, as published.
    """
    return nn.Sequential(
        nn.Linear(in_features, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, out_features),
    )


def build_narrow_layers(in_features: int, width: int, dropout: float) -> nn.Sequential:
    """Build Pic2Word's two hidden layers, in which dropout stands before the ReLU, as published.

    Args:
        in_features, width (`int`): Sizes.
        dropout (`float`): Probability.

    Returns:
        `nn.Sequential`: Two blocks.
    """
    sizes = (in_features, width)
    return nn.Sequential(*(nn.Sequential(nn.Linear(size, width), nn.Dropout(dropout), nn.ReLU()) for size in sizes))


class SEARLEProjection(RTDProjection):
    """The network of SEARLE and of LinCIR: a three-layer perceptron.

    SEARLE: https://huggingface.co/papers/2303.15247. LinCIR: https://huggingface.co/papers/2312.01998.
    The two differ in how it is trained only.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to `4 * projection_dim`, dropout to 0.5, as published.
    """

    def __init__(self, config: RTDProjectionConfig):
        super().__init__(config)
        width = config.hidden_size or 4 * config.projection_dim
        dropout = 0.5 if config.dropout is None else config.dropout
        self.layers = build_wide_layers(config.projection_dim, width, config.text_hidden_size, dropout)
        self.post_init()

    def project(self, image_embeds: torch.Tensor):
        """See [`RTDProjection.project`]."""
        return self.layers(image_embeds)[:, None], None  # (B, 1, H)


class Pic2WordProjection(RTDProjection):
    """The network of Pic2Word (https://huggingface.co/papers/2302.03084): two narrow layers.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to 512, dropout to 0.1, as published.
    """

    prompt_template = "a photo of $ , {condition}"
    rtd_template = "rtd"

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
