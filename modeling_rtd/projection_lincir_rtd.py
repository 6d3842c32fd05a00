"""LinCIR's projection: the network of SEARLE, trained from captions alone."""

from __future__ import annotations

from .projection_rtd import Paper
from .projection_searle_rtd import SEARLEProjection


__all__ = ["LinCIRProjection"]


class LinCIRProjection(SEARLEProjection):
    """The network of LinCIR (https://huggingface.co/papers/2312.01998), which is that of SEARLE.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to `4 * projection_dim`, dropout to 0.5, as published.
    """

    paper = Paper(
        "LinCIR",
        "gu2023lincir",
        "Language-only Efficient Training of Zero-shot Composed Image Retrieval",
        "Gu, Geonmo and Chun, Sanghyuk and Kim, Wonjae and Kang, Yoohoon and Yun, Sangdoo",
        "2312.01998",
    )
