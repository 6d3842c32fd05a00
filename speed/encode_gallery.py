"""Compare indexing images from JPEG files with the bare vision tower on ready tensors, which is the limit.

    PYTHONPATH=. python speed/encode_gallery.py                            # ViT-B/32, random weights
    PYTHONPATH=. python speed/encode_gallery.py --size toy --images 8 --repeats 1 --workers 1

Files are of 640x480 pixels. `of the limit` is the images a second of `Gallery.add` in those of the tower, `decoding`
what reading and preprocessing the files alone takes on one core, in units of the tower's time. Embeddings must agree.

On a CPU both sides have the same cores: the process is held to as many as torch has threads, so that on one core
decoding is paid in full. With more `--cores` than `--threads` decoding goes on beside the tower, on cores that the
limit leaves idle; that is what `Gallery.add` is built for, and the row says so. Beside a GPU the process has all its
cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import normalize

from modeling_rtd import Gallery, RTDProcessor
from speed.comparing import add_options, relate, report, summarise, time_call
from speed.synthetic import build_model, build_processor, draw_images


__all__ = ["measure"]


def _hold_to_cores(count: int | None) -> int:
    """Hold this process to some of the cores it may use, where the system can; give their number."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)  # threads that are started from here on inherit it
    return len(cores)


def _choose_backend(processor: RTDProcessor, backend: str) -> RTDProcessor:
    """Load the processor again, with the image processor of a backend."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        chosen = RTDProcessor.from_pretrained(folder, backend=backend)
    if type(chosen.image_processor).__name__.endswith("Pil") != (backend == "pil"):
        raise ImportError("torchvision is not installed: pip install torchvision, or leave --backend out.")
    return chosen


@torch.no_grad()
def measure(options: argparse.Namespace) -> list[dict]:
    """Measure all numbers of workers, in turns with the tower.

    Args:
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: A row for each number of workers.
    """
    cores = _hold_to_cores(options.cores or (options.threads if options.device == "cpu" else None))
    processor = _choose_backend(build_processor(), options.backend)
    model = build_model(options.size, "lincir", processor).to(options.device)
    seconds: dict = {name: [] for name in ("tower", "decoding", *options.workers)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{i}.jpg")) for i in range(options.images)]
        for path, image in zip(paths, draw_images(options.images, (640, 480)), strict=True):
            image.save(path, quality=90)
        for _ in range(options.repeats + 1):
            taken, pixels = time_call(lambda: torch.cat([processor.prepare_images(path) for path in paths]))
            seconds["decoding"].append(taken)
            ready = pixels.to(options.device).split(options.batch_size)
            taken, embeds = time_call(
                lambda ready=ready: [model.get_image_features(part).pooler_output for part in ready]
            )
            seconds["tower"].append(taken)
            expected = normalize(torch.cat(embeds).float(), dim=-1).cpu()
            for workers in options.workers:
                gallery, settings = Gallery(), {"batch_size": options.batch_size, "num_workers": workers}
                taken, _ = time_call(lambda g=gallery, s=settings: g.add(model, processor, paths, **s))
                seconds[workers].append(taken)
                found = gallery.search(expected, len(paths))
                own = [{one["id"]: one["score"] for one in row}[path] for row, path in zip(found, paths, strict=True)]
                assert min(own) > 1 - 1e-5, f"an image's embedding differs: cosine {min(own)}"

    seconds = {name: taken[1:] for name, taken in seconds.items()}
    return [
        {
            "cores": cores,
            "threads": options.threads,
            "workers": workers,
            "of the limit": relate(seconds["tower"], seconds[workers]),
            "decoding": relate(seconds["decoding"], seconds["tower"]),
            "images/s": summarise([options.images / taken for taken in seconds[workers]]),
            "limit images/s": summarise([options.images / taken for taken in seconds["tower"]]),
        }
        for workers in options.workers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch_size=32, repeats=3)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--backend", choices=["pil", "torchvision"], default="pil", help="that preprocesses")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--cores", type=int, help="that the process may use; on a CPU as many as threads by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report(
        measure(options),
        ("cores", "threads", "workers", "of the limit", "decoding", "images/s", "limit images/s"),
        options,
    )


if __name__ == "__main__":
    main()
