"""`rtd search`: find images of a folder or an index by a reference image, a sentence, or both."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer.cli.galleries import (
    add_gallery_options,
    check_gallery,
    compare_pictures,
    is_stored,
    open_stored,
    read_value,
)
from trainer.cli.parser import VerbParser
from trainer.data.image_files import list_images, list_suffixes, name_file


__all__ = ["run"]

_IN_A_ROW = 10  # of the contact sheet


def run(arguments: list[str]) -> None:
    """Search, and print a table with a contact sheet, or JSON.

    Raises:
        ValueError: If the folder holds no readable image, a reference is unreadable, or an option is not accepted.
    """
    options = _parse(arguments)
    check_gallery(options)
    where = _read_filter(options.where)
    if options.sheet is not None:
        _check_sheet(options.sheet)
        if isinstance(options.gallery, Path):
            _refuse_sheet_in(options.sheet, options.gallery)

    from modeling_rtd import ComposedImageRetrievalPipeline, name_image
    from trainer.loading import load_model_and_processor

    paths = [] if is_stored(options) else [name_file(path) for path in list_images(options.gallery)]
    _check_history(options)
    model, processor = load_model_and_processor(options.model)
    search = ComposedImageRetrievalPipeline(model=model, processor=processor, device=model.device)
    search.preprocess(_fill_in(options))  # refused before a folder is encoded
    gallery = search.gallery = _open_gallery(options, model, processor, paths)
    history = _open_history(
        search,
        options,
        top_k=options.top_k,
        where=where,
        min_score=options.min_score,
        exclude_reference=not options.keep_reference,
    )
    _take_turn(history, options)
    if options.history is not None:
        history.save(options.history)
    turn = history.turns[-1]
    references = _list_references(turn["query"])
    if missing := [name for name in options.exclude if name not in gallery]:
        print(f"--exclude '{missing[0]}' is not an id of the gallery: ids are as results print them", file=sys.stderr)
    if not options.keep_reference and any(name in gallery for image in references for name in name_image(image)):
        print("the reference is in the gallery and is left out (--keep-reference keeps it)", file=sys.stderr)
    _print(turn, options, gallery)
    if options.sheet is not None and turn["results"]:
        _draw(turn, gallery, processor).save(options.sheet)
        print(f"contact sheet: {options.sheet}", file=sys.stderr if options.json else sys.stdout)


def _open_gallery(options: argparse.Namespace, model, processor, paths: list[str]):
    from modeling_rtd import Gallery

    if not paths:
        gallery = open_stored(options)
        compare_pictures(options, gallery, model, processor)
        if options.sheet is not None and isinstance(options.gallery, Path):
            for folder in {Path(place).parent for place in gallery.locate() if Path(place).is_absolute()}:
                _refuse_sheet_in(options.sheet, folder)
        return gallery
    gallery = Gallery.from_images(model, processor, paths)
    if gallery.skipped:
        reasons = "\n".join(f"  {reason}" for reason in gallery.skipped)
        print(f"{len(gallery.skipped)} of {len(paths)} images were skipped:\n{reasons}", file=sys.stderr)
    return gallery


def _open_history(search, options: argparse.Namespace, **kept):
    from trainer.app.history import SearchHistory

    # What was not given stays out of the turns that are saved.
    kept = {name: value for name, value in kept.items() if value not in (None, {})}
    if options.history is not None and options.history.exists():
        return SearchHistory.load(search, options.history, **kept)
    return SearchHistory(search, **kept)


def _check_history(options: argparse.Namespace) -> None:
    """Refuse what can be refused before a folder is encoded."""
    if options.history is None:
        return
    if not options.history.parent.is_dir():
        raise ValueError(f"there is no folder '{options.history.parent}' for the history: make it, or name another.")
    if options.use and not options.history.exists():
        raise ValueError(f"the history '{options.history}' does not exist yet: a search without --use begins it.")


def _fill_in(options: argparse.Namespace) -> dict:
    """Build the query as far as it is known, with blank images for results of the history."""
    from PIL import Image

    blanks = [Image.new("RGB", (1, 1))] * len(options.use)
    return _build_query(options) | {"image": blanks or options.image or None}


def _build_query(options: argparse.Namespace) -> dict:
    return {
        "text": options.text,
        "weights": options.weight or None,
        "strength": options.strength,
        "negative": options.negative,
        "negative_weight": options.negative_weight,
        "exclude": options.exclude or None,
    }


def _take_turn(history, options: argparse.Namespace) -> None:
    query = _build_query(options)
    if options.use:
        history.refine(options.use, options.turn, **query)
    else:
        images = options.image
        if options.history is not None:  # which is asked again from anywhere
            images = [name_file(image) if Path(image).is_file() else image for image in images]
        history.ask(image=images[0] if len(images) == 1 else images or None, **query)


def _list_references(query: dict) -> list[str]:
    image = query.get("image") or []
    return image if isinstance(image, list) else [image]


def _print(turn: dict, options: argparse.Namespace, gallery) -> None:
    if options.json:
        rows = [{"rank": rank, **result} for rank, result in enumerate(turn["results"], start=1)]
        print(json.dumps({"image": None, "text": None} | turn["query"] | {"results": rows}, indent=1))
    elif not turn["results"]:
        wanted = [*options.where, *[f"a cosine of {options.min_score}"] * (options.min_score is not None)]
        print(f"no image of the gallery has what was asked for: {', '.join(wanted) or 'all were left out'}")
    else:
        print("rank  score   image")
        places = gallery.locate([result["id"] for result in turn["results"]])
        for rank, (result, place) in enumerate(zip(turn["results"], places, strict=True), start=1):
            # A place says more than a number of a database, which --exclude and the JSON name.
            print(f"{rank:>4}  {result['score']:.4f}  {result['id']}{f'  {place}' if place != result['id'] else ''}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = VerbParser("rtd search", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of an RTD model")
    add_gallery_options(parser)
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        help="reference image: path or URL; repeat it for several. Without --text: find similar images",
    )
    parser.add_argument(
        "--text", help="condition, as in 'a photo of [the image] that ...'; without --image: plain text"
    )
    parser.add_argument("--weight", action="append", default=[], type=float, help="weight of each --image, in order")
    parser.add_argument(
        "--strength", type=float, help="strength of the condition: 0 is the reference alone (default: 1)"
    )
    parser.add_argument("--negative", metavar="TEXT", help="text of what to avoid")
    parser.add_argument("--negative-weight", type=float, help="weight of --negative (default: 0.25)")
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="file of a search in turns; a new file starts one, an existing file continues it",
    )
    parser.add_argument(
        "--use", action="append", default=[], type=int, metavar="RANK", help="result of the history as a reference"
    )
    parser.add_argument("--turn", type=int, help="turn of the history whose results --use means (default: the last)")
    parser.add_argument("--top-k", type=int, default=10, help="number of results (default: 10)")
    parser.add_argument("--min-score", type=float, help="leave out results below this cosine")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="only images with this value; repeat a field for either of its values",
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="ID", help="image to leave out")
    parser.add_argument("--keep-reference", action="store_true", help="keep the reference in the results")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--sheet", type=Path, help="contact sheet (default: search.png; with --json: none)")
    options = parser.parse_args(arguments)
    if options.sheet is None and not options.json:
        options.sheet = Path("search.png")
    if options.top_k < 1:
        raise ValueError(f"--top-k must be at least 1, got {options.top_k}.")
    if options.use and options.history is None:
        raise ValueError("--use means a result of a search before this one: name its file with --history.")
    if options.use and options.image:
        raise ValueError("give either --image, a new reference, or --use, a result as the reference.")
    if not (options.image or options.use or (options.text or "").strip()):
        raise ValueError("there is nothing to search for: give --image, --text or both.")
    return options


def _read_filter(conditions: list[str]) -> dict[str, list]:
    where = {}
    for text in conditions:
        name, value = _split_condition(text)
        where.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return where


def _split_condition(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--where takes FIELD=VALUE, got '{text}'.")
    return name, read_value(value)


def _check_sheet(sheet: Path) -> None:
    if sheet.suffix.lower() not in list_suffixes():
        known = ", ".join(sorted(list_suffixes()))
        raise ValueError(f"the contact sheet '{sheet}' is not an image: end its name with one of {known}.")
    if not sheet.parent.is_dir():
        raise ValueError(
            f"there is no folder '{sheet.parent}' for the contact sheet; name another place with --sheet."
        )


def _refuse_sheet_in(sheet: Path, folder: Path) -> None:
    if folder.is_dir() and sheet.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"the contact sheet '{sheet}' would be among the images of '{folder}' and be a result the next time: "
            "name another place with --sheet."
        )


def _draw(turn: dict, gallery, processor):
    from PIL import Image

    from modeling_rtd import is_url
    from trainer.drawing.contact_sheet import SheetRow, draw_contact_sheet

    def load(place: str) -> Image.Image:
        try:
            return processor.load_image(place)
        except ValueError:  # an id that is no path, or an image that has been moved
            return blank

    blank = Image.new("RGB", (1, 1), "lightgrey")

    query, results, references = turn["query"], turn["results"], _list_references(turn["query"])
    if turn["chosen"] is not None:  # ids, and no files of the one who searches
        references = gallery.locate(references)
    text = ", ".join(filter(None, [query.get("text"), "negative" in query and f"without: {query['negative']}"]))
    rows = []
    for row in range(max(1, -(-len(results) // _IN_A_ROW), len(references))):
        start = row * _IN_A_ROW
        part = results[start : start + _IN_A_ROW]
        places = gallery.locate([result["id"] for result in part])
        cells = [(blank if is_url(place) else load(place), False) for place in places]  # nothing is fetched for them
        captions = [f"{rank}   {result['score']:.3f}" for rank, result in enumerate(part, start=start + 1)]
        reference = load(references[row]) if row < len(references) else None
        rows.append(SheetRow(reference, "" if row else text, [cells], [captions]))
    return draw_contact_sheet(rows, ["results, best first: rank and score"])
