"""Embeddings of a benchmark's images: each distinct image read, preprocessed and encoded once, and kept on disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_rtd import RTDModel, RTDProcessor, hash_tensors
from trainer.encoding.array_cache import load_array, place_result, save_array
from trainer.encoding.preprocessing import PublishedCropImageProcessor, pad_to_target, read_image
from trainer.encoding.processes import share_batches
from trainer.evaluation.benchmarks import Benchmark


__all__ = ["ImageEmbeddings"]


class ImageEmbeddings:
    """Embeddings of the gallery and the references of a benchmark.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        processor ([`RTDProcessor`]): Its processor.
        benchmark ([`Benchmark`]): Images and how they are preprocessed.
        batch_size (`int`, defaults to 64): Images in one pass.
        cache_dir (`str` or `Path`, *optional*):
            Folder that keeps embeddings under a hash of the vision tower, the preprocessing and the list of files with
            their sizes and times. A run that was stopped continues from there. Used where images are files.

    Attributes:
        gallery (`torch.Tensor` of shape `(num_gallery, projection_dim)`): Not normalised, float32, on the CPU.
        references (`torch.Tensor` of shape `(num_queries, projection_dim)`): Likewise.

    Raises:
        ValueError: If an image cannot be read; names it.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: RTDModel,
        processor: RTDProcessor,
        benchmark: Benchmark,
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
    ):
        self.model, self.benchmark = model, benchmark
        self.image_processor, self._size_px = processor.image_processor, processor.image_size_px[0]
        # SigLIP's preprocessing does not crop.
        if benchmark.protocol.crop == "published" and getattr(self.image_processor, "crop_size", None):
            self.image_processor = PublishedCropImageProcessor.from_dict(self.image_processor.to_dict())
        gallery = _list_sources(benchmark.gallery, "image", "box")
        self.reference_sources = _list_sources(benchmark.queries, "reference_image", "reference_box")
        tables = {"image": benchmark.gallery, "reference_image": benchmark.queries}
        self._columns = {name: _keep_files(table, name)[name] for name, table in tables.items()}
        # Each distinct image once: in CIRR all 2,165 references of val are in the gallery too.
        sources = list(dict.fromkeys(gallery + self.reference_sources))
        row_of = {source: row for row, source in enumerate(sources)}
        embeds = self._encode(sources, batch_size, cache_dir)
        self.gallery = embeds[[row_of[source] for source in gallery]]
        self.references = embeds[[row_of[source] for source in self.reference_sources]]

    def get_features(self, sources: Sequence[tuple]) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            sources (`Sequence[tuple]`): Of the benchmark, such as some of `reference_sources`.

        Returns:
            `BaseModelOutputWithPooling`: What `model.get_image_features` returns.
        """
        pixels = self.image_processor(images=[self._load(source) for source in sources], return_tensors="pt")
        return self.model.get_image_features(pixels["pixel_values"].to(self.model.device, self.model.dtype))

    def _load(self, source: tuple) -> Image.Image:
        place, detail = source
        if place is None:
            image = RTDProcessor.load_image(self._columns[detail[0]][detail[1]])
        else:
            image = read_image(place)
            if detail and self.benchmark.cut is not None:
                try:
                    image = self.benchmark.cut(image, detail, self._size_px)
                except ValueError as error:  # a box that lies outside of the image
                    raise ValueError(f"the image '{place}' has no {list(detail)} to be cut: {error}") from error
        return pad_to_target(image) if self.benchmark.protocol.padding == "target" else image

    def _encode(self, sources: list[tuple], batch_size: int, cache_dir: str | Path | None) -> torch.Tensor:
        def encode(batch: range) -> torch.Tensor:
            return self.get_features(sources[batch.start : batch.stop]).pooler_output

        title = f"Encoding images of {self.benchmark.title}"
        # Images in memory have no file whose size and time could tell the cache that they changed.
        if cache_dir is None or not all(place for place, _ in sources):
            return share_batches(encode, len(sources), batch_size, title)
        path = self._place(sources, cache_dir)
        PartialState().wait_for_everyone()  # else one process may find what another is about to encode
        embeds = load_array(path, len(sources))
        if embeds is None:
            batches = path.with_suffix("")
            # Batch by batch on disk, so that a killed run encodes only what is missing.
            embeds = share_batches(encode, len(sources), batch_size, title, batches)
            if PartialState().is_main_process:
                save_array(path, embeds.numpy())
                shutil.rmtree(batches, ignore_errors=True)
        return embeds

    def _place(self, sources: list[tuple], cache_dir: str | Path) -> Path:
        # Not the bytes of the files: CIRCO's gallery has 123,403.
        stats = [(Path(place).stat(), place, detail) for place, detail in sources]
        return place_result(
            cache_dir,
            "images",
            ".npy",
            vision=[hash_tensors(self.model.vision_model), hash_tensors(self.model.visual_projection)],
            config=self.model.config.vision_config.to_json_string(),
            preprocessing=[type(self.image_processor).__name__, self.image_processor.to_json_string()],
            padding=self.benchmark.protocol.padding,
            cut=getattr(self.benchmark.cut, "__name__", None),
            files=[(place, detail, stat.st_size, stat.st_mtime_ns) for stat, place, detail in stats],
        )


def _keep_files(dataset: Dataset, name: str) -> Dataset:
    """Leave images in their files: `datasets` would decode any format of Pillow's."""
    is_image = isinstance(dataset.features[name], ImageFeature)
    return dataset.cast_column(name, ImageFeature(decode=False)) if is_image else dataset


def _list_sources(dataset, image: str, box: str) -> list[tuple]:
    """List where images come from: a path and its box, if any, or no path, but a column and the row in it."""
    if dataset.features[image].dtype != "string":
        return [(None, (image, row)) for row in range(len(dataset))]
    boxes = dataset[box][:] if box in dataset.column_names else [()] * len(dataset)
    return [(path, tuple(cut)) for path, cut in zip(dataset[image][:], boxes, strict=True)]
