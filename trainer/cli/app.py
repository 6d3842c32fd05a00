"""`rtd app`: a page in the browser to search a folder or an index, and to refine what is found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.data.image_files import list_images, name_file


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Serve the page until it is interrupted.

    Args:
        arguments (`list[str]`): Options.

    Raises:
        ValueError: If there is nothing to search, or an option is not accepted.
        ImportError: If gradio is not installed.
    """
    parser = argparse.ArgumentParser("rtd app", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of an RTD model or of an adapter")
    parser.add_argument(
        "--gallery", required=True, type=Path, help="folder of images, with its sub-folders, or an index of rtd index"
    )
    parser.add_argument(
        "--images",
        type=Path,
        help="folder outside of which nothing is shown (default: --gallery; of an index, the one above all images)",
    )
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=PLACE", help="one more adapter of the same base"
    )
    parser.add_argument("--uri", help="of a Milvus server, if the index is on one")
    parser.add_argument("--token", help="of a Milvus server")
    parser.add_argument("--top-k", type=int, default=12, help="number of results (default: %(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine alone)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    options = parser.parse_args(arguments)
    if options.top_k < 1:
        raise ValueError(f"--top-k must be at least 1, got {options.top_k}.")
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ValueError(f"--port must lie between 1 and 65535, got {options.port}.")

    from trainer.app.page import serve_page

    desk = _open_desk(options)
    if options.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"whoever reaches {options.host} can search this gallery and see its images", file=sys.stderr)
    print(f"{len(desk.gallery)} images of {desk.root}; stop with Ctrl+C")
    page, url = serve_page(desk, options.host, options.port)
    print(f"page: {url}", flush=True)
    page.block_thread()


def _open_desk(options: argparse.Namespace):
    from modeling_rtd import Gallery
    from trainer.app import SearchDesk, find_root, list_voices
    from trainer.app.history import SearchHistory
    from trainer.loading import check_place, load_model_and_processor

    is_index = Gallery.is_in(options.gallery)
    paths = [] if is_index else [name_file(path) for path in list_images(options.gallery)]
    adapters = [text.partition("=") for text in options.adapter]
    wrong = next((text for text, parts in zip(options.adapter, adapters, strict=True) if not all(parts)), None)
    if wrong is not None:
        raise ValueError(f"--adapter takes NAME=PLACE, got '{wrong}'.")
    if options.images is not None and not options.images.is_dir():
        raise ValueError(f"--images must be the folder of the gallery's images; '{options.images}' is none.")
    server = {name: value for name in ("uri", "token") if (value := getattr(options, name)) is not None}
    gallery = Gallery.load(options.gallery, **server) if is_index else None
    places = gallery.locate() if is_index else paths
    root = options.images or (find_root(places) if is_index else options.gallery)
    _report_outside(SearchHistory.list_outside(places, root), len(places), root)
    model, processor = load_model_and_processor(options.model)
    for name, _, place in reversed(adapters):
        check_place(place)
        model.load_adapter(place, name)
    if not is_index:
        gallery = Gallery.from_images(model, processor, paths)
        for reason in gallery.skipped:
            print(f"skipped: {reason}", file=sys.stderr)
    return SearchDesk(list_voices(model, processor, gallery), root, options.top_k)


def _report_outside(outside: list[str], count: int, root: Path) -> None:
    if not outside:
        return
    sentence = (
        f"{len(outside)} of {count} images lie outside of '{root}', first '{outside[0]}', where a link may lead, and "
        "nothing outside is shown or taken as a reference: name a folder above them with --images"
    )
    if len(outside) == count:
        raise ValueError(f"{sentence}.")
    print(sentence, file=sys.stderr)
