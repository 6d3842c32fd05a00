"""LinCIR: self-masking projection from plain captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch.nn import functional

from modeling_rtd import RTDModel, RTDProcessor, RTDProjection, hash_tensors
from trainer.data.captions import clean_captions
from trainer.data.keywords import get_keyword_fn, mask_keywords
from trainer.data.row_files import is_stream
from trainer.data.streams import RowStream, identify_rows, sample_rows
from trainer.data.tables import keep_texts, load_table, map_blocks
from trainer.encoding.length_groups import group_by_length, run_in_groups
from trainer.encoding.noise import draw_noise, measure_noise, settle_noise_unit
from trainer.methods import Method, register_method
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.projections.objective import Objective


__all__ = ["METHOD", "LinCIRObjective", "LinCIRTrainingArguments"]


@dataclass
class LinCIRTrainingArguments(ProjectionTrainingArguments):
    """LinCIR's arguments; the defaults are its published recipe but for how keywords are found.

    That is batches of 512 captions for 20,000 steps, AdamW at 1e-4, constant, weight decay 0.01. There are two
    deviations, and `keyword_fn="spacy", mask_on="substrings"` is as published:

    - Keywords are found by a lexicon that comes with a package, since spaCy's model has to be downloaded.
    - They are masked as whole words, since the published code also masks the letter "a" inside words.

    Args:
        noise_scale (`float`, defaults to 1.0): Scale of the noise on the caption embedding.
        noise_unit (`str`, *optional*): See [`RTDTrainingArguments`].
        keyword_fn (`str`, defaults to `"lexicon"`):
            Finds the words to mask: `"spacy"` (published; needs a spaCy model), `"lexicon"` or `"rule"`.
        mask_on (`str`, defaults to `"words"`):
            Mask whole words, or `"substrings"` wherever the letters occur, as the published code does.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate; published."})
    max_steps: int = field(default=20000, metadata={"help": "Steps of training; published."})
    per_device_train_batch_size: int = field(default=512, metadata={"help": "Rows a step, on each device; published."})
    noise_scale: float = field(default=1.0, metadata={"help": "Scale of the noise on the caption embedding."})
    noise_unit: str | None = field(
        default=None,
        metadata={
            "help": "Unit of the noise: 'absolute' (published), or 'rms' of the captions' embeddings. Needed if the "
            "backbone is not a CLIP."
        },
    )
    keyword_fn: str = field(default="lexicon", metadata={"help": "'spacy' (published), 'lexicon' or 'rule'."})
    mask_on: str = field(default="words", metadata={"help": "'words', or 'substrings' (published)."})


class LinCIRObjective(Objective):
    """LinCIR's self-masking projection (https://huggingface.co/papers/2312.01998), from plain captions.

    The text embedding of a caption, with noise, is projected to a pseudo-word. The caption with its keywords replaced
    by that pseudo-word must be encoded as the caption itself. The loss is the mean squared error of un-normalised
    embeddings.

    Deviation from the published code: a keyword is masked as whole words unless `mask_on="substrings"`. The word
    masked where no keyword fits is drawn once a caption, not anew in each epoch.
    """

    streams = True

    def __init__(self, args: LinCIRTrainingArguments, model: RTDModel, processor: RTDProcessor):
        super().__init__(args, model, processor)
        args.noise_unit = settle_noise_unit(args.noise_unit, model.text_model)

    def prepare(self, source) -> Dataset | RowStream:
        """Clean captions.

        Args:
            source (`str`, `Path`, `datasets.Dataset`, `datasets.IterableDataset` or [`FileStream`]):
                Captions in a column `text`, see [`load_table`], or a stream of them, see [`RowStream`].

        Returns:
            `datasets.Dataset` or [`RowStream`]: Columns `text` and `row`.

        Raises:
            ValueError: If the column is missing, or a caption is empty or no string; names the row, counted from 1.
        """
        args = self.args
        self._find_keywords = get_keyword_fn(args.keyword_fn)
        self._head = self.processor.prompt_templates[self.processor.default_template].partition("$")[0]
        if is_stream(source):
            return self._measure(RowStream(source, ["text"], _clean, args.joined_batch_size, args.bad_rows))
        table = load_table(source)
        if "text" not in table.column_names:
            raise ValueError(
                f"captions must be in a column 'text', found: {', '.join(table.column_names)}. Rename yours in the "
                "file (in Python: datasets' rename_column)."
            )
        table = keep_texts(table, ["text"], args.bad_rows).select_columns(["text"])
        table = map_blocks(table, _clean_and_number, "Cleaning captions")
        # Of a caption such as "$" cleaning leaves nothing.
        return self._measure(keep_texts(table, ["text"], args.bad_rows))

    def _measure(self, rows: Dataset | RowStream) -> Dataset | RowStream:
        captions = sample_rows(rows)["text"]
        self.noise_size = measure_noise(self.args.noise_unit, self.model.text_model, self.processor, captions)
        return rows

    def _mask(self, row: dict) -> list[str]:
        """Cut a caption around its placeholders; as it is met, since a run reads a part of millions."""
        rng = np.random.default_rng([self.args.seed, row["row"]])
        masked = mask_keywords(row["text"], self._find_keywords(row["text"]), rng, self.args.mask_on)
        # Where nothing was masked, the prompt of a pseudo-word alone, as published.
        return masked if len(masked) > 1 else [self._head, ""]

    def collate(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Mask the keywords of prepared rows, and collate them.

        Args:
            rows (`list[dict]`): Rows of [`prepare`].

        Returns:
            `dict`: `input_ids` and `placeholder_mask` of shape `(batch_size, seq_len)` of the masked captions, by
            rising length, with `length_groups` of [`group_by_length`]; `row`, a list of numbers. And `text_embeds` of
            shape `(batch_size, projection_dim)` or the tokens.
        """
        masked = self.processor.tokenize_pieces([self._mask(row) for row in rows])
        # Truncation may have cut off every placeholder.
        cut_away = [-1 not in ids for ids in masked]
        if any(cut_away):
            fallback = self.processor.build_prompts([""])[0][0]
            masked = [fallback if cut else ids for cut, ids in zip(cut_away, masked, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(masked[i]))  # the loss is a mean over the batch
        rows, masked = ([values[i] for i in order] for values in (rows, masked))
        batch = self.processor.pad(masked)
        del batch["attention_mask"]  # padding is on the right and attention is causal
        batch["length_groups"] = group_by_length([len(ids) for ids in masked], self.args.num_length_groups)
        batch["row"] = [row["row"] for row in rows]
        return batch | self._collate_captions("text", [row["text"] for row in rows])

    def compute_loss(self, projection: RTDProjection, batch: dict[str, torch.Tensor], epoch: int) -> torch.Tensor:
        """Compute the loss of a batch.

        Args:
            projection ([`RTDProjection`]): The network to train, possibly wrapped.
            batch (`dict`): A batch of [`collate`].
            epoch (`int`): Passes over the data before this one; keys the noise.

        Returns:
            `torch.Tensor`: Scalar.
        """
        text_embeds = self._embed_captions("text", batch)
        noise = draw_noise(batch["row"], text_embeds.shape[1], self.args.seed, epoch, text_embeds.device)
        embeds, mask = projection(text_embeds + self.args.noise_scale * self.noise_size * noise)
        masked = run_in_groups(
            self.model.text_model,
            batch["length_groups"],
            input_ids=batch["input_ids"],
            placeholder_mask=batch["placeholder_mask"],
            pseudo_token_embeds=embeds,
            pseudo_token_mask=mask,
        )
        # Not normalised, as published: a pseudo-word must carry the norm too.
        return functional.mse_loss(masked.float(), text_embeds)

    def describe(self, dataset: Dataset | RowStream) -> dict[str, str | float]:
        """Say what identifies a run of this objective.

        Args:
            dataset (`datasets.Dataset`): Prepared rows.

        Returns:
            `dict`: Text tower, keyword function, masking, size of the noise's unit, and a hash of the captions.
        """
        return {
            "text_model": hash_tensors(self.model.text_model),
            "noise_size": self.noise_size,
            "keyword_fn": self.args.keyword_fn,
            "mask_on": self.args.mask_on,
            "captions": identify_rows(dataset, ["text"]),
        }


def _clean(rows: pa.Table) -> pa.Table:
    return pa.table({"text": clean_captions(rows["text"])})


def _clean_and_number(rows: pa.Table, indices: list[int]) -> pa.Table:
    return _clean(rows).append_column("row", pa.array(indices, pa.int64()))


METHOD = register_method(
    Method(
        name="lincir",
        reads="captions",
        arguments=LinCIRTrainingArguments,
        objective=LinCIRObjective,
        options="--keyword-fn spacy --mask-on substrings",
        files={"vitl": "navervision/zeroshot-cir-models/lincir_large.pt"},
    )
)
