"""Systems that can be judged: a model, or embeddings or rankings that any other system computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.evaluation.benchmarks import Benchmark
from trainer.evaluation.evaluator import EmbeddingRanker, RetrievalEvaluator, check_mode, write_template
from trainer.evaluation.precomputed import align_rankings, read_embeddings, read_rankings
from trainer.evaluation.scoring import Rankings
from trainer.loading import load_model_and_processor
from trainer.publishing.provenance import hash_parts


__all__ = [
    "EmbeddingSystem",
    "ModelSystem",
    "RankingSystem",
]

_SIMILARITY = "cosine in float64, rounded to float32"
_UNKNOWN = ("template", "caption_order", "padding", "crop")  # chosen by whoever computed embeddings or rankings
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ModelSystem:
    """A model that composes queries.

    Args:
        name_or_path (`str`): Directory or Hub id of an RTD model, an adapter repository, or a CLIP.
        projection (`str`, *optional*): Needed with a CLIP only.
        mode (`str`, defaults to `"composed"`): Or a baseline, see [`RetrievalEvaluator`].
        precision (`str`, defaults to `"float32"`): Of the towers, or `"bfloat16"`; similarities are float32 always.
        batch_size (`int`, defaults to 64): Images or queries in one pass.
        cache_dir (`str` or `Path`, *optional*): Keeps embeddings of images.

    Attributes:
        method (`str`): Name of its prompt template, which tells whose published protocol is followed.
        facts (`dict`): What a result records of it.
    """

    needs_images = True

    def __init__(
        self,
        name_or_path: str,
        projection: str | None = None,
        mode: str = "composed",
        precision: str = "float32",
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
    ):
        if precision not in _PRECISIONS:
            raise ValueError(f"`precision` must be one of {', '.join(_PRECISIONS)}, got {precision!r}.")
        check_mode(mode)
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        model, self.processor = load_model_and_processor(name_or_path, projection)
        self.method, self.mode = self.processor.default_template, mode
        self.batch_size, self.cache_dir = batch_size, cache_dir
        self.facts: dict[str, Any] = {
            "name_or_path": name_or_path,
            "projection_type": model.projection.config.projection_type,
            "method": self.method,
            "mode": mode,
            "precision": precision,
            "sha256": hash_parts(model),
        }
        self.model = model.to(_PRECISIONS[precision])

    def describe_protocol(self, benchmark: Benchmark) -> dict[str, Any]:
        """Describe what of the protocol is the system's own.

        Args:
            benchmark ([`Benchmark`]): The benchmark.

        Returns:
            `dict`: The prompt, written out, and how images are read.
        """
        crop = self.processor.image_processor.crop_size
        return {
            "template": write_template(self.processor, benchmark.protocol.template),
            "text_template": benchmark.text_template,
            "image_size_px": [crop["height"], crop["width"]],
            "turned_by_exif": benchmark.gallery.features["image"].dtype != "string",
            "similarity": _SIMILARITY,
        }

    def rank(self, benchmark: Benchmark) -> Rankings:
        """Rank a benchmark.

        Args:
            benchmark ([`Benchmark`]): The benchmark.

        Returns:
            [`Rankings`]: As deep as its metrics look.
        """
        evaluator = RetrievalEvaluator(self.model, self.processor, benchmark, self.batch_size, self.cache_dir)
        return evaluator.make_rankings(evaluator.encode_queries(self.model, self.mode))


class EmbeddingSystem:
    """Embeddings of galleries and queries.

    Args:
        path (`str`): File, see [`read_embeddings`].
    """

    needs_images, method = False, "rtd"

    def __init__(self, path: str):
        self.gallery, self.query = read_embeddings(path)
        self.facts = {"embeddings": path, "sha256": _hash_file(path)}

    def describe_protocol(self, benchmark: Benchmark) -> dict[str, Any]:
        """See [`ModelSystem`]: only the similarity is known."""
        return dict.fromkeys(_UNKNOWN) | {"similarity": _SIMILARITY}

    def rank(self, benchmark: Benchmark) -> Rankings:
        """Rank a benchmark, see [`ModelSystem`]."""
        ranker = EmbeddingRanker(benchmark, self.gallery.take(benchmark.gallery["id"][:]))
        return ranker.make_rankings(self.query.take(benchmark.queries["id"][:]))


class RankingSystem:
    """Rankings.

    Args:
        paths (`Sequence[str]`): Files, see [`read_rankings`]: one, or those of the gallery and of the subsets.
    """

    needs_images, method = False, "rtd"

    def __init__(self, paths: Sequence[str]):
        self.rankings = {}
        for path in paths:
            self.rankings |= read_rankings(path)
        self.facts = {"rankings": list(paths), "sha256": [_hash_file(path) for path in paths]}

    def describe_protocol(self, benchmark: Benchmark) -> dict[str, Any]:
        """See [`ModelSystem`]: nothing is known."""
        return dict.fromkeys((*_UNKNOWN, "ties"))

    def rank(self, benchmark: Benchmark) -> Rankings:
        """Align the rankings with a benchmark, see [`ModelSystem`]."""
        return align_rankings(benchmark, self.rankings)


def _hash_file(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
