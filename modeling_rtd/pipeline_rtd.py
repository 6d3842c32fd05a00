"""The pipeline `composed-image-retrieval`: queries in, ranked ids of a gallery out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import GeneratorType

import numpy as np
import torch
from PIL import Image
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .gallery_rtd import Gallery
from .query_rtd import encode_composed, keep_features, measure_edits, read_query


__all__ = ["CUSTOM_PIPELINES", "TASK", "ComposedImageRetrievalPipeline", "TaskWithoutDefault"]

TASK = "composed-image-retrieval"


class TaskWithoutDefault(dict):
    """Entry of a task in transformers' registry, which is asked for its default model where none is named."""

    def __missing__(self, name: str):
        if name != "default":
            raise KeyError(name)
        raise ValueError(f"`{TASK}` has no default model: pass model=, a directory, a Hub id or an RTDModel.")


class ComposedImageRetrievalPipeline(Pipeline):
    """Find the images of a gallery that answer a query.

    A query is a dictionary, or a row of a data set, with `image` and `text`. These are a reference image (path, URL or
    PIL image) and a condition. With `text` alone it is a plain text query, read by the text tower from before RTD;
    with `image` alone it asks for similar images. A query may also hold

    - `image` as a list of references, and `weights`, one number each (equal ones by default);
    - `strength`, from 0 (the reference alone) to 1 (the query as it is, the default);
    - `negative`, a text of what is not wanted, and `negative_weight` (0.25);
    - `exclude`, a list of ids to leave out, or one id;
    - `adapter`, the name of an adapter of the text tower (`"__base__"` for none).

    Threads may share a pipeline; [`Gallery`] and [`RTDAdapterMixin`] say what waits. A copy for another process opens
    the folder of its gallery again.

    Strength, negative text and several references are ours, not the paper's; their formulas are those of
    [`weigh_condition`], [`exclude_text`] and [`join_references`].

    Args:
        gallery ([`Gallery`], `str` or `Path`):
            The images to search, or the folder of a gallery. Its image tower must be the model's.
        args, kwargs: As for every pipeline, and defaults of what `__call__` takes.

    Raises:
        ValueError: If the model is not an RTDModel, there is no processor, or the gallery was made by another image
            tower.

    Examples:
        >>> from transformers import pipeline
        >>> pipe = pipeline(
        ...     "composed-image-retrieval", model="org/rtd-vitl", gallery="index", trust_remote_code=True
        ... )  # doctest: +SKIP
        >>> pipe({"image": "dress.jpg", "text": "is red"}, top_k=5)  # doctest: +SKIP
    """

    # By these transformers decides what it loads; tokenizer and image processor are parts of the processor.
    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *args, gallery: Gallery | str | Path | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if not hasattr(self.model, "check_adapters"):  # a CLIP, which an adapter's folder gives too
            raise ValueError(
                f"a {type(self.model).__name__} composes nothing: pass model=, an RTDModel or its place, such as "
                "RTDModel.from_clip(place) of a CLIP, or RTDModel.from_adapter(place) of an adapter."
            )
        if self.processor is None:
            raise ValueError(
                "the pipeline needs the model's processor: pass processor=RTDProcessor.from_pretrained(...)."
            )
        self._gallery = None
        if gallery is not None:
            self.gallery = gallery

    @property
    def gallery(self) -> Gallery:
        """[`Gallery`]: The images that are searched; another one is checked when it is set."""
        if self._gallery is None:
            raise ValueError("there is nothing to search: pass gallery=..., a Gallery or the folder of one.")
        return self._gallery

    @gallery.setter
    def gallery(self, gallery: Gallery | str | Path) -> None:
        if isinstance(gallery, str | Path):
            gallery = Gallery.load(gallery)
        if not hasattr(gallery, "check_tower"):
            raise ValueError(f"`gallery` must be a Gallery or the folder of one, got a {type(gallery).__name__}.")
        gallery.check_tower(self.model, self.processor)
        self._gallery = gallery

    def save_pretrained(self, save_directory, **kwargs):
        """Save a complete repository: model, processor, and the code of all three.

        Args:
            save_directory (`str`): Directory. The gallery is not part of it.
            kwargs: As for every pipeline.

        Raises:
            ValueError: If `push_to_hub` came.
        """
        if kwargs.get("push_to_hub"):
            self.push_to_hub()
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        # Here too, since transformers does neither for a pipeline that was itself loaded from a repository.
        custom_object_save(self, save_directory)
        config = copy.copy(self.model.config)
        config.custom_pipelines = CUSTOM_PIPELINES
        config.save_pretrained(save_directory)

    def push_to_hub(self, *args, **kwargs):
        """Refuse: nothing in it would be checked.

        Raises:
            ValueError: Always; names the way to publish.
        """
        raise ValueError(
            "what goes to the Hub is checked first: save the pipeline with save_pretrained, and run `rtd publish "
            "FOLDER REPO`."
        )

    def _sanitize_parameters(self, **kwargs):
        known = ("top_k", "where", "min_score", "exclude_reference", "template", "adapter", "with_measures")
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            raise ValueError(f"the pipeline takes no `{unknown[0]}`; it takes {', '.join(known)}.")
        return {}, {name: value for name, value in kwargs.items() if value is not None}, {}

    def __call__(self, inputs=None, text: str | None = None, *, image=None, **kwargs):
        """Answer one query or many.

        Args:
            inputs (`dict`, `list[dict]`, generator or data set, *optional*):
                Queries; or, with `text`, the reference of a single query.
            text (`str`, *optional*): Condition or plain text of a single query.
            image (path, URL or PIL image, *optional*): Reference of a single query, in place of `inputs`.
            kwargs:
                `top_k` (10), `where` and `min_score`, see [`Gallery.search`]. `exclude_reference` (`True`), which
                leaves the reference out where its path or URL is an id of the gallery or the `path` in an image's
                metadata. `template`, the name of a prompt template. `adapter`, for queries that name none.
                `with_measures` (`False`), see below. `batch_size` and `num_workers`.

        Returns:
            `list[dict]` for one query, see [`Gallery.search`]: dictionaries with `id` and `score`, best first. A list
            of these for a list, and an iterator over them for a generator or a data set. With `with_measures` each is
            a `dict` of the list as `hits` and two heuristics of ours: `edit_magnitude`, how far the condition moved
            the query, see [`measure_edits`], and `margin`, by how much the first score is above the second. `None`
            where there is no condition on a reference, or no second hit. It costs a second text pass.

        Raises:
            ValueError: If there is no gallery, or a query has neither image nor text or one that cannot be read.
        """
        _ = self.gallery  # refused before anything is encoded
        if text is not None and image is None and isinstance(inputs, _IMAGES):
            inputs, image = None, inputs
        if inputs is None:
            inputs = {"image": image, "text": text}
        elif image is not None or text is not None:
            raise ValueError("give either `inputs`, or `image` and `text`.")
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        # Data sets of the library `datasets` are none of torch's, and would be taken for a single query.
        single = isinstance(inputs, Mapping | str | list | GeneratorType | torch.utils.data.Dataset)
        if not single and hasattr(inputs, "__iter__"):
            inputs = (row for row in inputs)
        return super().__call__(inputs, **kwargs)

    def preprocess(self, query) -> dict:
        """Load the image of one query; texts are tokenised with those of the whole batch.

        Args:
            query (`dict`): See the class.

        Returns:
            `dict`: With the one key `query`, so that queries of several kinds fit in one batch.

        Raises:
            ValueError: If the query is none, an image cannot be read, or an entry is not accepted.
        """
        return {"query": read_query(query, self.processor)}

    def _forward(
        self,
        inputs,
        top_k=10,
        where=None,
        min_score=None,
        exclude_reference=True,
        template=None,
        adapter=None,
        with_measures=False,
    ) -> dict:
        # The search belongs here and not in `postprocess`, which sees one query at a time: a batch costs one pass
        # over the gallery.
        queries = inputs["query"] if isinstance(inputs["query"], list) else [inputs["query"]]
        self.model.check_adapters([adapter if query.adapter is None else query.adapter for query in queries])
        references = [query.references if exclude_reference else [] for query in queries]
        exclude = [query.exclude + names for query, names in zip(queries, references, strict=True)]
        if with_measures:
            queries = keep_features(self.model, queries)
        embeds = encode_composed(self.model, self.processor, queries, template=template, adapter=adapter)
        rows = self._search(embeds, references, exclude, top_k=top_k, where=where, min_score=min_score)
        results = [{"hits": row} for row in rows]
        if with_measures:
            options = {"template": template, "adapter": adapter}
            edits = measure_edits(self.model, self.processor, queries, embeds, **options)
            for result, edit in zip(results, edits, strict=True):
                scores = [hit["score"] for hit in result["hits"][:2]]
                result |= {"edit_magnitude": edit, "margin": scores[0] - scores[1] if len(scores) == 2 else None}
        return {"results": results}

    def _search(self, embeds: torch.Tensor, references: list[list[str]], exclude: list[list[str]], **options) -> list:
        """Search, and again without images that are a reference under another name."""
        while True:
            hits = self.gallery.search(embeds, exclude=exclude, **options)
            # An image whose id is not its path may name the path in its metadata, and so may several.
            same = [
                [hit["id"] for hit in row if hit.get("metadata", {}).get("path") in names]
                for row, names in zip(hits, references, strict=True)
            ]
            if not any(same):
                return hits
            exclude = [names + more for names, more in zip(exclude, same, strict=True)]

    def postprocess(self, model_outputs: dict) -> list[dict]:
        """Give the results of one query.

        Args:
            model_outputs (`dict`): Of a query, alone or out of a batch.

        Returns:
            `list[dict]` or `dict`: See `__call__`.
        """
        results = model_outputs["results"]
        result = results[0] if isinstance(results, list) else results
        return result if "margin" in result else result["hits"]


_IMAGES = (str, Path, bytes, Image.Image, np.ndarray, torch.Tensor)
# What `config.json` says of it, by which `pipeline(model=...)` finds the task and its code.
CUSTOM_PIPELINES = {TASK: {"impl": f"pipeline_rtd.{ComposedImageRetrievalPipeline.__name__}", "pt": ["AutoModel"]}}
