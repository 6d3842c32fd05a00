"""Picture of the demo's results: queries, and what is found before and after RTD."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from trainer.drawing.contact_sheet import SheetRow, draw_contact_sheet
from trainer.evaluation.benchmarks import Benchmark
from trainer.worlds.data import draw_picture
from trainer.worlds.world import World


__all__ = ["NUM_QUERIES", "draw_results"]

NUM_QUERIES = 8
_TOP = 4
_SIZE_PX = 192


def draw_results(world: World, benchmark: Benchmark, rankings: Sequence[np.ndarray], titles: Sequence[str]) -> Image:
    """Draw every n-th query, not a choice of the good ones, with the first four images of each ranking.

    Args:
        world ([`World`]): The world; one that redraws is drawn again at 192 px.
        benchmark ([`Benchmark`]): Its gallery and queries.
        rankings (sequence of `np.ndarray` of shape `(num_queries, depth)`): Positions in the gallery, best first.
        titles (sequence of `str`): Heading of each ranking.

    Returns:
        `PIL.Image.Image`: RGB picture.
    """
    ids, rows = benchmark.gallery["id"][:], []
    for index in np.linspace(0, len(benchmark.queries) - 1, NUM_QUERIES).round().astype(int).tolist():
        query = benchmark.queries[index]
        picture = {"image": query["reference_image"], "pose": query.get("reference_pose")}
        groups = [
            [
                (_draw(world, benchmark.gallery[place]), ids[place] in query["target_ids"])
                for place in ranking[index, :_TOP].tolist()
            ]
            for ranking in rankings
        ]
        rows.append(SheetRow(_draw(world, picture | query["reference_scene"]), query["condition"], groups))
    return draw_contact_sheet(rows, titles, heads=("this one ...", "... but the one that"), cell=_SIZE_PX, font=34)


def _draw(world: World, row: Mapping) -> Image.Image:
    if not world.redraws:
        return row["image"]
    scene = world.scene(*(row[name] for name in world.scene._fields))
    return Image.open(io.BytesIO(draw_picture(world, scene, row["pose"], _SIZE_PX)))
