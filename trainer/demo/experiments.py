"""Experiments in the small world beside the demo: how much noise, and triplets from where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.training.progress import LossBarCallback
from trainer.triplet_making import PROMPT, make_triplets


__all__ = ["NOISE_SCALES", "run_experiments", "train_language_model"]

NOISE_SCALES = (0.0, 0.25, 0.5, 1.0, 2.0)  # in units of the rms of the embeddings


def run_experiments(
    train_and_judge: Callable[..., dict],
    triplets: Dataset,
    captions: list[str],
    model: Path,
    rms: float,
    scratch: Path,
) -> Iterator[dict]:
    """Train RTD with other noise and with other triplets.

    Triplets by rules, and by a tiny language model, are made from captions alone, without any knowledge of the world.
    That language model is trained on some of the world's own triplets a minute before: it shows that the path from
    captions through a language model to RTD works, and nothing about language models.

    Args:
        train_and_judge (callable): From a name, triplets and arguments of RTD to a row of results.
        triplets (`datasets.Dataset`): The world's own triplets.
        captions (`list[str]`): Plain captions of the world.
        model (`Path`): Directory of the model whose text tower measures similarities.
        rms (`float`): Root mean square of the embeddings.
        scratch (`Path`): Folder for the language model.

    Yields:
        `dict`: Rows as in `metrics.json`, with `experiment` and `num_triplets`.
    """
    for scale in NOISE_SCALES:
        row = train_and_judge(f"noise {scale:g}", triplets, noise_scale=scale * rms)
        yield row | {"experiment": "noise", "num_triplets": len(triplets)}
    language_model = train_language_model(triplets.select(range(min(4000, len(triplets)))), scratch / "language_model")
    sources = {
        "the world's own": lambda: triplets,
        "rules": lambda: make_triplets(captions),
        "rules, within a band of similarity": lambda: make_triplets(captions, model=str(model)),
        "tiny language model": lambda: make_triplets(captions[:3000], "lm", language_model=str(language_model)),
    }
    for name, load in sources.items():
        rows = Dataset.from_list([{column: row[column] for column in TRIPLET_COLUMNS} for row in load()])
        yield train_and_judge(name, rows) | {"experiment": "triplets", "num_triplets": len(rows)}


def train_language_model(triplets: Dataset, folder: Path, steps: int = 400, batch_size: int = 32) -> Path:
    """Train a tiny causal language model to write conditions and targets after the prompt for captions.

    Args:
        triplets (`datasets.Dataset`): Examples.
        folder (`Path`): Where model and tokenizer are saved.
        steps (`int`, defaults to 400): Steps.
        batch_size (`int`, defaults to 32): Examples a step.

    Returns:
        `Path`: The folder.
    """
    prompts = [PROMPT.replace("{caption}", caption) for caption in triplets["reference_caption"]]
    answers = [f" {row['conditioning_caption']} => target: {row['target_caption']}\n\n" for row in triplets]
    # Blanks and line ends are part of the words, so that joined tokens are the text itself.
    split = pre_tokenizers.Split(Regex(r"\n| ?[^\s]+"), "isolated")
    words = {piece for text in (*prompts, *answers) for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *sorted(words)])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = split, decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>")
    inputs, outputs = tokenizer(prompts)["input_ids"], tokenizer(answers)["input_ids"]
    examples = [{"input_ids": a + b, "labels": [-100] * len(a) + b} for a, b in zip(inputs, outputs, strict=True)]

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": tokenizer.pad_token_id, "labels": -100}
        return {
            name: torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])
            for name, value in fill.items()
        }

    set_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=256, n_embd=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=2e-3,
        warmup_steps=40,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(GPT2LMHeadModel(config), args, data_collator=collate, train_dataset=examples)
    LossBarCallback.install(trainer, "tiny language model")
    trainer.train()
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
