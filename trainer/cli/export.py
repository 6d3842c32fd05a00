"""`rtd export`: write a model as ONNX files, which onnxruntime runs without torch."""

from __future__ import annotations

from pathlib import Path

from trainer.cli.folders import check_new_folder
from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Export a model and print how near each file is to torch.

    Raises:
        ValueError: If the model cannot be exported or a file differs too much (see `export_onnx`), or the output
            folder is not empty.
    """
    parser = VerbParser("rtd export", description=__doc__)
    parser.add_argument("model", help="directory or Hub id of a model")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="format of the files (default: onnx)")
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["fp32"],
        choices=["fp32", "fp16", "int8"],
        help="precisions of the weights; each is written beside the others (default: fp32)",
    )
    parser.add_argument("-o", "--output-dir", required=True, type=Path, help="folder for the files")
    options = parser.parse_args(arguments)
    check_new_folder(options.output_dir)

    from trainer.loading import load_model_and_processor
    from trainer.publishing.onnx_export import export_onnx

    model, processor = load_model_and_processor(options.model)
    for name, difference in export_onnx(model, processor, options.output_dir, options.precision).items():
        size = (options.output_dir / name).stat().st_size
        print(f"{size:>13,}  {name:<28}differs from torch by {difference:.1e}")
    print(f"files: {options.output_dir}")
