"""SEARLE: a projection distilled from the textual inversions of images."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor, RTDProjection, hash_tensors
from trainer.data.images import load_images
from trainer.encoding.array_cache import keep_array, place_result
from trainer.encoding.captions import describe_reading
from trainer.encoding.image_features import ImageFeatures
from trainer.encoding.processes import gather_embeds
from trainer.methods import Method, register_method
from trainer.training.arguments import ImageProjectionTrainingArguments
from trainer.training.base_trainer import check_batch_fills
from trainer.training.losses import target_anchored_loss
from trainer.training.projections.objective import Objective
from trainer.training.projections.searle_concepts import embed_concepts, find_concepts, read_concepts
from trainer.training.projections.searle_inversion import TextualInversion
from trainer.training.projections.searle_phrases import (
    PhraseBank,
    compute_phrase_loss,
    fill_templates,
    read_templates,
    write_phrases,
)


__all__ = ["METHOD", "SEARLEObjective", "SEARLETrainingArguments"]


@dataclass
class SEARLETrainingArguments(ImageProjectionTrainingArguments):
    """SEARLE's arguments; the defaults are its published recipe, the same for ViT-B/32 and ViT-L/14.

    That is the 100,000 test images of ImageNet for 100 epochs; the paper's last epoch for each backbone is not stated.

    Args:
        concepts (`str`, *optional*): File of names of concepts, see [`read_concepts`]; needed.
        phrases (`str`, *optional*):
            Who writes phrases about concepts: `"lm"` (published, needs `phrase_model`), `"templates"` (a packaged
            list), or a text file of templates, see [`read_templates`]; needed.
        phrase_model (`str`, *optional*):
            Directory or Hub id of the language model for `phrases="lm"`; published: EleutherAI/gpt-neo-2.7B.
        phrases_per_concept (`int`, defaults to 256): Phrases that the language model writes about a concept.
        num_concepts (`int`, defaults to 150): Nearest concepts of an image that its phrase is drawn from.
        temperature (`float`, defaults to 0.25): Temperature of the distillation.
        phrase_weight (`float`, defaults to 0.75): Weight of the phrases beside the distillation.
        padding (`str`, defaults to `"target"`): As for [`ImageProjectionTrainingArguments`].
        oti_steps (`int`, defaults to 350): Steps of textual inversion of an image.
        oti_batch_size (`int`, defaults to 32): Images inverted at a time.
        oti_learning_rate (`float`, defaults to 2e-2): Learning rate of the inversion (AdamW, weight decay 0.01).
        oti_ema_decay (`float`, defaults to 0.99): Decay of the moving average of a pseudo-word, which is its result.
        oti_num_concepts (`int`, defaults to 15): Nearest concepts of an image that its phrases are drawn from.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate; published."})
    max_steps: int = field(default=-1, metadata={"help": "Steps of training; -1 trains for num_train_epochs."})
    num_train_epochs: float = field(default=100, metadata={"help": "Epochs; published."})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "Rows a step, on each device; published."})
    seed: int = field(default=42, metadata={"help": "Seed; published."})
    concepts: str | None = field(default=None, metadata={"help": "File with names of concepts, one a line. Needed."})
    phrases: str | None = field(
        default=None,
        metadata={
            "help": "Source of phrases: 'lm' (published), 'templates' (packaged), or a text file "
            "with {} for the concept. Needed."
        },
    )
    phrase_model: str | None = field(default=None, metadata={"help": "Language model for --phrases lm."})
    phrases_per_concept: int = field(default=256, metadata={"help": "Phrases it writes about a concept."})
    num_concepts: int = field(default=150, metadata={"help": "Nearest concepts an image's phrase is drawn from."})
    temperature: float = field(default=0.25, metadata={"help": "Temperature of the distillation; published."})
    phrase_weight: float = field(default=0.75, metadata={"help": "Weight of the phrases beside the distillation."})
    padding: str = field(default="target", metadata={"help": "'target' (published) pads long images; or 'none'."})
    oti_steps: int = field(default=350, metadata={"help": "Steps of textual inversion of an image."})
    oti_batch_size: int = field(default=32, metadata={"help": "Images inverted at a time."})
    oti_learning_rate: float = field(default=2e-2, metadata={"help": "Learning rate of the inversion."})
    oti_ema_decay: float = field(default=0.99, metadata={"help": "Decay of the moving average of the pseudo-word."})
    oti_num_concepts: int = field(default=15, metadata={"help": "Nearest concepts its phrases are drawn from."})

    def __post_init__(self):
        self._check_counts("phrases_per_concept", "num_concepts", "oti_steps", "oti_batch_size", "oti_num_concepts")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be greater than 0, got {self.temperature}.")
        if not 0 <= self.oti_ema_decay < 1:
            raise ValueError(f"`oti_ema_decay` must be in [0, 1), got {self.oti_ema_decay}; 0 takes the last step.")
        super().__post_init__()


class SEARLEObjective(Objective):
    """SEARLE's objective (https://huggingface.co/papers/2303.15247), from images, names of concepts, and phrases.

    Stages come first, each of which keeps its result in `stage_dir`. Images are encoded, their nearest concepts found,
    phrases about these written, and each image is inverted ([`TextualInversion`]). The projection then learns to give
    an image its inverted pseudo-word (joint NT-Xent against the others of the batch, joined over processes). With it
    a phrase about a concept of the image must be encoded as the phrase itself.

    The published code draws a batch's concepts again until each has usable phrases. Drawing each among the usable ones
    has the same distribution and always ends. Deviations: an image with no usable concept among its nearest 15 is
    inverted with the nearest usable one. An image with none at all is left out.

    Raises:
        ValueError: If concepts or phrases are not named, or a language model without need.
    """

    def __init__(self, args: SEARLETrainingArguments, model: RTDModel, processor: RTDProcessor):
        if args.concepts is None:
            raise ValueError("SEARLE needs names of concepts: give --concepts, a text file with one a line.")
        if args.phrases is None:
            raise ValueError(
                "SEARLE needs phrases about concepts: give --phrases lm (published) with --phrase-model, --phrases "
                "templates, or a file of templates."
            )
        if (args.phrases == "lm") != (args.phrase_model is not None):
            raise ValueError("--phrases lm, and nothing else, needs --phrase-model, a language model.")
        super().__init__(args, model, processor)
        # Who reads texts; what is read is kept under it.
        reading = hashlib.sha256(describe_reading(processor).encode()).hexdigest()
        self.text_reader = [hash_tensors(model.text_model), reading]
        self.facts: dict[str, str] = {}

    def prepare(self, source) -> Dataset:
        """Run the stages before the training, or read their results where they are kept.

        Args:
            source (`str`, `Path` or `datasets.Dataset`): Images, see [`load_images`].

        Returns:
            `datasets.Dataset`: Column `row`, of the images that are trained on.

        Raises:
            ValueError: If a file cannot be read, images do not fill a batch, or no concept has usable phrases.
        """
        names = read_concepts(self.args.concepts)
        templates = None if self.args.phrases == "lm" else read_templates(self.args.phrases)
        table = load_images(source, self.args.num_images)
        check_batch_fills(self.args, len(table))
        with self.args.main_process_first(desc="the stages of SEARLE"):
            image_embeds = self._encode_images(table)
            concepts = self._find_concepts(image_embeds, names)
            known, concepts = np.unique(concepts, return_inverse=True)
            # Only those that some image is near: a language model writes 256 phrases about each.
            self.bank = PhraseBank(self.processor, self._find_phrases([names[i] for i in known], templates))
            usable = self.bank.usable[concepts]  # (images, num_concepts)
            kept = self._leave_out(usable.any(1))
            self.image_embeds = image_embeds[kept]
            self.concepts = [row[fits] for row, fits in zip(concepts[kept], usable[kept], strict=True)]
            near = usable[kept, : self.args.oti_num_concepts].sum(1)
            # Where none of the nearest 15 is usable, the first one that is.
            nearest = [row[: max(1, count)] for row, count in zip(self.concepts, near, strict=True)]
            self._embed_phrases(len(kept))
            self.words = self._invert(nearest)
        return Dataset.from_dict({"row": range(len(kept))})

    def _encode_images(self, table: Dataset) -> torch.Tensor:
        features = ImageFeatures(self.model, self.processor, table, self.args.stage_folder, self.args.padding)
        embeds = features(range(len(table)))["image_embeds"]
        # Of the embeddings, which is all that the later stages read.
        self.facts["images"] = hashlib.sha256(embeds.numpy().tobytes()).hexdigest()
        return embeds

    def _find_concepts(self, image_embeds: torch.Tensor, names: list[str]) -> np.ndarray:
        self.facts["concepts"] = hashlib.sha256("\0".join(names).encode()).hexdigest()
        count, facts = self.args.num_concepts, {"text": self.text_reader, **self.facts}

        def find() -> np.ndarray:
            embeds = embed_concepts(self.model.text_model, self.processor, names)
            return find_concepts(image_embeds, embeds, count).numpy()

        return keep_array(place_result(self.args.stage_folder, "concepts", ".npy", count=count, **facts), find)

    def _find_phrases(self, names: list[str], templates: list[str] | None) -> dict[str, list[str]]:
        if templates is not None:
            return fill_templates(names, templates)
        args = self.args
        return write_phrases(names, args.phrase_model, args.stage_folder, args.phrases_per_concept, args.seed)

    def _leave_out(self, fits: np.ndarray) -> np.ndarray:
        if not fits.any():
            raise ValueError(
                f"none of {len(self.bank.names)} concepts is usable: each has a phrase that does not hold its name "
                "letter by letter. Bring other concepts, or write the phrases anew."
            )
        if not fits.all():
            warnings.warn(
                f"{(~fits).sum()} of {len(fits)} images have no usable concept and are left out.", stacklevel=4
            )
        check_batch_fills(self.args, int(fits.sum()))
        return np.flatnonzero(fits)

    def _embed_phrases(self, num_images: int) -> None:
        """Embed all phrases once, unless fewer are drawn than there are."""
        args = self.args
        visits = args.max_steps * args.per_device_train_batch_size * args.world_size
        visits = visits if args.max_steps > 0 else num_images * args.num_train_epochs
        draws = num_images * args.oti_steps + visits
        if args.anchor_cache == "always" or (
            args.anchor_cache == "auto" and draws > self.bank.usable.sum() * self.bank.count
        ):
            self.bank.embed(self.model.text_model, self.text_reader[0], args.anchor_cache_dir)

    def _invert(self, concepts: list[np.ndarray]) -> np.ndarray:
        args = self.args
        self.facts["phrases"] = self.bank.hash()
        settings = {name: value for name, value in vars(args).items() if name.startswith("oti_")}
        # Half precision gives other vectors, which are kept under another name.
        precision = {"seed": args.seed, "fp16": args.fp16, "bf16": args.bf16, "num_concepts": args.num_concepts}
        # Not .npy, whose header would have to say how many rows are to come.
        path = place_result(
            args.stage_folder, "inversion", ".f32", text=self.text_reader, **settings, **precision, **self.facts
        )
        inversion = TextualInversion(self.model.text_model, self.processor, self.bank, args)
        return inversion.invert_all(self.image_embeds, concepts, path)

    def collate(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate prepared rows, and draw a concept and a phrase for each.

        Random numbers come from torch's default generator, so that a resumed run draws the same, unless other
        processes collate (`dataloader_num_workers`).

        Returns:
            `dict`: `image_embeds` of shape `(batch_size, projection_dim)`, `words` of shape
            `(batch_size, text_hidden_size)`, and a batch of [`PhraseBank.collate`].
        """
        places = [row["row"] for row in rows]
        shares = torch.rand(len(places)).tolist()
        drawn = [self.concepts[i][int(share * len(self.concepts[i]))] for i, share in zip(places, shares, strict=True)]
        phrases = torch.randint(self.bank.count, (len(places),)).tolist()
        batch = self.bank.collate(drawn, phrases, every_occurrence=True)
        words = torch.from_numpy(self.words[places])
        return batch | {"image_embeds": self.image_embeds[places], "words": words}

    def compute_loss(self, projection: RTDProjection, batch: dict[str, torch.Tensor], epoch: int) -> torch.Tensor:
        """Compute `L_distil + phrase_weight * L_gpt` of a batch; see [`LinCIRObjective.compute_loss`]."""
        embeds = projection(image_embeds=batch["image_embeds"])[0]  # (B, 1, H)
        joined = gather_embeds(embeds[:, 0].float()), gather_embeds(batch["words"])
        # The joint NT-Xent of RTD, at a temperature of its own, as published.
        distillation = target_anchored_loss(*joined, self.args.temperature)
        return distillation + self.args.phrase_weight * compute_phrase_loss(self.model.text_model, embeds, batch)

    def describe(self, dataset: Dataset) -> dict[str, str]:
        """Say what identifies a run of this objective.

        Returns:
            `dict`: Both towers, and hashes of the images' embeddings, the names of concepts, and the phrases.
        """
        return {"text_model": self.text_reader[0], "vision_model": hash_tensors(self.model.vision_model), **self.facts}


METHOD = register_method(
    Method(
        name="searle",
        reads="images",
        arguments=SEARLETrainingArguments,
        objective=SEARLEObjective,
        protocol="searle",
        options="--concepts names.txt --phrases lm --phrase-model EleutherAI/gpt-neo-2.7B",
        files={
            "vitb32": "https://github.com/miccunifi/SEARLE/releases/download/weights/SEARLE_ViT-B32.pt",
            "vitl": "https://github.com/miccunifi/SEARLE/releases/download/weights/SEARLE_ViT-L14.pt",
        },
    )
)
