"""Systems that can be judged: a model, or embeddings or rankings that any other system computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modeling_rtd import RTDModel, RTDProcessor, suggest
from trainer.evaluation.benchmarks import Benchmark
from trainer.evaluation.evaluator import EmbeddingRanker, RetrievalEvaluator, check_mode, write_template
from trainer.evaluation.precomputed import align_rankings, read_precomputed_embeddings, read_rankings
from trainer.evaluation.scoring import Rankings
from trainer.loading import load_model_and_processor, load_processor
from trainer.publishing.provenance import hash_parts


__all__ = ["EmbeddingSystem", "ModelSystem", "RankingSystem"]

_SIMILARITY = "cosine in float64, rounded to float32"
_UNKNOWN = ("template", "caption_order", "padding", "crop")  # chosen by whoever computed embeddings or rankings
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ModelSystem:
    """A model that composes queries.

    Args:
        model ([`RTDModel`] or `str`):
            The model, which is put in evaluation mode; or directory or Hub id of one, of an adapter repository, or of
            a CLIP.
        processing_class ([`RTDProcessor`], *optional*): Its processor; found from the place of the model by default.
        mode (`str`, defaults to `"composed"`): Or a baseline, see [`RetrievalEvaluator`].
        precision (`str`, *optional*):
            `"float32"` or `"bfloat16"`, to which the model is converted. Defaults to the model's own, which is float32
            where a place is loaded. Similarities are float32 always.
        batch_size (`int`, defaults to 64): Images or queries in one pass.
        cache_dir (`str` or `Path`, *optional*): Keeps embeddings of images.
        projection (`str`, *optional*): Directory or Hub id of a projection; needed with the place of a CLIP only.

    Attributes:
        method (`str`): Name of its prompt template, which decides the published protocol.
        facts (`dict`): What a result records of it.

    Raises:
        ValueError: If an option is not accepted, or model or processor cannot be loaded.
    """

    needs_images = True

    def __init__(
        self,
        model: RTDModel | str | Path,
        processing_class: RTDProcessor | None = None,
        mode: str = "composed",
        precision: str | None = None,
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
        projection: str | None = None,
    ):
        if precision is not None and precision not in _PRECISIONS:
            raise ValueError(suggest("precision", precision, _PRECISIONS))
        check_mode(mode)
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        place = model.name_or_path or None if isinstance(model, RTDModel) else str(model)
        if isinstance(model, str | Path):
            model, found = load_model_and_processor(place, projection)
        elif isinstance(model, RTDModel):
            found = processing_class or load_processor(model)
        else:
            raise ValueError(f"`model` must be an RTDModel, or the place of one, got {type(model).__name__}.")
        self.processor = processing_class or found
        self.method, self.mode = self.processor.default_template, mode
        self.batch_size, self.cache_dir = batch_size, cache_dir
        self.facts: dict[str, Any] = {
            "name_or_path": place,
            "projection_type": model.projection.config.projection_type,
            "method": self.method,
            "mode": mode,
            "precision": precision or str(model.dtype).removeprefix("torch."),
            "sha256": hash_parts(model),
        }
        # After the hash, which is of the weights as they were loaded.
        self.model = model.eval().to(_PRECISIONS.get(precision, model.dtype))

    def describe_protocol(self, benchmark: Benchmark) -> dict[str, Any]:
        """Describe what of the protocol is the system's own.

        Args:
            benchmark ([`Benchmark`]): The benchmark.

        Returns:
            `dict`: The prompt, written out, and how images are read.
        """
        return {
            "template": write_template(self.processor, benchmark.protocol.template),
            "text_template": benchmark.text_template,
            "image_size_px": list(self.processor.image_size_px),
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
        path (`str`): File, see [`read_precomputed_embeddings`].
    """

    # The name of no method, hence the protocol that most are published in.
    needs_images, method = False, "rtd"

    def __init__(self, path: str):
        self.gallery, self.query = read_precomputed_embeddings(path)
        self.facts = {"embeddings": path, "sha256": _hash_file(path)}

    def describe_protocol(self, benchmark: Benchmark) -> dict[str, Any]:
        """See [`ModelSystem`]: only the similarity is known."""
        # `None` marks what nobody knows; such a record is never called comparable.
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
