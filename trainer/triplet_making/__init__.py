"""Text triplets from plain captions: edits by rules, or by a local language model."""

from trainer.data.language_model import PROMPT, parse_output
from trainer.triplet_making.maker import METHODS, make_triplets
from trainer.triplet_making.rules import WORDINGS
from trainer.triplet_making.writing import read_captions, write_triplets


__all__ = ["METHODS", "PROMPT", "WORDINGS", "make_triplets", "parse_output", "read_captions", "write_triplets"]
