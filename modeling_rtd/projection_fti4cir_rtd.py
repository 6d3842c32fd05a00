"""FTI4CIR: a subject word and as many attribute words as an image needs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init

from .configuration_rtd import RTDProjectionConfig
from .projection_rtd import Paper, RTDProjection
from .projection_searle_rtd import build_wide_layers


__all__ = ["FTI4CIRProjection"]

_NUM_TEMPLATES, _MAX_ATTRIBUTES = 24, 12  # published, and so is the next one
_THRESHOLD = 0.05  # share of the softmax that a template needs to become a word


class _Attention(nn.Module):
    """Self-attention over templates and image tokens."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_queries = nn.Linear(size, size, bias=False)
        self.to_keys_values = nn.Linear(size, 2 * size, bias=False)
        self.project = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key, value = self.to_keys_values(x).chunk(2, dim=-1)
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.to_queries(x), key, value))
        return self.project(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class _Perceptron(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.relu(self.fc1(x)))


class _Layer(nn.Module):
    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attn, self.mlp = _Attention(size, num_heads), _Perceptron(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Transformer(nn.Module):
    def __init__(self, size: int, num_layers: int, num_heads: int):
        super().__init__()
        self.layers = nn.ModuleList(_Layer(size, num_heads) for _ in range(num_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Phi(nn.Module):
    def __init__(self, config: RTDProjectionConfig):
        super().__init__()
        self.layers = build_wide_layers(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class FTI4CIRProjection(RTDProjection):
    """The network of FTI4CIR (https://huggingface.co/papers/2503.19296): one subject word, 1 to 12 attribute words.

    The subject word comes from the pooled embedding. Attribute words come from learned templates that attend to the
    image's tokens. A template becomes a word where its share of a softmax over all templates, by their similarity to
    the pooled embedding, exceeds 0.05. Words are in the order of their templates.

    Args:
        config ([`RTDProjectionConfig`]):
            Hidden width defaults to `4 * projection_dim`, dropout to 0.5, layers of the transformer to 3, heads to 1,
            as published.

    Raises:
        ValueError: If `text_hidden_size` is not `projection_dim`, since the two are compared with each other.
    """

    paper = Paper(
        "FTI4CIR",
        "lin2025fti4cir",
        "Fine-grained Textual Inversion Network for Zero-Shot Composed Image Retrieval",
        "Lin, Haoqiang and Wen, Haokun and Song, Xuemeng and Liu, Meng and Hu, Yupeng and Nie, Liqiang",
        "2503.19296",
    )
    consumes = ("image_embeds", "image_tokens")
    max_pseudo_tokens = 1 + _MAX_ATTRIBUTES
    prompt_template = f"a photo of $ with {' '.join('$' * _MAX_ATTRIBUTES)} but {{condition}}"

    def __init__(self, config: RTDProjectionConfig):
        super().__init__(config)
        if config.text_hidden_size != config.projection_dim:
            raise ValueError(
                f"'{config.projection_type}' compares joint embeddings (size {config.projection_dim}) with words "
                f"(size {config.text_hidden_size}), so the two sizes must be equal. Use a CLIP where they are, or "
                "another method."
            )
        size = config.vision_hidden_size
        self.templates = nn.Parameter(torch.empty(1, _NUM_TEMPLATES, size))
        self.transformer = _Transformer(size, config.num_hidden_layers or 3, config.num_attention_heads or 1)
        self.local_atte_fc = nn.Sequential(nn.Linear(size, config.text_hidden_size), nn.Sigmoid())
        self.phi_s, self.phi_a = _Phi(config), _Phi(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FTI4CIRProjection):
            init.normal_(module.templates)

    def project(self, image_embeds: torch.Tensor, image_tokens: torch.Tensor, return_features: bool = False):
        """See [`RTDProjection.project`].

        Args:
            image_embeds, image_tokens (`torch.Tensor`): See `RTDProjection.forward`.
            return_features (`bool`, defaults to `False`):
                Also return the L2-normalised local features of all 12 slots, of shape
                `(batch_size, 12, text_hidden_size)`, which training makes orthogonal.
        """
        features, used = self._select(image_embeds, image_tokens)
        words = torch.cat([self.phi_s(image_embeds)[:, None], self.phi_a(features)], dim=1)  # (B, 13, H)
        mask = functional.pad(used, (1, 0), value=True)
        return (words, mask, features) if return_features else (words, mask)

    def _select(self, image_embeds: torch.Tensor, image_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        templates = self.templates.expand(len(image_tokens), -1, -1)
        tokens = self.transformer(torch.cat([templates, image_tokens], dim=1))
        local = self.local_atte_fc(tokens[:, :_NUM_TEMPLATES])  # (B, 24, H)
        # Not normalised, as published: the norm of the image's embedding decides how sharp the shares are.
        shares = (local @ image_embeds[..., None])[..., 0].softmax(-1)  # (B, 24)
        count = (shares > _THRESHOLD).sum(-1, keepdim=True).clamp(1, _MAX_ATTRIBUTES)  # (B, 1)
        best = shares.sort(dim=-1, descending=True, stable=True).indices[:, :_MAX_ATTRIBUTES]  # (B, 12)
        rank = torch.arange(_MAX_ATTRIBUTES, device=best.device)
        used = rank < count  # (B, 12)
        # Used ones by template; the others stay behind them, by falling share.
        best = best.gather(1, torch.where(used, best, _NUM_TEMPLATES + rank).argsort(dim=-1))
        features = local.gather(1, best[..., None].expand(-1, -1, local.shape[-1]))
        return functional.normalize(features, dim=-1), used
