"""Queries of the pipeline: what they may hold, and how they become embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .query_algebra_rtd import check_strength, check_weight, exclude_text, join_references, weigh_condition


__all__ = ["NEGATIVE_WEIGHT", "QUERY_ENTRIES", "encode_queries", "list_excluded", "name_image", "read_query"]

NEGATIVE_WEIGHT = 0.25  # ours; chosen on validation queries of the small world
QUERY_ENTRIES = ("image", "text", "weights", "strength", "negative", "negative_weight", "exclude", "adapter")


def read_query(query: Mapping, processor) -> dict:
    """Check a query and load its images.

    Args:
        query (`dict`): See [`ComposedImageRetrievalPipeline`].
        processor ([`RTDProcessor`]): Loads and preprocesses images.

    Returns:
        `dict`: `pixel_values` of shape `(num_references, channels, height, width)` or `None`; `text` and `negative`,
        `None` where blank; `weights`, `strength`, `negative_weight`, `exclude` and `adapter`; `references`, the ids
        under which the images may stand in a gallery.

    Raises:
        ValueError: If there is neither image nor text, an image cannot be read, or an entry is not accepted.
    """
    if not isinstance(query, Mapping):
        raise ValueError(
            f'a query is a dictionary such as {{"image": "dress.jpg", "text": "is red"}}, got {type(query).__name__}.'
        )
    text, negative = _read_text(query, "text"), _read_text(query, "negative")
    images = query.get("image")
    images = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
    if not images and text is None:
        raise ValueError(f"a query needs `image`, `text` or both, got {sorted(query)}.")
    _check_algebra(query, images, text, negative)
    weight = query.get("negative_weight")
    return {
        "pixel_values": processor.prepare_images(images) if images else None,
        "text": text,
        "references": [name for image in images for name in name_image(image)],
        "exclude": list_excluded(query),
        "adapter": query.get("adapter"),
        "weights": query.get("weights"),
        "strength": query.get("strength"),
        "negative": negative,
        "negative_weight": NEGATIVE_WEIGHT if weight is None else weight,
    }


def list_excluded(query: Mapping) -> list[str]:
    """List the ids that a query leaves out.

    Args:
        query (`dict`): Perhaps with `exclude`, one id or a list.

    Returns:
        `list[str]`: Ids.

    Raises:
        ValueError: If `exclude` is neither.
    """
    exclude = query.get("exclude")
    ids = [] if exclude is None else [exclude] if isinstance(exclude, str) else exclude
    if not isinstance(ids, list | tuple) or not all(isinstance(name, str) for name in ids):
        raise ValueError(f"`exclude` of a query must be an id or a list of ids, got {exclude!r}.")
    return list(ids)


def _read_text(query: Mapping, name: str) -> str | None:
    text = query.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"`{name}` of a query must be a string, got {type(text).__name__}.")
    return text if text and text.strip() else None


def _check_algebra(query: Mapping, images: list, text: str | None, negative: str | None) -> None:
    weights, strength, weight = query.get("weights"), query.get("strength"), query.get("negative_weight")
    if weights is not None:
        if isinstance(weights, str) or not isinstance(weights, Sequence) or len(weights) != len(images):
            raise ValueError(f"`weights` needs one number for each of {len(images)} images, got {weights!r}.")
        join_references(torch.ones(len(images), 1), weights)
    if strength is not None:
        check_strength("`strength`", strength)
        if not images or text is None:
            raise ValueError("`strength` weighs a condition against a reference: the query needs `image` and `text`.")
    if weight is not None:
        check_weight("`negative_weight`", weight)
        if negative is None:
            raise ValueError("`negative_weight` comes without `negative`, the text that is not wanted.")
    if negative is not None and text is not None and _fold(negative) == _fold(text):
        raise ValueError(
            f"the negative text is the query's own text, {text!r}: name what is not wanted, which is something else."
        )


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def encode_queries(
    model, processor, queries: Sequence[Mapping], template: str | None = None, adapter: str | None = None
) -> torch.Tensor:
    """Encode queries of any kinds: one vision pass, and one text pass for each tower and kind of prompt.

    First each reference is composed with the text, at the query's strength; then references are joined; then the
    negative text is taken off.

    Args:
        model ([`RTDModel`]): The model.
        processor ([`RTDProcessor`]): Its processor.
        queries (`list[dict]`): As `read_query` gives them.
        template (`str`, *optional*): Name of the prompt template.
        adapter (`str`, *optional*): Of queries that name none.

    Returns:
        `torch.Tensor` of shape `(num_queries, projection_dim)`: float32, on the CPU; L2-normalised.

    Raises:
        ValueError: If an adapter or the template is unknown, or nothing is left of a query.
    """
    plain = [query["text"] for query in queries if query["pixel_values"] is None]
    negatives = [query["negative"] for query in queries if query["negative"] is not None]
    texts = iter(_read_texts(model, processor, plain + negatives))
    references = iter(_encode_references(model, processor, queries, template, adapter))
    embeds = [
        next(texts)
        if query["pixel_values"] is None
        else join_references(torch.stack([next(references) for _ in query["pixel_values"]]), query["weights"])
        for query in queries
    ]
    for row, query in enumerate(queries):
        if query["negative"] is not None:
            embeds[row] = exclude_text(embeds[row][None], next(texts)[None], query["negative_weight"])[0]
    return torch.stack(embeds)


def _read_texts(model, processor, texts: Sequence[str]) -> torch.Tensor:
    if not texts:
        return torch.empty(0, model.config.projection_dim)
    inputs = processor(text=texts).to(model.device)
    return _settle(model.get_text_features(**inputs).pooler_output)


def _encode_references(model, processor, queries, template, adapter) -> torch.Tensor:
    """Encode each reference of each query, with the query's text where it has one."""
    owners = [query for query in queries if query["pixel_values"] is not None for _ in query["pixel_values"]]
    if not owners:
        return torch.empty(0, model.config.projection_dim)
    pixels = torch.cat([query["pixel_values"] for query in queries if query["pixel_values"] is not None])
    features = model.get_image_features(pixels.to(model.device, model.dtype))
    embeds = _settle(features.pooler_output)

    def compose(rows: list[int], conditions: list[str]) -> torch.Tensor:
        adapters = [owners[row]["adapter"] or adapter for row in rows]
        chosen = BaseModelOutputWithPooling(
            last_hidden_state=features.last_hidden_state[rows], pooler_output=features.pooler_output[rows]
        )
        prompts = processor.pad(processor.build_prompts(conditions, template)[0])
        return _settle(
            model.get_composed_features(
                **{name: tensor.to(model.device) for name, tensor in prompts.items()},
                image_features=chosen,
                adapter_names=adapters if any(adapters) else None,
            ).pooler_output
        )

    if rows := [row for row, query in enumerate(owners) if query["text"] is not None]:
        embeds[rows] = compose(rows, [owners[row]["text"] for row in rows])
    if rows := [row for row, query in enumerate(owners) if query["strength"] not in (None, 1)]:
        alone = compose(rows, [""] * len(rows))
        embeds[rows] = weigh_condition(alone, embeds[rows], [owners[row]["strength"] for row in rows])
    return embeds


def _settle(embeds: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeds.float(), dim=-1).cpu()


def name_image(image) -> list[str]:
    """Name the ids under which an image may stand in a gallery.

    Args:
        image (path, URL, PIL image, or an undecoded one of the library `datasets`): Reference of a query.

    Returns:
        `list[str]`: The path as it is, resolved, and from the working directory; a URL as it is; none of an image
        without a name.
    """
    if isinstance(image, Mapping):
        image = image.get("path")
    name = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    if not name or str(name).startswith("data:"):
        return []
    if str(name).startswith(("http://", "https://")):
        return [str(name)]
    path, here = Path(name).resolve(), Path.cwd()
    names = [str(name), str(path)]
    return [*names, str(path.relative_to(here))] if path.is_relative_to(here) else names
