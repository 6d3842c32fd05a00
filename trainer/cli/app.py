"""`rtd app`: search a folder or an index on a page in the browser, and refine the results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.cli.galleries import add_gallery_options, check_gallery, compare_pictures, is_stored, open_stored
from trainer.cli.parser import VerbParser
from trainer.data.image_files import list_images, name_file


__all__ = ["add_desk_options", "check_port", "open_desk", "read_examples", "run"]


def run(arguments: list[str]) -> None:
    """Serve the page until it is interrupted.

    Raises:
        ValueError: If there is nothing to search, or an option is not accepted.
        ImportError: If gradio is not installed.
    """
    parser = VerbParser("rtd app", description=__doc__)
    add_desk_options(parser)
    parser.add_argument("--top-k", type=int, default=12, help="number of results (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FILE",
        help="jsonl of queries to click: image, a path relative to the file, and text (default: none)",
    )
    options = parser.parse_args(arguments)
    if options.top_k < 1:
        raise ValueError(f"--top-k must be at least 1, got {options.top_k}.")
    check_port(options.port)
    check_gallery(options)
    examples = [] if options.examples is None else read_examples(options.examples)

    from trainer.app.page import import_gradio, serve_page

    import_gradio()  # before a model is loaded and a folder encoded
    desk = open_desk(options, options.top_k)
    desk.examples = examples
    if options.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"anyone who reaches {options.host} can search this gallery and see its images", file=sys.stderr)
    print(f"{len(desk.gallery)} images of {desk.root}; stop with Ctrl+C")
    page, url = serve_page(desk, options.host, options.port, options.allowed_hosts)
    print(f"page: {url}", flush=True)
    page.block_thread()


def read_examples(path: Path) -> list[tuple[str, str]]:
    """Read queries to click.

    Args:
        path (`Path`): jsonl of `image`, a path relative to the file, and `text`.

    Returns:
        `list[tuple[str, str]]`: Path of each image from the root on, and its condition.

    Raises:
        ValueError: If a line is damaged, or an image is missing.
    """
    from modeling_rtd import parse_json

    examples, remedy = [], "write {'image': PATH, 'text': CONDITION} on each line"
    # Of bytes, since the lines of a text also end at form feeds and the like.
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        row = parse_json(line, f"{path}, line {number}", remedy, image=str, text=str)
        image = path.parent / row["image"]
        if not image.is_file():
            raise ValueError(f"'{path}', line {number}, names the image '{image}', which is missing: {remedy}.")
        examples.append((str(image.resolve()), row["text"]))
    return examples


def add_desk_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `open_desk`, `--host` and `--allowed-hosts`.

    Args:
        parser (`argparse.ArgumentParser`): Of a verb that serves.
    """
    parser.add_argument("model", help="directory or Hub id of an RTD model or of an adapter")
    add_gallery_options(parser)
    parser.add_argument(
        "--images",
        type=Path,
        help="show only images below this folder (default: --gallery; for an index, the folder above all images)",
    )
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=PLACE", help="one more adapter of the same base"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, localhost only)"
    )
    parser.add_argument(
        "--allowed-hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names of this machine that requests may ask for, such as photos.example.com; '*' is any name "
        "(default: localhost, and addresses)",
    )


def check_port(port: int | None) -> None:
    """Refuse what is not a port.

    Args:
        port (`int`, *optional*): As it was given.

    Raises:
        ValueError: If it is none.
    """
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"--port must be between 1 and 65535, got {port}.")


def open_desk(options: argparse.Namespace, top_k: int):
    """Open model, adapters and gallery.

    Args:
        options (`argparse.Namespace`): With those of `add_desk_options`.
        top_k (`int`): Results of a search.

    Returns:
        [`SearchDesk`]: Ready to answer.

    Raises:
        ValueError: If there is nothing to search, or an option is not accepted.
    """
    from modeling_rtd import Gallery
    from trainer.app import SearchDesk, find_root, list_voices
    from trainer.app.history import SearchHistory
    from trainer.loading import check_place, load_model_and_processor

    has_rows = is_stored(options)
    paths = [] if has_rows else [name_file(path) for path in list_images(options.gallery)]
    adapters = [text.partition("=") for text in options.adapter]
    wrong = next((text for text, parts in zip(options.adapter, adapters, strict=True) if not all(parts)), None)
    if wrong is not None:
        raise ValueError(f"--adapter takes NAME=PLACE, got '{wrong}'.")
    if options.images is not None and not options.images.is_dir():
        raise ValueError(f"--images must be the folder of the gallery's images; '{options.images}' is not a folder.")
    gallery = open_stored(options) if has_rows else None
    places = gallery.locate() if has_rows else paths
    root = options.images or (find_root(places) if has_rows else options.gallery)
    # Before the model is loaded and a folder encoded.
    _report_outside(SearchHistory.list_outside(places, root), len(places), root)
    model, processor = load_model_and_processor(options.model)
    compare_pictures(options, gallery, model, processor)
    # The adapter loaded last is active: so the one that is named first answers.
    for name, _, place in reversed(adapters):
        check_place(place)
        model.load_adapter(place, name)
    if not has_rows:
        gallery = Gallery.from_images(model, processor, paths)
        for reason in gallery.skipped:
            print(f"skipped: {reason}", file=sys.stderr)
    return SearchDesk(list_voices(model, processor, gallery), root, top_k)


def _report_outside(outside: list[str], count: int, root: Path) -> None:
    if not outside:
        return
    sentence = (
        f"{len(outside)} of {count} images are outside of '{root}', first '{outside[0]}', where a link may lead, and "
        "nothing outside is shown or taken as a reference: name a folder above them with --images"
    )
    if len(outside) == count:
        raise ValueError(f"{sentence}.")
    print(sentence, file=sys.stderr)
