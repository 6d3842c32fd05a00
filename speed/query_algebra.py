"""Measure strength, negative text and a second reference in the small world.

rtd demo --world shapes -o runs/shapes
PYTHONPATH=. python speed/query_algebra.py runs/shapes/model --output_dir runs/queries
"""

from __future__ import annotations

import argparse

import torch

from speed.query_study import format_study, run_query_study
from trainer.loading import load_model_and_processor


__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write `queries.json`, `queries.md` and `queries.png`, and print the tables.

    Args:
        arguments (`list[str]`, *optional*): Command line; that of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="directory of a model that the demo has trained")
    parser.add_argument("--preset", default="demo", help="size of the small world it was trained on")
    parser.add_argument("--split", default="test", help="queries: test or validation")
    parser.add_argument("--output_dir", default="runs/queries")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, processor = load_model_and_processor(options.model)
    print(format_study(run_query_study(model, processor, options.output_dir, options.preset, options.split)))


if __name__ == "__main__":
    main()
