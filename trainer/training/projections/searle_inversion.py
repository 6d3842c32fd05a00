"""Textual inversion: a pseudo-word of its own for each image, found by optimisation (SEARLE's OTI)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from tqdm.auto import tqdm

from modeling_rtd import RTDProcessor, RTDTextTower
from trainer.training.arguments import ProjectionTrainingArguments
from trainer.training.losses import cosine_loss
from trainer.training.projections.searle_concepts import find_templates
from trainer.training.projections.searle_phrases import PhraseBank, compute_phrase_loss


__all__ = ["TextualInversion"]

# Published, and so is that the sum of both losses is divided by that of their weights.
_INITIAL_STD = 0.02
_WEIGHT_DECAY = 0.01
_PHRASE_WEIGHT = 0.5


class TextualInversion:
    """Optimisation-based textual inversion of SEARLE (https://huggingface.co/papers/2303.15247).

    A vector in place of a word is drawn towards its image in the 24 templates of the concepts. It is also drawn
    towards the names of the nearest concepts in phrases about them. The exponential moving average over the steps is
    the result. It is as published, but for what changes no number. Phrases are embedded once, texts are as long as the
    longest of a batch, the frozen tower has no weight gradients, and the average has no graph.

    What is drawn for an image depends on the seed and on its row, not on the images beside it.

    Args:
        text_model ([`RTDTextModel`]): The frozen tower.
        processor ([`RTDProcessor`]): Its processor.
        bank ([`PhraseBank`]): Phrases.
        args ([`ProjectionTrainingArguments`]): Those that begin with `oti_`, the seed, and the mixed precision.
    """

    def __init__(
        self, text_model: RTDTextTower, processor: RTDProcessor, bank: PhraseBank, args: ProjectionTrainingArguments
    ):
        self.text_model = text_model.requires_grad_(False)
        self.device = text_model.device
        self.bank = bank
        self.args = args
        rows = processor.tokenize_pieces([template.split("{}") for template in find_templates(processor)])
        self.lengths = torch.tensor([len(row) for row in rows])
        templates = processor.pad(rows)
        self.templates = {name: templates[name].to(self.device) for name in ("input_ids", "placeholder_mask")}

    def compute_loss(
        self, words: torch.Tensor, image_embeds: torch.Tensor, templates: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compute the loss of a step.

        Args:
            words (`torch.Tensor` of shape `(batch_size, text_hidden_size)`): Vectors; gradients flow here.
            image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`): Of any norm.
            templates (`torch.Tensor` of shape `(batch_size,)`): Rows of the templates, on the CPU.
            batch (`dict`): Phrases, see [`PhraseBank.collate`].

        Returns:
            `torch.Tensor`: Scalar, `(L_cos + 0.5 * L_gpt) / 1.5`.
        """
        longest, words = int(self.lengths[templates].max()), words[:, None]
        templates = templates.to(self.device, non_blocking=True)
        shown = {name: tensor[templates, :longest] for name, tensor in self.templates.items()}
        text_embeds = self.text_model(**shown, pseudo_token_embeds=words).text_embeds.float()
        phrase_loss = compute_phrase_loss(self.text_model, words, batch)
        return (cosine_loss(text_embeds, image_embeds) + _PHRASE_WEIGHT * phrase_loss) / (1 + _PHRASE_WEIGHT)

    def invert(self, image_embeds: torch.Tensor, concepts: list[np.ndarray], rows: range) -> torch.Tensor:
        """Invert a batch of images.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`): Of any norm.
            concepts (`list[np.ndarray]`): For each image the concepts of the bank that its phrases are about.
            rows (`range`): Rows of the images, which key the draws.

        Returns:
            `torch.Tensor` of shape `(batch_size, text_hidden_size)`: Averaged vectors, float32, on the CPU.

        Raises:
            FloatingPointError: If they are not finite.
        """
        args = self.args
        draws = [self._draw(row, own) for row, own in zip(rows, concepts, strict=True)]
        start, templates, drawn, phrases = (np.stack(parts) for parts in zip(*draws, strict=True))
        words = torch.nn.Parameter(torch.from_numpy(start).to(self.device))
        # It starts at the first vector, without a correction, as published.
        average = words.detach().clone()
        optimizer = torch.optim.AdamW([words], lr=args.oti_learning_rate, weight_decay=_WEIGHT_DECAY)
        # Gradients pass a tower in half precision, where small ones would vanish.
        scaler = torch.amp.GradScaler(self.device.type, enabled=args.fp16)
        half = torch.float16 if args.fp16 else torch.bfloat16
        image_embeds = image_embeds.to(self.device)
        for step in range(args.oti_steps):
            batch = self.bank.collate(drawn[:, step], phrases[:, step])
            batch = send_to_device(batch, self.device, non_blocking=True)
            with torch.autocast(self.device.type, half, enabled=args.fp16 or args.bf16):
                loss = self.compute_loss(words, image_embeds, torch.from_numpy(templates[:, step]), batch)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            average.lerp_(words.detach(), 1 - args.oti_ema_decay)
        if not torch.isfinite(average).all():
            raise FloatingPointError(
                f"the inversion of images {rows.start} to {rows.stop - 1} ran away; lower oti_learning_rate or invert "
                "in float32."
            )
        return average.cpu()

    def invert_all(self, image_embeds: torch.Tensor, concepts: list[np.ndarray], path: Path) -> np.ndarray:
        """Invert images batch by batch, and continue after an interruption with those that are left.

        Args:
            image_embeds (`torch.Tensor` of shape `(num_images, projection_dim)`): Of any norm.
            concepts (`list[np.ndarray]`): See `invert`.
            path (`Path`): Where the vectors are kept, as rows of float32; a batch is added once it is whole.

        Returns:
            `np.ndarray` of shape `(num_images, text_hidden_size)`: Mapped from disk, read-only.

        Raises:
            FloatingPointError: As `invert`.
        """
        total, batch_size = len(image_embeds), self.args.oti_batch_size
        size = self.text_model.config.hidden_size
        path.touch()
        with path.open("r+b") as file:
            done = min(path.stat().st_size // (4 * size), total)
            done -= 0 if done == total else done % batch_size  # a batch counts only as a whole
            file.truncate(done * 4 * size)
            file.seek(0, 2)
            with tqdm(total=total, initial=done, desc="Inverting images", disable=done == total) as bar:
                for start in range(done, total, batch_size):
                    rows = range(start, min(start + batch_size, total))
                    words = self.invert(image_embeds[rows.start : rows.stop], concepts[rows.start : rows.stop], rows)
                    file.write(words.numpy().tobytes())
                    file.flush()
                    bar.update(len(rows))
        return np.memmap(path, np.float32, "r", shape=(total, size))

    def _draw(self, row: int, concepts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Draw an image's first vector, and for each step a template, a concept and a phrase about it."""
        # By row: the result depends neither on batches nor on interruptions.
        rng, steps = np.random.default_rng([self.args.seed, row]), self.args.oti_steps
        start = (_INITIAL_STD * rng.standard_normal(self.text_model.config.hidden_size)).astype(np.float32)
        templates = rng.integers(len(self.lengths), size=steps)
        drawn = concepts[rng.integers(len(concepts), size=steps)]
        return start, templates, drawn, rng.integers(self.bank.count, size=steps)
