"""Interpolation of text towers: weights between the tower from before RTD and the one after it."""

from __future__ import annotations

import copy
import re

import torch

from .modeling_text_rtd import RTDTextTower


__all__ = ["interpolate_towers", "remove_adapters"]


@torch.no_grad()
def interpolate_towers(original: RTDTextTower, tuned: RTDTextTower, alpha: float) -> RTDTextTower:
    """Give the tower whose every weight is `(1 - alpha) * original + alpha * tuned`.

    Weight interpolation of a model and its fine-tuned self (WiSE-FT, https://huggingface.co/papers/2109.01903); for
    RTD it is ours, not the paper's.

    Args:
        original ([`RTDTextModel`]): The tower from before RTD, without adapters.
        tuned ([`RTDTextModel`]): The tower after RTD, of the same shapes, without adapters.
        alpha (`float`): 0 gives exactly the original, 1 exactly the tuned tower.

    Returns:
        [`RTDTextModel`]: A tower of its own, of the tuned tower's type and on its device.

    Raises:
        ValueError: If `alpha` is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"`alpha` must be between 0 (the text tower from before RTD) and 1 (the one after it), got {alpha}."
        )
    tower = copy.deepcopy(tuned)
    for before, after in zip(original.parameters(), tower.parameters(), strict=True):
        # In float32, where the half types would round twice; exact at both ends.
        after.copy_(torch.lerp(before.to(after.device).float(), after.float(), alpha))
    return tower


@torch.no_grad()
def remove_adapters(tower: RTDTextTower, merge: bool) -> RTDTextTower:
    """Give a tower without its adapters, as a copy.

    Args:
        tower ([`RTDTextModel`]): A tower with adapters of peft.
        merge (`bool`): Whether the active adapters go into the weights, or are left out.

    Returns:
        [`RTDTextModel`]: A plain tower.
    """
    adapted = copy.deepcopy(tower)
    if merge:
        # Layer by layer: what transformers adapted has no `merge_and_unload` of peft's wrapper.
        for layer in adapted.modules():
            if hasattr(layer, "base_layer"):
                layer.merge()
    tensors = {
        re.sub(r"(\.token_adapter)?\.(base_layer|original_module)\.", ".", name): tensor
        for name, tensor in adapted.state_dict().items()
    }
    if merge:  # layers that peft trains whole
        for adapter in tower.active_adapters():
            part = f".modules_to_save.{adapter}."
            tensors |= {name.replace(part, "."): tensor for name, tensor in tensors.items() if part in name}
    plain = type(tower)(tower.config).to(tower.device, tower.dtype)
    plain.load_state_dict({name: tensors[name] for name in plain.state_dict()})
    return plain.eval()
