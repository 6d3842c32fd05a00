"""`rtd demo`: draw a world, train every part on it, and show what RTD does."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from trainer.cli.parser import VerbParser


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Run the demo, and print its table and three commands to try."""
    parser = VerbParser("rtd demo", description=__doc__)
    parser.add_argument("-o", "--output-dir", default="runs/demo", help="folder of the results (default: %(default)s)")
    parser.add_argument("--preset", default="demo", help="size of the world: demo, mini or toy")
    parser.add_argument("--world", default="wardrobe", help="world to draw: wardrobe (default, clothes) or shapes")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs to average over (default: 1)")
    parser.add_argument("--split", default="test", help="queries to judge on: test or validation")
    parser.add_argument("--experiments", action="store_true", help="also vary noise and compare sources of triplets")
    parser.add_argument("--projections", default="default", help="default (lincir and pic2word) or all (five)")
    parser.add_argument("--backbone", default="clip", help="backbone to train: clip, metaclip_2 or siglip")
    options = parser.parse_args(arguments)

    import torch

    # Threads gain little on networks this small, and on cores that others use too they wait for each other.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)

    from trainer.demo.run import run_demo
    from trainer.publishing.tables import format_table

    folder = run_demo(**vars(options))
    print(f"\n{format_table(json.loads((folder / 'metrics.json').read_text()))}\n")
    print(
        f"Read {folder}/report.md, and look at {folder}/results.png. Then:\n\n{_list_next(folder, options.backbone)}"
    )


def _list_next(folder: Path, backbone: str) -> str:
    """List three commands to try, and what to expect of them."""
    world = folder / "world"
    query = json.loads((world / "queries.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    place, gallery, captions = (shlex.quote(str(path)) for path in (folder, world / "gallery", world / "captions.txt"))
    examples = shlex.quote(str(world / "examples.jsonl"))
    image = shlex.quote(str(world / "references" / query["reference"]))
    # Other families have no published scale of noise.
    unit = "" if backbone == "clip" else " --noise-unit rms"
    return f"""Search for what one of its queries asks for; right is {" or ".join(query["targets"])}:
  rtd search {place}/model --gallery {gallery} --image {image} --text "{query["condition"]}"

Search and refine on a page in the browser, until Ctrl-C:
  rtd app {place}/model --gallery {gallery} --examples {examples}

Train RTD on nothing but the world's captions; it finds less than with the demo's triplets (a minute):
  rtd train {place}/{backbone} --projection {place}/model --captions {captions} --output-dir {place}-captions \
--max-steps 300 --learning-rate 1e-3{unit}

The demo's model knows its own world's drawings and words, and nothing else. For yours, see README.md."""
