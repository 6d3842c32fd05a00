"""Configurations: CLIP's own two towers, one projection, and how the three meet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    MetaClip2Config,
    MetaClip2VisionConfig,
    PreTrainedConfig,
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from transformers.utils import cached_file

from .errors_rtd import refuse_no_place
from .files_rtd import read_json


__all__ = [
    "OPEN_CLIP_CONFIG",
    "PLACEHOLDER",
    "RTDConfig",
    "RTDMetaClip2TextConfig",
    "RTDProjectionConfig",
    "RTDSiglipTextConfig",
    "RTDTextConfig",
    "find_context_token_id",
    "find_placeholder_token_id",
    "name_family",
    "read_backbone_config",
    "read_text_config",
    "refuse_outside",
]

PLACEHOLDER = "$"
OPEN_CLIP_CONFIG = "open_clip_config.json"
_ATTENTIONS = (None, "eager", "sdpa", "flex_attention")  # transformers fetches code from the Hub for others
# Context-I2W's tokenizer has its own token in place of CLIP's last merge: the text tower reads this word there.
_CONTEXT_WORD = "jekyll"


def find_placeholder_token_id(tokenizer) -> int:
    """Find the id whose embedding pseudo-words replace: that of a lone `$` (259 in CLIP's vocabulary).

    Tokenizers that delete or split a `$`, as SigLIP's and XLM-R's do, lend their mask token or unknown token. Any id
    does: its embedding is not read, and the mask of [`RTDProcessor`] says where pseudo-words are.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`): The tokenizer of the backbone.

    Returns:
        `int`: A valid token id, never added to the vocabulary, so no embedding matrix is ever resized.

    Raises:
        ValueError: If the tokenizer has no single token for `$`, and no token to spare.
    """
    ids = tokenizer(PLACEHOLDER, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    # CLIP's own unknown token is `<|endoftext|>`, which its tower pools at.
    spare = {tokenizer.mask_token_id, tokenizer.unk_token_id} - {None, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if not spare:
        raise ValueError(
            f"the tokenizer splits '{PLACEHOLDER}' into the ids {ids}, but exactly one known token must stand for a "
            "pseudo-word. Use a CLIP tokenizer, or add '$' to the vocabulary your CLIP is trained with."
        )
    return tokenizer.mask_token_id if tokenizer.mask_token_id in spare else tokenizer.unk_token_id


def find_context_token_id(tokenizer) -> int:
    """Find the id that is in a context's text where the pseudo-word will be in the prompt.

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

    @property
    def pools_largest_id(self) -> bool:
        """`bool`: Whether the tower pools at the largest id: what an end of text of 2 says (transformers < 4.31)."""
        return self.eos_token_id == 2


class RTDMetaClip2TextConfig(RTDTextConfig):
    """MetaCLIP 2's text configuration: that of CLIP, but an end of text of 2 is the id 2 (that of XLM-R)."""

    model_type = "metaclip_2_text_model"
    pools_largest_id = False


class RTDSiglipTextConfig(SiglipTextConfig):
    """The text configuration of SigLIP and SigLIP 2, and the token that stands for a pseudo-word.

    Args:
        placeholder_token_id (`int`, *optional*):
            See [`RTDTextConfig`]; where it is absent, every text with pseudo-words needs its `placeholder_mask`.
        kwargs:
            All of [`~transformers.SiglipTextConfig`].
    """

    placeholder_token_id: int | None = None

    @property
    def projection_dim(self) -> int:
        """`int`: Size D of the joint space, by CLIP's name of it."""
        return self.projection_size


# By the type that a part says it has: by name and not by class, since the Hub copies our classes.
_TEXT_CONFIGS = {config.model_type: config for config in (RTDTextConfig, RTDMetaClip2TextConfig, RTDSiglipTextConfig)}
_VISION_CONFIGS = {
    config.model_type: config for config in (CLIPVisionConfig, MetaClip2VisionConfig, SiglipVisionConfig)
}


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
            Width of the hidden layers; the method's published width by default (4D for SEARLE and LinCIR).
        dropout (`float`, *optional*):
            Dropout of the hidden layers in training; the method's published value by default (0.5 for SEARLE
            and LinCIR).
        num_hidden_layers, num_attention_heads (`int`, *optional*):
            For projections that attend to image tokens. Defaults to the method's published values.
        family (`str`, *optional*):
            Family of the backbone that it is made for, see [`name_family`]; [`RTDModel.from_clip`] records it. A
            projection that does not say it is taken on every family of its sizes.
    """

    model_type = "rtd_projection"
    # By this key transformers finds it in the configuration of a whole model.
    base_config_key = "projection_config"

    projection_type: str = "lincir"
    projection_dim: int = 768
    text_hidden_size: int = 768
    vision_hidden_size: int = 1024
    hidden_size: int | None = None
    dropout: float | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    family: str | None = None


_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "image_size",
    "patch_size",
)


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
            Takes the place, in the context's text, of the pseudo-word, where the projection reads a context. Resolved
            from the tokenizer by [`RTDModel.from_clip`].
        base_model (`str`, *optional*): Hub id or directory, from the root on, of the CLIP underneath.
        original_text_model (`dict`, *optional*):
            Where the text tower from before RTD is, with keys `repo` (`None` for this repository), `subfolder` (a
            folder inside it), `revision`, `dtype` and `sha256`. `None` says that the text tower is CLIP's own. With
            `plain_text` false the tower is not kept. The text tower after RTD reads plain text too, and `measured`
            holds what is known of that, see [`RTDModel.without_original_text_model`].
    """

    model_type = "rtd"
    sub_configs = {
        "text_config": RTDTextConfig,
        "vision_config": CLIPVisionConfig,
        "projection_config": RTDProjectionConfig,
    }

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
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
            if name == "text_config" and isinstance(value, PreTrainedConfig):
                # transformers' own configuration of a tower has no field for the placeholder: it becomes ours.
                value = value if hasattr(value, "placeholder_token_id") else value.to_dict()
            if not isinstance(value, PreTrainedConfig):
                # Where a part was loaded from is a place of one machine, and no part of a model.
                kept = {k: v for k, v in value.items() if k not in ("model_type", "_name_or_path")}
                config_class = (_TEXT_CONFIGS | _VISION_CONFIGS).get(value.get("model_type"), config_class)
                setattr(self, name, config_class(**kept))
            _check_numbers(name, getattr(self, name))
        super().__post_init__(**kwargs)

    @property
    def placeholder_token_id(self) -> int | None:
        """`int`: Id that stands for a pseudo-word."""
        return self.text_config.placeholder_token_id


def _check_numbers(part: str, config: PreTrainedConfig) -> None:
    """Refuse numbers with which transformers builds another network, or one that fails in a pass."""
    for name in (*_SIZES, "layer_norm_eps"):
        value = getattr(config, name, None)
        # Of a type that transformers refuses, or of an image with two sides.
        least = {"num_hidden_layers": 0, "layer_norm_eps": 1e-30}.get(name, 1)
        if isinstance(value, int | float) and not least <= value < 1e12:
            raise ValueError(f"`{name}` of the configuration's `{part}` must be at least {least}, got {value}.")
    # Where no token has this id, CLIP's tower takes the first one of a text for its end.
    end = getattr(config, "eos_token_id", None)
    if hasattr(config, "pools_largest_id") and (not isinstance(end, int) or not 0 <= end < config.vocab_size):
        raise ValueError(
            f"`eos_token_id` of the configuration's `{part}` must be the id of one of {config.vocab_size} tokens, got "
            f"{end}."
        )


def name_family(text_config: PreTrainedConfig) -> str:
    """Name the family of a backbone.

    Args:
        text_config (`transformers.PreTrainedConfig`): Of its text tower, ours or transformers' own.

    Returns:
        `str`: `"clip"`, `"metaclip_2"` or `"siglip"`.

    Examples:
        >>> name_family(RTDSiglipTextConfig())
        'siglip'
    """
    return text_config.model_type.removesuffix("_text_model")


def read_backbone_config(place: str, **where) -> PreTrainedConfig:
    """Read the configuration of a backbone, of a text tower alone, or of a saved [`RTDModel`], without its weights.

    Args:
        place (`str`): Directory or Hub id.
        where: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`.

    Returns:
        `transformers.PreTrainedConfig`: Of the family that it says it is of.

    Raises:
        ValueError: If it is of another architecture; names it.
        FileNotFoundError: If the place is a path at which there is no folder.
    """
    refuse_no_place(place)
    values, _ = PreTrainedConfig.get_config_dict(place, **where)
    refuse_outside(place, values, where.get("subfolder"))
    wholes = {config.model_type: config for config in (CLIPConfig, MetaClip2Config, SiglipConfig, RTDConfig)}
    name = values.get("model_type")
    if name not in wholes | _TEXT_CONFIGS:
        hint = "name a checkpoint of clip, metaclip_2 or siglip"
        if name is None:
            hint += ", or load an adapter with RTDModel.from_adapter"
            if cached_file(place, OPEN_CLIP_CONFIG, _raise_exceptions_for_missing_entries=False, **where):
                hint = (
                    f"it is in the layout of open_clip: write it in that of transformers with `rtd convert {place} "
                    "--from open_clip -o DIR`, and name that directory"
                )
        if name == "siglip2":  # transformers' name of NaFlex; checkpoints of one size say siglip
            hint = (
                "it reads images of any shape (NaFlex), which no image path here does: name the checkpoint of one "
                "size beside it, such as google/siglip2-base-patch16-224 or google/siglip2-so400m-patch14-384"
            )
        raise ValueError(
            f"'{place}' is of the architecture {name!r}, of which no text tower reads pseudo-words; {hint}."
        )
    return (wholes | _TEXT_CONFIGS)[name].from_dict(values)


def refuse_outside(place: str | Path, values: Mapping, subfolder: str | None = None) -> None:
    """Refuse a repository whose files name code to be fetched, or weights that are not in it.

    Args:
        place (`str` or `Path`): Directory or Hub id.
        values (`Mapping`): Its configuration.
        subfolder (`str`, *optional*): Folder in it. Defaults to none.

    Raises:
        ValueError: If they do; says which.
    """
    for part in (values, *(value for value in values.values() if isinstance(value, Mapping))):
        for name in ("attn_implementation", "_attn_implementation"):
            if part.get(name) not in _ATTENTIONS:
                raise ValueError(
                    f"'{place}' names an implementation of attention in its config.json, {part[name]!r}, for which "
                    f"code may be fetched. Remove `{name}` there, and pass it to from_pretrained if you trust it."
                )
    # Those of the Hub are named by its client, which follows no `..`.
    for index in Path(place, subfolder or "").glob("*.index*.json"):
        names = read_json(index, "fetch it again", weight_map=dict)["weight_map"].values()
        strange = next((name for name in names if not isinstance(name, str) or {*"/\\:"} & {*name}), None)
        if strange is not None:
            raise ValueError(
                f"'{index}' names the weights {strange!r}, but must name files of its own folder. Load a model that "
                "you trust."
            )


def read_text_config(place: str, **where) -> RTDTextConfig | RTDSiglipTextConfig:
    """Read the configuration of a text tower.

    Args:
        place (`str`): Directory or Hub id of a text tower, of a backbone, or of a saved [`RTDModel`].
        where: See [`read_backbone_config`].

    Returns:
        [`RTDTextConfig`] or [`RTDSiglipTextConfig`]: Of its own family. The joint space has the size that the whole
        backbone says, where the text part says another one. A SigLIP's padding is that of its tokenizer.

    Raises:
        ValueError: If it is of another architecture; names it.
    """
    whole = read_backbone_config(place, **where)
    config = getattr(whole, "text_config", whole)
    values = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "_name_or_path")}
    # Some text parts keep the default of 512, which the whole model does not read.
    size = getattr(whole, "projection_dim", None)
    if size and "projection_dim" in values:
        values["projection_dim"] = size
    if whole.model_type == "siglip":
        # SigLIP sees its padding. Configurations of SigLIP 2 leave SigLIP's, 1; its tokenizer pads with 0.
        values["pad_token_id"] = AutoTokenizer.from_pretrained(place, **where, trust_remote_code=False).pad_token_id
    return _TEXT_CONFIGS[config.model_type](**values)
