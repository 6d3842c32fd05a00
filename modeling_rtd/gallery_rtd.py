"""Gallery: image embeddings under ids, searched exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import tqdm


__all__ = ["Gallery", "encode_images"]

_EMBEDDINGS, _IDS = "embeddings.npy", "ids.json"


@torch.no_grad()
def encode_images(model, processor, images: Sequence, batch_size: int = 64, desc: str | None = None) -> torch.Tensor:
    """Encode images into the joint space.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes.
        processor ([`RTDProcessor`]): Its processor.
        images (sequence of images, paths or URLs): Anything [`RTDProcessor`] loads.
        batch_size (`int`, defaults to 64): Images in one pass.
        desc (`str`, *optional*): Title of the progress bar; none is shown where left out.

    Returns:
        `torch.Tensor` of shape `(len(images), projection_dim)`: L2-normalised, float32, on the CPU.

    Raises:
        ValueError: If an image cannot be read; names it.
    """
    chunks = []
    for start in tqdm(range(0, len(images), batch_size), desc=desc, disable=desc is None):
        pixel_values = processor.prepare_images(list(images[start : start + batch_size]))
        embeds = model.get_image_features(pixel_values.to(model.device, model.dtype)).pooler_output
        chunks.append(torch.nn.functional.normalize(embeds.float(), dim=-1).cpu())
    return torch.cat(chunks) if chunks else torch.empty(0, model.config.projection_dim)


class Gallery:
    """Image embeddings under ids, searched by inner product in torch.

    The image tower is CLIP's and RTD never changes it, so one gallery serves every text tower trained on that CLIP.

    Args:
        embeddings (`torch.Tensor` of shape `(num_images, projection_dim)`): Of any norm.
        ids (`list[str]`): One distinct id a row.

    Raises:
        ValueError: If counts differ, an id repeats, or an embedding is not finite.

    Examples:
        >>> gallery = Gallery(torch.eye(3), ["a", "b", "c"])
        >>> gallery.search(torch.tensor([[0.6, 0.8, 0.0]]), top_k=2)[0][0]["id"]
        'b'
    """

    def __init__(self, embeddings: torch.Tensor, ids: Sequence[str]):
        ids = list(ids)
        if len(ids) != len(embeddings):
            raise ValueError(f"got {len(embeddings)} embeddings and {len(ids)} ids.")
        if len(set(ids)) != len(ids):
            repeated = next(name for name in ids if ids.count(name) > 1)
            raise ValueError(f"ids must be distinct, but '{repeated}' repeats.")
        if not torch.isfinite(embeddings).all():
            raise ValueError("embeddings must be finite numbers; encode the images again.")
        self.embeddings = torch.nn.functional.normalize(embeddings.float(), dim=-1)
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_images(
        cls, model, processor, images: Sequence, ids: Sequence[str] | None = None, batch_size: int = 64
    ) -> tuple[Gallery, list[str]]:
        """Encode images; those that cannot be read are left out.

        Args:
            model ([`RTDModel`]): Whose vision tower encodes.
            processor ([`RTDProcessor`]): Its processor.
            images (`list`): Paths, URLs or images.
            ids (`list[str]`, *optional*): One a image; the images themselves as strings where left out.
            batch_size (`int`, defaults to 64): Images in one pass.

        Returns:
            `tuple`: The gallery, and one sentence for each image that was left out.
        """
        ids = [str(image) for image in images] if ids is None else list(ids)
        kept, chunks, skipped = [], [], []
        for start in tqdm(range(0, len(images), batch_size), desc="Encoding gallery"):
            batch = []
            for name, image in zip(ids[start:], images[start : start + batch_size], strict=False):
                try:
                    batch.append(processor.load_image(image))
                    kept.append(name)
                except ValueError as error:
                    skipped.append(str(error))
            chunks.append(encode_images(model, processor, batch, batch_size))
        embeddings = torch.cat(chunks) if chunks else torch.empty(0, model.config.projection_dim)
        return cls(embeddings, kept), skipped

    def search(
        self, query_embeds: torch.Tensor, top_k: int = 10, exclude: Sequence[Sequence[str]] | None = None
    ) -> list[list[dict]]:
        """Find the images nearest to each query.

        Args:
            query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): Of any norm.
            top_k (`int`, defaults to 10): Results a query; fewer where the gallery is smaller.
            exclude (`list[list[str]]`, *optional*): Ids to leave out, for each query; unknown ids are no error.

        Returns:
            `list[list[dict]]`: For each query, dictionaries with `id` and `score` (cosine), best first; among equal
            scores the image that was added first.

        Raises:
            ValueError: If the gallery is empty, `top_k` is below 1, or sizes differ.
        """
        if not self.ids:
            raise ValueError("the gallery is empty: there is nothing to search.")
        if top_k < 1:
            raise ValueError(f"`top_k` must be at least 1, got {top_k}.")
        if query_embeds.ndim != 2 or query_embeds.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"queries must have the shape (num_queries, {self.embeddings.shape[1]}), got "
                f"{tuple(query_embeds.shape)}; were query and gallery encoded by the same CLIP?"
            )
        if exclude is not None and len(exclude) != len(query_embeds):
            raise ValueError(f"`exclude` needs one list of ids a query: got {len(exclude)} for {len(query_embeds)}.")
        queries = torch.nn.functional.normalize(query_embeds.detach().float().cpu(), dim=-1)
        scores = queries @ self.embeddings.T  # (Q, N)
        for row, names in enumerate(exclude or ()):
            rows = [self.ids.index(name) for name in names if name in self.ids]
            scores[row, rows] = float("-inf")
        best = scores.sort(dim=-1, descending=True, stable=True)
        return [
            [
                {"id": self.ids[i], "score": score}
                for i, score in zip(indices[:top_k].tolist(), values[:top_k].tolist(), strict=True)
                if score != float("-inf")
            ]
            for indices, values in zip(best.indices, best.values, strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """Write the gallery to a folder.

        Args:
            folder (`str` or `Path`): Folder, made where it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _EMBEDDINGS, self.embeddings.numpy())
        (folder / _IDS).write_text(json.dumps(self.ids))

    @classmethod
    def load(cls, folder: str | Path) -> Gallery:
        """Read a gallery that `save` wrote.

        Args:
            folder (`str` or `Path`): Folder.

        Returns:
            [`Gallery`]: The same embeddings under the same ids.

        Raises:
            ValueError: If the folder holds no gallery.
        """
        folder = Path(folder)
        try:
            return cls(torch.from_numpy(np.load(folder / _EMBEDDINGS)), json.loads((folder / _IDS).read_text()))
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"'{folder}' holds no readable gallery: {error}; index the images again.") from error
