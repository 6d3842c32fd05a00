"""Repositories in the layout of open_clip, turned into a CLIP of transformers without running what they hold."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .configuration_rtd import OPEN_CLIP_CONFIG
from .conversion_rtd import load_safely
from .files_rtd import name_damage, read_json


__all__ = ["convert_open_clip"]

_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# What is read here, or has no effect after training. Another setting that is on makes another network.
_KNOWN = {
    "": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "nonscalar_logit_scale"},
    "vision_cfg.": {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"},
    "text_cfg.": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"},
}
_PLAIN = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}
_RENAMES = {
    r"^visual\.(class_embedding)$": r"vision_model.embeddings.\1",
    r"^visual\.conv1\.weight$": "vision_model.embeddings.patch_embedding.weight",
    r"^visual\.ln_pre\.": "vision_model.pre_layrnorm.",
    r"^visual\.ln_post\.": "vision_model.post_layernorm.",
    r"^visual\.proj$": "visual_projection.weight",
    r"^token_embedding\.": "text_model.embeddings.token_embedding.",
    r"^ln_final\.": "text_model.final_layer_norm.",
    r"^text_projection$": "text_projection.weight",
    r"^visual\.(?=positional|transformer)": "vision_model.",
    r"^(?=positional|transformer)": "text_model.",
    r"\.positional_embedding$": ".embeddings.position_embedding.weight",
    r"\.transformer\.resblocks\.": ".encoder.layers.",
    r"\.ln_([12])\.": r".layer_norm\1.",
    r"\.attn\.": ".self_attn.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
}


def convert_open_clip(place: str | Path, **where) -> tuple[CLIPModel, PreTrainedTokenizerBase, CLIPImageProcessorPil]:
    """Convert a repository that open_clip wrote into the CLIP that transformers has of it.

    Args:
        place (`str` or `Path`): Directory or Hub id, with `open_clip_config.json`, `open_clip_model.safetensors` or
            `open_clip_pytorch_model.bin`, and the files of the tokenizer.
        where: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`.

    Returns:
        `tuple`: The model in evaluation mode and the dtype of its file, its tokenizer, and its image processor: each
        with a `save_pretrained`.

    Raises:
        ValueError: If files are missing or damaged, the file holds more than tensors, or the network is not
            `CLIPModel`. Names the setting, before weights are fetched.
    """
    with name_damage(place):
        return _convert(place, where)


def _convert(place, where: dict) -> tuple:
    settings = _read_settings(place, where)
    config = _build_config(settings["model_cfg"], place)
    image_processor = _build_image_processor(settings.get("preprocess_cfg") or {}, config, place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"'{place}' brings no tokenizer ({error}); put the tokenizer of openai/clip-vit-base-patch32 beside its "
            "files, in a directory."
        ) from error
    text = config.text_config
    # open_clip pools at the largest id.
    if tokenizer.eos_token_id != text.vocab_size - 1:
        raise ValueError(
            f"the text tower of '{place}' pools at the largest of {text.vocab_size} ids, but its tokenizer ends a "
            f"text with {tokenizer.eos_token_id}. Put its own tokenizer beside its files."
        )
    # transformers pools at the end of text, whose id open_clip's settings do not name.
    for name in ("bos", "eos", "pad"):
        setattr(text, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    state = _rename(_load_weights(place, where))
    return _build_model(config, state, place), tokenizer, image_processor


def _find(place, name: str, where: dict) -> str | None:
    return cached_file(place, name, _raise_exceptions_for_missing_entries=False, **where)


def _read_settings(place, where: dict) -> dict:
    try:
        file = _find(place, OPEN_CLIP_CONFIG, where)
    except OSError as error:
        raise ValueError(
            f"'{place}' is neither a directory nor a repository that can be loaded from the Hub: {error}"
        ) from error
    if file is None:
        raise ValueError(f"'{place}' holds no {OPEN_CLIP_CONFIG}: name a repository that open_clip wrote.")
    settings = read_json(file, "fetch it again", model_cfg=dict, preprocess_cfg=dict | None)
    cfg = settings["model_cfg"]
    parts = {"": cfg, **{f"{name}.": cfg.get(name) for name in ("vision_cfg", "text_cfg")}}
    for prefix, part in parts.items():
        if not isinstance(part, dict):
            raise ValueError(f"'{file}' is damaged, its `{prefix[:-1]}` is {part!r}: fetch it again.")
        for name, value in part.items():
            if value and name not in _KNOWN[prefix] and value not in _PLAIN.get(name, ()):
                raise ValueError(
                    f"'{place}' is not a CLIP of two plain transformers: its {OPEN_CLIP_CONFIG} says {prefix}{name} = "
                    f"{str(value)[:60]!r}, which CLIPModel does not have; name another checkpoint."
                )
    return settings


def _build_config(cfg: dict, place) -> CLIPConfig:
    """Read sizes. A missing one has open_clip's own default."""
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    size = vision.get("image_size", 224)
    size = size[0] if isinstance(size, list) and size[:1] * 2 == size else size
    width, text_width = vision.get("width", 768), text.get("width", 512)
    sizes = {
        "embed_dim": cfg.get("embed_dim"),
        "vision_cfg.image_size": size,
        "vision_cfg.width": width,
        "vision_cfg.layers": vision.get("layers", 12),
        "vision_cfg.patch_size": vision.get("patch_size", 16),
        "vision_cfg.head_width": vision.get("head_width", 64),
        "text_cfg.width": text_width,
        "text_cfg.layers": text.get("layers", 12),
        "text_cfg.heads": text.get("heads", 8),
        "text_cfg.context_length": text.get("context_length", 77),
        "text_cfg.vocab_size": text.get("vocab_size", 49408),
        "vision_cfg.mlp_ratio": vision.get("mlp_ratio", 4.0),
        "text_cfg.mlp_ratio": text.get("mlp_ratio", 4.0),
    }
    for name, value in sizes.items():
        # A list of layers is a ResNet.
        if not isinstance(value, int | float if name.endswith("ratio") else int) or value <= 0:
            raise ValueError(
                f"'{place}' is not a CLIP of two plain transformers: its {OPEN_CLIP_CONFIG} says {name} = {value!r}, "
                "which must be a positive number; name another checkpoint."
            )
    # The default of open_clip is the exact GELU; OpenAI's weights have the quick one.
    shared = {"hidden_act": "quick_gelu" if cfg.get("quick_gelu") else "gelu", "projection_dim": sizes["embed_dim"]}
    return CLIPConfig(
        projection_dim=sizes["embed_dim"],
        vision_config=shared
        | {
            "hidden_size": width,
            "intermediate_size": int(width * sizes["vision_cfg.mlp_ratio"]),
            "num_hidden_layers": sizes["vision_cfg.layers"],
            "num_attention_heads": width // sizes["vision_cfg.head_width"],
            "image_size": size,
            "patch_size": sizes["vision_cfg.patch_size"],
        },
        text_config=shared
        | {
            "hidden_size": text_width,
            "intermediate_size": int(text_width * sizes["text_cfg.mlp_ratio"]),
            "num_hidden_layers": sizes["text_cfg.layers"],
            "num_attention_heads": sizes["text_cfg.heads"],
            "max_position_embeddings": sizes["text_cfg.context_length"],
            "vocab_size": sizes["text_cfg.vocab_size"],
        },
    )


def _build_image_processor(cfg: dict, config: CLIPConfig, place) -> CLIPImageProcessorPil:
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    mode, filter_name = cfg.get("resize_mode") or "shortest", cfg.get("interpolation") or "bicubic"
    if mode not in ("shortest", "squash") or filter_name not in ("bicubic", "bilinear"):
        raise ValueError(
            f"'{place}' prepares images by resize_mode {mode!r} and interpolation {filter_name!r}; only 'shortest' "
            "and 'squash', 'bicubic' and 'bilinear' are converted: name another checkpoint."
        )
    values = {name: cfg[key] for name, key in (("image_mean", "mean"), ("image_std", "std")) if cfg.get(key)}
    return CLIPImageProcessorPil(
        size={"shortest_edge": config.vision_config.image_size} if mode == "shortest" else size,
        crop_size=size,
        resample=Image.Resampling[filter_name.upper()],
        **values,
    )


def _load_weights(place, where: dict) -> dict[str, torch.Tensor]:
    file = next((file for name in _WEIGHTS if (file := _find(place, name, where))), None)
    if file is None:
        raise ValueError(f"'{place}' holds neither {' nor '.join(_WEIGHTS)}: name a repository with weights.")
    if file.endswith(".bin"):
        state = load_safely(Path(file))
        state = state.get("state_dict", state) if isinstance(state, dict) else {}  # of a training of one's own
        return {
            # A prefix of DistributedDataParallel.
            str(name).removeprefix("module."): value
            for name, value in state.items()
            if isinstance(value, torch.Tensor)
        }
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"'{file}' is damaged ({error}): fetch it again.") from error


def _rename(state: dict) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for pattern, own in _RENAMES.items():
            name = re.sub(pattern, own, name)
        # What is of another shape is named later.
        if "in_proj_" in name and tensor.ndim and len(tensor) % 3 == 0:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{part}_proj.")] = rows.clone()
        elif name in ("visual_projection.weight", "text_projection.weight") and tensor.ndim == 2:
            renamed[name] = tensor.T.contiguous()
        elif name == "logit_scale" and tensor.numel() == 1:
            renamed[name] = tensor.reshape(())
        else:
            renamed[name] = tensor
    return renamed


def _build_model(config: CLIPConfig, state: dict[str, torch.Tensor], place) -> CLIPModel:
    for tower in ("text", "vision"):
        held = sum(name.startswith(f"{tower}_model.") and name.endswith(".layer_norm1.weight") for name in state)
        wanted = getattr(config, f"{tower}_config").num_hidden_layers
        if held != wanted:  # before a network of so many is built
            raise ValueError(
                f"the weights of '{place}' are not those of its {OPEN_CLIP_CONFIG}, which says {wanted} layers of "
                f"{tower}: they have {held}. Fetch them again, or name another checkpoint."
            )
    # Shapes without memory: a foreign configuration may ask for a network of any size.
    with torch.device("meta"):
        needed = {name: tuple(tensor.shape) for name, tensor in CLIPModel(config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [f"{name} {found.get(name, 'missing')}" for name in needed if found.get(name) != needed[name]]
    wrong += [f"{name} left over" for name in found if name not in needed]
    if wrong:
        raise ValueError(
            f"the weights of '{place}' are not those of its {OPEN_CLIP_CONFIG}: {'; '.join(wrong[:3])}, {len(wrong)} "
            "in all; fetch them again, or name another checkpoint."
        )
    model = CLIPModel.from_pretrained(
        None, config=config, state_dict=state, dtype=state["text_projection.weight"].dtype
    )
    return model.eval()
