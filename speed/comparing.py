"""How the scripts compare: one process, one thing after the other in turns, medians and spreads, equal results."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from matplotlib.figure import Figure
from transformers import Trainer, TrainingArguments

from speed.build_clip import SIZES


__all__ = ["CHECKPOINTING", "add_options", "build_step", "compare", "relate", "report", "summarise", "time_call"]

# Renamed in transformers 5.23.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)


# What a picture shows, if the rows have it.
_DRAWN = ("ratio", "of published", "of the limit", "overhead", "seconds")


def add_options(parser: argparse.ArgumentParser, **defaults) -> None:
    """Add the options that all comparisons have.

    Args:
        parser (`argparse.ArgumentParser`): The script's.
        defaults: Defaults that differ from `vit-b-32`, 64 rows and 5 repeats; with `precision` there is that option.
    """
    defaults = {"size": "vit-b-32", "batch_size": 64, "repeats": 5} | defaults
    parser.add_argument("--size", choices=SIZES, default=defaults["size"])
    parser.add_argument("--batch_size", type=int, default=defaults["batch_size"])
    parser.add_argument("--repeats", type=int, default=defaults["repeats"], help="timed steps, after one that is not")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    if "precision" in defaults:
        parser.add_argument("--precision", choices=("float32", "bf16"), default=defaults["precision"])
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--plot", type=Path, help="picture of the rows' ratios, or seconds where there are none")


def build_step(trainer: Trainer, batches: Sequence[dict]) -> Callable[[int], torch.Tensor]:
    """Make a callable of a trainer's own step: loss, gradients, update.

    Args:
        trainer (`transformers.Trainer`): Not yet trained.
        batches (`list[dict]`): What its collator made.

    Returns:
        callable: From the number of a batch to the loss.
    """
    if getattr(trainer.args, CHECKPOINTING):
        getattr(trainer.model, f"{CHECKPOINTING}_enable")()  # as `train()` does
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)

    def step(index: int) -> torch.Tensor:
        loss = trainer.training_step(model, dict(batches[index]))
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def compare(
    arms: dict[str, Callable[[int], torch.Tensor]],
    repeats: int,
    tolerance: float = 1e-4,
    only_first: Callable[[str], bool] = lambda name: False,
    untimed: int = 1,
) -> dict[str, dict]:
    """Run things in turns, and tell whether they give the same number each time.

    Args:
        arms (`dict`):
            By name, from the number of a turn to its result; the first is the baseline.
        repeats (`int`): Timed turns.
        tolerance (`float`, defaults to 1e-4): Largest difference of a result from the baseline's.
        only_first (callable): Tells by name what must agree at turn 0 alone, since it trains other weights.
        untimed (`int`, defaults to 1): Turns before those that are timed.

    Returns:
        `dict`: For each name `seconds` and `ratio` to the baseline's of the same turn (each median, least, greatest);
        `results`; `difference`, the largest from the baseline's, and `agrees`, whether that is within the tolerance.
        On a CPU also `processor's ratio`, of the time that this process was given, which other work on the machine
        disturbs less; on a GPU `added MiB`, the most that a step takes beside what all arms hold.
    """
    seconds, busy, results, added = ({name: [] for name in arms} for _ in range(4))
    for turn in range(untimed + repeats):
        for name, run in arms.items():
            torch.manual_seed(turn)  # the same dropout on both sides
            on_gpu = torch.cuda.is_initialized()
            if on_gpu:
                held = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            start = time.process_time()
            taken, result = time_call(lambda run=run, turn=turn: run(turn))
            busy[name].append(time.process_time() - start)
            seconds[name].append(taken)
            results[name].append(float(result))
            if on_gpu:
                added[name].append((torch.cuda.max_memory_allocated() - held) / 2**20)
    base = next(iter(arms))
    rows = {}
    for name in arms:
        compared = slice(1 if only_first(name) else None)
        ours, theirs = (torch.tensor(results[one][compared], dtype=torch.float64) for one in (name, base))
        difference = (ours - theirs).abs().max().item()  # NaN where any is, unlike Python's `max`
        rows[name] = {
            "seconds": summarise(seconds[name][untimed:]),
            "ratio": relate(seconds[base][untimed:], seconds[name][untimed:]),
            "results": results[name],
            "difference": difference,
            "agrees": difference <= tolerance,
        }
        if added[name]:
            rows[name]["added MiB"] = max(added[name])
        else:
            rows[name]["processor's ratio"] = relate(busy[base][untimed:], busy[name][untimed:])
    return rows


def summarise(values: Sequence[float]) -> list[float]:
    """Give the median, the least and the greatest of some values."""
    return [statistics.median(values), min(values), max(values)]


def relate(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Summarise the ratios of what was measured in the same turns."""
    return summarise([a / b for a, b in zip(theirs, ours, strict=True)])


def time_call(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> tuple[float, object]:
    """Give the seconds that a call takes, until the device is done, and its result."""
    _synchronise()
    start = clock()
    result = call()
    _synchronise()
    return clock() - start, result


def report(rows: Sequence[dict], columns: Sequence[str], options: argparse.Namespace) -> None:
    """Print rows as a table, and write them with what they were made with.

    Args:
        rows (`list[dict]`): Rows.
        columns (sequence of `str`):
            Keys to print, if any row has them; lists of three are median, least and greatest.
        options (`argparse.Namespace`): The script's; `out` is the JSON file and `plot` the picture, if any.

    Raises:
        AssertionError: If results of a row do not agree; what was measured is written before.
    """
    columns = [name for name in columns if any(name in row for row in rows)]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_show(row.get(name, "")) for name in columns) + " |", flush=True)
    if options.out:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        facts = {**vars(options), "torch": torch.__version__, "transformers": transformers.__version__, "on": device}
        facts["tf32"] = {"matmul": torch.get_float32_matmul_precision(), "cudnn": torch.backends.cudnn.allow_tf32}
        options.out.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1, default=str))
    if options.plot:
        _draw(rows, columns, options.plot)
    if wrong := [row for row in rows if not row.get("agrees", True)]:
        raise AssertionError(f"results differ from the baseline's: {wrong}")


def _draw(rows: Sequence[dict], columns: Sequence[str], path: Path) -> None:
    """Draw a bar a row, as long as its first measure, with the range where there is one."""
    name = next(name for name in (*_DRAWN, *columns) if any(isinstance(row.get(name), list | float) for row in rows))
    shown = [row for row in rows if name in row]
    texts = [", ".join(str(row[key]) for key in columns if isinstance(row.get(key), str | int)) for row in shown]
    spans = [row[name] if isinstance(row[name], list) else [row[name]] * 3 for row in shown]
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(shown)), layout="constrained")
    axes = figure.subplots()
    errors = [[middle - least for middle, least, _ in spans], [most - middle for middle, _, most in spans]]
    axes.barh(range(len(shown)), [middle for middle, _, _ in spans], xerr=errors, capsize=3)
    axes.set_yticks(range(len(shown)), texts)
    axes.invert_yaxis()
    axes.set_xlabel(f"{name} (median, least, greatest)")
    figure.savefig(path, dpi=110)


def _show(value) -> str:
    if isinstance(value, list):
        middle, least, most = (_show(part) for part in value)
        return f"{middle} ({least} to {most})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
