"""Data of a world: training images, captions and triplets, and the benchmark of held-out queries."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, get_type_hints

import numpy as np
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets
from tqdm.auto import tqdm

from trainer.evaluation.benchmarks import Benchmark, Protocol
from trainer.worlds.language import draw_omissions, join_phrases, write_phrases
from trainer.worlds.world import World, WorldPreset


__all__ = ["WorldData", "build_benchmark", "build_world", "draw_neighbour", "draw_picture"]

_CAPTIONS_PER_IMAGE = 6
_RELATIVE_CAPTIONS = 0.3  # share of "X that Y" among the captions of images
_TWO_CHANGES = 0.38
_NEAR_MISSES = 3
_BLOCK = 1000
_SPLITS = ("validation", "test")
_PARAPHRASES = {"other held-out wording": "B", "training wording": "A"}
_Pair = tuple[NamedTuple, NamedTuple]  # reference and target


@dataclass(frozen=True)
class WorldData:
    """Training data of a world, and its benchmark.

    About one in five combinations of `held_out_by` is held out: none is in the training data, and every
    query looks for one. Queries use wordings that no training triplet uses.

    Args:
        world ([`World`]): The world.
        preset ([`WorldPreset`]): Its sizes.
        seed (`int`): Seed of the training data; the benchmark does not depend on it.
        images (`datasets.Dataset`):
            Columns `id`, `image`, `captions` (several each, some of the form "a photo of X that Y") and one for each
            attribute of a scene. Also `pose` where the world redraws pictures.
        captions (`datasets.Dataset`): Column `text`, plain captions of further scenes.
        triplets (`datasets.Dataset`): Columns `reference_caption`, `conditioning_caption`, `target_caption`.
    """

    world: World
    preset: WorldPreset
    seed: int
    images: Dataset
    captions: Dataset
    triplets: Dataset

    def benchmark(self, split: str) -> Benchmark:
        """Give the held-out queries and their gallery.

        A query's ground truth is every gallery image with exactly the attributes of the target. For each query the
        gallery holds one or two targets, an image that looks like the reference (which is not in the gallery itself),
        three that miss the target in one or two attributes, and another object for which the condition is true. These
        are its subset. Beside the columns of [`Benchmark`], the gallery has the attributes, and the queries
        `target_caption` (a full plain caption of the target), `paraphrases` (the condition in another held-out wording
        and in one of training), `reference_scene`, `changed`, the names of the attributes that the condition speaks
        of, and for each phrase of the condition, in its order, the `kind` of change and the `wording`.

        Args:
            split (`str`): `"validation"` or `"test"`; no scene is a target in both.

        Returns:
            [`Benchmark`]: The same for every seed.

        Raises:
            ValueError: If there is no such split.
        """
        return build_benchmark(self.world, self.preset, split)


def build_world(world: World, preset: str | WorldPreset = "demo", seed: int = 0) -> WorldData:
    """Draw the training data of a world.

    Args:
        world ([`World`]): The world.
        preset (`str` or [`WorldPreset`], defaults to `"demo"`): `"demo"`, `"mini"` or `"toy"`.
        seed (`int`, defaults to 0): Seed of the training data, not negative.

    Returns:
        [`WorldData`]: Equal arguments give equal bytes.

    Raises:
        ValueError: If the preset is unknown.
    """
    preset = world.find_preset(preset)
    streams = [np.random.default_rng([seed, stream]) for stream in range(3)]
    return WorldData(
        world,
        preset,
        seed,
        images=_build_images(world, preset, streams[0]),
        captions=_build_captions(world, preset, streams[1]),
        triplets=_build_triplets(world, preset, streams[2]),
    )


def _build_images(world: World, preset: WorldPreset, rng: np.random.Generator) -> Dataset:
    scenes = [world.draw_scene(preset, rng) for _ in range(preset.num_images)]
    columns = _image_columns(world, preset, scenes, [f"train-{i:05d}" for i in range(len(scenes))], rng)
    columns["captions"] = [
        [_describe(world, preset, scene, rng) for _ in range(_CAPTIONS_PER_IMAGE)] for scene in scenes
    ]
    features = Features({**_image_features(world), "captions": List(Value("string"))})
    # Block by block: at once, every picture would be held several times.
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(scenes), _BLOCK)]
    parts = [{name: column[block] for name, column in columns.items()} for block in blocks]
    return concatenate_datasets([Dataset.from_dict(part, features=features) for part in parts])


def _build_captions(world: World, preset: WorldPreset, rng: np.random.Generator) -> Dataset:
    scenes = (world.draw_scene(preset, rng) for _ in range(preset.num_captions))
    texts = [world.write_caption(preset, scene, rng, draw_omissions(world, rng)) for scene in scenes]
    return Dataset.from_dict({"text": texts})


def _build_triplets(world: World, preset: WorldPreset, rng: np.random.Generator) -> Dataset:
    rows = []
    for _ in range(preset.num_triplets):
        reference = world.draw_scene(preset, rng)
        target, changed = draw_neighbour(world, preset, reference, rng)
        omitted = draw_omissions(world, rng)
        rows.append(
            {
                "reference_caption": world.write_caption(preset, reference, rng, omitted),
                "conditioning_caption": join_phrases(write_phrases(world, reference, target, "A", rng)),
                "target_caption": world.write_caption(preset, target, rng, omitted - set(changed)),
            }
        )
    return Dataset.from_list(rows)


def build_benchmark(world: World, preset: str | WorldPreset, split: str) -> Benchmark:
    """Draw the held-out queries of a world and their gallery, see [`WorldData.benchmark`].

    Args:
        world ([`World`]): The world.
        preset (`str` or [`WorldPreset`]): `"demo"`, `"mini"` or `"toy"`.
        split (`str`): `"validation"` or `"test"`.

    Returns:
        [`Benchmark`]: Always the same.

    Raises:
        ValueError: If the preset or the split is unknown.
    """
    if split not in _SPLITS:
        raise ValueError(f"the {world.title} has the splits {' and '.join(_SPLITS)}, got '{split}'.")
    return _build_benchmark(world, world.find_preset(preset), split)


@functools.lru_cache(maxsize=4)
def _build_benchmark(world: World, preset: WorldPreset, split: str) -> Benchmark:
    # Of the preset's name and not of its sizes, so that a change of the training recipe keeps the queries.
    rng = np.random.default_rng([zlib.crc32(preset.name.encode()), _SPLITS.index(split)])
    pairs, subsets = _draw_queries(world, preset, split, rng)
    scenes = [scene for images in subsets for scene in images]
    gallery_ids = [f"{split}-{i:05d}" for i in range(len(scenes))]
    rest = iter(gallery_ids)
    subset_ids = [list(islice(rest, len(images))) for images in subsets]
    ids_of = defaultdict(list)
    for gallery_id, scene in zip(gallery_ids, scenes, strict=True):
        ids_of[scene].append(gallery_id)
    references = [reference for reference, _ in pairs]
    reference_ids = [f"{split}-reference-{i:04d}" for i in range(len(pairs))]
    pictures = _draw_images(world, preset, references, rng)
    phrases = [write_phrases(world, reference, target, "B", rng) for reference, target in pairs]
    conditions = [join_phrases(said) for said in phrases]
    queries = {
        "id": [f"{split}-query-{i:04d}" for i in range(len(pairs))],
        "reference_id": reference_ids,
        **{f"reference_{name}": column for name, column in pictures.items()},
        "condition": conditions,
        "target_ids": [ids_of[target] for _, target in pairs],
        "subset_ids": subset_ids,
        "target_caption": [world.write_caption(preset, target, rng, opening="a photo of ") for _, target in pairs],
        "paraphrases": _write_paraphrases(world, pairs, conditions),
        "reference_scene": [reference._asdict() for reference in references],
        "changed": list(pairs.values()),
        "kind": [[phrase.kind for phrase in said] for said in phrases],
        "wording": [[phrase.wording for phrase in said] for said in phrases],
    }
    gallery = _image_columns(world, preset, scenes, gallery_ids, rng)
    # Shuffled, since ties keep the gallery's order, in which each query's targets would come first.
    order = np.random.default_rng(0).permutation(len(scenes)).tolist()
    gallery = {name: [column[place] for place in order] for name, column in gallery.items()}
    return Benchmark(
        name=world.name,
        split=split,
        gallery=Dataset.from_dict(gallery, features=Features(_image_features(world))),
        queries=Dataset.from_dict(queries, features=Features(_query_features(world))),
        protocol=Protocol(exclude_reference=True),
    )


def _draw_queries(
    world: World, preset: WorldPreset, split: str, rng: np.random.Generator
) -> tuple[dict[_Pair, list[str]], list[list[NamedTuple]]]:
    """Draw pairs of reference and target with the names of what changes, and the gallery's scenes for each."""
    size = preset.num_queries if split == "test" else preset.num_validation_queries
    pairs, subsets = {}, []
    while len(pairs) < size:
        target = world.draw_scene(preset, rng, held_out=True)
        changed = _draw_changes(world, preset, target, rng)
        reference = world.change_scene(preset, target, changed, rng)
        # By its target, so that no scene is looked for in both splits.
        if _split_of(target) != split or (reference, target) in pairs:
            continue
        pairs[reference, target] = sorted(changed)
        images = [target] * (1 + int(rng.random() < 0.5)) + [reference]
        for _ in range(_NEAR_MISSES):
            names = _draw_changes(world, preset, target, rng)
            images.append(world.change_scene(preset, target, names, rng))
        images.append(_draw_other(world, preset, target, changed, rng))
        subsets.append(images)
    return pairs, subsets


def _write_paraphrases(world: World, pairs: Iterable[_Pair], conditions: list[str]) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)  # of its own, since the queries are older than their paraphrases

    def write(pair: _Pair, split: str, condition: str) -> str:
        while (text := join_phrases(write_phrases(world, *pair, split, rng))) == condition:
            pass
        return text

    return [
        {name: write(pair, split, condition) for name, split in _PARAPHRASES.items()}
        for pair, condition in zip(pairs, conditions, strict=True)
    ]


def _split_of(target: NamedTuple) -> str:
    digest = hashlib.md5("-".join(map(str, target)).encode()).hexdigest()
    return "validation" if int(digest, 16) % 3 == 0 else "test"


def _draw_changes(world: World, preset: WorldPreset, scene: NamedTuple, rng: np.random.Generator) -> list[str]:
    names = world.list_changeable(preset, scene, rng)
    order = rng.permutation(len(names))
    return [names[i] for i in order[: 1 + int(rng.random() < _TWO_CHANGES)]]


def draw_neighbour(
    world: World, preset: WorldPreset, scene: NamedTuple, rng: np.random.Generator, single: bool = False
) -> tuple[NamedTuple, list[str]]:
    """Draw a scene that differs in one attribute or two and is not held out, and the names of what differs."""
    while True:  # other attributes at each try: all values of one may lead to held-out combinations
        changed = _draw_changes(world, preset, scene, rng)[: 1 if single else None]
        other = world.change_scene(preset, scene, changed, rng)
        if not world.holds_out(other):
            return other, changed


def _draw_other(
    world: World, preset: WorldPreset, target: NamedTuple, changed: list[str], rng: np.random.Generator
) -> NamedTuple:
    kept = {name: getattr(target, name) for name in changed}
    while True:
        other = world.draw_scene(preset, rng, held_out=None)._replace(**kept)
        if other != target and world.is_sound(other):
            return other


def _describe(world: World, preset: WorldPreset, scene: NamedTuple, rng: np.random.Generator) -> str:
    if rng.random() >= _RELATIVE_CAPTIONS:
        return world.write_caption(preset, scene, rng, draw_omissions(world, rng))
    # "a photo of X that Y" with a true Y: what leads to this scene from a neighbour. X is silent about it.
    neighbour, changed = draw_neighbour(world, preset, scene, rng, single=True)
    omitted = draw_omissions(world, rng).union(changed)
    subject = world.write_caption(preset, scene, rng, omitted, opening="a photo of ")
    return f"{subject} that {join_phrases(write_phrases(world, neighbour, scene, 'A', rng))}"


def draw_picture(world: World, scene: NamedTuple, pose: int, image_size_px: int) -> bytes:
    """Draw a picture of a world that redraws; the same pose at another size is the same picture.

    Args:
        world ([`World`]): The world.
        scene (`NamedTuple`): What to show.
        pose (`int`): Seed of all that varies between pictures of one scene.
        image_size_px (`int`): Width and height.

    Returns:
        `bytes`: The picture as PNG, RGB.
    """
    return world.render_scene(scene, image_size_px, np.random.default_rng(pose))


def _draw_images(world: World, preset: WorldPreset, scenes: list[NamedTuple], rng: np.random.Generator) -> dict:
    size, drawing = preset.image_size_px, tqdm(scenes, desc=f"Drawing the {world.title}", disable=len(scenes) < 1000)
    if not world.redraws:
        return {"image": [_encode(world.render_scene(scene, size, rng)) for scene in drawing]}
    poses = rng.integers(2**32, size=len(scenes)).tolist()
    pairs = zip(drawing, poses, strict=True)
    return {"image": [_encode(draw_picture(world, *pair, size)) for pair in pairs], "pose": poses}


def _encode(picture: bytes) -> dict:
    return {"bytes": picture, "path": None}


def _image_columns(
    world: World, preset: WorldPreset, scenes: list[NamedTuple], ids: list[str], rng: np.random.Generator
) -> dict:
    columns = {"id": ids, **_draw_images(world, preset, scenes, rng)}
    return columns | dict(zip(world.scene._fields, map(list, zip(*scenes, strict=True)), strict=True))


def _picture_features(world: World) -> dict:
    return {"image": Image()} | ({"pose": Value("int64")} if world.redraws else {})


def _scene_features(world: World) -> dict:
    types = get_type_hints(world.scene)
    return {name: Value("int64" if types[name] is int else "string") for name in world.scene._fields}


def _image_features(world: World) -> dict:
    return {"id": Value("string"), **_picture_features(world), **_scene_features(world)}


def _query_features(world: World) -> dict:
    text, texts = Value("string"), List(Value("string"))
    features = {"id": text, "reference_id": text}
    features |= {f"reference_{name}": feature for name, feature in _picture_features(world).items()}
    features |= {"condition": text, "target_ids": texts, "subset_ids": texts, "target_caption": text}
    features |= {"paraphrases": dict.fromkeys(_PARAPHRASES, text), "reference_scene": _scene_features(world)}
    return features | dict.fromkeys(("changed", "kind", "wording"), texts)
