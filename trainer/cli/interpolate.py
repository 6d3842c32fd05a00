"""`rtd interpolate`: save a model whose text tower lies between the ones from before and after RTD."""

from __future__ import annotations

import argparse
from pathlib import Path


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Save a model at a point between the two text towers.

    Args:
        arguments (`list[str]`): Options.

    Raises:
        ValueError: If alpha is not between 0 and 1, RTD has not trained the model, or the output folder is not empty.
    """
    parser = argparse.ArgumentParser("rtd interpolate", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of a model trained with RTD, or of an adapter")
    parser.add_argument("--alpha", type=float, required=True, help="0: tower from before RTD; 1: the one after it")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to save the model in")
    options = parser.parse_args(arguments)
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise ValueError(f"'{options.output}' is not empty; choose another folder.")

    from modeling_rtd import hash_tensors
    from trainer.loading import load_model_and_processor
    from trainer.publishing.provenance import read_stages
    from trainer.publishing.saving import save_rtd_model

    model, processor = load_model_and_processor(options.model, alpha=options.alpha)
    stage = {
        "stage": "interpolation",
        "data": {"towers": "from before and after RTD"},
        "alpha": options.alpha,
        "text_model": hash_tensors(model.text_model),
    }
    save_rtd_model(model, processor, options.output, [*read_stages(options.model), stage])
    print(f"model: {options.output}")
