"""Judging: encode the gallery once, compose queries, rank, score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_rtd import Query, RTDModel, RTDProcessor, encode_composed, suggest
from trainer.data.tables import check_columns
from trainer.encoding.processes import share_batches
from trainer.evaluation.benchmark_images import ImageEmbeddings
from trainer.evaluation.benchmarks import Benchmark
from trainer.evaluation.ranking import membership, rank_gallery
from trainer.evaluation.scoring import Rankings, find_depth, score_rankings


__all__ = ["QUERY_MODES", "EmbeddingRanker", "RetrievalEvaluator", "check_mode", "write_template"]

QUERY_MODES = ("composed", "text", "image", "sum")
_CELLS = 2**24  # of the table of similarities that is held at a time


def check_mode(mode: str) -> None:
    """Check how queries are to be encoded.

    Args:
        mode (`str`): See [`RetrievalEvaluator`].

    Raises:
        ValueError: If it is none of `QUERY_MODES`.
    """
    if mode not in QUERY_MODES:
        raise ValueError(suggest("mode", mode, QUERY_MODES))


def write_template(processor: RTDProcessor, wanted: str | None = None, name: str | None = None) -> str:
    """Write the prompt template of a benchmark for the pseudo-words of a method.

    Args:
        processor ([`RTDProcessor`]): Its templates are those of the methods.
        wanted (`str`, *optional*): Template of the benchmark with one `$`. Defaults to the method's own.
        name (`str`, *optional*): Name of the method's template. Defaults to the processor's default.

    Returns:
        `str`: Template with as many `$` as the method has pseudo-words.

    Raises:
        ValueError: If there is no template of that name, or the wanted one does not fit the pseudo-words.
    """
    name = name or processor.default_template
    if name not in processor.prompt_templates:
        raise ValueError(suggest("prompt template", name, processor.prompt_templates))
    own = processor.prompt_templates[name]
    if wanted is None or wanted.count("$") == own.count("$"):
        return wanted or own
    if wanted.count("$") != 1:
        raise ValueError(
            f"the template {wanted!r} has {wanted.count('$')} '$', but '{name}' has {own.count('$')}: {own!r}. Write "
            "one '$' for all of them."
        )
    # Where a projection has many pseudo-words, all of them take the place of the benchmark's one `$`.
    return wanted.replace("$", own[own.index("$") : own.rindex("$") + 1])


class EmbeddingRanker:
    """Rank and score embeddings of any system on one benchmark.

    Args:
        benchmark ([`Benchmark`]): Gallery, queries and protocol.
        gallery_embeds (`torch.Tensor` of shape `(num_gallery, projection_dim)`): Of any norm, but none of zero.
    """

    def __init__(self, benchmark: Benchmark, gallery_embeds: torch.Tensor):
        self.benchmark = benchmark
        self.gallery_ids = benchmark.gallery["id"][:]
        self.gallery_embeds = normalize(gallery_embeds.float(), dim=-1)

    def rank(self, query_embeds: torch.Tensor, depth: int | None = None, among: str | None = None) -> np.ndarray:
        """Rank the gallery, or some images of it, for each query.

        Args:
            query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): L2-normalised.
            depth (`int`, *optional*): Ranks to keep. Defaults to all.
            among (`str`, *optional*):
                Column of the queries with the ids to rank, such as `"subset_ids"`. Defaults to `"candidate_ids"`, or
                to the whole gallery without such a column.

        Returns:
            `np.ndarray` of shape `(num_queries, depth)`: Rows of gallery positions, best first, -1 where a row has
            ended. Without a depth, an excluded reference comes last in a ranking of the whole gallery.
        """
        if among is None and "candidate_ids" in self.benchmark.queries.column_names:
            among = "candidate_ids"
        if among is not None:
            return self._rank_some(query_embeds, self.benchmark.queries[among][:], depth)
        size = len(self.gallery_ids)
        ranking = np.full((len(query_embeds), size if depth is None else depth), -1)
        # Here and not in each block: `double()` then copies nothing in `_compare`.
        gallery = self.gallery_embeds.double()
        step = max(1, _CELLS // max(size, 1))
        starts, title = range(0, len(query_embeds), step), f"Ranking {self.benchmark.title}"
        for start in tqdm(starts, desc=title, disable=not PartialState().is_main_process, delay=1):
            rows = slice(start, start + step)
            similarities = _compare(query_embeds[rows], gallery)
            excluded = self._mark_references(rows)
            order = rank_gallery(similarities, None if excluded is None else ~excluded, self._mark_last(rows))
            # Where the gallery is smaller than the depth, a row would end in its own reference.
            if depth is not None and excluded is not None:
                order = np.where(np.take_along_axis(excluded, order, axis=1), -1, order)
            ranking[rows, : min(size, ranking.shape[1])] = order[:, : ranking.shape[1]]
        return ranking

    def _mark_references(self, rows: slice) -> np.ndarray | None:
        if not self.benchmark.protocol.exclude_reference:
            return None
        return membership([[name] for name in self.benchmark.queries["reference_id"][rows]], self.gallery_ids)

    def _mark_last(self, rows: slice) -> np.ndarray | None:
        if self.benchmark.protocol.ties != "last":
            return None
        return membership(self.benchmark.queries["target_ids"][rows], self.gallery_ids)

    def _rank_some(self, query_embeds: torch.Tensor, ids: Sequence[Sequence[str]], depth: int | None) -> np.ndarray:
        queries, protocol = self.benchmark.queries, self.benchmark.protocol
        references, targets = queries["reference_id"][:], queries["target_ids"][:]
        position = {name: index for index, name in enumerate(self.gallery_ids)}
        ranking = np.full((len(ids), max(map(len, ids), default=0) if depth is None else depth), -1)
        for row, (query, names) in enumerate(zip(query_embeds, ids, strict=True)):
            left_out = {references[row]} if protocol.exclude_reference else set()
            # Repeated names stay: GeneCIS lists some twice.
            names = [name for name in names if name in position and name not in left_out]
            if not names:
                continue
            some = np.array([position[name] for name in names])
            last = [[name in targets[row] for name in names]] if protocol.ties == "last" else None
            order = some[rank_gallery(_compare(query[None], self.gallery_embeds[some]), last=last)[0]]
            ranking[row, : len(order)] = order[: ranking.shape[1]]
        return ranking

    def make_rankings(self, query_embeds: torch.Tensor) -> Rankings:
        """Rank as deep as the benchmark's metrics look, and the subsets where it has any.

        Args:
            query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): L2-normalised.

        Returns:
            [`Rankings`]: To be scored or submitted.
        """
        has_subsets = all(self.benchmark.queries["subset_ids"][:])
        subset = self.rank(query_embeds, among="subset_ids") if has_subsets else None
        return Rankings(self.gallery_ids, self.rank(query_embeds, find_depth(self.benchmark)), subset)

    def score(self, query_embeds: torch.Tensor) -> dict[str, float]:
        """Score queries.

        Args:
            query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): L2-normalised.

        Returns:
            `dict[str, float]`: The benchmark's metrics, see [`score_rankings`].

        Raises:
            ValueError: If the benchmark's targets are not public.
        """
        return score_rankings(self.benchmark, self.make_rankings(query_embeds))


def _compare(query_embeds: torch.Tensor, gallery_embeds: torch.Tensor) -> np.ndarray:
    """Compute similarities, equal for equal images: in float32 they differ by their place in the gallery."""
    return (query_embeds.double() @ gallery_embeds.double().T).float().numpy()


class RetrievalEvaluator(EmbeddingRanker):
    """Judge models that share one image tower on one benchmark.

    RTD never changes the image side, so gallery and reference images are encoded once and serve every text tower and
    projection trained on that CLIP. Started as several processes, each encodes its share of the batches, and all end
    with the same numbers as one process.

    Args:
        model ([`RTDModel`]): Whose vision tower encodes gallery and references.
        processor ([`RTDProcessor`]): Its processor.
        benchmark ([`Benchmark`]): Gallery, queries and protocol.
        batch_size (`int`, defaults to 64): Images or queries in one pass.
        cache_dir (`str` or `Path`, *optional*): Keeps embeddings of images, see [`ImageEmbeddings`].

    Raises:
        ValueError: If gallery or queries lack a column.
    """

    def __init__(
        self,
        model: RTDModel,
        processor: RTDProcessor,
        benchmark: Benchmark,
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
    ):
        self.model, self.processor, self.batch_size = model, processor, batch_size
        write_template(processor, benchmark.protocol.template)  # refused before images are encoded
        check_columns(benchmark.gallery.column_names, ("image",))
        check_columns(benchmark.queries.column_names, ("reference_image", "condition"))
        self.images = ImageEmbeddings(model, processor, benchmark, batch_size, cache_dir)
        super().__init__(benchmark, self.images.gallery)

    @torch.no_grad()
    def encode_queries(self, model: RTDModel, mode: str = "composed", template: str | None = None) -> torch.Tensor:
        """Encode the benchmark's queries.

        Args:
            model ([`RTDModel`]): Projection and text tower; its vision tower must be the evaluator's.
            mode (`str`, defaults to `"composed"`):
                `"composed"`, or a baseline: `"text"` (the condition alone), `"image"` (the reference alone) or
                `"sum"` (of both, normalised). Baselines read the text tower from before RTD.
            template (`str`, *optional*):
                Name of the method's prompt template, see [`write_template`]; the protocol's own template is kept.

        Returns:
            `torch.Tensor` of shape `(num_queries, projection_dim)`: L2-normalised, float32, on the CPU.

        Raises:
            ValueError: If the mode or the template is unknown.
        """
        check_mode(mode)
        prompt = write_template(self.processor, self.benchmark.protocol.template, template)
        queries = self.benchmark.queries
        several = queries["wordings"][:] if "wordings" in queries.column_names else None
        wordings = several or [[condition] for condition in queries["condition"][:]]

        def encode(batch: range) -> torch.Tensor:
            if mode == "composed":
                return self._compose(model, batch, wordings[batch.start : batch.stop], prompt)
            image = normalize(self.images.references[batch.start : batch.stop], dim=-1)
            if mode == "image":
                return image
            text = self._read(model, queries["condition"][batch.start : batch.stop])
            # Norms differ between the towers: not normalised, the longer embedding would decide the sum.
            return text if mode == "text" else image + normalize(text, dim=-1)

        title = f"Composing queries of {self.benchmark.title}"
        return normalize(share_batches(encode, len(queries), self.batch_size, title), dim=-1)

    def _compose(self, model: RTDModel, batch: range, wordings: Sequence[Sequence[str]], prompt: str) -> torch.Tensor:
        """Encode each wording, and add up those of a query."""
        features = {"pooler_output": self.images.references[batch.start : batch.stop]}
        if "image_tokens" in model.projection.consumes:
            # Too large to be kept: 1 MiB an image.
            features = self.images.get_features(self.images.reference_sources[batch.start : batch.stop])
        rows = [
            BaseModelOutputWithPooling(**{name: part[row : row + 1] for name, part in features.items()})
            for row in range(len(wordings))
        ]
        total = torch.zeros(len(wordings), model.config.projection_dim)
        # `None` asks for the prompt of the reference alone; a blank text is read as published.
        for blank in ("reference", "verbatim"):
            asked = [
                (row, text)
                for row, texts in enumerate(wordings)
                for text in texts
                if (text is None) == (blank == "reference")
            ]
            if asked:
                queries = [Query(text or "", features=rows[row]) for row, text in asked]
                embeds = encode_composed(model, self.processor, queries, template=prompt, blank=blank)
                # All are of norm 1, so their sum points where SEARLE's mean of FashionIQ's two orders does.
                total.index_add_(0, torch.tensor([row for row, _ in asked]), embeds)
        return total

    def _read(self, model: RTDModel, conditions: Sequence[str]) -> torch.Tensor:
        texts = [self.benchmark.text_template.replace("{condition}", condition) for condition in conditions]
        inputs = self.processor(text=texts).to(model.text_model.device)
        return model.get_text_features(**inputs).pooler_output.float().cpu()

    def __call__(self, model: RTDModel, mode: str = "composed", template: str | None = None) -> dict[str, float]:
        """Encode, rank and score.

        Args:
            model ([`RTDModel`]): See `encode_queries`.
            mode (`str`, defaults to `"composed"`): See `encode_queries`.
            template (`str`, *optional*): See `encode_queries`.

        Returns:
            `dict[str, float]`: See `score`.
        """
        return self.score(self.encode_queries(model, mode, template))
