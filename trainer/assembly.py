"""Putting a model together from what a user names."""

from __future__ import annotations

from transformers import AutoConfig

from modeling_rtd import RTDConfig, RTDModel, RTDProcessor


__all__ = ["load_model_and_processor"]


def load_model_and_processor(name_or_path: str, projection: str | None = None) -> tuple[RTDModel, RTDProcessor]:
    """Load an RTD model, or put a projection on a CLIP.

    Args:
        name_or_path (`str`): Directory or Hub id of an RTD model or of a CLIP.
        projection (`str`, *optional*):
            On a CLIP: directory or Hub id of a projection, or the name of a method for a fresh one. On an RTD model it
            must be left out.

    Returns:
        `tuple`: Model in evaluation mode, and processor.

    Raises:
        ValueError: If a CLIP comes without a projection, or an RTD model with one.
    """
    if AutoConfig.from_pretrained(name_or_path).model_type == RTDConfig.model_type:
        if projection is not None:
            raise ValueError(
                f"'{name_or_path}' has a projection of its own; leave `projection` out, or name the CLIP underneath."
            )
        return RTDModel.from_pretrained(name_or_path), RTDProcessor.from_pretrained(name_or_path)
    if projection is None:
        raise ValueError(
            f"'{name_or_path}' is a CLIP without a projection: name a trained one, or train it with "
            "`rtd train-projection`."
        )
    model = RTDModel.from_clip(name_or_path, projection)
    return model, RTDProcessor.from_clip(name_or_path, model.projection)
