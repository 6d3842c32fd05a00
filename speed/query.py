"""Measure a composed query from file and text to ranked ids: its parts, and what it takes beside towers and scan.

    PYTHONPATH=. python speed/query.py                                     # ViT-B/32, random weights
    PYTHONPATH=. python speed/query.py --size toy --galleries 100 --batch_sizes 1 4 --repeats 2
    PYTHONPATH=. python speed/query.py --galleries 10000 100000 1000000 --repeats 20

A query is preprocessing (and sending to the device), vision, text (with the projection) and search. The limit is both
bare towers on ready tensors plus one matrix product and a top-k: what cannot be saved. All parts take turns in one
process, on one device. References are JPEG files of 640x480 pixels. `overhead` is what a query takes above the limit,
as a share of the towers' time. The query and the limit must find the same scores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from modeling_rtd import Gallery
from speed.comparing import add_options, report, summarise, time_call
from speed.synthetic import build_model, build_processor, draw_images, draw_texts


__all__ = ["measure"]

_TOP_K = 10


_PARTS, _LIMIT = ("preprocessing", "vision", "text", "search"), ("bare vision", "bare text", "scan")


@torch.no_grad()
def measure(options: argparse.Namespace) -> list[dict]:
    """Measure queries of all batch sizes in galleries of all sizes.

    Args:
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: For each gallery and batch seconds of each part (median, least, greatest), and `overhead`.
    """
    processor = build_processor()
    model = build_model(options.size, "lincir", processor).to(options.device)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        count = max(options.batch_sizes)
        paths = [str(Path(folder, f"{i}.jpg")) for i in range(count)]
        for path, image in zip(paths, draw_images(count, (640, 480)), strict=True):
            image.save(path, quality=90)
        for size in options.galleries:
            rows = torch.randn(size, model.config.projection_dim, generator=torch.manual_seed(0))
            rows = normalize(rows, dim=-1)
            gallery = Gallery(rows, [str(i) for i in range(size)], device=options.device)
            rows = rows.to(options.device)
            for batch_size in options.batch_sizes:
                seconds: dict[str, list[float]] = {name: [] for name in (*_PARTS, *_LIMIT)}
                for turn in range(options.repeats + 1):
                    texts = draw_texts("conditioning_caption", batch_size, np.random.default_rng(turn))
                    for name, taken in _take_turn(model, processor, gallery, rows, paths[:batch_size], texts):
                        seconds[name] += [taken] if turn else []
                measured.append({"gallery": size, "batch": batch_size} | _summarise_parts(seconds))
    return measured


def _take_turn(model, processor, gallery, rows, paths, texts) -> list[tuple[str, float]]:
    """Time the parts of a query and of its limit once."""
    taken = []

    def timed(name: str, call):
        seconds, result = time_call(call)
        taken.append((name, seconds))
        return result

    inputs = timed("preprocessing", lambda: processor(images=paths, conditions=texts).to(model.device))
    pixels = inputs.pop("pixel_values")
    features = timed("vision", lambda: model.get_image_features(pixels))
    query = timed("text", lambda: model.get_composed_features(**inputs, image_features=features).pooler_output)
    found = timed("search", lambda: gallery.search(query, _TOP_K))
    timed("bare vision", lambda: model.get_image_features(pixels))
    words, _ = model.get_pseudo_tokens(image_features=features)
    prompt = {name: inputs[name] for name in ("input_ids", "placeholder_mask")}
    bare = timed("bare text", lambda: model.text_model(**prompt, pseudo_token_embeds=words).text_embeds)
    bare = normalize(bare, dim=-1)
    best = timed("scan", lambda: (bare @ rows.T).topk(_TOP_K))
    scores = torch.tensor([[one["score"] for one in row] for row in found])
    torch.testing.assert_close(scores, best.values.cpu(), atol=1e-4, rtol=0)
    return taken


def _summarise_parts(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    turns = [dict(zip(seconds, values, strict=True)) for values in zip(*seconds.values(), strict=True)]
    overheads = [
        (sum(turn[name] for name in _PARTS) - sum(turn[name] for name in _LIMIT))
        / (turn["bare vision"] + turn["bare text"])
        for turn in turns
    ]
    return {"overhead": summarise(overheads)} | {name: summarise(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, repeats=20)
    parser.add_argument("--galleries", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 16])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    report(rows, tuple(rows[0]), options)


if __name__ == "__main__":
    main()
