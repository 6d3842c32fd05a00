"""How the public names are used, for a type checker: `make quality` runs mypy on this file. It is never run.

An argument that is renamed, or a result of another type, is an error here.
"""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from modeling_rtd import Gallery, Query, RTDModel, RTDProcessor, encode_composed, encode_images
from trainer import (
    Benchmark,
    RetrievalEvaluator,
    RTDTrainer,
    RTDTrainingArguments,
    evaluate,
    load_benchmark,
    target_anchored_loss,
)


def use(model: RTDModel, processor: RTDProcessor, images: list[Path], composed: torch.Tensor) -> list[str]:
    """Search a gallery, and keep it."""
    embeddings: torch.Tensor = encode_images(model, processor, images)
    gallery: Gallery = Gallery.from_images(model, processor, images, batch_size=32)
    gallery.save("runs/index", engine="faiss")
    imported: Gallery = Gallery.from_embeddings(embeddings, [image.stem for image in images])
    found: list[list[dict]] = imported.search(composed, top_k=3, where={"year": [2023]}, min_score=0.1)
    skipped: list[str] = gallery.skipped
    query = Query(condition="is red", strength=0.8, exclude=["a"])
    encode_composed(model, processor, [query])
    return [result["id"] for result in found[0]] + skipped


def make(model: RTDModel, processor: RTDProcessor, triplets: Dataset) -> dict[str, Any]:
    """Train, and judge."""
    arguments = RTDTrainingArguments("runs/rtd", max_steps=300, learning_rate=1e-3, caption_weight=2.0)
    trainer = RTDTrainer(model="runs/lincir/model", args=arguments, train_dataset=triplets)
    trainer.train()
    trainer.save_model()
    benchmark: Benchmark = load_benchmark("wardrobe/demo", split="test")
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    metrics: dict[str, float] = evaluator(model)
    loss: torch.Tensor = target_anchored_loss(torch.zeros(2, 4), torch.zeros(2, 4), temperature=0.07)
    return evaluate(model, "cirr", root="data/cirr") | metrics | {"loss": loss.item()}
