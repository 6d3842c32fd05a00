"""`rtd interpolate`: save a model whose text tower lies between the ones from before and after RTD."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.cli.folders import check_new_folder
from trainer.cli.old_names import refuse_old_names


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Save a model at a point between the two text towers.

    Args:
        arguments (`list[str]`): Options.

    Raises:
        ValueError: If alpha is not between 0 and 1, RTD has not trained the model, or the output folder is not empty.
    """
    refuse_old_names("interpolate", arguments, {"--output": "--output-dir"})
    parser = argparse.ArgumentParser("rtd interpolate", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of a model trained with RTD, or of an adapter")
    parser.add_argument("--alpha", type=float, required=True, help="0: tower from before RTD; 1: the one after it")
    parser.add_argument("-o", "--output-dir", required=True, type=Path, help="folder to save the model in")
    options = parser.parse_args(arguments)
    check_new_folder(options.output_dir)

    from modeling_rtd import hash_tensors
    from trainer.loading import load_model_and_processor
    from trainer.publishing.provenance import read_stages
    from trainer.publishing.saving import save_rtd_model

    model, processor = load_model_and_processor(options.model)
    model = model.interpolate_text_model(options.alpha)
    stage = {
        "stage": "interpolation",
        "data": {"towers": "from before and after RTD"},
        "alpha": options.alpha,
        "text_model": hash_tensors(model.text_model),
    }
    save_rtd_model(model, processor, options.output_dir, [*read_stages(options.model), stage])
    print(f"model: {options.output_dir}")
