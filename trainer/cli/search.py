"""`rtd search`: images of a folder or of an index, by a reference image, a sentence, or both."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer.images import IMAGE_SUFFIXES, list_images


__all__ = ["run"]

_IN_A_ROW = 10  # of the contact sheet


def run(arguments: list[str]) -> None:
    """Search, print a table or JSON, and draw a contact sheet.

    Args:
        arguments (`list[str]`): Options.

    Raises:
        ValueError: If the folder holds no readable image, the reference is unreadable, or an option is not accepted.
    """
    options = _parse(arguments)
    where = dict(_split_condition(text) for text in options.where)
    _check_sheet(options.sheet)
    _refuse_sheet_in(options.sheet, options.gallery)

    from modeling_rtd import ComposedImageRetrievalPipeline, Gallery
    from trainer.assembly import load_model_and_processor

    is_index = Gallery.is_in(options.gallery)
    paths = [] if is_index else [str(path.resolve()) for path in list_images(options.gallery)]
    model, processor = load_model_and_processor(options.model)
    if options.image is not None:
        reference = processor.load_image(options.image)
    if is_index:
        gallery = Gallery.load(options.gallery, **({} if options.token is None else {"token": options.token}))
        for folder in {Path(name).parent for name in gallery.ids if Path(name).is_absolute()}:  # not of other ids
            _refuse_sheet_in(options.sheet, folder)
    else:
        gallery, skipped = Gallery.from_images(model, processor, paths)
        if skipped:
            reasons = "\n".join(f"  {reason}" for reason in skipped)
            print(f"{len(skipped)} of {len(paths)} images were skipped:\n{reasons}", file=sys.stderr)
    search = ComposedImageRetrievalPipeline(model=model, processor=processor, gallery=gallery, device=model.device)
    results = search(
        {"image": options.image, "text": options.text, "exclude": options.exclude},
        top_k=options.top_k,
        where=where,
        min_score=options.min_score,
        exclude_reference=not options.keep_reference,
    )
    if options.image and not options.keep_reference and str(Path(options.image).resolve()) in gallery:
        print("the reference lies in the gallery and is left out (--keep-reference keeps it)", file=sys.stderr)
    if options.json:
        rows = [{"rank": rank, **result} for rank, result in enumerate(results, start=1)]
        print(json.dumps({"image": options.image, "text": options.text, "results": rows}, indent=1))
    else:
        print("rank  score   image")
        for rank, result in enumerate(results, start=1):
            print(f"{rank:>4}  {result['score']:.4f}  {result['id']}")
    _draw(results, reference if options.image else None, options.text, processor).save(options.sheet)
    print(f"contact sheet: {options.sheet}", file=sys.stderr if options.json else sys.stdout)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("rtd search", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of an RTD model")
    parser.add_argument(
        "--gallery", required=True, type=Path, help="folder of images, with its sub-folders, or an index of rtd index"
    )
    parser.add_argument("--image", help="reference image: path or URL; without --text: find similar ones")
    parser.add_argument("--text", help="condition, as in 'a photo of [the image] that ...'; alone: plain text")
    parser.add_argument("--top-k", type=int, default=10, help="number of results (default: 10)")
    parser.add_argument("--min-score", type=float, help="leave out results below this cosine")
    parser.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="only such images")
    parser.add_argument("--exclude", action="append", default=[], metavar="ID", help="leave this image out")
    parser.add_argument("--keep-reference", action="store_true", help="do not leave the reference out of the results")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--token", help="of a Milvus server")
    parser.add_argument("--sheet", type=Path, default=Path("search.png"), help="contact sheet (default: search.png)")
    options = parser.parse_args(arguments)
    if options.image is None and not (options.text or "").strip():
        raise ValueError("there is nothing to search for: give --image, --text or both.")
    return options


def _split_condition(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--where takes FIELD=VALUE, got '{text}'.")
    try:
        return name, json.loads(value)  # numbers, true and false, lists
    except ValueError:
        return name, value


def _check_sheet(sheet: Path) -> None:
    if sheet.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"the contact sheet '{sheet}' is no image: end its name with one of {', '.join(IMAGE_SUFFIXES)}."
        )
    if not sheet.parent.is_dir():
        raise ValueError(
            f"there is no folder '{sheet.parent}' for the contact sheet; name another place with --sheet."
        )


def _refuse_sheet_in(sheet: Path, folder: Path) -> None:
    if folder.is_dir() and sheet.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"the contact sheet '{sheet}' would lie among the images of '{folder}' and be a result the next time: "
            "name another place with --sheet."
        )


def _draw(results: list[dict], reference, text: str | None, processor):
    from PIL import Image

    from trainer.contact_sheet import SheetRow, draw_contact_sheet

    def load(result: dict) -> Image.Image:
        for name in (result["id"], result.get("metadata", {}).get("path")):
            try:
                return processor.load_image(name)
            except ValueError:  # an id that is no path, or an image that has been moved
                continue
        return Image.new("RGB", (1, 1), "lightgrey")

    rows = []
    for start in range(0, max(1, len(results)), _IN_A_ROW):
        part = results[start : start + _IN_A_ROW]
        cells = [(load(result), False) for result in part]
        captions = [f"{rank}   {result['score']:.3f}" for rank, result in enumerate(part, start=start + 1)]
        rows.append(SheetRow(None if start else reference, "" if start else text or "", [cells], [captions]))
    return draw_contact_sheet(rows, ["results, best first: rank and score"])
