"""Compare the peak memory of RTD training: all weights against a LoRA adapter, anchors cached and on the fly.

    python speed/train_memory.py                      # ViT-B/32's text tower at published size, random weights
    python speed/train_memory.py --hidden_size 64     # a toy, to try the script

Each row is a process of its own that runs a few steps; resident memory is that process's peak, less its peak before
the tower was built. Triplets are random words of the length of real ones (15 tokens in the composed prompt).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


__all__ = ["MODES", "measure"]

MODES = ("all weights, anchors on the fly", "all weights, anchors cached", "LoRA, anchors on the fly")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(mode: str, hidden_size: int, batch_size: int, steps: int) -> dict:
    """Train a few steps and read the peak of this process.

    Args:
        mode (`str`): One of `MODES`.
        hidden_size (`int`): Width of the text tower; 512 is ViT-B/32's.
        batch_size (`int`): Triplets a step.
        steps (`int`): Steps.

    Returns:
        `dict`: `mode`, `peak_mib` above the start, `trainable` parameters and `loss`.
    """
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import CLIPImageProcessorPil

    from modeling_rtd import RTDProcessor, RTDTextConfig, RTDTextModel, build_projection
    from modeling_rtd.configuration_rtd import RTDProjectionConfig
    from trainer import RTDTrainer, RTDTrainingArguments
    from trainer.adapters import add_lora
    from trainer.small_world import build_tokenizer

    tokenizer = build_tokenizer("demo")
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    rng = np.random.default_rng(0)

    def write(count: int) -> str:
        return " ".join(rng.choice(words, count))

    rows = [
        {"reference_caption": write(10), "conditioning_caption": write(8), "target_caption": write(10)}
        for _ in range(batch_size * steps)
    ]
    config = RTDTextConfig(
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        projection_dim=hidden_size,
        num_attention_heads=hidden_size // 64,
        eos_token_id=tokenizer.eos_token_id,
    )
    sizes = {"projection_dim": hidden_size, "text_hidden_size": hidden_size}
    start = _peak_mib()
    torch.manual_seed(0)
    tower = RTDTextModel(config)
    if "LoRA" in mode:
        add_lora(tower)
    with tempfile.TemporaryDirectory() as scratch:
        args = RTDTrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            save_strategy="no",
            logging_steps=steps,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            anchor_cache="always" if "cached" in mode else "never",
            anchor_cache_dir=scratch,
        )
        trainer = RTDTrainer(
            tower,
            args,
            projection=build_projection(RTDProjectionConfig(**sizes)),
            train_dataset=Dataset.from_list(rows),
            processing_class=RTDProcessor(CLIPImageProcessorPil(), tokenizer),
        )
        loss = trainer.train().training_loss
    trainable = sum(p.numel() for p in tower.parameters() if p.requires_grad)
    return {"mode": mode, "peak_mib": round(_peak_mib() - start), "trainable": trainable, "loss": round(loss, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, help="measure one mode in this process")
    parser.add_argument("--hidden_size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("hidden_size", "batch_size", "steps")}
    if options.mode:
        print(json.dumps(measure(options.mode, **sizes)))
        return
    flags = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    rows = []
    for mode in MODES:
        command = [sys.executable, __file__, "--mode", mode, *flags]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.strip().splitlines()[-1]))
    print("| mode | peak resident, MiB | of all weights | trainable parameters |\n|---|---|---|---|")
    for row in rows:
        share = row["peak_mib"] / rows[0]["peak_mib"]
        print(f"| {row['mode']} | {row['peak_mib']:,} | {share:.2f} | {row['trainable']:,} |")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
