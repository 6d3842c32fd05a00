"""`rtd search`: images of a folder, by a reference image and a sentence."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.images import list_images


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Search a folder, print a table and draw a contact sheet.

    Args:
        arguments (`list[str]`): Options.

    Raises:
        ValueError: If the folder holds no readable image, the reference is unreadable, or an option is not accepted.
    """
    parser = argparse.ArgumentParser("rtd search", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of an RTD model")
    parser.add_argument("--gallery", required=True, type=Path, help="folder of images, searched with its sub-folders")
    parser.add_argument("--image", required=True, help="reference image: path or URL")
    parser.add_argument("--text", default="", help="condition, as in 'a photo of [the image] that ...'")
    parser.add_argument("--top-k", type=int, default=10, help="number of results (default: 10)")
    parser.add_argument("--keep-reference", action="store_true", help="do not leave the reference out of the results")
    parser.add_argument("--sheet", type=Path, default=Path("search.png"), help="contact sheet (default: search.png)")
    options = parser.parse_args(arguments)
    paths = list_images(options.gallery)

    from modeling_rtd import Gallery
    from trainer.assembly import load_model_and_processor
    from trainer.contact_sheet import SheetRow, draw_contact_sheet

    model, processor = load_model_and_processor(options.model)
    reference = processor.load_image(options.image)
    inputs = processor(images=[reference], conditions=[options.text]).to(model.device)
    query = model(**inputs).composed_embeds
    gallery, skipped = Gallery.from_images(model, processor, paths)
    if skipped:
        reasons = "\n".join(f"  {reason}" for reason in skipped)
        print(f"{len(skipped)} of {len(paths)} images were skipped:\n{reasons}", file=sys.stderr)
    same = [str(path) for path in paths if path.resolve() == Path(options.image).resolve()]
    same = [] if options.keep_reference else same
    if same:
        print("the reference lies in the gallery and is left out (--keep-reference keeps it)", file=sys.stderr)
    results = gallery.search(query, options.top_k, exclude=[same])[0]
    print("rank  score   image")
    for rank, result in enumerate(results, start=1):
        print(f"{rank:>4}  {result['score']:.4f}  {result['id']}")
    images = [(processor.load_image(result["id"]), False) for result in results]
    draw_contact_sheet([SheetRow(reference, options.text, [images])], ["results, best first"]).save(options.sheet)
    print(f"contact sheet: {options.sheet}")
