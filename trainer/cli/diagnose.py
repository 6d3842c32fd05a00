"""`rtd diagnose`: what a model's numbers on a benchmark mean, as a report with pictures."""

from __future__ import annotations

import argparse


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Diagnose a model, and tell where the report is.

    Args:
        arguments (`list[str]`): Options.

    Raises:
        ValueError: If an option, a file or the output folder is not accepted.
    """
    parser = argparse.ArgumentParser("rtd diagnose", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of an RTD model or of an adapter")
    parser.add_argument("--benchmark", required=True, help="benchmark, such as small_world or small_world/mini")
    parser.add_argument("--split", help="split of its queries (default: the one with public labels)")
    parser.add_argument("--root", help="directory of the benchmark; the small world needs none")
    parser.add_argument("--triplets", help="text triplets to judge too: jsonl, json, csv, parquet or Hub id")
    parser.add_argument("-o", "--output", required=True, help="folder of report.md, diagnosis.json and pictures")
    parser.add_argument("-k", type=int, default=5, help="ranks that count as found (default: %(default)s)")
    parser.add_argument(
        "--noise-scale", type=float, default=0.5, help="noise on text embeddings, absolute (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images in one pass (default: %(default)s)")
    options = parser.parse_args(arguments)

    from trainer.assembly import load_model_and_processor
    from trainer.benchmarks import load_benchmark
    from trainer.diagnosis import run_diagnosis
    from trainer.gathering import join_processes

    with join_processes() as state:
        benchmark = load_benchmark(options.benchmark, options.split, options.root)
        model, processor = load_model_and_processor(options.model)
        facts = run_diagnosis(
            model,
            processor,
            benchmark,
            options.output,
            triplets=options.triplets,
            k=options.k,
            noise_scale=options.noise_scale,
            batch_size=options.batch_size,
            name=options.model,
        )
        if state.is_main_process:
            for name, part in facts.items():
                if "not_available" in part:
                    print(f"{name}: not available, {part['not_available']}")
            print(f"report: {options.output}/report.md")
