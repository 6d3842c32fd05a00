"""Galleries as verbs name them: an index, a table of PostgreSQL, or a folder of images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


__all__ = ["add_gallery_options", "check_gallery", "compare_pictures", "is_stored", "open_stored", "read_value"]

_LAYOUT = ("table", "id_column", "embedding_column", "path", "owner", "all_owners", "volume")
_SERVER = ("uri", "token")


def add_gallery_options(parser: argparse.ArgumentParser) -> None:
    """Add `--gallery`, and what says which rows of a table are meant.

    Args:
        parser (`argparse.ArgumentParser`): Of a verb.
    """
    parser.add_argument(
        "--gallery",
        required=True,
        type=_read_place,
        help="folder of images with its sub-folders, an index of rtd index, or postgresql://... "
        "for the table of another program, such as Immich, which is only read",
    )
    parser.add_argument(
        "--precision",
        help="int8 or binary: search an index through codes of one byte or one bit a number, made when it is opened, "
        "in 4 or 32 times less memory (default: its numbers as they are)",
    )
    parser.add_argument("--uri", help="address of the database, if the index is in one (Milvus: default as saved)")
    parser.add_argument("--token", help="token of the Milvus server")
    table = parser.add_argument_group("table of PostgreSQL", "Put a password into PGPASSWORD or ~/.pgpass.")
    table.add_argument("--owner", help="Immich: owner of the searched pictures, by e-mail address or id")
    # `None` and not False where it was not given, as `_refuse` expects.
    table.add_argument(
        "--all-owners", action="store_true", default=None, help="Immich: search the pictures of all owners"
    )
    table.add_argument(
        "--volume", metavar="HERE:THERE", help="folder HERE on this machine that paths call THERE, as in Docker"
    )
    table.add_argument(
        "--use-index",
        action="store_true",
        default=None,
        help="use the table's own index, which is faster and may miss some",
    )
    table.add_argument("--table", help="table of embeddings (default: Immich's smart_search)")
    table.add_argument("--id-column", help="column of ids (default: assetId)")
    table.add_argument("--embedding-column", help="column of embeddings (default: embedding)")
    table.add_argument("--path", metavar="SQL", help="column with the path of a picture; Immich: preview or original")


def _read_place(text: str) -> Path | str:
    # A Path would fold the two slashes of an address into one.
    return text if text.startswith(("postgresql://", "postgres://")) else Path(text)


def check_gallery(options: argparse.Namespace) -> None:
    """Refuse a folder that is not there, before anything that takes long is imported.

    Args:
        options (`argparse.Namespace`): With those of `add_gallery_options`.

    Raises:
        ValueError: If there is no such folder.
    """
    if isinstance(options.gallery, Path) and not options.gallery.is_dir():
        raise ValueError(
            f"--gallery '{options.gallery}' is not a folder; name a folder of images, an index of `rtd index`, or "
            "postgresql://..."
        )


def is_stored(options: argparse.Namespace) -> bool:
    """Check whether `--gallery` holds embeddings already, in an index or a table.

    Args:
        options (`argparse.Namespace`): With those of `add_gallery_options`.

    Returns:
        `bool`: Whether it is not a folder of images.

    Raises:
        ValueError: If options of a table or of a Milvus server come without one.
    """
    from modeling_rtd import Gallery

    is_table = isinstance(options.gallery, str)
    if not is_table:
        hint = "is of a table of PostgreSQL: name it as --gallery postgresql://..."
        _refuse(options, (*_LAYOUT, "use_index"), hint)
    has_rows = is_table or Gallery.is_in(options.gallery)
    if is_table or not has_rows:
        _refuse(options, ("precision",), "is for an index: name the folder of one as --gallery, or leave it out.")
        hint = "is of an index on a Milvus server: name the folder of the index as --gallery, or leave it out."
        _refuse(options, _SERVER, hint)
    return has_rows


def _refuse(options: argparse.Namespace, names: tuple[str, ...], hint: str) -> None:
    wrong = next((name for name in names if getattr(options, name) is not None), None)
    if wrong is not None:
        raise ValueError(f"--{wrong.replace('_', '-')} {hint}")


def open_stored(options: argparse.Namespace):
    """Open a gallery of which `is_stored` is true.

    Args:
        options (`argparse.Namespace`): With those of `add_gallery_options`.

    Returns:
        [`Gallery`]: It.

    Raises:
        ValueError: If it cannot be opened.
    """
    from modeling_rtd import Gallery

    if not isinstance(options.gallery, str):
        own = {name: value for name in ("precision", *_SERVER) if (value := getattr(options, name)) is not None}
        return Gallery.load(options.gallery, **own)
    layout = {name: getattr(options, name) for name in _LAYOUT}
    layout = {name: value for name, value in layout.items() if value is not None}
    return Gallery.attach(options.gallery, exact=not options.use_index, **layout)


def compare_pictures(options: argparse.Namespace, gallery, model, processor) -> None:
    """Compare a few embeddings of a table with their pictures, and print how well they agree.

    Args:
        options (`argparse.Namespace`): With those of `add_gallery_options`; nothing is done where they name no table.
        gallery ([`Gallery`]): Of `open_stored`.
        model, processor: Whose image tower must have made the embeddings.

    Raises:
        ValueError: If they do not agree, or no picture can be opened.
    """
    if isinstance(options.gallery, str):
        cosine = gallery.check_tower(model, processor)
        print(f"a few embeddings compared with their pictures: smallest cosine {cosine:.4f}", file=sys.stderr)


def read_value(text: str) -> object:
    """Read a value of metadata from a text.

    Args:
        text (`str`): As `--where` and cells of a csv file have it.

    Returns:
        `object`: A number, `True`, `False`, a list and so on, where JSON knows the text as one; else the text.
    """
    try:
        return json.loads(text)
    except ValueError:
        return text
