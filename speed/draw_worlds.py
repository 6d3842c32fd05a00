"""Measure how many pictures a second a core draws of each world, and name pictures and texts by SHA-256.

PYTHONPATH=. python speed/draw_worlds.py
"""

from __future__ import annotations

import argparse
import hashlib
import io
import time

import numpy as np
from PIL import Image

from trainer.worlds import WORLDS, find_world
from trainer.worlds.data import build_world, draw_picture
from trainer.worlds.world import World


__all__ = ["hash_world", "measure_drawing"]


def measure_drawing(world: World, image_size_px: int, count: int, rounds: int) -> tuple[float, str]:
    """Draw pictures of random scenes.

    Args:
        world ([`World`]): The world.
        image_size_px (`int`): Width and height.
        count (`int`): Pictures.
        rounds (`int`): How often the same pictures are drawn; the first also draws what is kept between pictures.

    Returns:
        `tuple`: Pictures a second of CPU time in the best round, and the SHA-256 of their pixels.
    """
    rng, seconds = np.random.default_rng(0), []
    scenes = [world.draw_scene(world.presets["demo"], rng) for _ in range(count)]
    for _ in range(rounds):
        start, digest = time.process_time(), hashlib.sha256()
        pictures = [draw_picture(world, scene, pose, image_size_px) for pose, scene in enumerate(scenes)]
        seconds.append(time.process_time() - start)
    for picture in pictures:
        digest.update(np.asarray(Image.open(io.BytesIO(picture))).tobytes())
    return count / min(seconds), digest.hexdigest()


def hash_world(world: World, preset: str) -> str:
    """Hash the texts of a world: captions, triplets, and the conditions of both splits.

    Args:
        world ([`World`]): The world.
        preset (`str`): Its size.

    Returns:
        `str`: SHA-256.
    """
    data, digest = build_world(world, preset), hashlib.sha256()
    texts = [*data.captions["text"], *(text for row in data.triplets for text in row.values())]
    texts += [text for split in ("validation", "test") for text in data.benchmark(split).queries["condition"]]
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def main() -> None:
    """Print a row for each world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="times that they are drawn (default: %(default)s)")
    parser.add_argument("--preset", default="toy", help="size of the world of the texts (default: %(default)s)")
    options = parser.parse_args()
    print(
        "| world | px | pictures a CPU second | SHA-256 of their pixels | SHA-256 of its texts |\n" + "|---" * 5 + "|"
    )
    for world in map(find_world, WORLDS):
        size = world.presets["demo"].image_size_px
        speed, pixels = measure_drawing(world, size, options.count, options.rounds)
        print(f"| {world.title} | {size} | {speed:.0f} | {pixels} | {hash_world(world, options.preset)} |")


if __name__ == "__main__":
    main()
