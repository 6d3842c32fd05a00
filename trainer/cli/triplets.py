"""`rtd triplets`: make text triplets from plain captions."""

from __future__ import annotations

from pathlib import Path

from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Make triplets, or continue the run that began the output, and print where they and the report are.

    Raises:
        ValueError: If an option or a file is not accepted.
    """
    refuse_old_names("triplets", arguments, {"--model": "--similarity-model"})
    parser = VerbParser("rtd triplets", description=__doc__)
    parser.add_argument(
        "captions",
        nargs="+",
        help="txt (a caption a line), or jsonl, json, csv, parquet, tar, patterns, folder or Hub id: column text",
    )
    parser.add_argument("--split", help="split of a folder or a Hub data set (default: train)")
    parser.add_argument("-o", "--output", required=True, help="jsonl file to write; its reports come beside it")
    parser.add_argument("--method", default="rules", help="rules: edits by templates; lm: a language model's")
    parser.add_argument(
        "--similarity-model", help="CLIP or RTD model: keep pairs whose text similarity is in the band"
    )
    parser.add_argument(
        "--similarity-band", nargs=2, type=float, default=(0.5, 0.98), metavar=("LOW", "HIGH"), help="0.5 0.98"
    )
    parser.add_argument("--language-model", help="for lm: causal language model, directory or Hub id")
    parser.add_argument("--keyword-fn", default="rule", help="for rules: rule, lexicon (TextBlob) or spacy")
    parser.add_argument("--per-caption", type=int, default=1, help="triplets tried for each caption (default: 1)")
    parser.add_argument("--num-proc", type=int, default=1, help="for rules: processes that edit captions (default: 1)")
    parser.add_argument(
        "--num-shards", type=int, default=1, help="files to write, as triplets-00000-of-00008.jsonl (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides every draw (default: 0)")
    options = vars(parser.parse_args(arguments))

    from trainer.triplet_making import write_triplets

    captions, place = options.pop("captions"), Path(options.pop("output"))
    options["model"] = options.pop("similarity_model")
    options["similarity_band"] = tuple(options["similarity_band"])
    report = write_triplets(captions, place, **options)
    # Several files by a pattern, as --triplets takes it.
    output = place if options["num_shards"] == 1 else place.with_name(f"{place.stem}-*{place.suffix}")
    print(f"{report['triplets']} triplets from {report['captions']['used']} captions: {output}")
    # The finished report of an earlier version may lack it.
    if other := report["captions"].get("other_script", {}).get("count"):
        print(f"{other} captions are in another script than Latin, and rules know English only: see --method lm")
    print(f"report: {place}.report.md")
