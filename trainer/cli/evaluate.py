"""`rtd evaluate`: judge a model or another system on benchmarks, or check their folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import VerbParser


__all__ = ["add_switches", "add_system_options", "build_system", "read_switches", "run"]

_SWITCHES = {
    "template": "prompt, such as 'a photo of $ that {condition}'",
    "caption_order": "FashionIQ's two captions: both, forward or reversed",
    "gallery": "FashionIQ's gallery: original or val",
    "padding": "padding of long images: none or target",
    "crop": "rounding of the centre crop: transformers or published",
    "ties": "order among equal similarities: gallery, or targets last",
}
_PLACES = ("name_or_path", "embeddings", "rankings")  # where the record of a system names it
_OF_A_MODEL = ("projection", "mode", "precision", "template", "caption_order", "padding", "crop")


def add_system_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which system is judged.

    Args:
        parser (`argparse.ArgumentParser`): Of the verb.
    """
    parser.add_argument("model", nargs="?", help="directory or Hub id of an RTD model, an adapter, or a CLIP")
    parser.add_argument("--projection", help="trained projection; needed if the model is a CLIP")
    parser.add_argument(
        "--embeddings", help="instead of a model: npz, parquet or json of gallery and query embeddings"
    )
    parser.add_argument("--rankings", nargs="+", help="instead of a model: npz, parquet or json of rankings")
    parser.add_argument("--mode", help="composed (default), or a baseline: text, image or sum")
    parser.add_argument("--precision", help="precision of the towers: float32 (default) or bfloat16")
    parser.add_argument("--batch-size", type=int, default=64, help="images or queries in one pass (default: 64)")
    parser.add_argument("--root", type=Path, help="folder of the benchmark; for several, a folder with one for each")
    parser.add_argument(
        "-o", "--output-dir", type=Path, default=Path("runs/evaluate"), help="folder of records (default: %(default)s)"
    )
    parser.add_argument("--cache-dir", type=Path, help="folder for embeddings of images (default: OUTPUT_DIR/cache)")


def add_switches(parser: argparse.ArgumentParser) -> None:
    """Add the switches of a protocol; left out, each is as the model's method was published.

    Args:
        parser (`argparse.ArgumentParser`): Of the verb.
    """
    reference = parser.add_mutually_exclusive_group()
    # `None` leaves the switch where the method published it.
    reference.add_argument(
        "--exclude-reference", action="store_true", default=None, help="remove the reference from the ranking"
    )
    reference.add_argument(
        "--keep-reference", action="store_false", dest="exclude_reference", help="keep the reference in the ranking"
    )
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=text)


def read_switches(options: argparse.Namespace) -> dict:
    """Read the switches back.

    Args:
        options (`argparse.Namespace`): Parsed.

    Returns:
        `dict`: By name; `None` if not given.
    """
    return {name: getattr(options, name) for name in ("exclude_reference", *_SWITCHES)}


def build_system(options: argparse.Namespace):
    """Build the system that the options name.

    Args:
        options (`argparse.Namespace`): Parsed.

    Returns:
        [`ModelSystem`], [`EmbeddingSystem`] or [`RankingSystem`].

    Raises:
        ValueError: If they name none, or several, or a model's options beside what another system computed.
    """
    from trainer.evaluation.systems import EmbeddingSystem, ModelSystem, RankingSystem

    if sum(bool(given) for given in (options.model, options.embeddings, options.rankings)) != 1:
        raise ValueError("name a MODEL, or --embeddings FILE, or --rankings FILE; one of the three.")
    # Rankings have no similarities that could be equal.
    idle = () if options.model else _OF_A_MODEL if options.embeddings else (*_OF_A_MODEL, "ties")
    if idle := [name for name in idle if getattr(options, name) is not None]:
        raise ValueError(
            f"--{idle[0].replace('_', '-')} is for a model; what another system computed is taken as it is."
        )
    if options.embeddings:
        return EmbeddingSystem(options.embeddings)
    if options.rankings:
        return RankingSystem(options.rankings)
    return ModelSystem(
        options.model,
        mode=options.mode or "composed",
        precision=options.precision,
        batch_size=options.batch_size,
        cache_dir=options.cache_dir or options.output_dir / "cache",
        projection=options.projection,
    )


def run(arguments: list[str]) -> None:
    """Judge, print tables, and write a record for each benchmark; or check directories.

    Raises:
        ValueError: If an option, a directory or a file is not in order.
    """
    from trainer.evaluation.benchmarks import BENCHMARKS, check_request

    refuse_old_names("evaluate", arguments, {"--alpha": "rtd interpolate MODEL --alpha A -o DIR, then evaluate DIR"})
    parser = VerbParser("rtd evaluate", description=__doc__)
    parser.add_argument("--benchmark", required=True, help=f"one or several, with commas: {', '.join(BENCHMARKS)}")
    parser.add_argument("--split", help="split of the queries (default: the one with public labels)")
    parser.add_argument("--check", action="store_true", help="only check the folders; load no model")
    parser.add_argument(
        "--allow-missing", action="store_true", help="skip missing images; results are then not comparable"
    )
    parser.add_argument("--against", metavar="MODEL", help="also judge this model, and compare query by query")
    add_system_options(parser)
    add_switches(parser)
    options = parser.parse_args(arguments)
    names = list(dict.fromkeys(name.strip() for name in options.benchmark.split(",")))
    roots, switches = _find_roots(names, options.root), read_switches(options)
    # All of them first: the last one must not be refused after hours.
    for name, root in roots.items():
        check_request(name, options.split, root, **switches)
    if options.check:
        _check(roots, options.split)
        return

    from trainer.encoding.processes import join_processes
    from trainer.evaluation.evaluate import compare, evaluate, write_record

    with join_processes() as state:
        system, other = build_system(options), None
        if options.against:
            model_alone = {"model": options.against, "embeddings": None, "rankings": None}
            other = build_system(argparse.Namespace(**vars(options) | model_alone))
        for name, root in roots.items():
            request, changes = (name, options.split, root), None
            wanted = {"allow_missing": options.allow_missing, **switches}
            if other is None:
                records = [evaluate(system, *request, **wanted)]
            else:
                *records, changes = compare(system, other, *request, **wanted)
            if state.is_main_process:
                for record in records:
                    print(_format(record))
                    print(f"record: {write_record(record, options.output_dir)}\n")
                if changes:
                    print(_format_changes(changes, options.against))


def _find_roots(names: list[str], root: Path | None) -> dict[str, Path | None]:
    """Find the directory of each benchmark."""
    from trainer.evaluation.benchmarks import find_benchmark
    from trainer.evaluation.evaluate import find_benchmark_root

    # Several benchmarks share a root, with a folder for each.
    many = len({info.name for info in map(find_benchmark, names) if info.needs_root}) > 1
    return {name: find_benchmark_root(root, name, many) for name in names}


def _check(roots: dict[str, Path | None], split: str | None) -> None:
    from trainer.evaluation.benchmarks import find_benchmark
    from trainer.evaluation.benchmarks.checking import check_folder

    incomplete = []
    for name, root in roots.items():
        info = find_benchmark(name)
        if not info.needs_root:
            print(f"{info.name} is drawn: there is nothing to check.")
            continue
        findings = check_folder(info, root, split, name.partition("/")[2])
        print(f"{info.name} in {root}\nIt should hold\n{info.layout}\n")
        print("\n".join(f"  {finding.kind:<8} {finding.text}" for finding in findings), end="\n\n")
        # Files beside the images change no number.
        if any(finding.kind not in ("ok", "extra") for finding in findings):
            incomplete.append(info.name)
    if incomplete:
        raise ValueError(f"not in order: {', '.join(incomplete)}; see above.")


def _format_changes(changes: dict[str, dict], other: str) -> str:
    """Write the changes of shares of queries, in points, and the exact sign test of gained against lost."""
    lines = [f"From {other}, query by query", f"{'points':>36}{'95 % interval':>24}{'gained':>9}{'lost':>9}{'p':>9}"]
    for name, change in changes.items():
        low, high = (f"{100 * bound:+.2f}" for bound in change["interval"])
        cells = f"{change['gained']:>9}{change['lost']:>9}{change['p_value']:>9.2g}"
        lines.append(f"{name:<26}{100 * change['recall_change']:>+10.2f}{f'{low} to {high}':>24}{cells}")
    return "\n".join(lines) + "\n"


def _format(record: dict) -> str:
    """Write a table, in percent, but for ranks."""
    columns = {**record["parts"], "all": record["metrics"]} if record["parts"] else {"": record["metrics"]}
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    parts = record["numbers"].values()
    images = f"{len(parts)} galleries" if len(parts) > 1 else f"{sum(part['gallery'] for part in parts):,} images"
    judged = next((record["system"][key] for key in _PLACES if record["system"].get(key)), "a model in memory")
    lines = [
        f"{judged}: {sum(part['queries'] for part in parts):,} queries, {images}",
        f"{record['benchmark']} {record['split']}, percent".ljust(36) + "".join(f"{name:>18}" for name in columns),
    ]
    for name in names:
        scale = 1 if name.endswith("_rank") else 100
        cells = "".join(
            f"{scores[name] * scale:>18.2f}" if name in scores else " " * 18 for scores in columns.values()
        )
        lines.append(f"{name:<36}{cells}")
    if record["deviations"]:
        lines.append("Not comparable with published numbers: " + "; ".join(record["deviations"]))
    return "\n".join(lines)
