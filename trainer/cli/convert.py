"""`rtd convert`: turn a published checkpoint into a model, without running anything in it."""

from __future__ import annotations

from pathlib import Path

from trainer.cli.folders import check_new_folder
from trainer.cli.old_names import refuse_old_names
from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Convert a checkpoint and print where the model is.

    Raises:
        ValueError: If the file is refused (see `convert_checkpoint` and `convert_open_clip`), the output folder is not
            empty, or options do not go together.
    """
    refuse_old_names("convert", arguments, {"--output": "--output-dir"})
    parser = VerbParser("rtd convert", description=__doc__)
    parser.add_argument(
        "file",
        help="checkpoint file as the method's authors publish it; with --from open_clip directory or Hub id of a CLIP",
    )
    parser.add_argument(
        "--from",
        dest="method",
        required=True,
        metavar="METHOD",
        help="method of the projection in it, rtd (a text tower) or open_clip (a CLIP that open_clip wrote)",
    )
    parser.add_argument("--clip", help="the CLIP it was trained on: directory or Hub id; not with open_clip")
    parser.add_argument("--projection", help="for rtd: the projection it was trained with; directory or Hub id")
    parser.add_argument("-o", "--output-dir", required=True, type=Path, help="folder for the model")
    options = parser.parse_args(arguments)
    check_new_folder(options.output_dir)
    if (options.method == "open_clip") == (options.clip is not None):
        raise ValueError("a method's file needs the CLIP it was trained on (--clip), and --from open_clip has none.")
    if options.method == "open_clip":
        _write_clip(options.file, options.output_dir)
        return

    from modeling_rtd import RTDProcessor, convert_checkpoint
    from trainer.loading import check_place
    from trainer.published_checkpoints import describe_conversion
    from trainer.publishing.provenance import read_stages
    from trainer.publishing.saving import save_rtd_model

    # The Hub would be asked for a mistyped folder.
    for place in (options.clip, options.projection):
        if place is not None:
            check_place(place)
    model = convert_checkpoint(options.file, options.method, options.clip, options.projection)
    processor = RTDProcessor.from_clip(options.clip, model.projection)
    # RTD trained its tower with another prompt than Pic2Word's own.
    if options.method == "rtd" and model.projection.rtd_template:
        processor = processor.with_template(model.projection.rtd_template)
    stages = [*read_stages(options.projection or ""), describe_conversion(options.file, options.method)]
    save_rtd_model(model, processor, options.output_dir, stages)
    print(f"model: {options.output_dir}")


def _write_clip(place: str, folder: Path) -> None:
    from modeling_rtd import convert_open_clip, replace_folder

    parts = convert_open_clip(place)
    with replace_folder(folder) as partial:
        for part in parts:
            part.save_pretrained(partial)
    print(f"CLIP: {folder}; put a projection on it with `rtd train-projection {folder}`")
