"""Projections: networks that turn a CLIP image embedding into pseudo-words in the text tower's token space."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_rtd import RTDProjectionConfig, suggest


__all__ = [
    "PROJECTIONS",
    "RTD_TEMPLATE",
    "Pic2WordProjection",
    "RTDProjection",
    "SEARLEProjection",
    "build_projection",
    "load_projection",
]


RTD_TEMPLATE = "a photo of $ that {condition}"


class RTDProjection(PreTrainedModel):
    """Interface of all projections.

    A projection says what it consumes and how many pseudo-words it emits at most, and it owns the prompt in which its
    pseudo-words are read. Nothing else in the package asks which projection it holds.

    Attributes:
        consumes (`tuple[str, ...]`): Which of `image_embeds`, `image_tokens`, `context_embeds` it reads.
        max_pseudo_tokens (`int`): Number K of pseudo-words at most.
        prompt_template (`str`): Prompt of a composed query, each `$` a pseudo-word; up to its last `$` it is the
            prompt of the reference alone.
        rtd_template (`str`, *optional*): Name of the template that RTD trains and answers with; its own by default.
    """

    config_class = RTDProjectionConfig
    base_model_prefix = "projection"
    main_input_name = "image_embeds"
    # A projection also loads from a whole model, of which it takes its own part.
    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^text_projection\.", r"^vis", r"^logit_scale$"]
    # The attention implementation chosen for the towers is none of a projection's business.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    consumes: tuple[str, ...] = ("image_embeds",)
    max_pseudo_tokens: int = 1
    prompt_template: str = RTD_TEMPLATE
    rtd_template: str | None = None

    @torch.no_grad()
    def _init_weights(self, module):
        # PyTorch's own default, as all published projections use; the library's default would be N(0, 0.02).
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.in_features)
                init.uniform_(module.bias, -bound, bound)

    def forward(self, image_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turn image embeddings into pseudo-words.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`):
                Projected and **not** normalised embeddings, as CLIP returns them.

        Returns:
            `tuple`: `pseudo_token_embeds` of shape `(batch_size, max_pseudo_tokens, text_hidden_size)` and
            `pseudo_token_mask` of shape `(batch_size, max_pseudo_tokens)`, true where a slot is used, or `None` where
            every slot always is.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define how it projects")


class SEARLEProjection(RTDProjection):
    """The network of SEARLE and of LinCIR: a three-layer perceptron that emits one pseudo-word.

    SEARLE: https://huggingface.co/papers/2303.15247. LinCIR: https://huggingface.co/papers/2312.01998.
    The two differ in how it is trained only.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to `4 * projection_dim`, dropout to 0.5, as published.
    """

    def __init__(self, config: RTDProjectionConfig):
        super().__init__(config)
        width = config.hidden_size or 4 * config.projection_dim
        dropout = 0.5 if config.dropout is None else config.dropout
        self.layers = nn.Sequential(
            nn.Linear(config.projection_dim, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, config.text_hidden_size),
        )
        self.post_init()

    def forward(self, image_embeds):
        """See [`RTDProjection.forward`]."""
        return self.layers(image_embeds)[:, None], None  # (B, 1, H)


class Pic2WordProjection(RTDProjection):
    """The network of Pic2Word (https://huggingface.co/papers/2302.03084): one pseudo-word from two narrow layers.

    In each layer dropout stands before the ReLU, as published.

    Args:
        config ([`RTDProjectionConfig`]): Hidden width defaults to 512, dropout to 0.1, as published.
    """

    prompt_template = "a photo of $ , {condition}"
    rtd_template = "rtd"

    def __init__(self, config: RTDProjectionConfig):
        super().__init__(config)
        width = config.hidden_size or 512
        dropout = 0.1 if config.dropout is None else config.dropout
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(size, width), nn.Dropout(dropout), nn.ReLU())
                for size in (config.projection_dim, width)
            )
        )
        self.fc_out = nn.Linear(width, config.text_hidden_size)
        self.post_init()

    def forward(self, image_embeds):
        """See [`RTDProjection.forward`]."""
        return self.fc_out(self.layers(image_embeds))[:, None], None  # (B, 1, H)


PROJECTIONS: dict[str, type[RTDProjection]] = {
    "lincir": SEARLEProjection,
    "pic2word": Pic2WordProjection,
    "searle": SEARLEProjection,
}


def _find_projection_class(projection_type: str) -> type[RTDProjection]:
    if projection_type not in PROJECTIONS:
        raise ValueError(suggest("projection", projection_type, PROJECTIONS))
    return PROJECTIONS[projection_type]


def build_projection(config: RTDProjectionConfig) -> RTDProjection:
    """Build a freshly initialised projection of the type that the configuration names.

    Args:
        config ([`RTDProjectionConfig`]): Type and sizes.

    Returns:
        [`RTDProjection`]: In training mode, float32.

    Raises:
        ValueError: If `config.projection_type` is unknown.
    """
    return _find_projection_class(config.projection_type)(config)


def load_projection(name_or_path: str, **kwargs) -> RTDProjection:
    """Load a projection saved alone, or the projection of a saved [`RTDModel`].

    Args:
        name_or_path (`str`): Directory or Hub id.
        kwargs: Passed to `from_pretrained`, such as `revision`, `subfolder` or `dtype`.

    Returns:
        [`RTDProjection`]: Of the type its configuration names, in evaluation mode.

    Raises:
        ValueError: If the repository names an unknown projection or lacks some of its tensors.
    """
    where = {
        k: v for k, v in kwargs.items() if k in ("revision", "subfolder", "token", "cache_dir", "local_files_only")
    }
    config = RTDProjectionConfig.from_pretrained(name_or_path, **where)
    projection_class = _find_projection_class(config.projection_type)
    projection, report = projection_class.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
    if report["missing_keys"]:
        raise ValueError(
            f"'{name_or_path}' holds no complete '{config.projection_type}' projection: "
            f"{sorted(report['missing_keys'])} are missing; give a directory saved by a projection or by RTDModel."
        )
    return projection
