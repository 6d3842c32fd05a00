"""Configurations: CLIP's own two towers, one projection, and how the three meet."""

from __future__ import annotations

from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig


__all__ = [
    "PLACEHOLDER",
    "RTDConfig",
    "RTDProjectionConfig",
    "RTDTextConfig",
    "find_context_token_id",
    "find_placeholder_token_id",
]

PLACEHOLDER = "$"
# Context-I2W's tokenizer has its own token in place of CLIP's last merge: the text tower reads this word there.
_CONTEXT_WORD = "jekyll"


def find_placeholder_token_id(tokenizer) -> int:
    """Find the id whose embedding pseudo-words replace: that of a `$` standing alone (259 in CLIP's vocabulary).

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`): The tokenizer of the CLIP backbone.

    Returns:
        `int`: A valid token id, never added to the vocabulary, so no embedding matrix is ever resized.

    Raises:
        ValueError: If the tokenizer has no single token for `$`.
    """
    ids = tokenizer(PLACEHOLDER, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        # CLIP's own unknown token is `<|endoftext|>`, which is never the id of a `$`.
        raise ValueError(
            f"the tokenizer splits '{PLACEHOLDER}' into the ids {ids}, but exactly one known token must stand for a "
            "pseudo-word; use a CLIP tokenizer, or add '$' to the vocabulary your CLIP is trained with."
        )
    return ids[0]


def find_context_token_id(tokenizer) -> int:
    """Find the id that stands in a context's text where the pseudo-word will stand in the prompt.

    Context-I2W publishes the id 49405, CLIP's word "jekyll". A vocabulary without that word uses the placeholder.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`): The tokenizer of the CLIP backbone.

    Returns:
        `int`: A valid token id.

    Raises:
        ValueError: If the tokenizer has neither as a single token.
    """
    ids = tokenizer(_CONTEXT_WORD, add_special_tokens=False)["input_ids"]
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else find_placeholder_token_id(tokenizer)


class RTDTextConfig(CLIPTextConfig):
    """CLIP's text configuration and the token that stands for a pseudo-word.

    Args:
        placeholder_token_id (`int`, *optional*):
            Positions with this id take pseudo-words where the caller gives no `placeholder_mask`. Resolved from the
            tokenizer by [`RTDModel.from_clip`].
        kwargs:
            All of [`~transformers.CLIPTextConfig`].
    """

    placeholder_token_id: int | None = None


class RTDProjectionConfig(PreTrainedConfig):
    """Sizes of a projection from image embeddings to pseudo-words.

    Args:
        projection_type (`str`, defaults to `"lincir"`):
            Name of the method, a key of `PROJECTIONS`.
        projection_dim (`int`, defaults to 768):
            Size D of CLIP's joint space, the input.
        text_hidden_size (`int`, defaults to 768):
            Size H of the text tower's token embeddings, the output.
        vision_hidden_size (`int`, defaults to 1024):
            Size V of the vision tower's tokens, for projections that read them.
        hidden_size (`int`, *optional*):
            Width of the hidden layers; the method's published width where left out (4D for SEARLE and LinCIR).
        dropout (`float`, *optional*):
            Dropout of the hidden layers in training; the method's published value where left out (0.5 for SEARLE
            and LinCIR).
        num_hidden_layers, num_attention_heads (`int`, *optional*):
            Of projections that attend to image tokens; the method's published values where left out.
    """

    model_type = "rtd_projection"
    base_config_key = "projection_config"

    projection_type: str = "lincir"
    projection_dim: int = 768
    text_hidden_size: int = 768
    vision_hidden_size: int = 1024
    hidden_size: int | None = None
    dropout: float | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None


class RTDConfig(PreTrainedConfig):
    """Configuration of [`RTDModel`]: a vision tower, a projection and a text tower.

    Args:
        text_config, vision_config, projection_config (`dict` or configuration):
            The three parts; a dictionary is turned into the part's class.
        projection_dim (`int`, defaults to 512):
            Size D of CLIP's joint space.
        logit_scale_init_value (`float`, defaults to 2.6592):
            CLIP's initial log temperature; kept so that the directory also loads as a plain `CLIPModel`.
        context_token_id (`int`, *optional*):
            Stands in the context's text in place of the pseudo-word, where the projection reads a context. Resolved
            from the tokenizer by [`RTDModel.from_clip`].
        base_model (`str`, *optional*): Hub id or directory, from the root on, of the CLIP underneath.
        original_text_model (`dict`, *optional*):
            Where the text tower from before RTD is, with keys `repo` (`None` for this repository), `subfolder` (a
            folder inside it), `revision`, `dtype` and `sha256`. `None` says that the text tower is CLIP's own. With
            `plain_text` false the tower is not kept: the text tower after RTD reads plain text too, and `measured`
            holds what is known of that, see [`RTDModel.without_original_text_model`].
    """

    model_type = "rtd"
    sub_configs = {
        "text_config": RTDTextConfig,
        "vision_config": CLIPVisionConfig,
        "projection_config": RTDProjectionConfig,
    }

    text_config: dict | RTDTextConfig | None = None
    vision_config: dict | CLIPVisionConfig | None = None
    projection_config: dict | RTDProjectionConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0
    context_token_id: int | None = None
    base_model: str | None = None
    original_text_model: dict | None = None

    def __post_init__(self, **kwargs):
        for name, config_class in RTDConfig.sub_configs.items():
            value = getattr(self, name) or {}
            if not isinstance(value, PreTrainedConfig):
                # Where a part was loaded from is a place of one machine, and no part of a model.
                kept = {k: v for k, v in value.items() if k not in ("model_type", "_name_or_path")}
                setattr(self, name, config_class(**kept))
        super().__post_init__(**kwargs)

    @property
    def placeholder_token_id(self) -> int | None:
        """`int`: Id that stands for a pseudo-word."""
        return self.text_config.placeholder_token_id
