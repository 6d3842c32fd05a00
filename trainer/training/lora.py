"""LoRA adapters of the text tower, through peft."""

from __future__ import annotations

import copy
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file

from modeling_rtd import RTDModel, RTDTextTower, find_inexact


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

    See [`find_inexact`], which decides the same when an adapter is saved.

    Args:
        text_model ([`RTDTextModel`] or `peft.PeftModel`): The tower with its adapter.

    Raises:
        ValueError: If it could not, or several are active.
    """
    names = text_model.active_adapters
    names = names() if callable(names) else names
    if len(names) != 1:
        raise ValueError(f"one adapter is trained at a time, but {len(names)} are active ({', '.join(names)}).")
    odd = find_inexact(text_model, names[0])
    if odd is not None:
        raise ValueError(
            f"an adapter of this kind cannot be saved and loaded exactly, since it has {odd}. Use peft.LoraConfig, "
            "with use_rslora or modules_to_save if you like, and without use_dora, bias, trainable_token_indices, "
            "alora_invocation_tokens and other init_lora_weights than True, False or 'gaussian'."
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
