"""Collators: rows of text to named tensors, as long as the batch needs and no longer."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from modeling_rtd import PLACEHOLDER, RTDProcessor
from trainer.encoding.length_groups import group_by_length
from trainer.training.condition_augmentation import ConditionAugmentation


__all__ = ["HardNegativeTripletCollator", "WarningOnce", "collate_captions", "write_contexts"]


class WarningOnce:
    """Lets the first batch with texts that are cut warn of them, with their count, and later ones be silent."""

    def __init__(self):
        self._kinds: set[str] = set()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Collate a batch inside this context."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            # Counts and words differ from batch to batch; the kind of a warning does not.
            kind = re.sub(r"\d+|, such as .*", "", str(warning.message))
            if kind not in self._kinds:
                self._kinds.add(kind)
                warnings.warn(f"{warning.message} Later batches bring no further warning.", stacklevel=4)


def collate_captions(
    processor: RTDProcessor, warning_once: WarningOnce, length_groups: int = 1, **columns: Sequence[str]
) -> dict:
    """Tokenise captions of several columns, each distinct caption once.

    Args:
        processor ([`RTDProcessor`]): The processor.
        warning_once ([`WarningOnce`]): Of all batches of a run.
        length_groups (`int`, defaults to 1): Groups to run the captions in.
        columns (`list[str]`): Captions by name, such as `reference=[...]`.

    Returns:
        `dict`: `caption_input_ids` of shape `(num_distinct, seq_len)`, by rising length; `caption_groups`, see
        [`group_by_length`]. And for each column `{name}_index` of shape `(batch_size,)`, the rows of its captions.
    """
    # In the order of the batch: that of a set differs from run to run.
    distinct = list(dict.fromkeys(caption for column in columns.values() for caption in column))
    with warning_once():
        ids = dict(zip(distinct, processor.tokenize_texts(distinct), strict=True))
    distinct.sort(key=lambda caption: len(ids[caption]))
    position = {caption: i for i, caption in enumerate(distinct)}
    batch = {
        "caption_input_ids": processor.pad([ids[caption] for caption in distinct])["input_ids"],
        "caption_groups": group_by_length([len(ids[caption]) for caption in distinct], length_groups),
    }
    for name, column in columns.items():
        batch[f"{name}_index"] = torch.tensor([position[caption] for caption in column])
    return batch


def write_contexts(processor: RTDProcessor, conditions: Iterable[str], composition: bool = True) -> list[str]:
    """Write each condition's prompt as the context that a projection reads, without pseudo-words.

    Args:
        processor ([`RTDProcessor`]): The processor, whose default template is written.
        conditions (iterable of `str`): Conditions.
        composition (`bool`, defaults to `True`): Otherwise write the prompt of the reference alone.

    Returns:
        `list[str]`: Contexts.
    """
    template = processor.prompt_templates[processor.default_template].replace(PLACEHOLDER, processor.context_word)
    if not composition:
        template = template[: template.index(processor.context_word) + len(processor.context_word)]
    return [template.replace("{condition}", text) for text in conditions]


class HardNegativeTripletCollator:
    """Collate text triplets for RTD: refined batch sampling and refined concatenation.

    Refined batch sampling (https://huggingface.co/papers/2406.09188) gives each triplet a second pair, the prompt of
    the reference alone and the reference caption. It is a hard negative, since it differs from the composed prompt by
    the condition only. Both prompts share all tokens up to the pseudo-word, so they travel as **one** sequence. It is
    the composed prompt with one end of text inserted at `branch_index`.

    Args:
        processor ([`RTDProcessor`]): Tokenizer and prompt templates.
        template (`str`, *optional*): Name of the prompt template. Defaults to the processor's default.
        refined_batch (`bool`, defaults to `True`): Add the hard negatives.
        refined_concatenation (`bool`, defaults to `True`):
            Write placeholders for pseudo-words. Otherwise write the reference caption itself (an ablation).
        composition (`bool`, defaults to `True`):
            Otherwise only the pairs of reference prompt and reference caption are made (a control).
        caption_embeddings (callable, *optional*):
            From captions to frozen embeddings of shape `(batch_size, projection_dim)`. Where it is absent, or
            `with_captions` is set, the captions themselves are tokenised, each distinct one once.
        with_captions (`bool`, defaults to `False`): Tokenise captions even where their embeddings are known.
        length_groups (`int`, defaults to 1):
            Groups to run a batch in, so that short prompts are not padded to the longest.
        caption_interval (`int`, *optional*):
            Tokenise the captions of every Nth triplet, for the tower in training to read. Defaults to none.
        augmentation ([`ConditionAugmentation`], *optional*): Changes conditions; they stay as they are without it.
    """

    def __init__(
        self,
        processor: RTDProcessor,
        template: str | None = None,
        refined_batch: bool = True,
        refined_concatenation: bool = True,
        composition: bool = True,
        caption_embeddings: Callable[[Sequence[str]], torch.Tensor] | None = None,
        with_captions: bool = False,
        length_groups: int = 1,
        caption_interval: int | None = None,
        augmentation: ConditionAugmentation | None = None,
    ):
        self.processor = processor
        self.template = template
        self.refined_batch = refined_batch
        self.refined_concatenation = refined_concatenation
        self.composition = composition
        self.caption_embeddings = caption_embeddings
        self.with_captions = with_captions
        self.length_groups = length_groups
        self.caption_interval = caption_interval
        self.augmentation = augmentation
        self._warning_once = WarningOnce()

    def __call__(self, rows: Sequence[dict]) -> dict:
        """Collate prepared rows.

        Args:
            rows (`list[dict]`): Rows of [`prepare_triplets`].

        Returns:
            `dict`: `input_ids` and (with refined concatenation) `placeholder_mask` of shape `(batch_size, seq_len)`,
            by rising length. `length_groups`, see [`group_by_length`]. `branch_index` of shape `(batch_size,)` with
            refined batch sampling. `row`, a list of numbers, since the noise is drawn on the CPU. `reference_embeds`,
            `target_embeds` and (where the rows have a context) `context_embeds` of shape
            `(batch_size, projection_dim)`, or what [`collate_captions`] makes of them. With `caption_interval` also
            `plain`: what [`collate_captions`] makes of the captions of the triplets at `rows` of the batch.

        Raises:
            ValueError: If the batch has a single row, which has no negatives.
        """
        if len(rows) < 2:
            raise ValueError(f"a batch of {len(rows)} triplet has no negatives; use at least 2 triplets a batch.")
        if self.augmentation is not None:
            rows = self._augment(rows)
        prompts, heads = self._build_prompts(rows)
        # The loss is a mean over the batch, in which the order of rows does not matter.
        order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
        rows, prompts, heads = ([values[i] for i in order] for values in (rows, prompts, heads))
        padded = self.processor.pad(prompts)
        # Padding is on the right and attention is causal, so no attention mask is needed.
        batch = {
            "input_ids": padded["input_ids"],
            "length_groups": group_by_length([len(ids) for ids in prompts], self.length_groups),
            "row": [row["row"] for row in rows],
        }
        if self.refined_concatenation:
            batch["placeholder_mask"] = padded["placeholder_mask"]
        if self._has_branch:
            batch["branch_index"] = torch.tensor(heads)
        captions = {name: [row[f"{name}_caption"] for row in rows] for name in ("reference", "target")}
        if "context" in rows[0]:
            captions["context"] = [row["context"] for row in rows]
        if self.caption_embeddings is not None:
            batch |= {f"{name}_embeds": self.caption_embeddings(texts) for name, texts in captions.items()}
        if self.caption_embeddings is None or self.with_captions:
            batch |= collate_captions(self.processor, self._warning_once, self.length_groups, **captions)
        if self.caption_interval is not None:
            # Counted before rows are sorted by length, so that no length is preferred and processes agree with one.
            chosen = [place for place, i in enumerate(order) if i % self.caption_interval == 0]
            plain = {name: [captions[name][place] for place in chosen] for name in ("reference", "target")}
            batch["plain"] = collate_captions(self.processor, self._warning_once, self.length_groups, **plain)
            batch["plain"]["rows"] = torch.tensor(chosen)
        return batch

    def _augment(self, rows: Sequence[dict]) -> list[dict]:
        rows = self.augmentation(rows)
        if "context" in rows[0]:
            contexts = write_contexts(self.processor, [row["conditioning_caption"] for row in rows])
            rows = [row | {"context": context} for row, context in zip(rows, contexts, strict=True)]
        return rows

    @property
    def _has_branch(self) -> bool:
        return self.refined_batch and self.composition

    def _build_prompts(self, rows: Sequence[dict]) -> tuple[list[list[int]], list[int]]:
        references = [row["reference_caption"] for row in rows]
        conditions = [row["conditioning_caption"] if self.composition else "" for row in rows]
        with self._warning_once():
            prompts, heads = self.processor.build_prompts(
                conditions, self.template, None if self.refined_concatenation else references
            )
        if self._has_branch:
            end = self.processor.tokenizer.eos_token_id
            # Prompt B ends behind the pseudo-word, where prompt A goes on.
            prompts = [[*ids[:head], end, *ids[head:]] for ids, head in zip(prompts, heads, strict=True)]
        return prompts, heads
