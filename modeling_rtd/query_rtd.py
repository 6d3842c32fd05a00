"""Composed queries: what they may hold, how they become embeddings, and the algebra of their parts."""

from __future__ import annotations

import difflib
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .errors_rtd import suggest
from .images_rtd import is_url


__all__ = [
    "NEGATIVE_WEIGHT",
    "QUERY_ENTRIES",
    "Query",
    "encode_composed",
    "exclude_text",
    "join_references",
    "keep_features",
    "list_excluded",
    "measure_edits",
    "name_image",
    "read_query",
    "weigh_condition",
]

NEGATIVE_WEIGHT = 0.25  # ours; chosen on validation queries of the small world
QUERY_ENTRIES = ("image", "text", "weights", "strength", "negative", "negative_weight", "exclude", "adapter")
# What other libraries, and other rooms of this one, call two of these entries.
_SYNONYMS = {
    "condition": "text",
    "conditions": "text",
    "caption": "text",
    "images": "image",
    "reference": "image",
    "reference_image": "image",
}


@dataclass
class Query:
    """A query of one kind: references with a condition, references alone, or a text alone.

    Args:
        condition (`str`, *optional*): Condition on the references; without any of them, a plain text.
        pixel_values (`torch.Tensor` of shape `(num_references, channels, height, width)`, *optional*): References.
        features (`BaseModelOutputWithPooling`, *optional*):
            What `get_image_features` returned for the references, in place of `pixel_values`. Fields of shape
            `(num_references, ...)`.
        pseudo_tokens (`tuple`, *optional*):
            What `get_pseudo_tokens` returned for the references, in place of both: `pseudo_token_embeds` of shape
            `(num_references, K, hidden_size)`, and their mask of shape `(num_references, K)` or `None`.
        weights (`list[float]`, *optional*): One a reference. Defaults to equal ones.
        strength (`float`, *optional*): 0 (the references alone) to 1 (the query as it is; the default).
        negative (`str`, *optional*): Text of what is not wanted.
        negative_weight (`float`, defaults to 0.25): How much it counts.
        exclude (`list[str]`): Ids that a search leaves out.
        references (`list[str]`): Ids under which a gallery may hold the references.
        adapter (`str`, *optional*): Adapter of the text tower; `"__base__"` for none. Defaults to the active one.
    """

    condition: str | None = None
    pixel_values: torch.Tensor | None = None
    features: BaseModelOutputWithPooling | None = None
    pseudo_tokens: tuple | None = None
    weights: Sequence[float] | None = None
    strength: float | None = None
    negative: str | None = None
    negative_weight: float = NEGATIVE_WEIGHT
    exclude: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    adapter: str | None = None

    def __post_init__(self):
        words, embeds = self.pseudo_tokens, getattr(self.features, "pooler_output", None)
        kinds = {
            "condition": isinstance(self.condition, str | None),
            "negative": isinstance(self.negative, str | None),
            "adapter": isinstance(self.adapter, str | None),
            "pixel_values": self.pixel_values is None or getattr(self.pixel_values, "ndim", 0) == 4,
            "features": self.features is None or torch.is_tensor(embeds),
            "pseudo_tokens": words is None or isinstance(words, list | tuple) and torch.is_tensor(words[0]),
        }
        for name in (name for name, is_right in kinds.items() if not is_right):
            kind = type(getattr(self, name)).__name__
            raise ValueError(f"`{name}` of a query is a {kind}; see what Query takes there.")
        if self.strength is not None:
            _check_strength("`strength`", self.strength)

    @property
    def num_references(self) -> int:
        """`int`: References of the query; 0 for a plain text."""
        if self.pseudo_tokens is not None:
            return len(self.pseudo_tokens[0])
        if self.features is not None:
            return len(self.features.pooler_output)
        return 0 if self.pixel_values is None else len(self.pixel_values)


def read_query(query: Mapping, processor) -> Query:
    """Check a query and load its images.

    Args:
        query (`dict`): See [`ComposedImageRetrievalPipeline`].
        processor ([`RTDProcessor`]): Loads and preprocesses images.

    Returns:
        [`Query`]: Blank texts are `None`.

    Raises:
        ValueError: If there is neither image nor text, an image cannot be read, or an entry is not accepted.
    """
    if not isinstance(query, Mapping):
        raise ValueError(
            f'a query is a dictionary such as {{"image": "dress.jpg", "text": "is red"}}, got {type(query).__name__}.'
        )
    unknown = next((name for name in query if name not in QUERY_ENTRIES and _is_meant(query, name)), None)
    if unknown is not None:
        hint = f" did you mean '{_SYNONYMS[unknown]}'?" if unknown in _SYNONYMS else ""
        raise ValueError(suggest("entry of a query", unknown, QUERY_ENTRIES) + hint)
    text, negative = _read_text(query, "text"), _read_text(query, "negative")
    # Rows of a data set have every column: `None` says that an entry was left out.
    images = query.get("image")
    images = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
    if not images and text is None:
        came = "no image, and a text that is blank" if query.get("text") is not None else sorted(query)
        raise ValueError(f"a query needs `image`, `text` or both, got {came}.")
    _check_algebra(query, images, text, negative)
    weight = query.get("negative_weight")
    return Query(
        condition=text,
        pixel_values=processor.prepare_images(images) if images else None,
        weights=query.get("weights"),
        strength=query.get("strength"),
        negative=negative,
        negative_weight=NEGATIVE_WEIGHT if weight is None else weight,
        exclude=list_excluded(query),
        references=[name for image in images for name in name_image(image)],
        adapter=query.get("adapter"),
    )


def _is_meant(query: Mapping, name: str) -> bool:
    """Recognise a misspelt entry, or a condition under another name; other columns of a data set are passed over."""
    if query[name] is None:  # a column that this row of a data set does not use
        return False
    is_condition = query.get("text") is None and isinstance(query[name], str)
    is_other_name = name in _SYNONYMS and query.get(_SYNONYMS[name]) is None
    return is_condition or is_other_name or bool(difflib.get_close_matches(str(name), QUERY_ENTRIES, n=1))


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
        raise ValueError(
            f"`{name}` of a query must be a string, got {type(text).__name__}: pass None where there is none, "
            "and several queries as a list of dictionaries."
        )
    return text if text and text.strip() else None


def _check_algebra(query: Mapping, images: list, text: str | None, negative: str | None) -> None:
    weights, strength, weight = query.get("weights"), query.get("strength"), query.get("negative_weight")
    if weights is not None:
        if isinstance(weights, str) or not isinstance(weights, Sequence) or len(weights) != len(images):
            raise ValueError(f"`weights` needs one number for each of {len(images)} images, got {weights!r}.")
        # For its checks alone, before an image is encoded.
        join_references(torch.ones(len(images), 1), weights)
    if strength is not None:
        _check_strength("`strength`", strength)
        if not images or text is None:
            raise ValueError("`strength` weighs a condition against a reference: the query needs `image` and `text`.")
    if weight is not None:
        _check_weight("`negative_weight`", weight)
        if negative is None:
            raise ValueError("`negative_weight` comes without `negative`, the text that is not wanted.")
    # A text taken off itself points where it did: nothing would be excluded.
    if negative is not None and text is not None and _fold(negative) == _fold(text):
        raise ValueError(
            f"the negative text is the query's own text, {text!r}: name what is not wanted, which is something else."
        )


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def encode_composed(
    model,
    processor,
    queries: Sequence[Query],
    *,
    template: str | None = None,
    blank: str = "reference",
    adapter: str | None = None,
) -> torch.Tensor:
    """Encode queries of any kinds: one vision pass, and one text pass for each tower and kind of prompt.

    All that composes goes through here. First each reference is composed with the condition, at the query's strength.
    Then references are joined; then the negative text is taken off.

    Args:
        model ([`RTDModel`]): The model; a bare [`RTDTextModel`] reads queries that bring their pseudo-words.
        processor ([`RTDProcessor`]): Its processor.
        queries (`list[Query]`): All with `pixel_values`, `features` or `pseudo_tokens`, or none of these.
        template (`str`, *optional*): Prompt template or its name. Defaults to the processor's.
        blank (`str`, defaults to `"reference"`):
            What a blank condition gives: `"reference"`, the prompt of the reference alone; or `"verbatim"`, the
            template with nothing in the condition's place, as published evaluation code does. A condition of `None`
            gives the reference's own image embedding.
        adapter (`str`, *optional*): Of queries that name none.

    Returns:
        `torch.Tensor` of shape `(num_queries, projection_dim)`: float32, on the CPU; L2-normalised.

    Raises:
        ValueError: If an adapter, the template or `blank` is unknown, or nothing is left of a query.
    """
    # By name: the code of a model from the Hub has a class of its own.
    if not isinstance(queries, Sequence) or {type(query).__name__ for query in queries} != {"Query"}:
        raise ValueError("`queries` must be a list of Query, of one at least; `read_query` makes one.")
    plain = [query.condition for query in queries if not query.num_references]
    negatives = [query.negative for query in queries if query.negative is not None]
    texts = iter(_read_texts(model, processor, plain + negatives))
    references = iter(_encode_references(model, processor, queries, template, blank, adapter))
    embeds = []
    for query in queries:
        parts = [next(references) for _ in range(query.num_references)]
        if len(parts) > 1:
            parts = [join_references(torch.stack(parts), query.weights)]
        embeds.append(parts[0] if parts else next(texts))
    # Last, in the order of `texts`: plain texts come before the negative ones.
    for row, query in enumerate(queries):
        if query.negative is not None:
            embeds[row] = exclude_text(embeds[row][None], next(texts)[None], query.negative_weight)[0]
    return torch.stack(embeds)


def keep_features(model, queries: Sequence[Query]) -> list[Query]:
    """Run the vision tower once for queries that are to be encoded more than once.

    Args:
        model ([`RTDModel`]): The model.
        queries (`list[Query]`): With `pixel_values` or `features` where they have references.

    Returns:
        `list[Query]`: The same with `features`.
    """
    asking = [query for query in queries if query.num_references]
    if not asking:
        return list(queries)
    features, _ = _gather_references(model, asking)
    counts = [query.num_references for query in asking]
    parts = zip(*(part.split(counts) for part in features.values()), strict=True)
    kept = (BaseModelOutputWithPooling(**dict(zip(features, part, strict=True))) for part in parts)
    return [
        replace(query, pixel_values=None, features=next(kept)) if query.num_references else query for query in queries
    ]


def measure_edits(
    model,
    processor,
    queries: Sequence[Query],
    query_embeds: torch.Tensor,
    *,
    template: str | None = None,
    adapter: str | None = None,
) -> list[float | None]:
    """Measure how far the text of each query moved it: `1 - cos(query, query of the references alone)`.

    A heuristic of ours, not the paper's. A small number says that the condition changed little, a large one does not
    say that it was understood. The references alone are the prompt without the condition, as at a strength of 0.

    Args:
        model, processor, template, adapter: As for [`encode_composed`].
        queries (`list[Query]`): Queries.
        query_embeds (`torch.Tensor` of shape `(num_queries, projection_dim)`): What [`encode_composed`] gave for them.

    Returns:
        `list[float | None]`: In [0, 2]; `None` for a query that has no condition on a reference.
    """
    edits: list[float | None] = [None] * len(queries)
    rows = [row for row, query in enumerate(queries) if query.num_references and query.condition is not None]
    if rows:
        alone = [replace(queries[row], condition="", strength=None, negative=None) for row in rows]
        alone_embeds = encode_composed(model, processor, alone, template=template, adapter=adapter)
        moved = 1 - torch.nn.functional.cosine_similarity(query_embeds[rows], alone_embeds)
        for row, edit in zip(rows, moved.tolist(), strict=True):
            edits[row] = edit
    return edits


def _read_texts(model, processor, texts: Sequence[str]) -> Sequence[torch.Tensor]:
    if not texts:
        return []
    inputs = processor(text=texts).to(model.device)
    return _settle(model.get_text_features(**inputs).pooler_output)


def _encode_references(model, processor, queries, template, blank, adapter) -> Sequence[torch.Tensor]:
    """Encode each reference of each query, with the query's condition where it has one."""
    owners = [query for query in queries for _ in range(query.num_references)]
    if not owners:
        return []
    features, pseudo_tokens = _gather_references(model, [query for query in queries if query.num_references])

    def compose(rows: list[int], conditions: list[str], blank: str) -> torch.Tensor:
        prompts = processor.pad(processor.build_prompts(conditions, template, blank=blank)[0])
        prompts = {name: tensor.to(model.device) for name, tensor in prompts.items()}
        if pseudo_tokens is not None:
            words, mask = (None if part is None else part[rows] for part in pseudo_tokens)
            # RTDTrainer judges a tower alone, with pseudo-words that are made already.
            tower = getattr(model, "text_model", model)
            return _settle(tower(**prompts, pseudo_token_embeds=words, pseudo_token_mask=mask).text_embeds)
        # peft refuses names beside merged adapters, so none are passed where no query has one.
        adapters = [adapter if owners[row].adapter is None else owners[row].adapter for row in rows]
        return _settle(
            model.get_composed_features(
                **prompts,
                image_features=BaseModelOutputWithPooling(**{name: part[rows] for name, part in features.items()}),
                adapter_names=adapters if any(adapters) else None,
            ).pooler_output
        )

    asked = [row for row, query in enumerate(owners) if query.condition is not None]
    # At 1 the mix is the query itself, and its second prompt is spared.
    weighed = [row for row in asked if owners[row].strength not in (None, 1)]
    if features is None and len(asked) < len(owners):
        raise ValueError('a query of pseudo-words needs a condition: pass condition="" for the reference alone.')
    embeds = (
        torch.empty(len(owners), model.config.projection_dim)
        if features is None
        else _settle(features["pooler_output"])
    )
    if asked:
        embeds[asked] = compose(asked, [owners[row].condition for row in asked], blank)
    if weighed:
        alone = compose(weighed, [""] * len(weighed), "reference")
        embeds[weighed] = weigh_condition(alone, embeds[weighed], [owners[row].strength for row in weighed])
    return embeds


def _gather_references(model, queries: Sequence[Query]) -> tuple[dict | None, tuple | None]:
    """Put the references of all queries in one batch: as features of images, or as pseudo-words."""
    if all(query.pseudo_tokens is not None for query in queries):
        words, masks = zip(*(query.pseudo_tokens for query in queries), strict=True)
        return None, (torch.cat(words), None if masks[0] is None else torch.cat(masks))
    if all(query.features is not None for query in queries):
        names = [name for name in ("pooler_output", "last_hidden_state") if queries[0].features.get(name) is not None]
        # Kept features may be float32 on the CPU, as an evaluator keeps them.
        tower = model.text_model
        parts = {name: torch.cat([query.features[name] for query in queries]) for name in names}
        return {name: part.to(tower.device, tower.dtype) for name, part in parts.items()}, None
    if any(query.pixel_values is None for query in queries):
        raise ValueError("queries of one batch must all bring `pixel_values`, all `features` or all `pseudo_tokens`.")
    pixels = torch.cat([query.pixel_values for query in queries])
    output = model.get_image_features(pixels.to(model.device, model.dtype))
    return {"pooler_output": output.pooler_output, "last_hidden_state": output.last_hidden_state}, None


def _settle(embeds: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeds.float(), dim=-1).cpu()


def name_image(image) -> list[str]:
    """Name the ids under which an image may be in a gallery.

    Args:
        image (path, URL, PIL image, or an undecoded one of the library `datasets`): Reference of a query.

    Returns:
        `list[str]`: The path as it is, from the root (also with links resolved), and from the working directory. A
        URL as it is. None of an image without a name.
    """
    if isinstance(image, Mapping):
        image = image.get("path")
    name = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    if not name or str(name).startswith("data:"):
        return []
    if is_url(name):
        return [name]
    # A gallery may name a file as it was typed, from the root on, with links followed, or from this folder.
    here = Path.cwd()
    whole = [Path(os.path.abspath(name)), Path(name).resolve()]  # noqa: PTH100 - a link is a name of its own
    inside = [path.relative_to(here) for path in whole if path.is_relative_to(here)]
    return list(dict.fromkeys(map(str, [name, *whole, *inside])))


def weigh_condition(
    reference_embeds: torch.Tensor, composed_embeds: torch.Tensor, strength: float | Sequence[float]
) -> torch.Tensor:
    """Weigh a condition against its reference: `norm((1 - strength) * reference + strength * composed)`.

    Args:
        reference_embeds (`torch.Tensor` of shape `(num_queries, dim)`):
            Of the prompts of the references alone: what the model makes of an empty condition.
        composed_embeds (`torch.Tensor` of shape `(num_queries, dim)`): Of reference and condition.
        strength (`float` or `list[float]`): One for all queries, or one each: 0 the reference alone, 1 the query as it
            is.

    Returns:
        `torch.Tensor` of shape `(num_queries, dim)`: L2-normalised, as the embeddings are before they are mixed.

    Raises:
        ValueError: If a strength is not between 0 and 1, or shapes differ.

    Examples:
        >>> weigh_condition(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    _check_shapes(reference_embeds, composed_embeds)
    share = _spread(strength, _check_strength, composed_embeds)
    return _normalize((1 - share) * _normalize(reference_embeds) + share * _normalize(composed_embeds))


def exclude_text(
    query_embeds: torch.Tensor, negative_embeds: torch.Tensor, weight: float | Sequence[float]
) -> torch.Tensor:
    """Move queries away from a text: `norm(query - weight * negative)`.

    Args:
        query_embeds (`torch.Tensor` of shape `(num_queries, dim)`): Queries.
        negative_embeds (`torch.Tensor` of shape `(num_queries, dim)`):
            Of what is not wanted, by the text tower from before RTD (`get_text_features`).
        weight (`float` or `list[float]`): One for all queries, or one each: 0 leaves the query as it is.

    Returns:
        `torch.Tensor` of shape `(num_queries, dim)`: L2-normalised, as the embeddings are before they are mixed.

    Raises:
        ValueError: If a weight is negative, shapes differ, or nothing is left of a query.

    Examples:
        >>> exclude_text(torch.tensor([[0.8, 0.6]]), torch.tensor([[0.0, 1.0]]), 0.6)
        tensor([[1., 0.]])
    """
    _check_shapes(query_embeds, negative_embeds)
    share = _spread(weight, _check_weight, query_embeds)
    return _normalize(_normalize(query_embeds) - share * _normalize(negative_embeds))


def join_references(embeds: torch.Tensor, weights: Sequence[float] | None = None) -> torch.Tensor:
    """Join the embeddings of one query's references: `norm(sum(weight * embedding) / sum(weights))`.

    Args:
        embeds (`torch.Tensor` of shape `(num_references, dim)`): Of each reference with the condition.
        weights (`list[float]`, *optional*): One a reference. Defaults to equal ones.

    Returns:
        `torch.Tensor` of shape `(dim,)`: L2-normalised, as the embeddings are before they are joined.

    Raises:
        ValueError: If counts differ, a weight is negative, or all are zero.

    Examples:
        >>> join_references(torch.eye(2), [3.0, 4.0])
        tensor([0.6000, 0.8000])
    """
    if weights is None:
        weights = [1.0] * len(embeds)
    if len(weights) != len(embeds):
        raise ValueError(f"`weights` needs one number a reference: got {len(weights)} for {len(embeds)}.")
    for weight in weights:
        _check_weight("a weight of `weights`", weight)
    if not sum(weights):
        raise ValueError(f"`weights` are {list(weights)}: at least one reference must count.")
    shares = torch.tensor(weights, dtype=torch.float32, device=embeds.device)[:, None] / sum(weights)
    return _normalize((shares * _normalize(embeds)).sum(dim=0, keepdim=True))[0]


def _check_strength(name: str, value: float) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 (the reference alone) and 1 (the query as it is), got {value!r}.")


def _check_weight(name: str, value: float) -> None:
    # What is beyond the numbers of 32 bits would become infinite.
    if not _is_number(value) or not 0 <= value < 1e30:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}.")


def _is_number(value) -> bool:
    # True is a number to Python.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _spread(value, check, embeds: torch.Tensor) -> torch.Tensor:
    """Give one number a row, as a column."""
    values = list(value) if isinstance(value, list | tuple) else [value] * len(embeds)
    if len(values) != len(embeds):
        raise ValueError(f"got {len(values)} weights for {len(embeds)} queries: give one, or one each.")
    for one in values:
        check("`strength`" if check is _check_strength else "`weight`", one)
    return torch.tensor(values, dtype=torch.float32, device=embeds.device)[:, None]


def _check_shapes(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"embeddings of the shapes {tuple(ours.shape)} and {tuple(theirs.shape)} cannot be mixed; were they made "
            "by the same CLIP, one row a query?"
        )


def _normalize(embeds: torch.Tensor) -> torch.Tensor:
    embeds = embeds.float()
    norms = embeds.norm(dim=-1, keepdim=True)
    if not bool((norms > 1e-6).all()):  # a rest of rounding is no direction; and no NaN
        raise ValueError("nothing is left of a query: what it is made of cancels out, or is not finite.")
    return embeds / norms
