"""Time a whole RTD run with cold caches, from text triplets to the saved model, against the published recipe.

    PYTHONPATH=. python speed/train_recipe.py                      # 200 steps of 64 on ViT-B/32's text tower
    PYTHONPATH=. python speed/train_recipe.py --size toy --batch_size 4 --steps 4 --rows 32 --repeats 1
    PYTHONPATH=. python speed/train_recipe.py --size vit-l-14 --device cuda --precision bf16 --batch_size 128 \
        --steps 2000

Ours is timed as it is: checking and hashing the data, anchors, `Trainer.train()`, saving. The published recipe is too
slow to run whole: some of its steps are timed before and some after our run, in the same process, and their median is
taken times the number of steps, with nothing for its reading, tokenising and saving. The loss of the first step must
agree.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import send_to_device

from speed.comparing import add_options, report, summarise, time_call
from speed.synthetic import build_model, build_processor, draw_triplets
from speed.train_step import build_published_step, build_trainer, collate_as_published


__all__ = ["measure"]


def measure(options: argparse.Namespace) -> list[dict]:
    """Time our run and steps of the published one.

    Args:
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: One row.
    """
    processor = build_processor()
    model = build_model(options.size, "lincir", processor).to(options.device)
    start_model, triplets = copy.deepcopy(model), draw_triplets(options.rows)
    trained = model.with_parts(copy.deepcopy(model.text_model), model.projection)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"max_steps": options.steps, "logging_steps": 10, "anchor_cache": "auto"}
        setup, trainer = time_call(
            lambda: build_trainer(trained, processor, triplets, options, Path(folder), **arguments)
        )
        # The same rows as in the first steps of our run: a sampler with a seed draws them again.
        drawn = itertools.islice(trainer.get_train_dataloader(), 2 * options.repeats + 1)
        chunks = [[trainer.train_dataset[row] for row in batch["row"]] for batch in drawn]
        batches = [send_to_device(collate_as_published(processor, chunk), options.device) for chunk in chunks]
        published = build_published_step(start_model, batches, trainer.args, options.precision == "bf16")
        turns = (time_call(partial(published, index)) for index in range(len(batches)))
        (_, loss), *timed = itertools.islice(turns, 1 + options.repeats)
        running, _ = time_call(lambda: (trainer.train(), trainer.save_model(model=model)))
        timed += turns
    seconds, ours = [taken for taken, _ in timed], setup + running
    difference = abs(next(log["loss"] for log in trainer.state.log_history if "loss" in log) - float(loss))
    agrees = difference < (0.1 if options.precision == "bf16" else 1e-4)
    runtime = trainer.state.log_history[-1]["train_runtime"]
    estimate = statistics.median(seconds) * options.steps
    row = {"steps": options.steps, "ratio": estimate / ours, "ours seconds": ours, "of it training": runtime}
    row |= {"published seconds": estimate, "published step": summarise(seconds)}
    return [row | {"difference": difference, "agrees": agrees}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, repeats=2, precision="float32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=29_773, help="triplets; as many as in `lengths.json`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    report(rows, tuple(rows[0]), options)


if __name__ == "__main__":
    main()
