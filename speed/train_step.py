"""Compare RTD's training step with the published one, in all the ways that ours can go.

    PYTHONPATH=. python speed/train_step.py                               # ViT-B/32's text tower, random weights
    PYTHONPATH=. python speed/train_step.py --size toy --batch_size 4 --repeats 1
    PYTHONPATH=. python speed/train_step.py --size vit-l-14 --device cuda --precision bf16 --batch_size 128

The published step is written out from what is known of it: every text of 77 tokens, three frozen passes and two
trained prompts, the trained tower in float32. Both sides take turns in one process on the same rows, with the same
noise; in float32 their losses must agree at every step to 1e-4. `--precision bf16` is what each side would use on a
GPU: ours mixed precision, the published one frozen parts in half precision and the trained tower in float32. LoRA
trains other weights, and where captions are kept the loss has a term more, so these must agree at the first step only.
A step is of a batch that is collated already. To compare with the first arm instead of the published step:

    PYTHONPATH=. python speed/train_step.py --without_published --arms "anchors cached" "captions kept"

On a SigLIP every text has 64 places on both sides, and both prompts of a triplet are rows of their own:

    PYTHONPATH=. python speed/train_step.py --family siglip --arms "anchors cached" "anchors on the fly"
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor
from speed.comparing import CHECKPOINTING, add_options, build_step, compare, report
from speed.published import encode_padded, joint_contrast
from speed.synthetic import build_model, build_processor, draw_triplets
from trainer import RTDTrainer, RTDTrainingArguments
from trainer.encoding.noise import draw_noise
from trainer.training.lora import add_lora


__all__ = ["ARMS", "build_published_step", "build_trainer", "collate_as_published", "cut_batches", "measure"]

# Arguments of each way. Where a name tells no number of groups by length there are four for the anchors, which is a
# CPU's default, one where it is compiled, since each group would be compiled anew, and else the device's default.
ARMS: dict[str, dict] = {
    "anchors cached": {"anchor_cache": "always", "length_groups": 4},
    "anchors on the fly": {"anchor_cache": "never", "length_groups": 4},
    "cached, one group": {"anchor_cache": "always", "length_groups": 1},
    "on the fly, one group": {"anchor_cache": "never", "length_groups": 1},
    "cached, two groups": {"anchor_cache": "always", "length_groups": 2},
    "cached, compiled": {"anchor_cache": "always", "length_groups": 1, "torch_compile": True},
    "cached, checkpointing": {"anchor_cache": "always", CHECKPOINTING: True},
    "cached, LoRA": {"anchor_cache": "always"},
    "on the fly, LoRA": {"anchor_cache": "never"},
} | {
    f"captions kept{which}": {
        "anchor_cache": "always",
        "length_groups": 4,
        "caption_weight": 10.0,
        "caption_interval": interval,
    }
    for interval, which in ((1, ""), (2, ", every 2nd triplet"), (4, ", every 4th"), (8, ", every 8th"))
}


def build_published_step(
    model: RTDModel, batches: Sequence[dict], args: RTDTrainingArguments, half: bool = False
) -> Callable[[int], torch.Tensor]:
    """Make a callable of RTD's published step: loss, gradients, update.

    Args:
        model ([`RTDModel`]): Text tower, trained in place, and projection.
        batches (`list[dict]`): `composed_` and `alone_` prompts, and `reference` and `target` captions, as tokens.
        args ([`RTDTrainingArguments`]): The recipe.
        half (`bool`, defaults to `False`): Frozen parts in half precision, as the published recipe has them on a GPU.

    Returns:
        callable: From the number of a batch to the loss.
    """
    dtype = torch.float16 if half else torch.float32
    frozen, projection = copy.deepcopy(model.text_model).to(dtype), copy.deepcopy(model.projection).to(dtype)
    tower = model.text_model.requires_grad_(True)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)

    def step(index: int) -> torch.Tensor:
        batch = batches[index]
        with torch.no_grad():
            target = encode_padded(frozen, batch["target"])
            reference = encode_padded(frozen, batch["reference"])
            source = encode_padded(frozen, batch["reference"])  # the published code encodes it twice
            noise = draw_noise(batch["row"], source.shape[1], args.seed, 0, source.device)
            words = projection((source + args.noise_scale * noise).to(dtype))[0].float()
        composed = encode_padded(tower, batch["composed_input_ids"], batch["composed_placeholder_mask"], words)
        alone = encode_padded(tower, batch["alone_input_ids"], batch["alone_placeholder_mask"], words)
        loss = joint_contrast(torch.cat([composed, alone]), torch.cat([target, reference]), args.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def collate_as_published(processor: RTDProcessor, rows: list[dict]) -> dict:
    """Tokenise rows for `build_published_step`: each text apart, captions as often as they come."""

    def tokens(name: str) -> torch.Tensor:
        return processor.pad(processor.tokenize_texts([row[f"{name}_caption"] for row in rows]))["input_ids"]

    batch = {"target": tokens("target"), "reference": tokens("reference"), "row": [row["row"] for row in rows]}
    for name, conditions in (("composed", [row["conditioning_caption"] for row in rows]), ("alone", [""] * len(rows))):
        padded = processor.pad(processor.build_prompts(conditions)[0])
        batch |= {f"{name}_{key}": padded[key] for key in ("input_ids", "placeholder_mask")}
    return batch


def cut_batches(rows: Dataset, size: int) -> list[list[dict]]:
    """Cut rows into batches, in order."""
    return [[rows[i] for i in range(start, start + size)] for start in range(0, len(rows), size)]


def build_trainer(
    model: RTDModel,
    processor: RTDProcessor,
    rows: Dataset,
    options: argparse.Namespace,
    folder: Path,
    lora: bool = False,
    **arguments,
) -> RTDTrainer:
    """Build a trainer.

    Args:
        model ([`RTDModel`]): Text tower, trained in place, and projection.
        processor ([`RTDProcessor`]): Of [`build_processor`].
        rows (`datasets.Dataset`): Of [`draw_triplets`].
        options (`argparse.Namespace`): The script's.
        folder (`Path`): Scratch.
        lora (`bool`, defaults to `False`): Train an adapter.
        arguments: Of [`RTDTrainingArguments`].

    Returns:
        [`RTDTrainer`]: Ready to train.
    """
    if lora:
        add_lora(model.text_model)
    args = RTDTrainingArguments(
        output_dir=str(folder / "run"),
        use_cpu=options.device == "cpu",
        bf16=options.precision == "bf16",
        per_device_train_batch_size=options.batch_size,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        anchor_cache_dir=str(folder / "anchors"),
        noise_unit="absolute",
        **arguments,
    )
    return RTDTrainer(
        model.text_model, args, projection=model.projection, train_dataset=rows, processing_class=processor
    )


def measure(options: argparse.Namespace) -> list[dict]:
    """Compare all ways at once, in turns.

    Args:
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: A row for each, the published step first where it is measured; see [`compare`].
    """
    processor = build_processor(family=options.family)
    model = build_model(options.size, "lincir", processor, with_vision=False)
    device, half = torch.device(options.device), options.precision == "bf16"
    # Compiled code is made in the first turn, and in the second once more, for lengths that vary.
    untimed = 2 if any("torch_compile" in ARMS[name] for name in options.arms) else 1
    triplets = draw_triplets(options.batch_size * (untimed + options.repeats))
    arms: dict[str, Callable] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.arms:
            own = copy.deepcopy(model)
            trainer = build_trainer(own, processor, triplets, options, Path(folder), "LoRA" in name, **ARMS[name])
            chunks = cut_batches(trainer.train_dataset, options.batch_size)
            if not arms and not options.without_published:
                batches = [send_to_device(collate_as_published(processor, chunk), device) for chunk in chunks]
                arms["published"] = build_published_step(copy.deepcopy(model).to(device), batches, trainer.args, half)
            arms[name] = build_step(
                trainer, [send_to_device(trainer.data_collator(chunk), device) for chunk in chunks]
            )
        compared = compare(arms, options.repeats, 0.1 if half else 1e-4, _agrees_at_first, untimed)
    return [
        {"ours": name, **row, "triplets/s": [options.batch_size / row["seconds"][i] for i in (0, 2, 1)]}
        for name, row in compared.items()
    ]


def _agrees_at_first(name: str) -> bool:
    return "LoRA" in name or "captions kept" in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, precision="float32")
    # Compiling takes minutes on a CPU; a term of captions is to be compared with our own step.
    default = [name for name in ARMS if not {"torch_compile", "caption_weight"} & ARMS[name].keys()]
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=default)
    parser.add_argument("--family", choices=("clip", "siglip"), default="clip", help="of the text tower")
    parser.add_argument("--without_published", action="store_true", help="the first arm is the baseline")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report(
        measure(options),
        ("ours", "ratio", "processor's ratio", "seconds", "triplets/s", "difference", "added MiB"),
        options,
    )


if __name__ == "__main__":
    main()
