"""LoRA adapters of the text tower, through peft."""

from __future__ import annotations

import copy
import re
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file

from modeling_rtd import RTDModel, RTDTextTower


__all__ = [
    "TARGET_MODULES",
    "add_lora",
    "build_lora_config",
    "check_adapter",
    "complete_config",
    "load_adapter_weights",
    "merge_adapter",
]

# All linear layers of the text tower, alone or inside a whole model, whose vision tower has layers of the same names.
TARGET_MODULES = (
    r"(text_model\.)?(encoder\.layers\.\d+\.(self_attn\.[qkv]_proj|self_attn\.out_proj|mlp\.fc[12])"
    r"|text_projection|head)"  # SigLIP's projection is its head
)


def build_lora_config(r: int = 16, lora_alpha: int = 32, **kwargs) -> LoraConfig:
    """Build the LoRA configuration for the text tower (https://huggingface.co/papers/2106.09685).

    Ours, not the paper's: RTD trains all weights of the text tower.

    Args:
        r (`int`, defaults to 16): Rank.
        lora_alpha (`int`, defaults to 32): Scale, in units of the rank.
        kwargs: Passed to `peft.LoraConfig`, such as `lora_dropout` or other `target_modules`.

    Returns:
        `peft.LoraConfig`: Without a task type, since each of peft's would pass arguments that CLIP does not take.
    """
    return LoraConfig(
        **{"r": r, "lora_alpha": lora_alpha, "target_modules": TARGET_MODULES, "task_type": None} | kwargs
    )


def complete_config(config: PeftConfig) -> PeftConfig:
    """Complete the configuration of an adapter for the text tower.

    Args:
        config (`peft.PeftConfig`): A user's own; it stays as it is.

    Returns:
        `peft.PeftConfig`: A copy on all linear layers where it names no `target_modules`, without a task type.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(config, PeftConfig):
        raise ValueError(f"`peft_config` is a {type(config).__name__}: pass a peft.LoraConfig.")
    config = copy.deepcopy(config)
    # peft's FEATURE_EXTRACTION passes `inputs_embeds=None`, which collides with the encoder's own.
    config.task_type = None
    if getattr(config, "target_modules", None) is None:
        config.target_modules = TARGET_MODULES
    return config


def check_adapter(text_model: RTDTextTower | PeftModel) -> None:
    """Refuse an adapter that could not be saved and loaded again exactly.

    Loading through transformers drops tensors of other kinds than LoRA's two matrices. Initialisations such as
    PiSSA change the base, which is then not the one that the adapter is loaded on.

    Args:
        text_model ([`RTDTextModel`] or `peft.PeftModel`): The tower with its adapter.

    Raises:
        ValueError: If the adapter is not a LoRA or rsLoRA of plain matrices, or several are active.
    """
    names = text_model.active_adapters
    names = names() if callable(names) else names
    if len(names) != 1:
        raise ValueError(f"one adapter is trained at a time, but {len(names)} are active ({', '.join(names)}).")
    config = text_model.peft_config[names[0]]
    start = getattr(config, "init_lora_weights", None)
    tensors = get_peft_model_state_dict(text_model, adapter_name=names[0]) if start is not None else {}
    odd = [name for name in tensors if not re.search(r"\.lora_[AB]\.weight$", name)]
    # Other starts, such as PiSSA and OLoRA, change the weights of the base too, whose hash then fits no base.
    is_activated = bool(getattr(config, "alora_invocation_tokens", None))  # which no prompt of ours holds
    if not isinstance(config, LoraConfig) or start not in (True, False, "gaussian") or odd or is_activated:
        what = f"it has a tensor '{odd[0]}'" if odd else f"init_lora_weights={start!r}" if start else "not a LoRA"
        what = "alora_invocation_tokens" if is_activated else what
        raise ValueError(
            f"an adapter of this kind ({config.peft_type.value}: {what}) cannot be saved and loaded exactly. Use "
            "peft.LoraConfig, with use_rslora if you like, and without use_dora, bias, modules_to_save, "
            "trainable_token_indices, alora_invocation_tokens and other init_lora_weights than True, False or "
            "'gaussian'."
        )


def add_lora(text_model: RTDTextTower, **kwargs) -> RTDTextTower:
    """Add a fresh adapter to a text tower, in place; it changes no output until it is trained.

    Args:
        text_model ([`RTDTextModel`]): The tower.
        kwargs: See [`build_lora_config`].

    Returns:
        [`RTDTextModel`]: The same tower; only the adapter is trainable.
    """
    text_model.add_adapter(build_lora_config(**kwargs))
    return text_model


def load_adapter_weights(text_model: RTDTextTower, checkpoint: str | Path) -> None:
    """Load the weights of a checkpoint into the active adapter of a tower, in place.

    Args:
        text_model ([`RTDTextModel`]): The tower, with an adapter of the same configuration.
        checkpoint (`str` or `Path`): Folder of the checkpoint.
    """
    weights = load_file(Path(checkpoint) / SAFETENSORS_WEIGHTS_NAME)
    # A file of peft names the adapted model inside its wrapper; transformers adapts the tower itself.
    weights = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    set_peft_model_state_dict(text_model, weights, adapter_name=text_model.active_adapters()[0])


def merge_adapter(name_or_path: str, base: str | None = None) -> RTDModel:
    """Load an adapter repository and merge its adapter into the text tower, to be saved and used without peft.

    Args:
        name_or_path (`str`): Directory or Hub id of the adapter repository.
        base (`str`, *optional*): The CLIP underneath; where the adapter says by default.

    Returns:
        [`RTDModel`]: Whole, with the text tower of its base as the original text tower.

    Raises:
        ValueError: As [`RTDModel.from_adapter`].
    """
    model = RTDModel.from_adapter(name_or_path, base).interpolate_text_model(1.0)
    model.name_or_path = str(name_or_path)  # where `save_rtd_model` finds what made it
    return model
