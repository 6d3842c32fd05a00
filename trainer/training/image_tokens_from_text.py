"""Stand-ins for image tokens, with which projections that read them are fed from text while RTD trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm.auto import tqdm

from modeling_rtd import RTDModel, RTDProcessor, hash_tensors, replace_file
from trainer.encoding.array_cache import place_result
from trainer.encoding.image_features import ImageFeatures


__all__ = ["TokenLift", "fit_token_lift"]


class TokenLift(nn.Module):
    """From a pooled embedding to a few tokens that a projection reads as it reads an image's.

    RTD trains on text: in place of an image's embedding is that of a caption. Some projections also read the
    vision tower's tokens, which a caption does not have. What the published RTD did about it is not known; this is
    our proposal. See [`fit_token_lift`].

    Args:
        projection_dim (`int`): Size D of the joint space.
        vision_hidden_size (`int`): Size V of the vision tower's tokens.
        num_tokens (`int`, defaults to 9): Tokens it makes, the class token first.
        width (`int`, *optional*): Hidden width. Defaults to `4 * projection_dim`.
    """

    def __init__(self, projection_dim: int, vision_hidden_size: int, num_tokens: int = 9, width: int | None = None):
        super().__init__()
        width = width or 4 * projection_dim
        self.num_tokens = num_tokens
        self.layers = nn.Sequential(
            nn.Linear(projection_dim, width), nn.GELU(), nn.Linear(width, num_tokens * vision_hidden_size)
        )

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        """Lift embeddings.

        Args:
            embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`): Not normalised.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_tokens, vision_hidden_size)`.
        """
        return self.layers(embeds).unflatten(-1, (self.num_tokens, -1))


def fit_token_lift(
    model: RTDModel,
    processor: RTDProcessor,
    features: ImageFeatures,
    conditions: Sequence[str],
    folder: str | Path,
    noise_scale: float = 0.5,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> TokenLift:
    """Fit a lift on images, once: composed prompts must be encoded with lifted tokens as with real ones.

    Mean squared error of the prompts' embeddings, relative to their mean square, through the frozen projection and the
    frozen text tower from before RTD. Each image meets a random condition; the pooled embedding carries the noise of
    refined concatenation. The result is kept in the folder under what made it.

    Args:
        model ([`RTDModel`]): With a trained projection. No value of it changes; it comes back without gradients.
        processor ([`RTDProcessor`]): Its default template is the one that RTD trains with.
        features ([`ImageFeatures`]): Embeddings and tokens of unlabelled images.
        conditions (`list[str]`): Conditions, such as those of the triplets.
        folder (`str` or `Path`): Where the lift is kept.
        noise_scale (`float`, defaults to 0.5): As in [`RTDTrainingArguments`].
        steps (`int`, defaults to 2000): Steps; the learning rate falls as a cosine.
        batch_size (`int`, defaults to 64): Images a step.
        learning_rate (`float`, defaults to 1e-3): Of AdamW.
        seed (`int`, defaults to 0): Decides every draw.

    Returns:
        [`TokenLift`]: Frozen.

    Raises:
        ValueError: If there is no image or no condition.
    """
    if not len(features) or not len(conditions):
        raise ValueError(f"a lift needs images and conditions, got {len(features)} and {len(conditions)}.")
    path = place_result(
        folder,
        "lift",
        ".safetensors",
        projection=hash_tensors(model.projection),
        text=hash_tensors(model.plain_text_model),
        images=[file.name for file in features.paths.values()],
        conditions=list(conditions),
        template=processor.prompt_templates[processor.default_template],
        settings=[noise_scale, steps, batch_size, learning_rate, seed],
    )
    with torch.random.fork_rng():  # the caller's random state stays, whether the lift is fitted or read
        torch.manual_seed(seed)
        lift = TokenLift(model.config.projection_dim, model.config.vision_config.hidden_size).to(model.device)
    if path.is_file():
        lift.load_state_dict(load_file(path))
        return lift.eval().requires_grad_(False)
    model.requires_grad_(False)
    projection = model.projection.eval()
    optimizer = torch.optim.AdamW(lift.parameters(), lr=learning_rate)
    scheduler = CosineAnnealingLR(optimizer, steps)
    rng = torch.Generator().manual_seed(seed)
    bar = tqdm(range(steps), desc="Fitting the token lift")
    for _ in bar:
        batch = features(torch.randint(len(features), (batch_size,), generator=rng).tolist())
        chosen = [conditions[i] for i in torch.randint(len(conditions), (batch_size,), generator=rng).tolist()]
        prompts = processor.pad(processor.build_prompts(chosen)[0])
        pooled, tokens = (batch[name].to(model.device) for name in ("image_embeds", "image_tokens"))
        # As noisy as the references will be on which RTD trains.
        share, direction = torch.rand(batch_size, 1, generator=rng), torch.randn(pooled.shape, generator=rng)
        noised = pooled + noise_scale * (share * direction).to(model.device)
        prompts = {name: tensor.to(model.device) for name, tensor in prompts.items()}
        with torch.no_grad():
            context = model.encode_context(**prompts) if "context_embeds" in projection.consumes else None
            real = _encode(model, prompts, projection(pooled, tokens, context))
        lifted = _encode(model, prompts, projection(noised, lift(noised), context))
        # In units of its own size, so that one learning rate serves every backbone.
        loss = (lifted - real).square().mean() / real.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    with replace_file(path) as partial:
        save_file(lift.state_dict(), partial)
    return lift.eval().requires_grad_(False)


def _encode(model: RTDModel, prompts: dict, pseudo_tokens: tuple) -> torch.Tensor:
    embeds, mask = pseudo_tokens
    output = model.plain_text_model(**prompts, pseudo_token_embeds=embeds, pseudo_token_mask=mask)
    return output.text_embeds.float()
