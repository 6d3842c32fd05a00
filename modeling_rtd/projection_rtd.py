"""The interface of projections: networks that turn an image into pseudo-words in the text tower's token space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .configuration_rtd import RTDProjectionConfig, name_family


__all__ = ["RTD_TEMPLATE", "Paper", "RTDProjection"]


RTD_TEMPLATE = "a photo of $ that {condition}"


@dataclass(frozen=True)
class Paper:
    """A method and its paper.

    Args:
        name (`str`): Name of the method, as its authors write it.
        key (`str`): Key of its BibTeX entry.
        title (`str`): Title of the paper.
        authors (`str`): Authors, as BibTeX writes them.
        arxiv (`str`): Number on arXiv, which begins with year and month.
    """

    name: str
    key: str
    title: str
    authors: str
    arxiv: str

    @property
    def address(self) -> str:
        """`str`: Page of the paper."""
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def bibtex(self) -> str:
        """`str`: BibTeX entry.

        Examples:
            >>> Paper("RTD", "byun2024rtd", "Reducing", "Byun, Jaeseok", "2406.09188").bibtex.splitlines()[-2:]
            ['  year = {2024}', '}']
        """
        return (
            f"@article{{{self.key},\n  title = {{{self.title}}},\n  author = {{{self.authors}}},\n"
            f"  journal = {{arXiv:{self.arxiv}}},\n  year = {{20{self.arxiv[:2]}}}\n}}"
        )


class RTDProjection(PreTrainedModel):
    """Interface of all projections; a projection defines `project`.

    A projection says what it consumes and how many pseudo-words it emits at most, and it owns the prompt in which its
    pseudo-words are read. Nothing else in the package asks which projection it holds.

    Attributes:
        paper ([`Paper`]): Where it was published.
        consumes (`tuple[str, ...]`): Which of `image_embeds`, `image_tokens`, `context_embeds` it reads.
        max_pseudo_tokens (`int`): Number K of pseudo-words at most.
        prompt_template (`str`): Prompt of a composed query, each `$` a pseudo-word; up to its last `$` it is the
            prompt of the reference alone.
        rtd_template (`str`, *optional*): Name of the template that RTD trains and answers with; its own by default.
    """

    config_class = RTDProjectionConfig
    base_model_prefix = "projection"
    main_input_name = "image_embeds"
    # A projection also loads from a whole model, of which it takes its own part.
    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^text_projection\.", r"^vis", r"^logit_scale$"]
    # The attention implementation chosen for the towers is none of a projection's business.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    paper: Paper | None = None
    consumes: tuple[str, ...] = ("image_embeds",)
    max_pseudo_tokens: int = 1
    prompt_template: str = RTD_TEMPLATE
    rtd_template: str | None = None

    @torch.no_grad()
    def _init_weights(self, module):
        # PyTorch's own default, as all published projections use; the library's default would be N(0, 0.02).
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.in_features)
                init.uniform_(module.bias, -bound, bound)

    def check_backbone(self, family: str, **sizes: int) -> None:
        """Refuse a backbone that this projection was not made for.

        Args:
            family (`str`): Of the backbone, see [`name_family`].
            sizes (`int`): Of the backbone: `projection_dim`, `text_hidden_size`, and where it has a vision tower
                `vision_hidden_size`, which matters only to a projection that reads image tokens.

        Raises:
            ValueError: If family or a size differs from what the projection says of itself.
        """
        # Sizes do not tell families apart: CLIP L/14 and SigLIP B/16 both have 768 and 768.
        if self.config.family not in (None, family):
            raise ValueError(
                f"the projection is made for a {self.config.family}, and the backbone is a {family}; use a projection "
                "that was trained on this backbone."
            )
        names = [name for name in sizes if name != "vision_hidden_size" or "image_tokens" in self.consumes]
        own, backbone = ({name: getattr(self.config, name) for name in names}, {name: sizes[name] for name in names})
        if own != backbone:
            raise ValueError(
                f"the projection is made for {own}, the backbone has {backbone}; use a projection that was trained on "
                "this backbone."
            )

    def check_text_tower(self, config: PreTrainedConfig) -> None:
        """Refuse a text tower that this projection was not made for.

        Args:
            config ([`RTDTextConfig`] or [`RTDSiglipTextConfig`]): Its configuration.

        Raises:
            ValueError: See `check_backbone`.
        """
        sizes = {"projection_dim": config.projection_dim, "text_hidden_size": config.hidden_size}
        self.check_backbone(name_family(config), **sizes)

    def forward(
        self,
        image_embeds: torch.Tensor | None = None,
        image_tokens: torch.Tensor | None = None,
        context_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turn images into pseudo-words. What the projection does not consume may be left out.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`, *optional*):
                Projected and **not** normalised embeddings, as CLIP returns them.
            image_tokens (`torch.Tensor` of shape `(batch_size, 1 + num_patches, vision_hidden_size)`, *optional*):
                Output of the last vision block, class token first, before the post layer norm.
            context_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`, *optional*):
                Embedding of the query's text by the text tower from before RTD, not normalised.
            kwargs: Passed to `project`.

        Returns:
            `tuple`: `pseudo_token_embeds` of shape `(batch_size, max_pseudo_tokens, text_hidden_size)` and
            `pseudo_token_mask` of shape `(batch_size, max_pseudo_tokens)`, true where a slot is used, or `None` where
            every slot always is.

        Raises:
            ValueError: If something it consumes is missing or of another size.
        """
        given = {"image_embeds": image_embeds, "image_tokens": image_tokens, "context_embeds": context_embeds}
        missing = [name for name in self.consumes if given[name] is None]
        if missing:
            raise ValueError(
                f"a '{self.config.projection_type}' projection reads {', '.join(self.consumes)}, but "
                f"{', '.join(missing)} did not come. Pass the whole output of `get_image_features`, not pooled "
                "embeddings alone, and with a context the prompt."
            )
        for name in self.consumes:
            dims = 3 if name == "image_tokens" else 2
            size = self.config.vision_hidden_size if name == "image_tokens" else self.config.projection_dim
            if given[name].ndim != dims or given[name].shape[-1] != size:
                raise ValueError(
                    f"`{name}` must have {dims} dimensions, the last of size {size}, got {tuple(given[name].shape)}; "
                    "is the projection made for this CLIP?"
                )
        return self.project(**{name: given[name] for name in self.consumes}, **kwargs)

    def project(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the pseudo-words from checked inputs.

        Args:
            inputs (`torch.Tensor`): What `consumes` names, see `forward`.

        Returns:
            `tuple`: See `forward`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define how it projects")
