"""FTI4CIR: subject and attribute words from images with split captions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate.utils import send_to_device
from datasets import Dataset, concatenate_datasets
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from modeling_rtd import RTDModel, RTDProcessor, RTDProjection, hash_tensors
from trainer.data.captions import split_subject
from trainer.data.images import hash_images, load_images
from trainer.data.keywords import get_tagger
from trainer.data.tables import add_column, hash_rows, keep_texts, take_rows
from trainer.encoding.image_features import ImageFeatures
from trainer.encoding.processes import gather_embeds
from trainer.methods import Method, register_method
from trainer.training.arguments import ImageProjectionTrainingArguments
from trainer.training.base_trainer import check_batch_fills
from trainer.training.losses import cosine_loss, target_anchored_loss
from trainer.training.projections.objective import Objective


__all__ = ["METHOD", "FTI4CIRObjective", "FTI4CIRTrainingArguments"]


@dataclass
class FTI4CIRTrainingArguments(ImageProjectionTrainingArguments):
    """FTI4CIR's arguments; the defaults are its published recipe but for how nouns are found.

    That is ViT-L/14 or ViT-B/32 on one GPU for the 60 epochs of its README, where its code says 80. Deviation: nouns
    by TextBlob's lexicon, since spaCy's model has to be downloaded; `keyword_fn="spacy"` is as published.

    Args:
        lr_drop_epoch (`int`, *optional*, defaults to 10):
            Epoch, counted from 0, from which on a tenth of the learning rate is used; `None` never drops it.
        temperature (`float`, defaults to 0.2): Temperature of the contrast of prompts and images.
        caption_weight (`float`, defaults to 1.4): Weight of the captions beside the images.
        padding (`str`, defaults to `"target"`): As for [`ImageProjectionTrainingArguments`].
        keyword_fn (`str`, defaults to `"lexicon"`):
            Finds nouns: `"spacy"` (published; needs a spaCy model), `"lexicon"` or `"rule"`.
    """

    learning_rate: float = field(default=4e-5, metadata={"help": "Learning rate; published."})
    max_steps: int = field(default=-1, metadata={"help": "Steps of training; -1 trains for num_train_epochs."})
    num_train_epochs: float = field(default=60, metadata={"help": "Epochs; published."})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "Rows a step, on each device; published."})
    seed: int = field(default=42, metadata={"help": "Seed; published."})
    lr_drop_epoch: int | None = field(
        default=10, metadata={"help": "Epoch after which the learning rate is a tenth; published."}
    )
    temperature: float = field(default=0.2, metadata={"help": "Temperature of the contrast; published."})
    caption_weight: float = field(default=1.4, metadata={"help": "Weight of the captions; published."})
    padding: str = field(default="target", metadata={"help": "'target' (published) pads long images; or 'none'."})
    keyword_fn: str = field(default="lexicon", metadata={"help": "'spacy' (published), 'lexicon' or 'rule'."})

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be greater than 0, got {self.temperature}.")
        super().__post_init__()


class FTI4CIRObjective(Objective):
    """FTI4CIR's objective (https://huggingface.co/papers/2503.19296), from images with captions.

    The prompt of all pseudo-words must be encoded as the image (joint NT-Xent). Local features must be orthogonal.
    The caption with its subject, its attribute, or both given as pseudo-words must be encoded as the caption
    itself ("a photo of SUBJECT with ATTRIBUTE"; 1 - cosine).

    Images are not augmented, so each is encoded once. Deviation: a caption with nothing behind its first noun is left
    out, where the published code drops those whose subject equals the attribute.
    """

    def __init__(self, args: FTI4CIRTrainingArguments, model: RTDModel, processor: RTDProcessor):
        super().__init__(args, model, processor)
        # One row. Sent here and not at each step, which would wait for the device.
        self.prompt = send_to_device(processor.pad(processor.build_prompts([""])[0]), model.device)
        self.features = None

    def prepare(self, source) -> Dataset:
        """Split captions, and encode the images.

        Args:
            source (`datasets.Dataset`):
                Column `image`; and `subject` and `attribute`, or `text` to be split. See [`load_pairs`].

        Returns:
            `datasets.Dataset`: Columns `image` (not decoded), `subject`, `attribute`, `text` and `row`. Rows whose
            caption cannot be split are left out, with one warning that counts them.

        Raises:
            ValueError: If columns are missing, or no caption can be split.
        """
        if "subject" not in source.column_names or "attribute" not in source.column_names:
            source = self._split(source)
        source = keep_texts(source, ["subject", "attribute"], self.args.bad_rows)
        table = load_images(source, self.args.num_images, ("subject", "attribute"))
        # Before the images are encoded, which takes long.
        check_batch_fills(self.args, len(table))
        with self.args.main_process_first(desc="encoding images"):
            self.features = ImageFeatures(self.model, self.processor, table, self.args.stage_folder, self.args.padding)
        texts = [
            f"a photo of {subject} with {attribute}"
            for subject, attribute in zip(table["subject"], table["attribute"], strict=True)
        ]
        return add_column(add_column(table, "text", texts), "row", list(range(len(table))))

    def _split(self, source: Dataset) -> Dataset:
        source = keep_texts(source, ["text"], self.args.bad_rows)
        tag = get_tagger(self.args.keyword_fn)
        split = [split_subject(text.strip(), tag) for text in source["text"]]
        kept = [row for row, parts in enumerate(split) if parts]
        if not kept:
            raise ValueError(
                f"none of {len(source)} captions has a noun with something behind it; bring other captions, or "
                "columns 'subject' and 'attribute'."
            )
        if len(kept) < len(source):
            warnings.warn(
                f"{len(source) - len(kept)} of {len(source)} captions have no noun with something behind it and are "
                "left out.",
                stacklevel=4,
            )
        parts = {"subject": [split[row][0] for row in kept], "attribute": [split[row][1] for row in kept]}
        images = take_rows(source.select_columns(["image"]), kept)
        return concatenate_datasets([images, Dataset.from_dict(parts)], axis=1)

    def collate(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate prepared rows.

        Returns:
            `dict`: What [`ImageFeatures`] gives. `subject_` and `attribute_` with `input_ids` and `placeholder_mask`
            of shape `(batch_size, seq_len)`, prompts in which the one is given as pseudo-words; and `text_embeds` of
            shape `(batch_size, projection_dim)`, or the tokens to compute them from.
        """
        batch = self.features([row["row"] for row in rows])
        slots = self.model.projection.max_pseudo_tokens - 1
        pieces = {
            "subject": [["a photo of ", f" with {row['attribute']}"] for row in rows],
            # As many slots for all; those that an image does not use are masked.
            "attribute": [[f"a photo of {row['subject']} with ", *[" "] * (slots - 1), ""] for row in rows],
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of captions that are cut
            for part, texts in pieces.items():
                padded = self.processor.pad(self.processor.tokenize_pieces(texts))
                batch |= {f"{part}_{name}": padded[name] for name in ("input_ids", "placeholder_mask")}
        return batch | self._collate_captions("text", [row["text"] for row in rows])

    def compute_loss(self, projection: RTDProjection, batch: dict[str, torch.Tensor], epoch: int) -> torch.Tensor:
        """Compute `L_con + L_ortho + caption_weight * L_reg` of a batch; see [`LinCIRObjective.compute_loss`]."""
        images = batch["image_embeds"]
        embeds, mask, features = projection(images, batch["image_tokens"], return_features=True)
        prompt = {name: self.prompt[name].expand(len(images), -1) for name in self.prompt}
        whole = self._encode(prompt, embeds, mask)
        subject = self._encode(_take(batch, "subject"), embeds[:, :1], None)
        attribute = self._encode(_take(batch, "attribute"), embeds[:, 1:], mask[:, 1:])
        text = self._embed_captions("text", batch)
        contrast = target_anchored_loss(gather_embeds(whole), gather_embeds(images), self.args.temperature)
        # All twelve features, used or not, as published.
        products = features.float() @ features.float().transpose(1, 2)  # (B, 12, 12)
        orthogonality = (products - torch.eye(products.shape[-1], device=products.device)).square().mean()
        captions = sum(cosine_loss(embeds, text) for embeds in (whole, subject, attribute))
        return contrast + orthogonality + self.args.caption_weight * captions

    def _encode(self, prompt: dict, embeds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        output = self.model.text_model(
            input_ids=prompt["input_ids"],
            placeholder_mask=prompt["placeholder_mask"],
            pseudo_token_embeds=embeds,
            pseudo_token_mask=mask,
        )
        return output.text_embeds.float()

    def create_scheduler(self, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler | None:
        """Create the single drop to a tenth of the learning rate, as published; see [`Objective`]."""
        if self.args.lr_drop_epoch is None:
            return None
        drop = self.args.lr_drop_epoch * steps_per_epoch
        return LambdaLR(optimizer, lambda step: 0.1 if step >= drop else 1.0)

    def describe(self, dataset: Dataset) -> dict[str, str]:
        """Say what identifies a run of this objective.

        Returns:
            `dict`: Both towers, and hashes of the images and the split captions.
        """
        return {
            "text_model": hash_tensors(self.model.text_model),
            "vision_model": hash_tensors(self.model.vision_model),
            "images": hash_images(dataset),
            "captions": hash_rows(dataset, ["subject", "attribute"]),
        }


def _take(batch: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: batch[f"{part}_{name}"] for name in ("input_ids", "placeholder_mask")}


METHOD = register_method(
    Method(
        name="fti4cir",
        reads="pairs",
        arguments=FTI4CIRTrainingArguments,
        objective=FTI4CIRObjective,
        protocol="searle",
        files={"vitl": "", "vitb32": ""},
    )
)
