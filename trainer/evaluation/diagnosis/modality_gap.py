"""Modality gap of pseudo-words: those of images, read at search, against those of texts, read in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from trainer.evaluation.diagnosis.alignment import compute_cosines, summarise


__all__ = ["compare_modalities", "describe_words", "find_neighbours"]


def find_neighbours(
    rows: np.ndarray, others: np.ndarray, leave_out_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of other rows by cosine.

    Args:
        rows (`np.ndarray` of shape `(num_rows, dim)`): Rows.
        others (`np.ndarray` of shape `(num_others, dim)`): Where to look.
        leave_out_self (`bool`, defaults to `False`): Whether the two are the same rows, none its own neighbour.

    Returns:
        `tuple`: Positions in `others` and cosines, each of shape `(num_rows,)`.

    Examples:
        >>> find_neighbours(np.array([[1.0, 0.1]]), np.eye(2))[0]
        array([0])
    """
    rows, others = (part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12) for part in (rows, others))
    places, cosines = [], []
    for start in range(0, len(rows), 1024):  # a table of tokens is large
        block = rows[start : start + 1024] @ others.T
        if leave_out_self:
            block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        places.append(block.argmax(axis=1))
        cosines.append(block.max(axis=1))
    return np.concatenate(places), np.concatenate(cosines)


def describe_words(words: np.ndarray, token_table: np.ndarray, tokens: Sequence[str]) -> dict:
    """Describe pseudo-words by their norms and by the real tokens next to them.

    Args:
        words (`np.ndarray` of shape `(num_words, hidden_size)`): Pseudo-words.
        token_table (`np.ndarray` of shape `(vocab_size, hidden_size)`): Token embeddings.
        tokens (`Sequence[str]` of length `vocab_size`): What the tokens say.

    Returns:
        `dict`: `norm` (summary), `token_cosine` (summary of the cosines with the nearest token), `distinct_tokens`
        (how many tokens are nearest to any), `common_tokens` (the ten most common nearest tokens and their shares).
    """
    places, cosines = find_neighbours(words, token_table)
    common = Counter(places.tolist()).most_common()
    return {
        "norm": summarise(np.linalg.norm(words, axis=1)),
        "token_cosine": summarise(cosines),
        "distinct_tokens": len(common),
        "common_tokens": {tokens[place]: count / len(words) for place, count in common[:10]},
    }


def compare_modalities(image_words: np.ndarray, text_words: np.ndarray, paired: bool) -> dict:
    """Compare the pseudo-words of images with those of texts.

    Args:
        image_words (`np.ndarray` of shape `(num_images, hidden_size)`): Pseudo-words of images.
        text_words (`np.ndarray` of shape `(num_texts, hidden_size)`): Pseudo-words of texts.
        paired (`bool`): Whether row `i` of both is of one image and its caption.

    Returns:
        `dict`: `gap`, the distance of the two means in units of the rms norm of all words. `mixing`, the share of
        words whose nearest other word is of the other modality (about 0.5 for equal numbers without a gap, 0 for two
        separate clouds). `pair_cosine`, the mean cosine of pairs, and `pair_recall@1`, the share of texts whose
        nearest image word is their own, both `None` without pairs.

    Raises:
        ValueError: If pairs are promised and the numbers differ.

    Examples:
        >>> compare_modalities(np.eye(2), np.eye(2), paired=True)["pair_recall@1"]
        1.0
    """
    if paired and len(image_words) != len(text_words):
        raise ValueError(f"pairs need equal numbers, got {len(image_words)} image and {len(text_words)} text words.")
    words = np.concatenate([image_words, text_words])
    is_image = np.arange(len(words)) < len(image_words)
    places, _ = find_neighbours(words, words, leave_out_self=True)
    # In units of the words: projections differ in the norm that they give.
    rms = np.sqrt((words**2).sum(axis=1).mean())
    own = find_neighbours(text_words, image_words)[0] == np.arange(len(text_words)) if paired else None
    return {
        "gap": float(np.linalg.norm(image_words.mean(axis=0) - text_words.mean(axis=0)) / rms),
        "mixing": float((is_image != is_image[places]).mean()),
        "pair_cosine": float(compute_cosines(image_words, text_words).mean()) if paired else None,
        "pair_recall@1": float(own.mean()) if paired else None,
    }
