"""What a benchmark is: a declaration, and what it loads: a gallery, queries with exact ground truth, a protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from modeling_rtd import suggest
from trainer.methods import find_method, list_methods


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from trainer.evaluation.benchmarks.data_folder import DataFolder

__all__ = ["DEFAULT_METRICS", "Benchmark", "BenchmarkInfo", "Protocol"]

DEFAULT_METRICS = ("recall@1", "recall@5", "recall@10", "map@5", "subset_recall@1")
# Each as at least one published evaluation has it.
_CHOICES = {
    "caption_order": ("both", "forward", "reversed"),
    "gallery": ("original", "val"),
    "padding": ("none", "target"),
    "crop": ("transformers", "published"),
    "ties": ("gallery", "last"),
}
_METRICS = re.compile(
    r"(subset_|target_|set_)?recall@\d+|(semantic_)?map@\d+|precision@\d+|(mean|median)_rank",
)
_EXAMPLES = ("recall@10", "subset_recall@1", "map@5", "semantic_map@10", "precision@10", "mean_rank", "median_rank")
_QUERIES = ("id", "reference_id", "target_ids", "subset_ids")  # images are needed where they are encoded
# LinCIR's evaluation of GeneCIS asks it in both object tasks: the answer's place stands where the condition should.
_WITHOUT_CONDITION = "a photo of $ that 0"


@dataclass(frozen=True)
class Protocol:
    """The switches in which published evaluations differ without saying so.

    Args:
        exclude_reference (`bool`, defaults to `False`):
            Whether a query's reference image is removed from its ranking.
        template (`str`, *optional*):
            Prompt of a query: each `$` a pseudo-word, `{condition}` the condition, verbatim; the processor's own where
            left out. `"a photo of $ that 0"`, which LinCIR's evaluation asks in the object tasks of GeneCIS, is the
            only one without a condition.
        caption_order (`str`, defaults to `"both"`):
            FashionIQ's two captions: `"both"` orders, stripped, their embeddings averaged (SEARLE, LinCIR, RTD).
            `"forward"`, stripped, first caption first; `"reversed"`, verbatim, second caption first (Pic2Word).
        gallery (`str`, defaults to `"original"`):
            FashionIQ's gallery: the `"original"` split lists, or `"val"`, the smaller one of VAL and CosMo.
        padding (`str`, defaults to `"none"`): `"target"` pads long images before resizing, as SEARLE does.
        crop (`str`, defaults to `"transformers"`):
            Rounding of the centre crop: `"transformers"` rounds half a pixel down (LinCIR, RTD), `"published"` rounds
            it to even, as torchvision does (all others). They differ by one pixel for about every fourth image.
        ties (`str`, defaults to `"gallery"`):
            Order among equal similarities: that of the `"gallery"`, or targets `"last"`.

    Raises:
        ValueError: If a switch has no such position.
    """

    exclude_reference: bool = False
    template: str | None = None
    caption_order: str = "both"
    gallery: str = "original"
    padding: str = "none"
    crop: str = "transformers"
    ties: str = "gallery"

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(suggest(f"position of the switch `{name}`:", getattr(self, name), choices))
        if self.template is not None and "$" not in self.template:
            raise ValueError(f"the template {self.template!r} has no '$', the place of the reference image.")
        if self.template not in (None, _WITHOUT_CONDITION) and "{condition}" not in self.template:
            raise ValueError(f"the template {self.template!r} has no '{{condition}}', the place of the condition.")


@dataclass(frozen=True)
class Benchmark:
    """A gallery and the composed queries that are asked of it.

    Images are `datasets.Image` columns, or paths, which are then read as the published code reads them: without
    turning by EXIF.

    Args:
        name (`str`):
            Name in results and reports, such as `"wardrobe"`.
        split (`str`):
            Split the queries come from, such as `"validation"` or `"test"`.
        gallery (`datasets.Dataset`):
            One row per image, columns `id` (string, unique) and `image`, and `box` (four numbers) where it is cut.
        queries (`datasets.Dataset`):
            One row per query, columns `id` (string, unique), `reference_id` (string), `reference_image`, `condition`
            (string), `target_ids` (list of gallery ids, all of them correct, and empty where labels are hidden) and
            `subset_ids` (list of gallery ids that a subset metric ranks, and empty where the benchmark has none).
            Where a benchmark has them: `reference_box`, `wordings` (list of conditions whose queries are averaged),
            `aspects` (list of strings) and `candidate_ids` (list of gallery ids, the only ones the query ranks).
        protocol ([`Protocol`], *optional*):
            The switches.
        part (`str`, defaults to `""`):
            Part of a benchmark that is scored on its own, such as FashionIQ's `"dress"`.
        metrics (`tuple[str]`, *optional*):
            Names of metrics, see `trainer.evaluation.scoring`.
        text_template (`str`, defaults to `"{condition}"`):
            Text of the baselines that read no pseudo-word.
        cut (`Callable`, *optional*):
            Cuts an image to its box: takes the image, the box and the model's input size in pixels.

    Raises:
        ValueError: If gallery or queries are not data sets, lack a column of ids, ids are not strings, or a metric is
            unknown.
    """

    name: str
    split: str
    gallery: Dataset
    queries: Dataset
    protocol: Protocol = field(default_factory=Protocol)
    part: str = ""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    text_template: str = "{condition}"
    cut: Callable[[Image.Image, Sequence[float], int], Image.Image] | None = None

    def __post_init__(self):
        _check_table("gallery", self.gallery, ("id",))
        _check_table("queries", self.queries, _QUERIES)
        for metric in self.metrics:
            if not _METRICS.fullmatch(metric):
                raise ValueError(suggest("metric", metric, _EXAMPLES))

    @property
    def title(self) -> str:
        """`str`: Name, part and split, such as `"fashioniq/dress val"`."""
        return f"{self.name}/{self.part} {self.split}" if self.part else f"{self.name} {self.split}"

    @property
    def is_labelled(self) -> bool:
        """`bool`: Whether any query has a target; those of test splits on servers have none."""
        return any(self.queries["target_ids"][:])


def _check_table(name: str, table, columns: Sequence[str]) -> None:
    """Refuse what would raise in the middle of an evaluation, or count every query as a miss."""
    features = getattr(table, "features", None)
    if features is None or not hasattr(table, "__len__") or table.format["type"] == "custom":
        raise ValueError(
            f"the {name} of a benchmark must be a datasets.Dataset without a transform, got a {type(table).__name__}. "
            "Make one with from_list, from_pandas or from_generator, and apply a transform with map."
        )
    if missing := [column for column in columns if column not in features]:
        raise ValueError(f"the {name} of a benchmark lack the column(s) {', '.join(missing)}; found: {[*features]}.")
    for column in columns:
        is_list = column.endswith("s")
        item = getattr(features[column], "feature", None) if is_list else features[column]
        # Of rows that have none, Arrow knows no type.
        if getattr(item, "dtype", None) not in ("string", "large_string", "null"):
            what = "lists of strings" if is_list else "strings"
            raise ValueError(f"`{column}` of the {name} must hold {what}, found {features[column]}.")


@dataclass(frozen=True)
class BenchmarkInfo:
    """Declaration of a benchmark.

    Args:
        name (`str`): Name on the command line.
        license (`str`): Of annotations and images, as their repositories state it.
        citation (`str`): Paper, as a link.
        layout (`str`): The official directory, as a tree.
        steps (`Mapping[str, str]`):
            For each thing a directory must hold, the official step that brings it.
        counts (`Mapping[str, Mapping[str, Mapping[str, int]]]`):
            Official numbers by split and part: `queries`, `gallery`, `gallery_val` where there is a second one, and
            `candidates` where each query ranks as many images of its own.
        protocol ([`Protocol`]): As published for LinCIR and RTD.
        load (`Callable`): Loads one part: takes a [`DataFolder`], split, part and [`Protocol`].
        methods (`Mapping[str, Mapping]`, *optional*): Switches that other methods publish with, by
            the name of their protocol, see [`Method`].
        metrics (`tuple[str]`, *optional*): Names of metrics, see `trainer.evaluation.scoring`.
        average_of (`tuple[str]`, *optional*): Metrics whose mean is reported as `average`.
        digests (`Mapping[str, str]`, *optional*): SHA-256 of the official annotation files, by file name.
        needs_root (`bool`, defaults to `True`): Whether it is in a directory.
    """

    name: str
    license: str
    citation: str
    layout: str
    steps: Mapping[str, str]
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    protocol: Protocol
    load: Callable[[DataFolder, str, str, Protocol], Benchmark]
    methods: Mapping[str, Mapping] = field(default_factory=dict)
    metrics: tuple[str, ...] = DEFAULT_METRICS
    average_of: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    needs_root: bool = True

    @property
    def default_split(self) -> str:
        """`str`: The first, labelled split."""
        return next(iter(self.counts))

    def check_split(self, split: str | None) -> str:
        """Check the name of a split.

        Args:
            split (`str`, *optional*): Name. Defaults to the benchmark's own.

        Returns:
            `str`: The name.

        Raises:
            ValueError: If the benchmark has no such split.
        """
        split = split or self.default_split
        if split not in self.counts:
            raise ValueError(suggest(f"split of {self.name}", split, self.counts))
        return split

    def choose_parts(self, split: str, part: str = "") -> list[str]:
        """List the parts that are meant.

        Args:
            split (`str`): Split.
            part (`str`, defaults to `""`): The one that was named, if any.

        Returns:
            `list[str]`: That one, or all.

        Raises:
            ValueError: If the benchmark has no such part.
        """
        known = self.counts[split]
        if part and part not in known:
            raise ValueError(suggest(f"part of {self.name}", part, known))
        # The presets of a drawn world are sizes of one benchmark, not its parts.
        return [part] if part else list(known) if self.needs_root else ["demo"]

    def find_protocol(self, method: str, **switches) -> Protocol:
        """Find the published protocol of a method.

        Args:
            method (`str`): Name of its prompt template, such as `"lincir"` or `"pic2word"`.
            switches: Positions that differ from the published ones; `None` leaves a switch where it is.

        Returns:
            [`Protocol`]: With the switches set.

        Raises:
            ValueError: If a switch is unknown, or has no such position.
        """
        if unknown := [name for name in switches if name not in Protocol.__dataclass_fields__]:
            raise ValueError(suggest("switch", unknown[0], Protocol.__dataclass_fields__))
        given = {name: value for name, value in switches.items() if value is not None}
        # A template may be of no method, such as `rtd`: then it names a protocol itself, or the common one.
        protocol = find_method(method).protocol if method in list_methods() else method
        return replace(self.protocol, **{**self.methods.get(protocol, {}), **given})
