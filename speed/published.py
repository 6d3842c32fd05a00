"""Training steps as published, written out from the papers' descriptions: every text of 77 tokens, nothing kept.

Each takes batches of our collators, so that both sides see the same rows, and pads them to 77 tokens. Where the
published code leaves the parameters of CLIP unfrozen, so do these: gradients of its weights are computed and not used.
Attention is torch's fused one on both sides, which is kinder to the baseline than the published code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from torch.nn.functional import normalize

from modeling_rtd import RTDModel, RTDProjection, RTDSiglipTextModel, RTDTextTower
from trainer.encoding.noise import draw_noise


__all__ = ["METHODS", "build_published_step", "encode_padded", "joint_contrast"]

_LENGTH = 77


def encode_padded(
    tower: RTDTextTower,
    input_ids: torch.Tensor,
    placeholder_mask: torch.Tensor | None = None,
    words: torch.Tensor | None = None,
    word_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Encode texts padded to 77 tokens; see [`RTDTextModel`] for the arguments. A SigLIP fills up its 64 itself."""
    room = (0, 0 if isinstance(tower, RTDSiglipTextModel) else _LENGTH - input_ids.shape[1])
    pad = tower.config.eos_token_id
    if placeholder_mask is not None:
        placeholder_mask = functional.pad(placeholder_mask, room)
    output = tower(
        input_ids=functional.pad(input_ids, room, value=pad),
        placeholder_mask=placeholder_mask,
        pseudo_token_embeds=words,
        pseudo_token_mask=word_mask,
    )
    return output.text_embeds.float()


def joint_contrast(queries: torch.Tensor, anchors: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute the published contrastive loss: exponentials of all similarities but those of a row with itself."""
    rows = normalize(torch.cat([anchors, queries]), dim=-1)
    similarities = torch.exp(rows @ rows.T / temperature)
    pairs = len(queries)
    positives = torch.cat([similarities.diagonal(pairs), similarities.diagonal(-pairs)])
    return -torch.log(positives / (similarities.sum(1) - similarities.diagonal())).mean()


def _distance(embeds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (1 - functional.cosine_similarity(embeds, targets)).mean()


def _lincir(model: RTDModel, projection: RTDProjection, batch: dict, args) -> torch.Tensor:
    with torch.no_grad():
        text = encode_padded(model.text_model, batch["caption_input_ids"][batch["text_index"]])
    noise = draw_noise(batch["row"], text.shape[1], args.seed, 0, text.device)
    words, _ = projection(text + args.noise_scale * noise)
    masked = encode_padded(model.text_model, batch["input_ids"], batch["placeholder_mask"], words)
    return functional.mse_loss(masked, text)


def _phrases(model: RTDModel, words: torch.Tensor, batch: dict) -> torch.Tensor:
    spliced = encode_padded(model.text_model, batch["input_ids"], batch["placeholder_mask"], words)
    return _distance(spliced, encode_padded(model.text_model, batch["caption_input_ids"][batch["text_index"]]))


def _searle(model: RTDModel, projection: RTDProjection, batch: dict, args) -> torch.Tensor:
    words = projection(batch["image_embeds"])[0]
    distilled = joint_contrast(words[:, 0], batch["words"], args.temperature)
    return distilled + args.phrase_weight * _phrases(model, words, batch)


def _oti(model: RTDModel, words: torch.Tensor, batch: dict, args) -> torch.Tensor:
    shown = encode_padded(model.text_model, batch["template_input_ids"], batch["template_placeholder_mask"], words)
    return (_distance(shown, batch["image_embeds"]) + 0.5 * _phrases(model, words, batch)) / 1.5


def _encode_image(model: RTDModel, batch: dict):
    with torch.no_grad():
        return model.get_image_features(batch["pixel_values"])


def _infer_contrast(model: RTDModel, images: torch.Tensor, words: torch.Tensor, batch: dict) -> torch.Tensor:
    text = encode_padded(model.text_model, batch["prompt_input_ids"], batch["prompt_placeholder_mask"], words)
    logits = model.logit_scale.exp() * normalize(images, dim=-1) @ normalize(text, dim=-1).T
    index = torch.arange(len(images), device=images.device)
    return (functional.cross_entropy(logits, index) + functional.cross_entropy(logits.T, index)) / 2


def _pic2word(model: RTDModel, projection: RTDProjection, batch: dict, args) -> torch.Tensor:
    images = _encode_image(model, batch).pooler_output
    return _infer_contrast(model, images, projection(images)[0], batch)


def _context_i2w(model: RTDModel, projection: RTDProjection, batch: dict, args) -> torch.Tensor:
    images, tokens = _encode_image(model, batch).pooler_output, _encode_image(model, batch).last_hidden_state
    with torch.no_grad():
        context = encode_padded(model.text_model, batch["caption_input_ids"][batch["context_index"]])
    words, _ = projection(image_tokens=tokens, context_embeds=context)
    return _infer_contrast(model, images, words, batch)


def _fti4cir(model: RTDModel, projection: RTDProjection, batch: dict, args) -> torch.Tensor:
    images, tokens = _encode_image(model, batch).pooler_output, _encode_image(model, batch).last_hidden_state
    words, mask, features = projection(images, tokens, return_features=True)
    tower = model.text_model
    whole = encode_padded(tower, batch["prompt_input_ids"], batch["prompt_placeholder_mask"], words, mask)
    with torch.no_grad():
        both = encode_padded(tower, batch["caption_input_ids"][batch["text_index"]])
    subject = encode_padded(tower, batch["subject_input_ids"], batch["subject_placeholder_mask"], words[:, :1])
    attribute = encode_padded(
        tower, batch["attribute_input_ids"], batch["attribute_placeholder_mask"], words[:, 1:], mask[:, 1:]
    )
    products = features @ features.transpose(1, 2)
    orthogonality = (products - torch.eye(products.shape[-1], device=products.device)).square().mean()
    captions = sum(_distance(embeds, both) for embeds in (whole, subject, attribute))
    return joint_contrast(whole, images, args.temperature) + orthogonality + args.caption_weight * captions


# By method: the loss, and whether the published code freezes the text tower's weights.
METHODS = {
    "lincir": (_lincir, True),
    "searle": (_searle, False),
    "oti": (_oti, False),
    "pic2word": (_pic2word, False),
    "context_i2w": (_context_i2w, False),
    "fti4cir": (_fti4cir, False),
}


def build_published_step(
    method: str, model: RTDModel, projection: torch.nn.Module | torch.nn.Parameter, batches: Sequence[dict], args
) -> Callable[[int], torch.Tensor]:
    """Make a callable of a published step: loss, gradients, update.

    Args:
        method (`str`): A key of `METHODS`.
        model ([`RTDModel`]): Whose towers encode; copied.
        projection (`torch.nn.Module` or `torch.nn.Parameter`): What is trained; for `"oti"` the words themselves.
        batches (`list[dict]`): What our collator made, with captions as tokens and images as pixels.
        args ([`ProjectionTrainingArguments`]): The recipe.

    Returns:
        callable: From the number of a batch to the loss.
    """
    compute_loss, is_frozen = METHODS[method]
    model = copy.deepcopy(model)
    model.text_model.requires_grad_(not is_frozen)
    trained = [projection] if isinstance(projection, torch.nn.Parameter) else list(projection.train().parameters())
    rate = args.oti_learning_rate if method == "oti" else args.learning_rate
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=args.weight_decay)

    def step(index: int) -> torch.Tensor:
        loss = compute_loss(model, projection, batches[index], args)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
