"""Judging: encode the gallery once, compose queries, rank, score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_rtd import RTDModel, RTDProcessor, encode_images
from trainer.benchmarks import Benchmark
from trainer.metrics import map_at_k, membership, rank_gallery, recall_at_k, relevance, subset_recall_at_k


__all__ = ["QUERY_MODES", "RetrievalEvaluator"]

QUERY_MODES = ("composed", "text", "image", "sum")


class RetrievalEvaluator:
    """Judge models that share one image tower on one benchmark.

    RTD never changes the image side, so gallery and reference images are encoded once and serve every text tower and
    projection trained on that CLIP. Started as several processes, each encodes its share of the batches, and all end
    with the same numbers as one process.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes gallery and references.
        processor ([`RTDProcessor`]): Its processor.
        benchmark ([`Benchmark`]): Gallery, queries and protocol.
        batch_size (`int`, defaults to 64): Images or queries in one pass.
    """

    @torch.no_grad()
    def __init__(self, model: RTDModel, processor: RTDProcessor, benchmark: Benchmark, batch_size: int = 64):
        self.model = model
        self.processor = processor
        self.benchmark = benchmark
        self.batch_size = batch_size
        self.gallery_ids = benchmark.gallery["id"][:]
        images = benchmark.gallery["image"]
        self.gallery_embeds = self._share(
            lambda batch: encode_images(model, processor, images[batch.start : batch.stop], batch_size),
            len(images),
            "Encoding gallery",
        )
        references = benchmark.queries["reference_image"]
        self._reference_features = {}
        for batch in self._batches(len(references)):
            pixels = processor.prepare_images(references[batch.start : batch.stop]).to(model.device, model.dtype)
            # On the CPU, since the model may be moved before it is judged.
            features = model.get_image_features(pixels)
            self._reference_features[batch.start] = {name: tensor.cpu() for name, tensor in features.items()}

    def _batches(self, total: int) -> list[range]:
        """List the batches of this process."""
        starts = range(0, total, self.batch_size)
        state = PartialState()
        own = starts[state.process_index :: state.num_processes]
        return [range(start, min(start + self.batch_size, total)) for start in own]

    def _share(self, encode: Callable[[range], torch.Tensor], total: int, desc: str | None = None) -> torch.Tensor:
        """Encode the batches of this process and join those of all, in order."""
        chunks = [
            (batch.start, encode(batch).float().cpu())
            for batch in tqdm(self._batches(total), desc=desc, disable=desc is None)
        ]
        return torch.cat([chunk for _, chunk in sorted(gather_object(chunks), key=lambda pair: pair[0])])

    @torch.no_grad()
    def encode_queries(self, model: RTDModel, mode: str = "composed", template: str | None = None) -> torch.Tensor:
        """Encode the benchmark's queries.

        Args:
            model ([`RTDModel`]): Projection and text tower; its vision tower must be the evaluator's.
            mode (`str`, defaults to `"composed"`):
                `"composed"`, or a baseline: `"text"` (the condition alone), `"image"` (the reference alone) or
                `"sum"` (of both, normalised). Baselines read the text tower from before RTD.
            template (`str`, *optional*): Name of the prompt template.

        Returns:
            `torch.Tensor` of shape `(num_queries, projection_dim)`: L2-normalised, float32, on the CPU.

        Raises:
            ValueError: If the mode is unknown.
        """
        if mode not in QUERY_MODES:
            raise ValueError(f"`mode` must be one of {', '.join(QUERY_MODES)}, got {mode!r}.")
        conditions = self.benchmark.queries["condition"][:]

        def encode(batch: range) -> torch.Tensor:
            place = (model.text_model.device, model.text_model.dtype)
            kept = {name: tensor.to(*place) for name, tensor in self._reference_features[batch.start].items()}
            features = BaseModelOutputWithPooling(**kept)
            return self._encode_batch(model, features, conditions[batch.start : batch.stop], mode, template)

        return normalize(self._share(encode, len(conditions)), dim=-1)

    def _encode_batch(
        self,
        model: RTDModel,
        features: BaseModelOutputWithPooling,
        conditions: Sequence[str],
        mode: str,
        template: str | None,
    ) -> torch.Tensor:
        if mode == "composed":
            inputs = self.processor(conditions=conditions, template=template).to(model.text_model.device)
            return model.get_composed_features(**inputs, image_features=features).pooler_output
        image = normalize(features.pooler_output, dim=-1)
        if mode == "image":
            return image
        text = model.get_text_features(**self.processor(text=conditions).to(model.text_model.device)).pooler_output
        return text if mode == "text" else image + normalize(text, dim=-1)

    def rank(self, query_embeds: torch.Tensor) -> np.ndarray:
        """Rank the gallery for each query.

        Args:
            query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): L2-normalised.

        Returns:
            `np.ndarray` of shape `(num_queries, num_gallery)`: Rows of gallery positions, best first; an excluded
            reference comes last.
        """
        allowed = None
        if self.benchmark.exclude_reference:
            allowed = ~membership([[name] for name in self.benchmark.queries["reference_id"]], self.gallery_ids)
        return rank_gallery((query_embeds @ self.gallery_embeds.T).numpy(), allowed)

    def score(self, query_embeds: torch.Tensor) -> dict[str, float]:
        """Score queries.

        Args:
            query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): L2-normalised.

        Returns:
            `dict[str, float]`: Fractions `recall@1`, `recall@5`, `recall@10`, `map@5`, and `subset_recall@1` where the
            benchmark has subsets.
        """
        queries = self.benchmark.queries
        target_ids, subset_ids = queries["target_ids"][:], queries["subset_ids"][:]
        relevant = relevance(self.rank(query_embeds), self.gallery_ids, target_ids)
        metrics = {f"recall@{k}": recall_at_k(relevant, k) for k in (1, 5, 10)}
        metrics["map@5"] = map_at_k(relevant, [len(ids) for ids in target_ids], 5)
        if all(subset_ids):
            similarities = (query_embeds @ self.gallery_embeds.T).numpy()
            references = queries["reference_id"][:] if self.benchmark.exclude_reference else None
            metrics["subset_recall@1"] = subset_recall_at_k(
                similarities, self.gallery_ids, target_ids, subset_ids, 1, references
            )
        return metrics

    def evaluate(self, model: RTDModel, mode: str = "composed", template: str | None = None) -> dict[str, float]:
        """Encode, rank and score.

        Args:
            model ([`RTDModel`]): See `encode_queries`.
            mode (`str`, defaults to `"composed"`): See `encode_queries`.
            template (`str`, *optional*): Name of the prompt template.

        Returns:
            `dict[str, float]`: See `score`.
        """
        return self.score(self.encode_queries(model, mode, template))
