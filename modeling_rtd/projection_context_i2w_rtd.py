"""Context-I2W: a pseudo-word from the parts of an image that the query's text asks about."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init

from .configuration_rtd import RTDProjectionConfig
from .projection_pic2word_rtd import build_narrow_layers
from .projection_rtd import Paper, RTDProjection


__all__ = ["ContextI2WProjection"]


class _WeightNormLinear(nn.Module):
    """A linear map without bias whose rows are a length times a direction.

    Not torch's parametrization: its names are among those that transformers rewrites when it loads a checkpoint.
    """

    def __init__(self, size: int):
        super().__init__()
        # Not torch's weight norm, whose names in a state differ between its versions.
        self.scale = nn.Parameter(torch.empty(size, 1))
        self.direction = nn.Parameter(torch.empty(size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.scale * functional.normalize(self.direction, dim=-1))


class _LatentAttention(nn.Module):
    """Attention of learned queries over image tokens and themselves."""

    def __init__(self, size: int, num_heads: int, head_size: int = 64):
        super().__init__()
        self.num_heads = num_heads
        self.norm_media, self.norm_latents = nn.LayerNorm(size), nn.LayerNorm(size)
        self.to_q = nn.Linear(size, num_heads * head_size, bias=False)
        self.to_kv = nn.Linear(size, 2 * num_heads * head_size, bias=False)
        self.to_out = nn.Linear(num_heads * head_size, size, bias=False)

    def forward(self, tokens: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = self.norm_latents(latents)
        key, value = self.to_kv(torch.cat([self.norm_media(tokens), latents], dim=1)).chunk(2, dim=-1)
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.to_q(latents), key, value))
        return self.to_out(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class _VisualTargetExtractor(nn.Module):
    """Four learned queries that gather what matters from image tokens, layer by layer, and are averaged."""

    def __init__(self, size: int, num_layers: int, num_heads: int, num_latents: int = 4):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(num_latents, size))
        self.layers = nn.ModuleList(
            nn.ModuleList([_LatentAttention(size, num_heads), _build_feed_forward(size)]) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        latents = self.latents.expand(len(tokens), -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(tokens, latents)
            latents = latents + feed_forward(latents)
        return self.norm(latents).mean(1)  # (B, V)


def _build_feed_forward(size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(size), nn.Linear(size, 4 * size, bias=False), nn.GELU(), nn.Linear(4 * size, size, bias=False)
    )


class ContextI2WProjection(RTDProjection):
    """The network of Context-I2W (https://huggingface.co/papers/2309.16137).

    The query's text, encoded by the text tower from before RTD, scales the image's tokens (intent view selector).
    Learned queries gather the parts that it asks about (visual target extractor). The pseudo-word is a global path
    from the class token plus `tanh(local_gate)` times a local path from those parts. It depends on the text, so
    pseudo-words cannot be stored per image.

    Args:
        config ([`RTDProjectionConfig`]):
            Hidden width defaults to 512, dropout to 0.1, layers of the extractor to 6, heads to 8 (of 64), as
            published.
    """

    paper = Paper(
        "Context-I2W",
        "tang2023contexti2w",
        "Context-I2W: Mapping Images to Context-dependent Words for Accurate Zero-Shot Composed Image Retrieval",
        "Tang, Yuanmin and Yu, Jing and Gai, Keke and Zhuang, Jiamin and Xiong, Gang and Hu, Yue and Wu, Qi",
        "2309.16137",
    )
    consumes = ("image_tokens", "context_embeds")
    prompt_template = "a photo of $ , {condition}"

    def __init__(self, config: RTDProjectionConfig):
        super().__init__(config)
        size, dim, width = config.vision_hidden_size, config.projection_dim, config.hidden_size or 512
        dropout = 0.1 if config.dropout is None else config.dropout
        self.to_c = nn.Linear(dim, size, bias=False)
        self.view_selector = _WeightNormLinear(size)
        self.extractor = _VisualTargetExtractor(size, config.num_hidden_layers or 6, config.num_attention_heads or 8)
        self.ln_post, self.ln_post_local = nn.LayerNorm(size), nn.LayerNorm(size)
        self.proj, self.proj_local = nn.Parameter(torch.empty(size, dim)), nn.Parameter(torch.empty(size, dim))
        self.layers, self.layers_local = (build_narrow_layers(dim, width, dropout) for _ in range(2))
        self.fc_out, self.fc_out_local = (nn.Linear(width, config.text_hidden_size) for _ in range(2))
        self.local_gate = nn.Parameter(torch.empty(1))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, _WeightNormLinear):
            init.kaiming_uniform_(module.direction, a=5**0.5)
            init.copy_(module.scale, module.direction.norm(dim=-1, keepdim=True))
        elif isinstance(module, _VisualTargetExtractor):
            init.normal_(module.latents)
        elif isinstance(module, ContextI2WProjection):
            init.normal_(module.proj, std=module.config.vision_hidden_size**-0.5)
            init.normal_(module.proj_local, std=module.config.vision_hidden_size**-0.5)
            # As published: at first the word is the global one, and of the local path only the gate has a gradient.
            init.zeros_(module.local_gate)

    def project(self, image_tokens: torch.Tensor, context_embeds: torch.Tensor):
        """See [`RTDProjection.project`]."""
        tokens = self.view_selector(image_tokens) * self.to_c(context_embeds)[:, None]  # (B, 1 + N, V)
        whole = self.fc_out(self.layers(self.ln_post(tokens[:, 0]) @ self.proj))
        parts = self.ln_post_local(self.extractor(tokens[:, 1:])) @ self.proj_local
        local = self.fc_out_local(self.layers_local(parts))
        return (whole + self.local_gate.tanh() * local)[:, None], None  # (B, 1, H)
