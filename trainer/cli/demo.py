"""`rtd demo`: the whole story on a machine with nothing but Python."""

from __future__ import annotations

import argparse
import json
import os


__all__ = ["run"]


def run(arguments: list[str]) -> None:
    """Run the demo and print its table and the next command to try.

    Args:
        arguments (`list[str]`): Options.
    """
    parser = argparse.ArgumentParser("rtd demo", description=__doc__)
    parser.add_argument("-o", "--output-dir", default="runs/demo", help="folder of the results (default: %(default)s)")
    parser.add_argument("--preset", default="demo", help="size of the world: demo, mini or toy")
    parser.add_argument("--world", default="wardrobe", help="what is drawn: wardrobe (clothes) or shapes")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs to average over (default: 1)")
    parser.add_argument("--split", default="test", help="queries to judge on: test or validation")
    parser.add_argument("--experiments", action="store_true", help="also sweep noise and compare sources of triplets")
    parser.add_argument("--projections", default="default", help="default: lincir and pic2word; all: all five")
    options = parser.parse_args(arguments)

    import torch

    # Threads gain little on networks this small, and on cores that others use too they wait for each other.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)

    from trainer.demo.run import run_demo
    from trainer.publishing.tables import format_table

    print("Training a CLIP, its projections, and RTD with ablations and controls: several minutes, a bar for each.")
    folder = run_demo(**vars(options))
    print(f"\n{format_table(json.loads((folder / 'metrics.json').read_text()))}\n")
    print(f"The report is {folder}/report.md, ten queries are drawn in {folder}/results.png. Next:\n")
    query = json.loads((folder / "world/queries.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    image, gallery = folder / "world/references" / query["reference"], folder / "world/gallery"
    print(f'  rtd search {folder}/model --gallery {gallery} --image {image} --text "{query["condition"]}"\n')
    print("Its CLIP reads drawings of 48 pixels and the words of the small world only; for your own, see README.md.")
