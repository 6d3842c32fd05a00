"""Count the tokens of real text triplets: the histogram in `lengths.json`, from which the other scripts draw.

PYTHONPATH=. python speed/count_lengths.py real_triplets.jsonl --merges bpe_simple_vocab_16e6.txt.gz
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path

from speed.build_clip import build_clip_tokenizer
from trainer.data.triplets import TRIPLET_COLUMNS, prepare_triplets


__all__ = ["LENGTHS", "count_lengths"]

LENGTHS = Path(__file__).with_name("lengths.json")


def count_lengths(triplets: Path, merges: Path) -> dict:
    """Count tokens, start and end of text left out.

    Args:
        triplets (`Path`): Text triplets.
        merges (`Path`): CLIP's merge list, see [`build_clip_tokenizer`].

    Returns:
        `dict`: For each column how many rows have how many tokens; and `source`, what was counted.
    """
    tokenizer, rows = build_clip_tokenizer(merges), prepare_triplets(triplets)
    counts = {}
    for name in TRIPLET_COLUMNS:
        lengths = Counter(len(ids) for ids in tokenizer(rows[name][:], add_special_tokens=False)["input_ids"])
        counts[name] = {str(length): lengths[length] for length in sorted(lengths)}
    source = {
        "rows": len(rows),
        "what": "tokens of CLIP's tokenizer in cleaned captions, start and end of text left out",
        "triplets": f"{triplets.name}, derived from SugarCrepe (MIT), whose captions are COCO's",
        "sha256": hashlib.sha256(triplets.read_bytes()).hexdigest(),
    }
    return {"source": source, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", type=Path)
    parser.add_argument("--merges", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=LENGTHS)
    options = parser.parse_args()
    options.out.write_text(json.dumps(count_lengths(options.triplets, options.merges), indent=1) + "\n")


if __name__ == "__main__":
    main()
