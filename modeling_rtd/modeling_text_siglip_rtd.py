"""RTD's text tower on SigLIP and SigLIP 2: attention in both directions, rows always as long as in its training."""

from __future__ import annotations

import torch
from transformers import SiglipTextModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_rtd import RTDSiglipTextConfig
from .modeling_text_rtd import RTDTextOutput, RTDTextTower


__all__ = ["RTDSiglipTextModel"]


class RTDSiglipTextModel(RTDTextTower, SiglipTextModel):
    """SigLIP's text tower, able to read pseudo-words and two prompts in one row.

    SigLIP sees its padding and pools the last of 64 positions. Hence each row is filled up with
    `config.pad_token_id` here, and the second prompt of a row runs as a row of its own.

    Args:
        config ([`RTDSiglipTextConfig`]): Configuration; `pad_token_id` must be that of the tokenizer, which the
            configurations of SigLIP 2 do not say: [`RTDModel.from_clip`] settles it.
    """

    config: RTDSiglipTextConfig
    config_class = RTDSiglipTextConfig
    _kinds = ("siglip_text_model",)
    _keys_to_ignore_on_load_unexpected = [
        r"^vision_model\.",
        r"^projection\.",
        r"^logit_(scale|bias)$",
        r"embeddings\.position_ids$",
    ]

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        placeholder_mask: torch.Tensor | None = None,
        pseudo_token_embeds: torch.Tensor | None = None,
        pseudo_token_mask: torch.Tensor | None = None,
        branch_index: torch.Tensor | None = None,
        **kwargs,
    ) -> RTDTextOutput:
        """Encode texts in which some positions are pseudo-words.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, seq_len)`): Token ids, as many as the longest text has.
            attention_mask, position_ids (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Without effect: SigLIP sees its padding, and a row has no other positions than its own.
            placeholder_mask, pseudo_token_embeds, pseudo_token_mask, branch_index (`torch.Tensor`, *optional*):
                See [`RTDTextModel.forward`].

        Returns:
            [`RTDTextOutput`]: With two embeddings a row where `branch_index` is given.

        Raises:
            ValueError: If shapes do not fit, or the text is too long.
        """
        self._check_inputs(input_ids, pseudo_token_embeds, branch_index)
        words, dropped = self._embed(input_ids, placeholder_mask, pseudo_token_embeds, pseudo_token_mask)
        if branch_index is not None:
            dropped = torch.zeros_like(input_ids, dtype=torch.bool) if dropped is None else dropped
            steps, place = torch.arange(input_ids.shape[1], device=input_ids.device), branch_index[:, None]
            # Every token sees all others here, so that the two prompts need two rows.
            dropped = torch.cat([dropped | (steps == place), dropped | (steps > place)])  # (2B, S)
            words = words.repeat(2, 1, 1)
        hidden = self._fill(words, dropped) + self.embeddings.position_embedding.weight
        hidden = self.encoder(inputs_embeds=hidden, attention_mask=None, **kwargs).last_hidden_state
        hidden = self.final_layer_norm(hidden)
        # SigLIP pools at the last place, padding or not, as it was trained.
        pooled = hidden[:, -1]
        if branch_index is not None:
            pooled = torch.stack(pooled.chunk(2), dim=1)  # (B, 2, H)
        return RTDTextOutput(text_embeds=self.head(pooled), last_hidden_state=hidden, pooler_output=pooled)

    def _fill(self, words: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
        """Close the gaps of dropped words, and fill each row with padding up to the length of training."""
        total, pad = self.config.max_position_embeddings, self.config.pad_token_id
        padding = self.embeddings.token_embedding.weight[pad].to(words.dtype)
        if dropped is not None:
            order = torch.sort(dropped.int(), dim=-1, stable=True).indices  # kept words first, in their order
            words = words.gather(1, order[..., None].expand_as(words))
            words = torch.where(dropped.gather(1, order)[..., None], padding, words)[:, :total]
        return torch.cat([words, padding.expand(len(words), total - words.shape[1], -1)], dim=1)
