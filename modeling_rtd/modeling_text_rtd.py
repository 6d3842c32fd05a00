"""RTD's text towers, which read pseudo-words and two prompts in one row: what all share, CLIP's and SigLIP's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPTextModel, SiglipTextModel
from transformers.masking_utils import create_causal_mask
from transformers.utils import ModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_rtd import RTDSiglipTextConfig, RTDTextConfig, read_text_config
from .errors_rtd import pick_where, refuse_missing
from .files_rtd import name_damage


__all__ = [
    "RTDSiglipTextModel",
    "RTDTextModel",
    "RTDTextOutput",
    "RTDTextTower",
    "hash_named",
    "hash_tensors",
]


@dataclass
class RTDTextOutput(ModelOutput):
    """Output of [`RTDTextModel`] and [`RTDSiglipTextModel`].

    Args:
        text_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`):
            Projected text embeddings, not normalised; of shape `(batch_size, 2, projection_dim)` where `branch_index`
            is given: first the whole prompt, then the branch.
        last_hidden_state (`torch.Tensor` of shape `(batch_size, seq_len, hidden_size)`):
            States of the last layer, after the final layer norm. Of SigLIP: `(batch_size, 64, hidden_size)`, and
            `(2 * batch_size, 64, hidden_size)` where `branch_index` is given.
        pooler_output (`torch.Tensor` of shape `(batch_size, hidden_size)` or `(batch_size, 2, hidden_size)`):
            States at the positions that are pooled, before the text projection.
        hidden_states, attentions (`tuple(torch.Tensor)`, *optional*): As everywhere in transformers.
    """

    text_embeds: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def hash_tensors(module: nn.Module) -> str:
    """Hash the names, types and bytes of all tensors of a module, those of adapters left out.

    Args:
        module (`torch.nn.Module`): Any module.

    Returns:
        `str`: SHA-256 in hexadecimal digits; equal for two modules exactly if their own tensors are.
    """
    tensors = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in module.state_dict().items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }
    return hash_named(tensors)


def hash_named(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash names, types and bytes of tensors.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Tensors by name.

    Returns:
        `str`: SHA-256 in hexadecimal digits, whatever their order.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class RTDTextTower:
    """What the text towers of all families have in common.

    Trainers, collators and losses know nothing of families, since every tower keeps to the same:

    1. Text without pseudo-words gives the family's own text features.
    2. Neither padding on the right with `config.pad_token_id` nor an attention mask over it changes an embedding.
    3. Unused slots of pseudo-words are as if they were not in the sequence.
    4. `branch_index` gives two embeddings a row: of the prompt without that token, and of the prompt up to it.
    """

    _kinds: tuple[str, ...]  # types of configurations that it is for

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load as every transformers model does, but never leave a tower or its projection at random.

        Raises:
            ValueError: If the repository is of another family, or lacks tensors of the tower, such as a bare
                `CLIPTextModel` repository, which has no text projection.
        """
        wants_report = kwargs.pop("output_loading_info", False)
        if "config" not in kwargs:
            with name_damage(pretrained_model_name_or_path):
                kwargs["config"] = read_text_config(pretrained_model_name_or_path, **pick_where(kwargs))
        kind = kwargs["config"].model_type
        if kind not in cls._kinds:  # by name, since the Hub copies our classes
            raise ValueError(
                f"'{pretrained_model_name_or_path}' has a text tower of the type '{kind}', "
                f"which is not that of {cls.__name__}: load_text_model loads it."
            )
        with name_damage(pretrained_model_name_or_path):
            model, report = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        what = "a text tower with its projection, as CLIP, CLIPTextModelWithProjection and RTD repositories hold"
        refuse_missing(report, pretrained_model_name_or_path, what)
        return (model, report) if wants_report else model

    def _embed(self, input_ids, placeholder_mask, pseudo_token_embeds, pseudo_token_mask):
        """Give the words of a batch, `(B, S, H)`, and which of them are unused slots, `(B, S)`, if any can be."""
        size = self.config.vocab_size  # an adapter of the embedding hides its own
        # An accelerator would be waited for, and so would a trace.
        if input_ids.device.type == "cpu" and not torch.compiler.is_compiling() and input_ids.max() >= size:
            raise ValueError(
                f"the text tower has {size} words, and a text has the id {int(input_ids.max())}. Take the tokenizer "
                "that belongs to the model, or enlarge the tower with resize_token_embeddings before it is trained."
            )
        words = self.embeddings.token_embedding(input_ids)
        if pseudo_token_embeds is None:
            return words, None
        if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
            # It keeps lengths of the example: another batch gave other embeddings, without an error.
            raise ValueError(
                "the older exporter of ONNX (dynamo=False) cannot follow pseudo-words: pass dynamo=True to "
                "torch.onnx.export, or run `rtd export`."
            )
        if placeholder_mask is None:
            placeholder_mask = input_ids.eq(self._find_placeholder())
        # The last word serves all further places: LinCIR's captions have several for one word.
        nth = (placeholder_mask.cumsum(-1) - 1).clamp(0, pseudo_token_embeds.shape[1] - 1)  # (B, S)
        rows = pseudo_token_embeds.to(words.dtype).gather(1, nth[..., None].expand_as(words))
        words = torch.where(placeholder_mask[..., None], rows, words)
        if pseudo_token_mask is None:
            return words, None
        return words, placeholder_mask & ~pseudo_token_mask.bool().gather(1, nth)

    def _find_placeholder(self) -> int:
        if self.config.placeholder_token_id is None:
            raise ValueError(
                "pseudo-words came without `placeholder_mask`, and this configuration names no placeholder token: "
                "pass the mask that RTDProcessor makes."
            )
        return self.config.placeholder_token_id

    def _check_inputs(self, input_ids, pseudo_token_embeds, branch_index):
        if not torch.is_tensor(input_ids) or input_ids.ndim != 2:
            came = tuple(input_ids.shape) if torch.is_tensor(input_ids) else type(input_ids).__name__
            raise ValueError(
                f"`input_ids` must have the shape (batch_size, seq_len), got {came}; processor(text=...) makes it."
            )
        batch_size, seq_len = input_ids.shape
        # An inserted end of text shares a position, and pseudo-word slots may turn out unused.
        slots = 0 if pseudo_token_embeds is None else pseudo_token_embeds.shape[1] - 1
        longest = self.config.max_position_embeddings + (branch_index is not None) + slots
        if seq_len > longest:
            raise ValueError(f"the text tower takes {longest} tokens, got {seq_len}; truncate the text.")
        implementation = self.config._attn_implementation or ""
        if "flex" in implementation and input_ids.device.type == "cpu":
            # On processors without AVX-512 torch returns other embeddings there, without an error.
            raise ValueError(
                'flex attention on a CPU is not reliable; load the model with attn_implementation="sdpa".'
            )
        if pseudo_token_embeds is None:
            return
        expected = (batch_size, self.config.hidden_size)
        if pseudo_token_embeds.ndim != 3 or (pseudo_token_embeds.shape[0], pseudo_token_embeds.shape[2]) != expected:
            raise ValueError(
                f"`pseudo_token_embeds` must have the shape ({batch_size}, K, {self.config.hidden_size}), got "
                f"{tuple(pseudo_token_embeds.shape)}; is the projection made for this text tower?"
            )


class RTDTextModel(RTDTextTower, CLIPTextModel):
    """The text tower of CLIP and MetaCLIP 2 with its projection, able to read pseudo-words and two prompts in one row.

    Loads from a CLIP repository, from a `CLIPTextModelWithProjection` repository and from a saved [`RTDModel`]. Text
    without pseudo-words gives exactly CLIP's own text features. RTD trains this tower and nothing else
    (https://huggingface.co/papers/2406.09188).

    Args:
        config ([`RTDTextConfig`]): Configuration.
    """

    config: RTDTextConfig
    config_class = RTDTextConfig
    # The loader finds the tower in whole repositories by this prefix. A table of renames registered for this class
    # would leave the tower of a composite at random.
    base_model_prefix = "text_model"
    _kinds = ("clip_text_model", "metaclip_2_text_model")
    _keys_to_ignore_on_load_unexpected = [
        r"^vision_model\.",
        r"^visual_projection\.",
        r"^projection\.",
        r"^logit_scale$",
        r"embeddings\.position_ids$",
    ]

    def __init__(self, config: RTDTextConfig):
        super().__init__(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

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
        r"""Encode texts in which some positions are pseudo-words.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, seq_len)`): Token ids; each row holds an end of text.
            attention_mask (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                1 for tokens, 0 for padding. Padding on the right needs none: attention is causal.
            position_ids (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Defaults to the places of the tokens.
            placeholder_mask (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                True at the positions that take pseudo-words: the n-th takes the n-th row of `pseudo_token_embeds`,
                the last row serves any further ones. Defaults to positions equal to
                `config.placeholder_token_id`.
            pseudo_token_embeds (`torch.Tensor` of shape `(batch_size, K, hidden_size)`, *optional*): Pseudo-words.
            pseudo_token_mask (`torch.Tensor` of shape `(batch_size, K)`, *optional*):
                False for unused slots, which are treated as if they were not in the sequence.
            branch_index (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Position of an inserted end-of-text token that sees all before it and that nothing else sees. The row
                then carries two prompts: itself without that token, and itself up to and including it.

        Returns:
            [`RTDTextOutput`]: With two embeddings a row where `branch_index` is given.

        Raises:
            ValueError: If shapes do not fit, the text is too long, or the attention implementation cannot do it.
        """
        self._check_inputs(input_ids, pseudo_token_embeds, branch_index)
        if branch_index is not None and "flash" in (self.config._attn_implementation or ""):
            raise ValueError(
                f"'{self.config._attn_implementation}' cannot run two prompts in one sequence: it ignores the mask "
                'between them; load the text tower with attn_implementation="sdpa".'
            )
        batch_size, seq_len = input_ids.shape
        steps = torch.arange(seq_len, device=input_ids.device).expand(batch_size, -1)
        positions = steps
        words, unused = self._embed(input_ids, placeholder_mask, pseudo_token_embeds, pseudo_token_mask)
        if unused is not None:
            positions = positions - unused.long().cumsum(-1)
            attention_mask = (torch.ones_like(steps) if attention_mask is None else attention_mask) * ~unused
        if branch_index is not None:
            is_branch = steps == branch_index[:, None]  # (B, S)
            # What follows the inserted end of text moves back by one, to where it is in prompt A.
            positions = positions - (steps > branch_index[:, None]).long()
        if position_ids is None:
            position_ids = positions.clamp(0, self.config.max_position_embeddings - 1)
        hidden = words + self.embeddings.position_embedding(position_ids)
        mask = self._build_mask(hidden, attention_mask, branch_index)
        kwargs.pop("is_causal", None)
        output = self.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True, **kwargs)
        hidden = self.final_layer_norm(output.last_hidden_state)

        is_largest = self.config.pools_largest_id
        is_end = input_ids == (input_ids.amax(-1, keepdim=True) if is_largest else self.config.eos_token_id)
        if branch_index is None:
            ends = is_end.int().argmax(-1)  # (B,)
            pooled = hidden[torch.arange(batch_size, device=hidden.device), ends]  # (B, H)
        else:
            # CLIP's own pooling takes the first end of text, which is the inserted one.
            ends = torch.stack([(is_end & ~is_branch).int().argmax(-1), branch_index], dim=1)  # (B, 2)
            pooled = hidden.gather(1, ends[..., None].expand(-1, -1, hidden.shape[-1]))  # (B, 2, H)
        return RTDTextOutput(text_embeds=self.text_projection(pooled), last_hidden_state=hidden, pooler_output=pooled)

    def _build_mask(self, hidden, attention_mask, branch_index):
        and_mask = None
        if branch_index is not None and self.config._attn_implementation in ("eager", "sdpa"):
            # Written out: given a function, transformers' builder takes ten milliseconds of the host at each step.
            places = torch.arange(hidden.shape[1], device=hidden.device)
            is_same = places[:, None] == places  # (S, S)
            seen = (places[:, None] >= places) & ((places != branch_index[:, None, None]) | is_same)  # (B, S, S)
            seen = (seen if attention_mask is None else seen & attention_mask[:, None].bool())[:, None]
            if self.config._attn_implementation == "sdpa":
                return seen
            # eager adds its mask to the scores, where sdpa takes booleans.
            return torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
        if branch_index is not None:

            def and_mask(batch, head, query, key):
                return (key != branch_index[batch]) | (query == key)

        # Position ids stay out of the mask builder: it would take their repeats for packed, separate sequences.
        # No cache, which is `past_key_values` before transformers 5.24 and `cache` from then on.
        return create_causal_mask(self.config, hidden, attention_mask, None, and_mask_function=and_mask)


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
