"""Compare indexing images from JPEG files with the bare vision tower on ready tensors, which is the limit.

    PYTHONPATH=. python speed/encode_gallery.py                            # ViT-B/32, random weights
    PYTHONPATH=. python speed/encode_gallery.py --size toy --images 8 --repeats 1 --workers 1

Files are of 640x480 pixels. `of the limit` is the images a second of `Gallery.add` in those of the tower, `decoding`
what reading and preprocessing the files alone takes on one core, in units of the tower's time. Embeddings must agree.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import normalize

from modeling_rtd import Gallery
from speed.comparing import add_options, report, summarise
from speed.synthetic import build_model, build_processor, draw_images


__all__ = ["measure"]


def _time(run) -> tuple[float, object]:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


@torch.no_grad()
def measure(options: argparse.Namespace) -> list[dict]:
    """Measure all numbers of workers, in turns with the tower.

    Args:
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: A row for each number of workers.
    """
    processor = build_processor()
    model = build_model(options.size, "lincir", processor).to(options.device)
    seconds: dict = {name: [] for name in ("tower", "decoding", *options.workers)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{i}.jpg")) for i in range(options.images)]
        for path, image in zip(paths, draw_images(options.images, (640, 480)), strict=True):
            image.save(path, quality=90)
        for _ in range(options.repeats + 1):
            taken, pixels = _time(lambda: torch.cat([processor.prepare_images(path) for path in paths]))
            seconds["decoding"].append(taken)
            ready = pixels.to(options.device).split(options.batch_size)
            taken, embeds = _time(lambda ready=ready: [model.get_image_features(part).pooler_output for part in ready])
            seconds["tower"].append(taken)
            expected = normalize(torch.cat(embeds).float(), dim=-1).cpu()
            for workers in options.workers:
                gallery, settings = Gallery(), {"batch_size": options.batch_size, "num_workers": workers}
                taken, _ = _time(lambda g=gallery, s=settings: g.add(model, processor, paths, **s))
                seconds[workers].append(taken)
                found = gallery.search(expected, len(paths))
                own = [{one["id"]: one["score"] for one in row}[path] for row, path in zip(found, paths, strict=True)]
                assert min(own) > 1 - 1e-5, f"an image's embedding differs: cosine {min(own)}"

    def relate(ours: str | int, theirs: str | int) -> list[float]:
        return summarise([a / b for a, b in zip(seconds[ours][1:], seconds[theirs][1:], strict=True)])

    return [
        {
            "workers": workers,
            "of the limit": relate("tower", workers),
            "decoding": relate("decoding", "tower"),
            "images/s": summarise([options.images / taken for taken in seconds[workers][1:]]),
            "limit images/s": summarise([options.images / taken for taken in seconds["tower"][1:]]),
        }
        for workers in options.workers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch_size=32, repeats=3)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report(measure(options), ("workers", "of the limit", "decoding", "images/s", "limit images/s"), options)


if __name__ == "__main__":
    main()
