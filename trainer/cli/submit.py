"""`rtd submit`: write or check files for the test servers of CIRR and CIRCO."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.cli.parser import VerbParser


__all__ = ["run"]

# One wrong form may break a rule in each of 4,148 queries.
_SHOWN = 10


def run(arguments: list[str]) -> None:
    """Write files for a server and check them, or check files that anyone wrote.

    Raises:
        ValueError: If an option is not accepted, or a file breaks a rule of its server.
    """
    from trainer.cli.evaluate import add_switches, add_system_options

    parser = VerbParser("rtd submit", description=__doc__)
    parser.add_argument("--benchmark", help="cirr or circo")
    parser.add_argument("--check", nargs="+", metavar="FILE", help="check files, and write none")
    add_system_options(parser)
    add_switches(parser)
    parser.set_defaults(output_dir=Path("runs/submit"))
    options = parser.parse_args(arguments)
    _check_benchmark(options)
    _check(options.check, options.root, options.benchmark) if options.check else _write(options)


def _check_benchmark(options: argparse.Namespace) -> None:
    from modeling_rtd import suggest
    from trainer.evaluation.server_files import TEST_SPLITS

    if options.benchmark not in TEST_SPLITS and not (options.check and options.benchmark is None):
        raise ValueError(suggest("benchmark with a test server", options.benchmark, TEST_SPLITS))


def _check(files: list[str], root: Path | None, benchmark: str | None) -> None:
    from trainer.evaluation.server_files import check_submission

    refused = []
    for file in files:
        kind, problems = check_submission(file, root, benchmark)
        print(f"{file}: a file for {kind}, {'refused' if problems else 'in order'}")
        print("".join(f"  {problem}\n" for problem in problems[:_SHOWN]), end="")
        if len(problems) > _SHOWN:
            print(f"  and {len(problems) - _SHOWN} more")
        refused += [file] if problems else []
    if refused:
        raise ValueError(f"the server would refuse, or score wrongly: {', '.join(refused)}.")


def _write(options: argparse.Namespace) -> None:
    from trainer.cli.evaluate import build_system, read_switches
    from trainer.encoding.processes import join_processes
    from trainer.evaluation.benchmarks import check_request
    from trainer.evaluation.evaluate import make_record, open_parts, write_record
    from trainer.evaluation.server_files import TEST_SPLITS, write_submission

    split, switches = TEST_SPLITS[options.benchmark], read_switches(options)
    check_request(options.benchmark, split, options.root, **switches)
    with join_processes() as state:
        system = build_system(options)
        parts, folder, missing = open_parts(
            options.benchmark, split, options.root, system.method, system.needs_images, **switches
        )
        rankings = system.rank(parts[0])
        if state.is_main_process:
            paths = [str(path) for path in write_submission(parts[0], rankings, options.output_dir)]
            record = make_record(system, options.benchmark, parts, folder, missing) | {"submission": paths}
            print(f"record: {write_record(record, options.output_dir)}")
            _check(paths, options.root, options.benchmark)
