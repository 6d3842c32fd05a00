"""SEARLE's projection: a three-layer perceptron that emits one pseudo-word."""

from __future__ import annotations

import torch
from torch import nn

from .configuration_rtd import RTDProjectionConfig
from .projection_rtd import Paper, RTDProjection


__all__ = ["SEARLEProjection", "build_wide_layers"]


def build_wide_layers(config: RTDProjectionConfig) -> nn.Sequential:
    """Build SEARLE's perceptron: two hidden layers with GELU, dropout after each.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to `4 * projection_dim`, dropout to 0.5, as published.

    Returns:
        `nn.Sequential`: Its linear layers at places 0, 3 and 6, as published.
    """
    width = config.hidden_size or 4 * config.projection_dim
    dropout = 0.5 if config.dropout is None else config.dropout
    return nn.Sequential(
        nn.Linear(config.projection_dim, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, config.text_hidden_size),
    )


class SEARLEProjection(RTDProjection):
    """The network of SEARLE (https://huggingface.co/papers/2303.15247): a three-layer perceptron.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to `4 * projection_dim`, dropout to 0.5, as published.
    """

    paper = Paper(
        "SEARLE",
        "baldrati2023searle",
        "Zero-Shot Composed Image Retrieval with Textual Inversion",
        "Baldrati, Alberto and Agnolucci, Lorenzo and Bertini, Marco and Del Bimbo, Alberto",
        "2303.15247",
    )

    def __init__(self, config: RTDProjectionConfig):
        super().__init__(config)
        self.layers = build_wide_layers(config)
        self.post_init()

    def project(self, image_embeds: torch.Tensor):
        """See [`RTDProjection.project`]."""
        return self.layers(image_embeds)[:, None], None  # (B, 1, H)
