"""`rtd index`: encode a folder of images once, or import embeddings that another program made.

Started by `torchrun` or `accelerate launch`, processes share the images.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection
from pathlib import Path

from trainer.cli.galleries import read_value
from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import VerbParser
from trainer.data.image_files import list_images, name_file


__all__ = ["run"]

_NUM_COMPARED = 8


def run(arguments: list[str]) -> None:
    """Make or extend an index; the same command continues after an interruption.

    Raises:
        ValueError: If there is nothing to index, an option is not accepted, or embeddings do not match the model.
    """
    parser = VerbParser("rtd index", description=__doc__)
    _add_options(parser)
    refuse_old_names("index", arguments, {"--out": "--output-dir"})
    options = parser.parse_args(arguments)
    if options.images is None and options.embeddings is None:
        raise ValueError("there is nothing to index: give --images, --embeddings, or both to compare them.")
    _refuse_unused(options)
    paths = [] if options.images is None else [name_file(path) for path in list_images(options.images)]
    chosen = {
        name: getattr(options, name)
        for name in ("engine", "dtype", "factory", "uri", "collection", "table", "index", "token")
    }
    chosen = {name: value for name, value in chosen.items() if value is not None}

    from accelerate.utils import broadcast_object_list

    from trainer.encoding.processes import join_processes, share_images
    from trainer.loading import load_model_and_processor

    with join_processes() as state:
        (paths,) = broadcast_object_list([paths])  # a file may come between two listings
        model, processor = load_model_and_processor(options.model)
        if state.is_main_process:
            _write(options, model, processor, paths, chosen)
        elif options.embeddings is None:
            # The main process waits for the batches of the others.
            for _ in share_images(model, processor, paths, num_workers=options.num_workers):
                pass


def _refuse_unused(options: argparse.Namespace) -> None:
    """Refuse what has no effect on this kind of index."""
    if options.embeddings is not None and (options.prune or options.if_exists is not None):
        raise ValueError("--prune and --if-exists are for images that are encoded: leave them out with --embeddings.")
    if options.columns is not None and (options.embeddings is None or options.embeddings.suffix != ".parquet"):
        raise ValueError("--columns names those of a parquet file: name one with --embeddings, or leave it out.")


def _write(options: argparse.Namespace, model, processor, paths: list[str], chosen: dict) -> None:
    from modeling_rtd import Gallery
    from trainer.encoding.processes import share_images

    named = _name_paths(paths)
    facts = {} if options.metadata is None else _read_metadata(options.metadata)
    if options.embeddings is not None:
        if Gallery.is_in(options.output_dir):
            raise ValueError(f"there is a gallery in '{options.output_dir}' already; choose another folder.")
        # In memory first: embeddings that do not match leave no index.
        for name, path in named.items():
            if name != path:
                facts[name] = {"path": path} | facts.get(name, {})
        named_columns = {} if options.columns is None else {"columns": tuple(options.columns)}
        gallery = Gallery.from_embeddings(options.embeddings, options.ids, facts, **named_columns)
        if paths:
            _compare(gallery, model, processor, named)
        else:
            print(
                "the embeddings were compared with no images: name a folder of some with --images, or make sure that "
                f"the image tower of '{options.model}' made them",
                file=sys.stderr,
            )
        gallery.save(options.output_dir, **chosen)
        print(f"index: {len(gallery)} images in {options.output_dir}")
        return
    gallery = Gallery(folder=options.output_dir, **chosen)
    known = set(gallery.ids)
    # An image that an import has under its bare name is not encoded again under its path.
    present = {path: name for name, path in named.items() if name in known}
    if options.metadata is not None:
        _refuse_strangers(facts, named)
        facts = {named[name]: row for name, row in facts.items() if name in named}
        print(f"metadata: {options.metadata} has rows of {len(facts)} of {len(paths)} images")
    gallery.add(
        model,
        processor,
        paths,
        [present.get(path, path) for path in paths],
        [facts.get(path) for path in paths],
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        if_exists=options.if_exists or "skip",
        encode=share_images,
    )
    if gallery.skipped:
        reasons = "\n".join(f"  {reason}" for reason in gallery.skipped)
        print(f"{len(gallery.skipped)} of {len(paths)} images were skipped:\n{reasons}", file=sys.stderr)
    if not len(gallery):
        raise ValueError(f"none of {len(paths)} images can be read.")
    num_new = len(gallery) - len(known)
    done = f"{num_new} of them new"
    if options.if_exists == "replace":
        done += f", {len(paths) - len(gallery.skipped) - num_new} replaced"
    _drop_gone(gallery, options, known, paths)
    print(f"index: {len(gallery)} images in {options.output_dir}, {done}")


def _drop_gone(gallery, options: argparse.Namespace, known: set[str], paths: list[str]) -> None:
    """Remove images that left the folder, or say that there are some."""
    folder, present = name_file(options.images), set(paths)
    gone = sorted(name for name in known - present if Path(name).is_absolute() and Path(name).is_relative_to(folder))
    if gone and options.prune:
        gallery.remove(gone)
        print(f"removed: {len(gone)} images that are no longer in {options.images}")
    elif gone:
        print(
            f"{len(gone)} images of the index, such as '{gone[0]}', are no longer in {options.images}: remove them "
            "with --prune",
            file=sys.stderr,
        )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="directory or Hub id of an RTD model")
    parser.add_argument("-o", "--output-dir", required=True, type=Path, help="folder of the index")
    parser.add_argument("--images", type=Path, help="folder of images, indexed with its sub-folders")
    parser.add_argument("--embeddings", type=Path, help="embeddings to import: .npy, .parquet, .faiss or .index")
    parser.add_argument("--ids", type=Path, help="ids of the embeddings: .txt, .json or .npy")
    parser.add_argument(
        "--columns",
        nargs=2,
        metavar=("ID", "EMBEDDING"),
        help="columns of a parquet file (default: id embedding); the others become metadata",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        help="csv, jsonl, json or parquet with a column id (path, name, or name without suffix of an image); the "
        "other columns become metadata of the images that are added",
    )
    parser.add_argument("--if-exists", choices=["skip", "replace"], help="images that are there (default: skip)")
    parser.add_argument("--prune", action="store_true", help="remove images that are no longer in the folder")
    parser.add_argument("--engine", help="exact (default), faiss, milvus or pgvector")
    parser.add_argument("--dtype", help="type to store in: float32 (default) or float16")
    parser.add_argument("--factory", help="FAISS index factory string, such as HNSW32 (default: Flat)")
    parser.add_argument(
        "--uri",
        help="address of the database; it is not saved for PostgreSQL. Milvus: a server or a .db "
        "file (default: a file in the index). PostgreSQL: postgresql://... (default: PGHOST, PGDATABASE and so on)",
    )
    parser.add_argument("--collection", help="Milvus collection (default: gallery)")
    parser.add_argument("--table", help="PostgreSQL table (default: gallery)")
    parser.add_argument(
        "--index",
        help="index of the database. Milvus: FLAT (default, exact), HNSW or other. PostgreSQL: "
        "none (default, exact) or hnsw",
    )
    parser.add_argument("--token", help="token of a Milvus server; it is not saved")
    parser.add_argument("--batch-size", type=int, default=64, help="images in one pass (default: 64)")
    parser.add_argument("--num-workers", type=int, help="threads that decode (default: one a CPU, at most 8)")


def _read_metadata(path: Path) -> dict[str, dict]:
    from trainer.data.tables import check_columns, load_table

    table = load_table(path)
    check_columns(table.column_names, ["id"])
    rows = {str(row.pop("id")): row for row in table}
    if path.suffix.lower() != ".csv":
        return rows
    # Cells are texts, and an empty one is nothing.
    return {name: {field: read_value(cell) for field, cell in row.items() if cell} for name, row in rows.items()}


def _name_paths(paths: list[str]) -> dict[str, str]:
    """Name images as an index may: by name without suffix, name, and path, where that is one image's alone."""
    named = {}
    for path in paths:
        for name in {Path(path).stem, Path(path).name, path, os.path.relpath(path)}:
            named.setdefault(name, set()).add(path)
    return {name: found.pop() for name, found in named.items() if len(found) == 1}


def _compare(gallery, model, processor, named: dict[str, str]) -> None:
    """Compare some of the images with their embeddings."""
    _refuse_strangers(gallery.ids, named)
    ids = set(gallery.ids)
    present = {name: path for name, path in named.items() if name in ids}
    chosen = dict(list(present.items())[:: max(1, len(present) // _NUM_COMPARED)][:_NUM_COMPARED])
    cosine = gallery.verify_embeddings(model, processor, chosen)
    print(f"{len(chosen)} images compared with their embeddings: smallest cosine {cosine:.4f}")


def _refuse_strangers(ids: Collection[str], named: dict[str, str]) -> None:
    if named.keys().isdisjoint(ids):
        raise ValueError(
            f"none of the ids, such as '{next(iter(ids))}', is the name of one of the images, such as "
            f"'{next(iter(named.values()))}'. An id may be a path, a name, or a name without suffix."
        )
