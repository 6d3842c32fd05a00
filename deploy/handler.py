"""Handler of an inference endpoint for a published model: a file `handler.py` in its repository.

With an index of `rtd index` in the repository's folder `gallery/` it searches, and without one it embeds. It needs
transformers alone: the model brings its code.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module


__all__ = ["EndpointHandler"]


class EndpointHandler:
    """Answers composed queries.

    Args:
        path (`str`): The model's folder.
    """

    def __init__(self, path: str = ""):
        index = Path(path) / "gallery"
        self.has_gallery = index.is_dir()
        self.pipeline = pipeline(
            model=path,
            gallery=str(index) if self.has_gallery else None,
            trust_remote_code=True,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        self.encode = get_class_from_dynamic_module("query_rtd.encode_composed", path)

    @torch.no_grad()
    def __call__(self, data: dict[str, Any]) -> list[dict] | dict:
        """Answer one query.

        Args:
            data (`dict`): `inputs`, a query as the pipeline takes it, whose `image` is the base64 text of a file, or a
                list of these; and, to search, `parameters` such as `top_k` and `where`.

        Returns:
            `list[dict]` or `dict`: Results with `id` and `score`, best first; without a gallery the `embedding`.

        Raises:
            ValueError: If the query is not accepted.
        """
        query, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(query, dict) or not isinstance(parameters, dict):
            raise ValueError('`inputs` must be a query such as {"image": BASE64, "text": "is red"}.')
        if query.get("image") is not None:
            images = query["image"] if isinstance(query["image"], list) else [query["image"]]
            query = query | {"image": [_decode(image) for image in images]}
        if self.has_gallery:
            return self.pipeline(query, **parameters)
        if parameters:
            raise ValueError(f"there is no gallery, and an embedding has no parameters; got {sorted(parameters)}.")
        prepared = self.pipeline.preprocess(query)["query"]
        return {"embedding": self.encode(self.pipeline.model, self.pipeline.processor, [prepared])[0].tolist()}


def _decode(image) -> bytes:
    """Decode base64 alone: a path or a URL would be read on the endpoint's machine."""
    try:
        text = image.partition(",")[2] if image.startswith("data:image/") else image
        return base64.b64decode(text, validate=True)
    except (AttributeError, binascii.Error, ValueError) as error:
        raise ValueError("an image must be the base64 text of a file; paths and URLs are not read.") from error
