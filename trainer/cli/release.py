"""`rtd release`: train, judge and publish the model of a recipe, on a connected machine with a GPU.

Run the same command again to continue where it stopped. Options after `--` go to `rtd train`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import shlex
import tempfile
import time
import traceback
from pathlib import Path

from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Examine the machine, then do every step that is not done yet.

    Raises:
        ValueError: If options or data are missing, the machine is not ready, or a step stopped.
    """
    request = _read_request(arguments)

    from modeling_rtd import hold_lock_file
    from trainer.release.machine import Examination
    from trainer.release.steps import plan_steps

    request.folder.mkdir(parents=True, exist_ok=True)
    with hold_lock_file(request.folder / ".release.lock", f"another release is running in '{request.folder}'."):
        print(f"{request.recipe}, to be published as {request.repo}\n", flush=True)
        findings, examination = [], Examination(request)
        for finding in examination.look():
            findings.append(finding)
            print(f"  {'ok' if finding.is_fine else 'NOT READY':<10}{finding.name:<12}{finding.text}", flush=True)
        lacking = [finding.name for finding in findings if not finding.is_fine]
        if request.is_smoke:
            _try_steps(request, findings, lacking)
            return
        if lacking:
            raise ValueError(f"this machine is not ready ({', '.join(lacking)}); see above. Nothing was started.")
        _do_steps(request, plan_steps(request, examination.benchmarks))
    ending = f"published: {request.repo}" if not request.is_dry else "Nothing was uploaded (--dry-run)."
    print(f"\n{ending} Read {request.folder / 'card.md'}.")


def _read_request(arguments: list[str]):
    place = arguments.index("--") if "--" in arguments else len(arguments)
    parser = VerbParser("rtd release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a packaged recipe, such as rtd-vitl")
    parser.add_argument("repo", help="organisation or user on the Hub, or org/name (default name: the recipe's)")
    parser.add_argument("--triplets", help="text triplets: jsonl, json, csv, parquet or Hub id")
    parser.add_argument("--captions", help="captions: to make triplets by rules, or to train a projection from")
    parser.add_argument("--images", help="folder of images, for a projection that is trained from images")
    parser.add_argument("--projection", help="a trained or published projection (default: that of the recipe)")
    parser.add_argument("--license", help="license of the weights, as the Hub names it, such as mit")
    parser.add_argument("--license-name", help="where --license is other: its name")
    parser.add_argument("--license-link", help="where --license is other: its address")
    parser.add_argument(
        "--root", type=Path, default=Path("data"), help="folder with a directory for each benchmark (default: data)"
    )
    parser.add_argument("-o", "--output-dir", type=Path, help="folder of the release (default: runs/release/RECIPE)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="do everything but the upload")
    parser.add_argument("--smoke", action="store_true", help="try every step in about five minutes, and keep nothing")
    parser.add_argument("--without-gpu", action="store_true", help="accept a machine without a GPU")
    options = parser.parse_args(arguments[:place])

    from trainer.release.steps import Request

    return Request(
        recipe=options.recipe,
        repo=options.repo if "/" in options.repo else f"{options.repo}/{options.recipe}",
        folder=options.output_dir or Path("runs/release", options.recipe),
        triplets=options.triplets,
        captions=options.captions,
        images=options.images,
        projection=options.projection,
        root=options.root,
        license=options.license,
        license_name=options.license_name,
        license_link=options.license_link,
        train=arguments[place + 1 :],
        private=options.private,
        is_dry=options.dry_run,
        is_smoke=options.smoke,
        needs_gpu=not options.without_gpu,
    )


def _do_steps(request, steps: list) -> dict[str, float]:
    """Do the steps that are not done, and give the seconds that each of them took."""
    from trainer.release.steps import Ledger

    ledger, seconds = Ledger(request.folder), {}
    (request.folder / "error.txt").unlink(missing_ok=True)  # of an earlier call
    print(f"\n{len(steps)} steps: {', '.join(step.name for step in steps)}", flush=True)
    for number, step in enumerate(steps, start=1):
        head = f"\nStep {number} of {len(steps)}: {step.title}"
        if ledger.is_done(step):
            print(f"{head}: done before", flush=True)
            continue
        ledger.forget(step, steps)
        print(f"{head}\nrtd {shlex.join(step.write())}", flush=True)
        start = time.perf_counter()
        try:
            _call(step.write())
        except Exception as error:
            # The sentence is for users, the traceback for developers.
            (request.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            raise ValueError(
                f"step {number}, {step.name}, stopped: {error}\nThe same command continues with this step; "
                f"{request.folder / 'error.txt'} has the details."
            ) from error
        seconds[step.name] = time.perf_counter() - start
        ledger.add(step, seconds[step.name])
    return seconds


def _call(command: list[str]) -> None:
    import torch

    importlib.import_module(f"trainer.cli.{command[0].replace('-', '_')}").run(command[1:])
    gc.collect()  # a trainer and its model refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _try_steps(request, findings: list, lacking: list[str]) -> None:
    """Try every step with little of everything, and write what came of it to one file that can be sent."""
    from modeling_rtd import read_json, write_json
    from trainer.release.machine import SMOKE_RECORD, describe_machine, read_schedule
    from trainer.release.steps import plan_steps, take_few

    record = {"recipe": request.recipe, **describe_machine(), "findings": [one._asdict() for one in findings]}
    schedule = read_schedule(request.train)
    try:
        if lacking:
            raise ValueError(f"not ready: {', '.join(lacking)}")
        with tempfile.TemporaryDirectory(prefix="smoke-", dir=request.folder) as folder:
            tried = take_few(request, Path(folder))
            record["seconds"] = _do_steps(tried, plan_steps(tried, {}))
            training = read_json(tried.folder / "rtd/training.json", "try again")
        record["seconds_per_step"] = training["seconds"] / training["steps"]
        record["triplets_per_step"] = schedule.triplets
        record["peak_gpu_mib"] = training["peak_gpu_mib"]
    except Exception as error:
        # The file is sent to others: no path of this machine.
        record["error"] = traceback.format_exc().replace(str(Path.home()), "~").replace(str(Path.cwd()), ".")
        raise ValueError(
            f"{error}\nThis machine cannot make the release yet. If the lines above do not say why, attach "
            f"{request.folder / SMOKE_RECORD} to an issue of the project: it holds them, versions and no token."
        ) from error
    finally:
        write_json(request.folder / SMOKE_RECORD, record)
    minutes = record["seconds_per_step"] * schedule.steps / 60
    print(f"\nThis machine can make the release: at most {minutes:.0f} min of training. Nothing was kept or uploaded.")
