"""`rtd interpolate`: save a model whose text tower is between the ones from before and after RTD."""

from __future__ import annotations

from pathlib import Path

from trainer.cli.folders import check_new_folder
from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Save a model at a point between the two text towers, with the one from before RTD or without.

    Raises:
        ValueError: If alpha is not between 0 and 1, RTD has not trained the model, the diagnosis is of another one, or
            the output folder is not empty.
    """
    refuse_old_names("interpolate", arguments, {"--output": "--output-dir"})
    parser = VerbParser("rtd interpolate", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of a model trained with RTD, or of an adapter")
    parser.add_argument(
        "--alpha",
        type=float,
        required=True,
        help="weight of the tower after RTD: 0 is the tower before it, 1 the one after it",
    )
    parser.add_argument("-o", "--output-dir", required=True, type=Path, help="folder to save the model in")
    parser.add_argument(
        "--one-tower", action="store_true", help="save no tower from before RTD; the saved one also reads plain text"
    )
    parser.add_argument("--diagnosis", type=Path, help="diagnosis.json of the model, with the cost of --one-tower")
    options = parser.parse_args(arguments)
    if options.diagnosis and not options.one_tower:
        raise ValueError("--diagnosis says what one tower costs: add --one-tower, or leave it out.")
    check_new_folder(options.output_dir)

    from modeling_rtd import hash_tensors, read_json
    from trainer.evaluation.diagnosis import find_plain_retrieval
    from trainer.loading import load_model_and_processor
    from trainer.publishing.provenance import read_stages
    from trainer.publishing.saving import save_rtd_model

    model, processor = load_model_and_processor(options.model)
    measured = None
    if options.diagnosis:
        facts = read_json(options.diagnosis, "diagnose the model again")
        measured = find_plain_retrieval(facts, model, options.alpha)
    model = model.interpolate_text_model(options.alpha)
    if options.one_tower:
        # The warning that follows names the model to diagnose.
        model.name_or_path = options.model
        model = model.without_original_text_model(measured)
    stage = {
        "stage": "interpolation",
        "data": {"towers": "from before and after RTD"},
        "alpha": options.alpha,
        "text_model": hash_tensors(model.text_model),
    }
    save_rtd_model(model, processor, options.output_dir, [*read_stages(options.model), stage])
    print(f"model: {options.output_dir}")
