"""Tiny models, tokenizers and images, built in code."""

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from modeling_rtd import RTDModel, RTDProcessor


WORDS = (
    "<pad> <bos> <unk> <eos> $ a photo of that , . and with is are has the small large red green blue white black "
    "dress shirt dog cat car tree house beach sleeves no more"
).split()


def build_tokenizer(max_length=20):
    """Build a word-level tokenizer whose ids are the places in WORDS."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        eos_token="<eos>",
        model_max_length=max_length,
    )


def build_clip(seed=0, dtype=torch.float32, hidden_size=32, projection_dim=24, **text):
    """Build a CLIP of 2 + 2 layers whose weights are large enough for outputs to differ visibly."""
    text_config = {
        "vocab_size": len(WORDS),
        "hidden_size": hidden_size,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 20,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "projection_dim": projection_dim,
    } | text
    vision_config = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": projection_dim,
    }
    torch.manual_seed(seed)
    clip = CLIPModel(CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=projection_dim))
    for name, parameter in clip.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
        elif "bias" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return clip.to(dtype).eval()


def build_language_model(folder):
    """Save a random GPT-2 that writes bytes, and name its directory."""
    letters = {letter: i for i, letter in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(letters), "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, bos_token_id=0)).save_pretrained(folder)
    return str(folder)


def build_image_processor():
    """Build CLIP's preprocessing for images of 32 pixels."""
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def build_processor():
    """Build a processor for the tiny CLIP."""
    return RTDProcessor(build_image_processor(), build_tokenizer())


def shake(module, seed=0):
    """Change all weights as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_((0.1 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return module


def build_images(count, seed=0, size=(40, 36)):
    """Draw coloured noise."""
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray((rng.integers(0, 256, (*size, 3)) // 3 + rng.integers(0, 170, 3)).astype("uint8"))
        for _ in range(count)
    ]


def build_triplets(count=64, seed=0):
    """Write triplets from the tiny vocabulary, no two alike."""
    rng = np.random.default_rng(seed)
    colours, things, sizes = (
        "red green blue white black".split(),
        "dress shirt dog cat car tree house".split(),
        ("small", "large"),
    )
    rows = []
    for _ in range(count):
        first, second = rng.choice(colours, 2, replace=False)
        thing, size = rng.choice(things), rng.choice(sizes)
        tail = " with the cat and the dog" if rng.random() < 0.3 else ""
        rows.append(
            {
                "reference_caption": f"a {size} {first} {thing}",
                "conditioning_caption": f"is {second}{tail}",
                "target_caption": f"a {size} {second} {thing}{tail}",
            }
        )
    return rows


def save_model(place, projection, clip, processor):
    """Save a random model of a method, and name its directory."""
    torch.manual_seed(1)
    RTDModel.from_clip(clip, projection, tokenizer=processor.tokenizer).save_pretrained(place)
    processor.with_template(projection).save_pretrained(place)
    return str(place)


def load_place(place):
    """Load a model and its processor."""
    return RTDModel.from_pretrained(place), RTDProcessor.from_pretrained(place)


def split_prompt(template, condition):
    """The pieces of a prompt around its pseudo-words, as published evaluation code writes it; an oracle.

    `None` as a condition gives the prompt of the reference alone.
    """
    if condition is None:
        head, sign, _ = template.partition("{condition}")[0].rpartition("$")
        template, condition = head + sign or template, ""
    return [piece.replace("{condition}", condition) for piece in template.split("$")]
