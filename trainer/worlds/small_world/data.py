"""Data of the small world: training images, captions and triplets, and the benchmark of held-out queries."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from trainer.evaluation.benchmarks import Benchmark, Protocol
from trainer.worlds.small_world.grammar import draw_omissions, write_caption, write_condition
from trainer.worlds.small_world.scenes import (
    Scene,
    SmallWorldPreset,
    change_scene,
    draw_scene,
    find_preset,
    is_held_out,
    render_scene,
)


__all__ = ["SmallWorld", "build_benchmark", "build_small_world", "draw_neighbour"]

_CAPTIONS_PER_IMAGE = 6
_RELATIVE_CAPTIONS = 0.3  # share of "X that Y" among the captions of images
_TWO_CHANGES = 0.38
_NEAR_MISSES = 3
_SPLITS = ("validation", "test")
_PARAPHRASES = {"other held-out wording": "B", "training wording": "A"}
_SCENE = {name: Value("int64" if name == "count" else "string") for name in Scene._fields}


@dataclass(frozen=True)
class SmallWorld:
    """Training data of a small picture world, and its benchmark.

    About one in five combinations of shape, colour and background is held out: none is in the training data, and every
    query looks for one. Queries use wordings that no training triplet uses.

    Args:
        preset ([`SmallWorldPreset`]): Sizes of the world.
        seed (`int`): Seed of the training data; the benchmark does not depend on it.
        images (`datasets.Dataset`):
            Columns `id`, `image`, `captions` (several each, some of the form "a photo of X that Y") and one for each
            attribute of [`Scene`].
        captions (`datasets.Dataset`): Column `text`, plain captions of further scenes.
        triplets (`datasets.Dataset`): Columns `reference_caption`, `conditioning_caption`, `target_caption`.
    """

    preset: SmallWorldPreset
    seed: int
    images: Dataset
    captions: Dataset
    triplets: Dataset

    def benchmark(self, split: str) -> Benchmark:
        """Give the held-out queries and their gallery.

        A query's ground truth is every gallery image with exactly the attributes of the target. For each query the
        gallery holds one or two targets, an image that looks like the reference (which is not in the gallery itself),
        three that miss the target in one or two attributes, and another object for which the condition is true; these
        are its subset. Beside the columns of [`Benchmark`], the gallery has the attributes, and the queries
        `target_caption` (a full plain caption of the target), `paraphrases` (the condition in another held-out wording
        and in one of training), `reference_scene` and `changed`, the names of the attributes that the condition speaks
        of.

        Args:
            split (`str`): `"validation"` or `"test"`; no scene is a target in both.

        Returns:
            [`Benchmark`]: The same for every seed.

        Raises:
            ValueError: If there is no such split.
        """
        return build_benchmark(self.preset, split)


def build_small_world(preset: str | SmallWorldPreset = "demo", seed: int = 0) -> SmallWorld:
    """Draw the training data of a small world.

    Args:
        preset (`str` or [`SmallWorldPreset`], defaults to `"demo"`): `"demo"`, `"mini"` or `"toy"`.
        seed (`int`, defaults to 0): Seed of the training data, not negative.

    Returns:
        [`SmallWorld`]: Equal arguments give equal bytes.

    Raises:
        ValueError: If the preset is unknown.

    Examples:
        >>> world = build_small_world("toy")
        >>> len(world.images), len(world.benchmark("test").queries)
        (120, 20)
    """
    preset = find_preset(preset)
    streams = [np.random.default_rng([seed, stream]) for stream in range(3)]
    return SmallWorld(
        preset,
        seed,
        images=_build_images(preset, streams[0]),
        captions=_build_captions(preset, streams[1]),
        triplets=_build_triplets(preset, streams[2]),
    )


def _build_images(preset: SmallWorldPreset, rng: np.random.Generator) -> Dataset:
    scenes = [draw_scene(preset, rng) for _ in range(preset.num_images)]
    columns = _image_columns(preset, scenes, [f"train-{i:05d}" for i in range(len(scenes))], rng)
    columns["captions"] = [[_describe(preset, scene, rng) for _ in range(_CAPTIONS_PER_IMAGE)] for scene in scenes]
    features = {"id": Value("string"), "image": Image(), **_SCENE, "captions": List(Value("string"))}
    return Dataset.from_dict(columns, features=Features(features))


def _build_captions(preset: SmallWorldPreset, rng: np.random.Generator) -> Dataset:
    scenes = (draw_scene(preset, rng) for _ in range(preset.num_captions))
    return Dataset.from_dict({"text": [write_caption(preset, scene, rng, draw_omissions(rng)) for scene in scenes]})


def _build_triplets(preset: SmallWorldPreset, rng: np.random.Generator) -> Dataset:
    rows = []
    for _ in range(preset.num_triplets):
        reference = draw_scene(preset, rng)
        target, changed = draw_neighbour(preset, reference, rng)
        omitted = draw_omissions(rng)
        rows.append(
            {
                "reference_caption": write_caption(preset, reference, rng, omitted),
                "conditioning_caption": write_condition(reference, target, "A", rng),
                "target_caption": write_caption(preset, target, rng, omitted - set(changed)),
            }
        )
    return Dataset.from_list(rows)


def build_benchmark(preset: str | SmallWorldPreset, split: str) -> Benchmark:
    """Draw the held-out queries of a small world and their gallery, see [`SmallWorld.benchmark`].

    Args:
        preset (`str` or [`SmallWorldPreset`]): `"demo"`, `"mini"` or `"toy"`.
        split (`str`): `"validation"` or `"test"`.

    Returns:
        [`Benchmark`]: Always the same.

    Raises:
        ValueError: If the preset or the split is unknown.
    """
    if split not in _SPLITS:
        raise ValueError(f"the small world has the splits {' and '.join(_SPLITS)}, got '{split}'.")
    return _build_benchmark(find_preset(preset), split)


@functools.lru_cache(maxsize=4)
def _build_benchmark(preset: SmallWorldPreset, split: str) -> Benchmark:
    # Of the preset's name and not of its sizes, so that a change of the training recipe keeps the queries.
    rng = np.random.default_rng([zlib.crc32(preset.name.encode()), _SPLITS.index(split)])
    size = preset.num_queries if split == "test" else preset.num_validation_queries
    scenes, pairs, subsets = [], {}, []
    while len(pairs) < size:
        target = draw_scene(preset, rng, held_out=True)
        changed = _draw_changes(preset, rng)
        reference = change_scene(preset, target, changed, rng)
        if _split_of(target) != split or (reference, target) in pairs:
            continue
        pairs[reference, target] = sorted(changed)
        images = [target] * (1 + int(rng.random() < 0.5)) + [reference]
        images += [change_scene(preset, target, _draw_changes(preset, rng), rng) for _ in range(_NEAR_MISSES)]
        images.append(_draw_other(preset, target, changed, rng))
        subsets.append([f"{split}-{len(scenes) + i:05d}" for i in range(len(images))])
        scenes += images
    gallery_ids = [f"{split}-{i:05d}" for i in range(len(scenes))]
    ids_of = defaultdict(list)
    for gallery_id, scene in zip(gallery_ids, scenes, strict=True):
        ids_of[scene].append(gallery_id)
    reference_images = [_draw_image(preset, reference, rng) for reference, _ in pairs]
    conditions = [write_condition(reference, target, "B", rng) for reference, target in pairs]
    queries = {
        "id": [f"{split}-query-{i:04d}" for i in range(size)],
        "reference_id": [f"{split}-reference-{i:04d}" for i in range(size)],
        "reference_image": reference_images,
        "condition": conditions,
        "target_ids": [ids_of[target] for _, target in pairs],
        "subset_ids": subsets,
        "target_caption": [write_caption(preset, target, rng, opening="a photo of ") for _, target in pairs],
        "paraphrases": _write_paraphrases(pairs, conditions),
        "reference_scene": [reference._asdict() for reference, _ in pairs],
        "changed": list(pairs.values()),
    }
    text, texts = Value("string"), List(Value("string"))
    query_features = {"id": text, "reference_id": text, "reference_image": Image(), "condition": text}
    query_features |= {"target_ids": texts, "subset_ids": texts, "target_caption": text}
    query_features |= {"paraphrases": dict.fromkeys(_PARAPHRASES, text), "reference_scene": _SCENE, "changed": texts}
    return Benchmark(
        name="small_world",
        split=split,
        # Shuffled, since ties keep the gallery's order, in which each query's targets would come first.
        gallery=Dataset.from_dict(
            _image_columns(preset, scenes, gallery_ids, rng),
            features=Features({"id": text, "image": Image(), **_SCENE}),
        )
        .shuffle(seed=0)
        .flatten_indices(),
        queries=Dataset.from_dict(queries, features=Features(query_features)),
        protocol=Protocol(exclude_reference=True),
    )


def _write_paraphrases(pairs: Iterable[tuple[Scene, Scene]], conditions: list[str]) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)  # of its own, since the queries are older than their paraphrases

    def write(reference: Scene, target: Scene, split: str, condition: str) -> str:
        while (text := write_condition(reference, target, split, rng)) == condition:
            pass
        return text

    return [
        {name: write(*pair, split, condition) for name, split in _PARAPHRASES.items()}
        for pair, condition in zip(pairs, conditions, strict=True)
    ]


def _split_of(target: Scene) -> str:
    digest = hashlib.md5("-".join(map(str, target)).encode()).hexdigest()
    return "validation" if int(digest, 16) % 3 == 0 else "test"


def _draw_changes(preset: SmallWorldPreset, rng: np.random.Generator) -> list[str]:
    order = rng.permutation(len(preset.varying))
    return [preset.varying[i] for i in order[: 1 + int(rng.random() < _TWO_CHANGES)]]


def draw_neighbour(
    preset: SmallWorldPreset, scene: Scene, rng: np.random.Generator, single: bool = False
) -> tuple[Scene, list[str]]:
    """Draw a scene that differs in one attribute or two and is not held out, and the names of what differs."""
    while True:  # other attributes at each try: all values of one may lead to held-out combinations
        changed = _draw_changes(preset, rng)[: 1 if single else None]
        other = change_scene(preset, scene, changed, rng)
        if not is_held_out(other.shape, other.colour, other.background):
            return other, changed


def _draw_other(preset: SmallWorldPreset, target: Scene, changed, rng: np.random.Generator) -> Scene:
    kept = {name: getattr(target, name) for name in changed}
    while True:
        other = draw_scene(preset, rng, held_out=None)._replace(**kept)
        if other != target and other.shape not in other.extra.split():
            return other


def _describe(preset: SmallWorldPreset, scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() >= _RELATIVE_CAPTIONS:
        return write_caption(preset, scene, rng, draw_omissions(rng))
    # "a photo of X that Y" with a true Y: what leads to this scene from a neighbour. X is silent about it.
    neighbour, changed = draw_neighbour(preset, scene, rng, single=True)
    subject = write_caption(preset, scene, rng, draw_omissions(rng).union(changed), opening="a photo of ")
    return f"{subject} that {write_condition(neighbour, scene, 'A', rng)}"


def _image_columns(preset: SmallWorldPreset, scenes: list[Scene], ids: list[str], rng: np.random.Generator) -> dict:
    drawing = tqdm(scenes, desc="Drawing the small world", disable=len(scenes) < 1000)
    columns = {"id": ids, "image": [_draw_image(preset, scene, rng) for scene in drawing]}
    return columns | dict(zip(Scene._fields, map(list, zip(*scenes, strict=True)), strict=True))


def _draw_image(preset: SmallWorldPreset, scene: Scene, rng: np.random.Generator) -> dict:
    return {"bytes": render_scene(scene, preset.image_size_px, rng), "path": None}
