"""`rtd publish`: upload a model, a data set or a Space to the Hub. Without --push it only lists the files.

A model comes with its code, its pipeline and a card of recorded facts. With --dataset the first argument is a file of
text triplets or a folder of images. With --space it is the Hub id of a model, and the Space is a page that searches a
gallery with it.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from trainer.cli.app import read_examples
from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import VerbParser


__all__ = ["run"]

_READ_BY = {
    "a model or an adapter": (
        *("base_model", "results", "without", "picture", "benchmark_data"),
        *("license_name", "license_link", "card"),
    ),
    "--space": ("gallery", "examples"),
}


def run(arguments: list[str]) -> None:
    """List what would go up, or take it there.

    Raises:
        ValueError: If the card lacks facts, or anything must not be published, see `prepare_publication`.
    """
    refuse_old_names("publish", arguments, {"--licence": "--license"})
    options = _build_parser().parse_args(arguments)

    from trainer.publishing.model_card import write_card
    from trainer.publishing.publication import list_removals, push

    publication = _prepare(options)
    for name, content in publication.files.items():
        is_new = isinstance(content, bytes)
        size = len(content) if is_new else content.stat().st_size
        print(f"{size:>13,}  {name}{'  (written from recorded facts)' if is_new else ''}")
    if options.card and publication.card:
        write_card(publication.card, options.card)
    for note in publication.notes:
        print(f"Note: {note}.")
    if not options.push:
        with contextlib.suppress(OSError):  # no network is needed to see what would go up
            for name in list_removals(publication, options.endpoint, options.overwrite_foreign)[0]:
                print(f"would be removed from the Hub: {name}")
        print(f"Nothing was uploaded. With --push these {len(publication.files)} files go to {options.repo}.")
        return
    address, removed = push(publication, options.private, options.endpoint, options.overwrite_foreign)
    for name in removed:
        print(f"removed from the Hub: {name}")
    print(f"published: {address}")


def _build_parser() -> VerbParser:
    parser = VerbParser("rtd publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="directory of a model or an adapter, such as runs/rtd/model")
    parser.add_argument("repo", help="where it goes: org/name")
    parser.add_argument(
        "--push", action="store_true", help="upload; without this flag, only list what would be uploaded"
    )
    parser.add_argument("--license", help="license of the weights, as the Hub names it, such as apache-2.0")
    parser.add_argument("--license-name", help="where --license is other: its name")
    parser.add_argument("--license-link", help="where --license is other: its address")
    parser.add_argument("--base-model", help="the CLIP underneath, as it is on the Hub; none where it is not there")
    parser.add_argument(
        "--results", nargs="+", default=[], help="records of rtd evaluate, and diagnosis.json of rtd diagnose"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], choices=["evaluation", "alignment"], help="say that it was not measured"
    )
    parser.add_argument("--picture", type=Path, help="PNG that the card shows, such as results.png of rtd demo")
    parser.add_argument(
        "--benchmark-data",
        action="append",
        default=[],
        metavar="NAME=ID",
        help="Hub data set that a benchmark is, as org/name or org/name:task; its results go to .eval_results",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--dataset", action="store_true", help="publish text triplets or a folder of images")
    kinds.add_argument("--space", action="store_true", help="publish the page of rtd app over the images of --gallery")
    parser.add_argument("--gallery", type=Path, help="folder of images of a Space; everybody can see them")
    parser.add_argument(
        "--examples", type=Path, metavar="FILE", help="jsonl of queries to click in a Space, as rtd app reads it"
    )
    parser.add_argument("--card", type=Path, help="also write the card here, and its facts beside it as JSON")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--overwrite-foreign",
        action="store_true",
        help="overwrite files of the same names that rtd publish has not written; others are never touched",
    )
    parser.add_argument("--endpoint", help="another Hub, such as a private one (default: that of HF_ENDPOINT)")
    return parser


def _refuse_ignored(options: argparse.Namespace) -> None:
    """Refuse options that what is published does not read."""
    kind = "--dataset" if options.dataset else "--space" if options.space else "a model or an adapter"
    for owner, names in _READ_BY.items():
        given = next((name for name in names if getattr(options, name)), None)
        if owner != kind and given:
            raise ValueError(f"--{given.replace('_', '-')} is for {owner}, but this publishes {kind}: leave it out.")
    if options.license_name and options.license != "other":
        raise ValueError(f"--license-name is for --license other, got --license {options.license}.")


def _prepare(options: argparse.Namespace):
    _refuse_ignored(options)
    if options.dataset:
        from trainer.publishing.data_set import prepare_data_set

        return prepare_data_set(options.folder, options.repo, options.license)
    if options.space:
        from trainer.publishing.space import prepare_space

        examples = read_examples(options.examples) if options.examples else []
        return prepare_space(options.folder, options.repo, options.gallery, options.license, examples)

    from trainer.publishing.publication import prepare_publication

    pairs = [text.partition("=") for text in options.benchmark_data]
    if wrong := next((text for text, pair in zip(options.benchmark_data, pairs, strict=True) if not all(pair)), None):
        raise ValueError(f"--benchmark-data takes NAME=ID, such as cirr=org/cirr; got '{wrong}'.")
    return prepare_publication(
        options.folder,
        options.repo,
        options.base_model,
        options.license,
        options.results,
        options.without,
        # A dry run needs no network: what cannot be looked up becomes a note.
        is_final=options.push,
        picture=options.picture,
        license_name=options.license_name,
        license_link=options.license_link,
        benchmark_data={name: place for name, _, place in pairs},
    )
