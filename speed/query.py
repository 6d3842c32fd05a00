"""Measure a composed query from file and text to ranked ids: its parts, and what it takes beside towers and scan.

    PYTHONPATH=. python speed/query.py                                     # ViT-B/32, random weights
    PYTHONPATH=. python speed/query.py --size toy --galleries 100 --batch_sizes 1 4 --repeats 2
    PYTHONPATH=. python speed/query.py --galleries 10000 100000 1000000 --repeats 20

The limit is both bare towers on ready tensors plus one matrix product and a top-k: what cannot be saved. All parts
take turns in one process. References are JPEG files of 640x480 pixels. `overhead` is what a query takes above the
limit, as a share of the towers' time. The whole query and the limit must find the same scores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from modeling_rtd import Gallery
from speed.comparing import add_options, report, summarise
from speed.synthetic import build_model, build_processor, draw_images, draw_texts


__all__ = ["measure"]

_TOP_K = 10


class _Clock:
    """Times named parts."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str, run):
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result


@torch.no_grad()
def measure(options: argparse.Namespace, gallery_size: int, batch_size: int) -> dict:
    """Measure queries of one batch size in one gallery.

    Args:
        options (`argparse.Namespace`): The script's.
        gallery_size (`int`): Images in the gallery.
        batch_size (`int`): Queries at a time.

    Returns:
        `dict`: Seconds of each part (median, least, greatest), and `overhead`.
    """
    processor = build_processor()
    model = build_model(options.size, "lincir", processor).to(options.device)
    rng, clock = np.random.default_rng(0), _Clock()
    rows = normalize(torch.randn(gallery_size, model.config.projection_dim, generator=torch.manual_seed(0)), dim=-1)
    gallery = Gallery(rows, [str(i) for i in range(gallery_size)])
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{i}.jpg")) for i in range(batch_size)]
        for path, image in zip(paths, draw_images(batch_size, (640, 480)), strict=True):
            image.save(path, quality=90)
        for _ in range(options.repeats + 1):
            texts = draw_texts("conditioning_caption", batch_size, rng)
            inputs = clock("preprocessing", lambda texts=texts: processor(images=paths, conditions=texts))
            inputs = inputs.to(options.device)
            query = clock("model", lambda inputs=inputs: model(**inputs).composed_embeds)
            found = clock("search", lambda query=query: gallery.search(query, _TOP_K))
            pixels, prompt = inputs["pixel_values"], {k: inputs[k] for k in ("input_ids", "placeholder_mask")}
            image = clock("bare vision", lambda pixels=pixels: model.get_image_features(pixels).pooler_output)
            words, _ = model.projection(image)
            given = prompt | {"pseudo_token_embeds": words}
            bare = clock("bare text", lambda given=given: model.text_model(**given).text_embeds)
            bare = normalize(bare, dim=-1).cpu()
            best = clock("scan", lambda bare=bare: (bare @ rows.T).topk(_TOP_K))
            scores = torch.tensor([[one["score"] for one in row] for row in found])
            torch.testing.assert_close(scores, best.values, atol=1e-4, rtol=0)
    seconds = {name: summarise(values[1:]) for name, values in clock.seconds.items()}
    parts = [
        clock.seconds[name][1:] for name in ("preprocessing", "model", "search", "bare vision", "bare text", "scan")
    ]
    overheads = [(a + b + c - v - t - s) / (v + t) for a, b, c, v, t, s in zip(*parts, strict=True)]
    return {"gallery": gallery_size, "batch": batch_size, "overhead": summarise(overheads), **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, repeats=20)
    parser.add_argument("--galleries", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 16])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(options, size, batch) for size in options.galleries for batch in options.batch_sizes]
    report(rows, tuple(rows[0]), options)


if __name__ == "__main__":
    main()
