"""Text triplets from plain captions: edits by rules, or by a local language model."""

from trainer.caption_triplets.files import read_captions, write_triplets
from trainer.caption_triplets.language_model import PROMPT, parse_output
from trainer.caption_triplets.making import METHODS, make_triplets
from trainer.caption_triplets.rules import WORDINGS


__all__ = ["METHODS", "PROMPT", "WORDINGS", "make_triplets", "parse_output", "read_captions", "write_triplets"]
