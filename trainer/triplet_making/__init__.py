"""Text triplets from plain captions: edits by rules, or by a local language model."""

from trainer.data.language_model import PROMPT, parse_output
from trainer.triplet_making.maker import METHODS, make_triplets
from trainer.triplet_making.rules import WORDINGS
from trainer.triplet_making.writing import write_triplets


__all__ = ["METHODS", "PROMPT", "WORDINGS", "make_triplets", "parse_output", "write_triplets"]
