"""Frozen features of images: constants of a data set, computed once and kept on disk."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_rtd import RTDModel, RTDProcessor, hash_tensors, read_array, replace_file
from trainer.data.images import decode_image, hash_images
from trainer.encoding.array_cache import place_result
from trainer.encoding.preprocessing import pad_to_target


__all__ = ["ImageFeatures", "read_features"]


class ImageFeatures:
    """What projections read of the images of a data set, looked up by row and mapped from disk.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        processor ([`RTDProcessor`]): Its processor.
        table (`datasets.Dataset`): Images of [`load_images`].
        folder (`str` or `Path`): Where the features are kept; files are named by what they are made of. An image that
            is in several rows is encoded and kept once.
        padding (`str`, defaults to `"none"`): `"target"` pads long images first, see [`pad_to_target`].
        batch_size (`int`, defaults to 64): Images in one pass.

    Attributes:
        paths (`dict[str, Path]`): Files of `image_embeds`, and of `image_tokens` where the projection consumes them.
    """

    def __init__(
        self,
        model: RTDModel,
        processor: RTDProcessor,
        table: Dataset,
        folder: str | Path,
        padding: str = "none",
        batch_size: int = 64,
    ):
        keys = [image["path"] if image["bytes"] is None else image["bytes"] for image in table["image"]]
        # Rows with several captions share their image, which is encoded once.
        place_of = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self._places = np.array([place_of[key] for key in keys])
        table = table.select(np.unique(self._places, return_index=True)[1])
        config = model.config
        size, patch = config.vision_config.image_size, config.vision_config.patch_size
        shapes = {"image_embeds": (len(table), config.projection_dim)}
        if "image_tokens" in model.projection.consumes:
            shapes["image_tokens"] = (len(table), 1 + (size // patch) ** 2, config.vision_config.hidden_size)
        self.padding = padding
        # Files go by name, since hashing would read them all: size and time tell that one has changed.
        stats = [Path(image["path"]).stat() for image in table["image"] if image["bytes"] is None]
        facts = {
            "vision": [hash_tensors(model.vision_model), hash_tensors(model.visual_projection)],
            "preprocessing": processor.image_processor.to_dict(),
            "padding": padding,
            "images": hash_images(table),
            "files": [(stat.st_size, stat.st_mtime_ns) for stat in stats],
        }
        self.paths = {name: place_result(folder, name, ".npy", **facts) for name in shapes}
        if not all(path.is_file() for path in self.paths.values()):
            # Tokens of a ViT-L take 1 MiB an image: a full disk is found here, and not after hours.
            _check_space(folder, 4 * sum(math.prod(shape) for shape in shapes.values()))
            self._encode(model, processor, table, shapes, batch_size)
        self._arrays = {
            name: read_array(path, "remove it to have it made again", "r") for name, path in self.paths.items()
        }

    @torch.no_grad()
    def _encode(self, model, processor, table, shapes: dict[str, tuple], batch_size: int) -> None:
        # Both arrays come into being together: whatever is there counts as whole.
        with contextlib.ExitStack() as stack:
            arrays = {
                name: np.lib.format.open_memmap(
                    stack.enter_context(replace_file(self.paths[name])), "w+", np.float32, shape
                )
                for name, shape in shapes.items()
            }
            self._fill(arrays, model, processor, table, batch_size)

    def _fill(self, arrays: dict[str, np.memmap], model, processor, table, batch_size: int) -> None:
        for start in tqdm(range(0, len(table), batch_size), desc="Encoding images"):
            images = [decode_image(image) for image in table[start : start + batch_size]["image"]]
            if self.padding == "target":
                images = [pad_to_target(image) for image in images]
            pixels = processor.prepare_images(images).to(model.device, model.dtype)
            features = read_features(model, pixels)
            for name, array in arrays.items():
                array[start : start + batch_size] = features[name].float().cpu().numpy()
        for array in arrays.values():
            array.flush()

    def __len__(self) -> int:
        return len(self._places)

    def __call__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Look features up.

        Args:
            rows (sequence of `int`): Rows of the table.

        Returns:
            `dict`: `image_embeds` of shape `(len(rows), projection_dim)`, not normalised; `image_tokens` of shape
            `(len(rows), 1 + num_patches, vision_hidden_size)` where the projection consumes them. float32, on the CPU.
        """
        return {name: torch.from_numpy(array[self._places[list(rows)]]) for name, array in self._arrays.items()}


def _check_space(folder: str | Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"features of these images take {needed / 2**30:.1f} GiB in '{folder}', where {free / 2**30:.1f} GiB are "
            "free; train on fewer with num_images, or name another place with stage_dir."
        )


def read_features(model: RTDModel, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Encode images as projections read them: one vision pass.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Preprocessed images.

    Returns:
        `dict`: `image_embeds` and `image_tokens`.
    """
    features = model.get_image_features(pixel_values)
    return {"image_embeds": features.pooler_output, "image_tokens": features.last_hidden_state}
