"""What RTD starts from: the model or text tower that a user names, its processor, its adapter and its token lift."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import PeftModel

from modeling_rtd import (
    RTDConfig,
    RTDModel,
    RTDProcessor,
    RTDProjection,
    RTDTextTower,
    has_adapters,
    hash_tensors,
    load_text_model,
    read_backbone_config,
)
from trainer.data.images import load_images
from trainer.encoding.image_features import ImageFeatures
from trainer.loading import load_model_and_processor
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.image_tokens_from_text import TokenLift, fit_token_lift
from trainer.training.lora import check_adapter, complete_config


__all__ = ["check_untrained", "fit_lift", "load_rest", "load_whole_model", "take_tower"]


def load_whole_model(model) -> RTDModel | None:
    """Load the model that is named, or take the one that came.

    Args:
        model (`str`, `Path`, [`RTDModel`], [`RTDTextModel`] or `peft.PeftModel` of it): What a trainer is given.

    Returns:
        [`RTDModel`] or `None`: `None` where a text tower came alone.

    Raises:
        ValueError: If it is anything else, or there is no RTD model at the place.
    """
    if isinstance(model, str | Path):
        place = str(model)
        model, _ = load_model_and_processor(place)
        model.name_or_path = place
    if isinstance(model, RTDModel):
        return model
    tower = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(tower, RTDTextTower):
        return None
    name = type(model).__name__ + (f" of a {type(tower).__name__}" if tower is not model else "")
    raise ValueError(
        f"`model` is a {name}, and RTD trains a text tower that reads pseudo-words. Pass an RTDModel, the directory "
        "or Hub id of one, or an RTDTextModel (load_text_model loads the text tower of a backbone). An adapter goes "
        "into peft_config=, and torch_compile=True of the arguments compiles."
    )


def check_untrained(model: RTDModel, original_text_model: str | None = None) -> None:
    """Refuse what would be found out only after training.

    Args:
        model ([`RTDModel`]): The model that RTD is to start from.
        original_text_model (`str`, *optional*): Directory or Hub id that is to hold the text tower from before RTD.

    Raises:
        ValueError: If the model is trained with RTD already, or that place holds another text tower.
    """
    place = model.name_or_path or "the model"
    if model.config.original_text_model is not None or has_adapters(model.text_model):
        raise ValueError(
            f"'{place}' is trained with RTD already, or its text tower has an adapter, and RTD starts from CLIP's own "
            "text tower. Name the model with the projection that it was made of, and pass a new adapter as "
            "peft_config=."
        )
    if original_text_model is not None:
        # In float32 as the model is, since the type of a tensor is part of its hash.
        tower = load_text_model(original_text_model, dtype=torch.float32)
        if hash_tensors(tower) != hash_tensors(model.text_model):
            raise ValueError(
                f"'{original_text_model}' holds another text tower than '{place}': name the CLIP underneath, or leave "
                "`original_text_model` (--original_text_model) out."
            )


def load_rest(tower: RTDTextTower, projection: RTDProjection) -> RTDModel:
    """Load the rest of the model that a text tower belongs to, from where the tower was loaded from.

    Args:
        tower ([`RTDTextModel`]): The tower.
        projection ([`RTDProjection`]): The projection that it was trained with.

    Returns:
        [`RTDModel`]: With this projection, and the tower as it was before training.

    Raises:
        ValueError: If the tower was not loaded from a place, or no model is there.
    """
    place = tower.name_or_path
    try:
        if not place:
            raise ValueError("it was put together in memory")
        # A copy, since the trainer's own stays on its device.
        model = RTDModel.from_clip(place, copy.deepcopy(projection).cpu(), dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the trainer was given a text tower alone, and the rest of its model could not be loaded ({error}). Pass "
            "the whole RTDModel as save_model(model=...)."
        ) from error
    config = read_backbone_config(place)
    if config.model_type == RTDConfig.model_type:
        model.config.base_model = config.base_model
    model.name_or_path = place
    return model.to(tower.device)


def take_tower(model, whole: RTDModel | None, peft_config=None) -> RTDTextTower:
    """Take the tower that is trained: a copy of a model's, or the one that came; with its adapter where it has one.

    Args:
        model ([`RTDTextModel`] or `peft.PeftModel`): What came, where no whole model did.
        whole ([`RTDModel`], *optional*): The whole model, which stays as it is.
        peft_config (`peft.PeftConfig`, *optional*): Configuration of a new adapter.

    Returns:
        [`RTDTextModel`]: With trainable weights.

    Raises:
        ValueError: If the adapter is of a kind that cannot be saved and loaded exactly, or there is one already.
    """
    if isinstance(model, PeftModel):
        # What peft adapted inside its wrapper is what transformers adapts in place: one kind from here on.
        tower = model.get_base_model()
        check_adapter(model)
    else:
        tower = model if whole is None else copy.deepcopy(whole.text_model)
    if peft_config is not None:
        if has_adapters(tower):
            raise ValueError("the text tower has an adapter already: leave `peft_config` out, or remove the adapter.")
        tower.add_adapter(complete_config(peft_config))
    if has_adapters(tower):
        # By this mark transformers knows a model with adapters when it saves and loads.
        tower._hf_peft_config_loaded = True
        check_adapter(tower)
    elif not any(parameter.requires_grad for parameter in tower.parameters()):
        tower.requires_grad_(True)  # a tower that served as a frozen companion before
    return tower


def fit_lift(
    whole: RTDModel | None,
    projection: RTDProjection,
    processor: RTDProcessor,
    images,
    conditions: list[str],
    args: RTDTrainingArguments,
    steps: int,
    noise_size: float = 1.0,
) -> TokenLift | None:
    """Fit the lift that a projection of image tokens needs, and keep it in the folder of the run.

    Args:
        whole ([`RTDModel`], *optional*): The model whose vision tower encodes the images.
        projection ([`RTDProjection`]): The projection.
        processor ([`RTDProcessor`]): Its default template is the one that RTD trains with.
        images (`str`, `Path` or `datasets.Dataset`, *optional*): Unlabelled images, see [`load_images`].
        conditions (`list[str]`): Conditions of the triplets.
        args ([`RTDTrainingArguments`]): Arguments of the run.
        steps (`int`): Steps of fitting.
        noise_size (`float`, defaults to 1.0): See [`measure_noise`].

    Returns:
        [`TokenLift`] or `None`: `None` for a projection that reads no image tokens.

    Raises:
        ValueError: If images are missing, not needed, or there is no vision tower.
    """
    method = projection.config.projection_type
    if "image_tokens" not in projection.consumes:
        if images is not None:
            raise ValueError(f"a '{method}' projection is trained on from text alone: leave images out (--images).")
        return None
    if images is None:
        raise ValueError(
            f"a '{method}' projection reads image tokens, which text does not have. Pass images= with a folder of a "
            "few thousand unlabelled images (on the command line --images DIR)."
        )
    if whole is None:
        raise ValueError("images are encoded by a vision tower: pass the whole RTDModel as model=, or a token_lift.")
    folder = Path(args.output_dir, "stages")
    with args.main_process_first(desc="fitting the token lift"):
        features = ImageFeatures(whole, processor, load_images(images), folder)
        settings = {"noise_scale": args.noise_scale * noise_size, "steps": steps, "seed": args.seed}
        return fit_token_lift(whole, processor, features, conditions, folder, **settings)
