"""Build a CLIP directory of published size with random weights and CLIP's real tokenizer, to measure with.

python speed/build_clip.py --merges bpe_simple_vocab_16e6.txt.gz --output_dir clip-b32
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
)


__all__ = ["SIZES", "build_clip", "build_clip_tokenizer", "build_siglip"]

# Published sizes: joint space, text width, layers and heads, vision width, layers, heads and patch.
SIZES = {
    "toy": (64, (64, 2, 2), (64, 2, 2, 56)),  # not published: to try the scripts
    "vit-b-32": (512, (512, 12, 8), (768, 12, 12, 32)),
    "vit-l-14": (768, (768, 12, 12), (1024, 24, 16, 14)),
}


def build_clip_tokenizer(merges: Path) -> CLIPTokenizer:
    """Build CLIP's tokenizer of 49,408 tokens from its published merge list.

    Args:
        merges (`Path`): The file `bpe_simple_vocab_16e6.txt.gz` of CLIP's repository.

    Returns:
        `CLIPTokenizer`: Of 77 tokens at most.
    """
    lines = gzip.decompress(merges.read_bytes()).decode("utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    units = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = units + [unit + "</w>" for unit in units] + ["".join(pair) for pair in pairs]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=pairs, model_max_length=77)


def build_clip(size: str, seed: int = 0, with_vision: bool = True) -> CLIPModel:
    """Build a CLIP of published size with random weights.

    Args:
        size (`str`): A key of `SIZES`.
        seed (`int`, defaults to 0): Seed of the weights.
        with_vision (`bool`, defaults to `True`): Otherwise the vision tower has no layers, where only text matters.

    Returns:
        `CLIPModel`: In evaluation mode, float32.
    """
    joint, (width, layers, heads), (vision_width, vision_layers, vision_heads, patch) = SIZES[size]
    torch.manual_seed(seed)
    text = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": joint,
    }
    vision = {
        "hidden_size": vision_width,
        "intermediate_size": 4 * vision_width,
        "num_hidden_layers": vision_layers if with_vision else 0,
        "num_attention_heads": vision_heads,
        "patch_size": patch,
        "projection_dim": joint,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=joint)).eval()


def build_siglip(size: str, seed: int = 0) -> SiglipModel:
    """Build a SigLIP with random weights, whose text tower has a CLIP's sizes and vocabulary, and 64 places.

    Args:
        size (`str`): A key of `SIZES`.
        seed (`int`, defaults to 0): Seed of the weights.

    Returns:
        `SiglipModel`: In evaluation mode, float32; its vision tower has no layers.
    """
    joint, (width, layers, heads), _ = SIZES[size]
    torch.manual_seed(seed)
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    text = {"num_hidden_layers": layers, "projection_size": joint, "vocab_size": 49408, "max_position_embeddings": 64}
    vision = {"num_hidden_layers": 0, "hidden_size": joint}
    return SiglipModel(SiglipConfig(text_config=tower | text, vision_config=tower | vision)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merges", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="vit-b-32")
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    for part in (build_clip(options.size), build_clip_tokenizer(options.merges), CLIPImageProcessorPil()):
        part.save_pretrained(options.output_dir)


if __name__ == "__main__":
    main()
