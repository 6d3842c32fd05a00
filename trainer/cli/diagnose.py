"""`rtd diagnose`: explain a model's numbers on a benchmark, in a report with pictures."""

from __future__ import annotations

from pathlib import Path

from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Diagnose a model, and print where the report is.

    Raises:
        ValueError: If an option, a file or the output folder is not accepted.
    """
    from trainer.cli.evaluate import add_switches, read_switches
    from trainer.cli.old_names import refuse_old_names

    refuse_old_names("diagnose", arguments, {"--output": "--output-dir"})
    parser = VerbParser("rtd diagnose", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of an RTD model or of an adapter")
    parser.add_argument("--benchmark", required=True, help="benchmark, such as wardrobe or wardrobe/mini")
    parser.add_argument("--split", help="split of its queries (default: the one with public labels)")
    parser.add_argument("--root", type=Path, help="folder of the benchmark; not needed for a drawn world")
    parser.add_argument(
        "--allow-missing", action="store_true", help="skip missing images; results are then not comparable"
    )
    parser.add_argument("--captions", help="json of image id to caption, for the parts that need captions of targets")
    parser.add_argument("--triplets", help="text triplets to judge too: jsonl, json, csv, parquet or Hub id")
    parser.add_argument("-o", "--output-dir", required=True, help="folder of report.md, diagnosis.json and pictures")
    parser.add_argument("-k", type=int, default=5, help="ranks that count as found (default: %(default)s)")
    parser.add_argument(
        "--noise-scale", type=float, default=0.5, help="noise on text embeddings, absolute (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images in one pass (default: %(default)s)")
    add_switches(parser)
    options = parser.parse_args(arguments)

    from trainer.encoding.processes import join_processes
    from trainer.evaluation.benchmarks import check_one_part, check_request
    from trainer.evaluation.diagnosis import add_target_captions, run_diagnosis
    from trainer.evaluation.evaluate import find_benchmark_root, make_record, open_parts
    from trainer.evaluation.systems import ModelSystem

    name, switches = options.benchmark, read_switches(options)
    check_one_part(name, options.split)
    root = find_benchmark_root(options.root, name, is_one_of_many=False)
    # Before a model is loaded, which takes long.
    check_request(name, options.split, root, **switches)
    with join_processes() as state:
        system = ModelSystem(options.model, batch_size=options.batch_size)
        parts, folder, missing = open_parts(
            name, options.split, root, system.method, allow_missing=options.allow_missing, **switches
        )
        benchmark = add_target_captions(parts[0], options.captions) if options.captions else parts[0]
        facts = run_diagnosis(
            system.model,
            system.processor,
            benchmark,
            options.output_dir,
            triplets=options.triplets,
            k=options.k,
            noise_scale=options.noise_scale,
            batch_size=options.batch_size,
            name=options.model,
            record=make_record(system, name, parts, folder, missing),
        )
        if state.is_main_process:
            for name, part in facts.items():
                if "not_available" in part:
                    print(f"{name}: not available, {part['not_available']}")
            print(f"report: {options.output_dir}/report.md")
