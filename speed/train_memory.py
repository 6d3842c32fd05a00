"""Compare the peak memory of RTD training: as published, all weights, and a LoRA adapter; anchors cached or not.

    PYTHONPATH=. python speed/train_memory.py                      # ViT-B/32's text tower, random weights
    PYTHONPATH=. python speed/train_memory.py --hidden_size 64     # a toy, to try the script

Each row is a process of its own that runs a few steps. Memory is the process's peak of resident memory less its peak
before the tower was built, or on a GPU the peak of what torch allocated there. Triplets are random words of the length
of real ones (15 tokens in the composed prompt).
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

MODES = (
    "all weights, anchors on the fly",
    "all weights, anchors cached",
    "LoRA, anchors on the fly",
    "published",
)


def _peak_mib(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(mode: str, hidden_size: int, batch_size: int, steps: int, device: str = "cpu") -> dict:
    """Train a few steps and read the peak of this process.

    Args:
        mode (`str`): One of `MODES`.
        hidden_size (`int`): Width of the text tower; 512 is ViT-B/32's.
        batch_size (`int`): Triplets a step.
        steps (`int`): Steps.
        device (`str`, defaults to `"cpu"`): Where it trains.

    Returns:
        `dict`: `mode`, `peak_mib` above the start, `trainable` parameters and `loss`.
    """
    import numpy as np
    import torch
    from accelerate.utils import send_to_device
    from datasets import Dataset
    from transformers import CLIPImageProcessorPil

    from modeling_rtd import RTDProcessor, RTDTextConfig, RTDTextModel, build_projection
    from modeling_rtd.configuration_rtd import RTDProjectionConfig
    from speed.train_step import build_published_step, collate_as_published
    from trainer import RTDTrainer, RTDTrainingArguments
    from trainer.adapters import add_lora
    from trainer.small_world import build_tokenizer

    tokenizer = build_tokenizer("demo")
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    rng = np.random.default_rng(0)

    def write(count: int) -> str:
        return " ".join(rng.choice(words, count))

    rows = [
        {"reference_caption": write(10), "conditioning_caption": write(8), "target_caption": write(10), "row": row}
        for row in range(batch_size * steps)
    ]
    config = RTDTextConfig(
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        projection_dim=hidden_size,
        num_attention_heads=hidden_size // 64,
        eos_token_id=tokenizer.eos_token_id,
    )
    sizes = {"projection_dim": hidden_size, "text_hidden_size": hidden_size}
    start = _peak_mib(device)
    torch.manual_seed(0)
    tower = RTDTextModel(config)
    projection = build_projection(RTDProjectionConfig(**sizes))
    processor = RTDProcessor(CLIPImageProcessorPil(), tokenizer)
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
            use_cpu=device == "cpu",
            anchor_cache="always" if "cached" in mode else "never",
            anchor_cache_dir=scratch,
        )
        if mode == "published":
            chunks = (rows[i * batch_size : (i + 1) * batch_size] for i in range(steps))
            batches = [send_to_device(collate_as_published(processor, chunk), device) for chunk in chunks]
            model = argparse.Namespace(text_model=tower.to(device), projection=projection.to(device).eval())
            step = build_published_step(model, batches, args)
            loss = sum(float(step(i)) for i in range(steps)) / steps
        else:
            trainer = RTDTrainer(
                tower, args, projection=projection, train_dataset=Dataset.from_list(rows), processing_class=processor
            )
            loss = trainer.train().training_loss
    trainable = sum(p.numel() for p in tower.parameters() if p.requires_grad)
    return {"mode": mode, "peak_mib": round(_peak_mib(device) - start), "trainable": trainable, "loss": round(loss, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, help="measure one mode in this process")
    parser.add_argument("--hidden_size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("hidden_size", "batch_size", "steps", "device")}
    if options.mode:
        print(json.dumps(measure(options.mode, **sizes)))
        return
    flags = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    rows = []
    for mode in MODES:
        command = [sys.executable, __file__, "--mode", mode, *flags]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.strip().splitlines()[-1]))
    print("| mode | peak, MiB | of all weights | trainable parameters |\n|---|---|---|---|")
    for row in rows:
        share = row["peak_mib"] / rows[0]["peak_mib"]
        print(f"| {row['mode']} | {row['peak_mib']:,} | {share:.2f} | {row['trainable']:,} |")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
