"""`rtd publish`: a model on the Hub, with its code, its pipeline and a card of recorded facts; dry run by default."""

from __future__ import annotations

import contextlib
from pathlib import Path

from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """List what would go up, or take it there.

    Args:
        arguments (`list[str]`): Options.

    Raises:
        ValueError: If the card lacks facts, or anything must not be published, see `prepare_publication`.
    """
    refuse_old_names("publish", arguments, {"--licence": "--license"})
    parser = VerbParser("rtd publish", description=__doc__)
    parser.add_argument("folder", type=Path, help="directory of a model or an adapter, such as runs/rtd/model")
    parser.add_argument("repo", help="where it goes: org/name")
    parser.add_argument("--push", action="store_true", help="do it; without, it is only listed what would go up")
    parser.add_argument("--license", help="license of the weights, as the Hub names it, such as apache-2.0")
    parser.add_argument("--base-model", help="the CLIP underneath, as it is on the Hub; none where it is not there")
    parser.add_argument(
        "--results", nargs="+", default=[], help="records of rtd evaluate, and diagnosis.json of rtd diagnose"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], choices=["evaluation", "alignment"], help="say that it was not measured"
    )
    parser.add_argument("--card", type=Path, help="also write the card here, and its facts beside it as JSON")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--overwrite-foreign",
        action="store_true",
        help="overwrite files of the same names that rtd publish has not written; others are never touched",
    )
    parser.add_argument("--endpoint", help="another Hub, such as a private one (default: that of HF_ENDPOINT)")
    options = parser.parse_args(arguments)

    from trainer.publishing.model_card import write_card
    from trainer.publishing.publication import list_removals, prepare_publication, push

    publication = prepare_publication(
        options.folder,
        options.repo,
        options.base_model,
        options.license,
        options.results,
        options.without,
        # A dry run needs no network: what cannot be looked up becomes a note.
        is_final=options.push,
    )
    for name, content in publication.files.items():
        is_new = isinstance(content, bytes)
        size = len(content) if is_new else content.stat().st_size
        print(f"{size:>13,}  {name}{'  (written from recorded facts)' if is_new else ''}")
    if options.card:
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
