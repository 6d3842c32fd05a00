"""Pic2Word: a projection from images alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from PIL import Image
from torch.nn.functional import normalize

from modeling_rtd import RTDModel, RTDProcessor, RTDProjection, hash_tensors
from trainer.data.images import decode_image, hash_images, load_images
from trainer.data.row_files import is_stream
from trainer.data.streams import RowStream, identify_rows, sample_rows
from trainer.data.tables import add_column
from trainer.encoding.image_features import ImageFeatures, read_features
from trainer.encoding.processes import gather_embeds
from trainer.methods import Method, register_method
from trainer.training.arguments import ImageProjectionTrainingArguments
from trainer.training.base_trainer import check_batch_fills
from trainer.training.losses import target_anchored_loss
from trainer.training.projections.objective import Objective


__all__ = ["METHOD", "Pic2WordObjective", "Pic2WordTrainingArguments", "crop_randomly"]


@dataclass
class Pic2WordTrainingArguments(ImageProjectionTrainingArguments):
    """Pic2Word's arguments; the defaults are its published recipe.

    That is ViT-L/14 on Conceptual Captions 3M for 30 epochs; the number of GPUs is not stated.

    Args:
        augment (`bool`, defaults to `True`):
            Crop images at random, as published; otherwise each image is encoded once for all epochs.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate; published."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay; published."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of Adam; published."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Epsilon of Adam; published."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the rate; published: cosine."})
    warmup_steps: float = field(default=10000, metadata={"help": "Steps until the full rate; published."})
    max_steps: int = field(default=-1, metadata={"help": "Steps of training; -1 trains for num_train_epochs."})
    num_train_epochs: float = field(default=30, metadata={"help": "Epochs; published."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Rows a step, on each device; published."})
    augment: bool = field(default=True, metadata={"help": "Crop images at random (published)."})


class Pic2WordObjective(Objective):
    """Pic2Word's objective (https://huggingface.co/papers/2302.03084), from images without any text.

    The prompt "a photo of" with an image's pseudo-word must be encoded as the image itself. The loss is symmetric
    InfoNCE over the batch, with CLIP's own frozen logit scale. The batch is joined over processes with gradients,
    where the published code gathers without; the result is the joint gradient that it approximates.
    """

    streams = True
    columns: tuple[str, ...] = ()

    def __init__(self, args: Pic2WordTrainingArguments, model: RTDModel, processor: RTDProcessor):
        super().__init__(args, model, processor)
        # One row. Sent here and not at each step, which would wait for the device.
        self.prompt = send_to_device(processor.pad(processor.build_prompts([""])[0]), model.device)
        self.temperature = 1 / model.logit_scale.float().exp().item()  # frozen; read once, not at each step
        self.features = None

    def prepare(self, source) -> Dataset | RowStream:
        """Find images, and without augmentation encode them.

        Args:
            source (`str`, `Path`, `datasets.Dataset`, `datasets.IterableDataset` or [`FileStream`]):
                Folder of images, a data set with a column `image`, or a stream of it, see [`RowStream`].

        Returns:
            `datasets.Dataset` or [`RowStream`]: Columns `image` (not decoded) and `row`. Images that cannot be read
            are left out. A table names them in one warning, a stream counts them.

        Raises:
            ValueError: If there is no image, or an argument has no effect on a stream.
        """
        if is_stream(source):
            self._check_streaming()
            return RowStream(
                source, self.columns, lambda rows: rows, self.args.joined_batch_size, self.args.bad_rows, images=True
            )
        table = load_images(source, self.args.num_images, self.columns)
        check_batch_fills(self.args, len(table))
        if not self.args.augment:
            with self.args.main_process_first(desc="encoding images"):
                self.features = ImageFeatures(
                    self.model, self.processor, table, self.args.stage_folder, self.args.padding
                )
        return add_column(table, "row", list(range(len(table))))

    def _check_streaming(self) -> None:
        if not self.args.augment:
            raise ValueError(
                "augment=False encodes each image once before training, which a stream does not allow: leave it out, "
                "or load images with streaming=False."
            )
        if self.args.num_images is not None:
            raise ValueError("`num_images` has no effect on a stream, which max_steps ends: leave it out.")

    def collate(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate prepared rows.

        Returns:
            `dict`: What [`ImageFeatures`] gives, or `pixel_values` of shape `(batch_size, 3, height, width)` of random
            crops. A row whose image is cut off is replaced by another row of the batch.
        """
        if self.features is not None:
            return self.features([row["row"] for row in rows]) | self._collate_others(rows)
        images = [decode_image(row["image"]) for row in rows]
        if None in images:
            rows, images = self._replace_broken(rows, images)
        height, width = self.processor.image_size_px
        crops = [crop_randomly(image, (width, height)) for image in images]
        pixels = self.processor.prepare_images(crops, do_resize=False, do_center_crop=False)
        return {"pixel_values": pixels} | self._collate_others(rows)

    def _replace_broken(self, rows: Sequence[dict], images: list) -> tuple[list[dict], list[Image.Image]]:
        # Not left out: batches of one size are what processes can join.
        whole = [place for place, image in enumerate(images) if image is not None]
        if not whole:
            raise ValueError(f"none of the {len(images)} images of a batch can be read.")
        with self._warning_once():
            warnings.warn(
                f"{len(images) - len(whole)} of {len(images)} images of a batch are cut off: other rows take their "
                "place, which are in it twice.",
                stacklevel=2,
            )
        places = [place if image is not None else whole[place % len(whole)] for place, image in enumerate(images)]
        return [rows[place] for place in places], [images[place] for place in places]

    def _collate_others(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate what a method reads beside images: nothing here."""
        return {}

    def compute_loss(self, projection: RTDProjection, batch: dict[str, torch.Tensor], epoch: int) -> torch.Tensor:
        """Compute the loss of a batch; see [`LinCIRObjective.compute_loss`]."""
        if "pixel_values" in batch:
            with torch.no_grad():
                features = read_features(self.model, batch["pixel_values"].to(self.model.dtype))
            batch = batch | {name: tensor.float() for name, tensor in features.items()}
        # Of the model's own projection: the wrapper of several processes has no `consumes`.
        embeds, mask = projection(**{name: batch[name] for name in self.model.projection.consumes})
        image_embeds = batch["image_embeds"]
        names = ("input_ids", "placeholder_mask")
        prompt = {name: self.prompt[name].expand(len(image_embeds), -1) for name in names}
        text = self.model.text_model(**prompt, pseudo_token_embeds=embeds, pseudo_token_mask=mask).text_embeds
        joined = gather_embeds(normalize(text.float(), dim=-1)), gather_embeds(normalize(image_embeds, dim=-1))
        # Symmetric in Pic2Word's paper and in its code; RTD's code has the joint loss.
        return target_anchored_loss(*joined, self.temperature, "info_nce")

    @staticmethod
    def decays(name: str) -> bool:
        """Check whether weight decay applies to a parameter: not to biases and norms, as published."""
        # By name, as published: norms of Context-I2W's extractor are named otherwise, and decay.
        return not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    def describe(self, dataset: Dataset) -> dict[str, str]:
        """Say what identifies a run of this objective.

        Returns:
            `dict`: Both towers, and a hash of the images' names and number. A stream has those of its first rows, and
            the sizes of its files.
        """
        files = {"files": identify_rows(dataset, [])} if isinstance(dataset, RowStream) else {}
        return files | {
            "text_model": hash_tensors(self.model.text_model),
            "vision_model": hash_tensors(self.model.vision_model),
            "augment": str(self.args.augment),
            "images": hash_images(sample_rows(dataset)),
        }


def crop_randomly(image: Image.Image, size: tuple[int, int], scale: tuple[float, float] = (0.9, 1.0)) -> Image.Image:
    """Crop a random part of an image and resize it, as torchvision's `RandomResizedCrop` does.

    Random numbers come from torch's default generator, so that a resumed run draws the same, unless other processes
    collate (`dataloader_num_workers`).

    Args:
        image (`PIL.Image.Image`): Image.
        size (`tuple[int, int]`): Width and height of the result, in pixels.
        scale (`tuple[float, float]`, defaults to `(0.9, 1.0)`): Share of the area that is kept, as published.

    Returns:
        `PIL.Image.Image`: The crop.
    """
    area = image.width * image.height
    for _ in range(10):
        # Of torch's own generator, which a checkpoint keeps: without workers a resumed run draws the same crops.
        share, log_ratio = torch.rand(2).tolist()
        target = area * (scale[0] + share * (scale[1] - scale[0]))
        ratio = math.exp(math.log(3 / 4) + log_ratio * (math.log(4 / 3) - math.log(3 / 4)))
        width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = int(torch.randint(image.width - width + 1, (1,)))
            top = int(torch.randint(image.height - height + 1, (1,)))
            break
    else:  # an image too long for the ratios: the largest part in the middle that fits them
        width = min(image.width, round(image.height * 4 / 3))
        height = min(image.height, round(image.width * 4 / 3))
        left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))


METHOD = register_method(
    Method(
        name="pic2word",
        reads="images",
        arguments=Pic2WordTrainingArguments,
        objective=Pic2WordObjective,
        protocol="pic2word",
        files={"vitl": "navervision/zeroshot-cir-models/pic2word_large.pt"},
    )
)
