"""Captions: cleaning, tagging words, and cutting a caption at its keywords or behind its subject."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.row_files import find_files
from trainer.data.tables import WHITESPACE, load_table


__all__ = ["clean_caption", "clean_captions", "has_words", "read_captions", "split_subject"]


def clean_caption(text: str | None) -> str:
    """Clean a caption as LinCIR and RTD do before they encode it.

    `<PERSON>` becomes `person`, letters become lower case, each `$` and the blanks at both ends go. For reference and
    target captions, and for LinCIR's captions; conditions stay as they are. The published code also cuts a caption
    to 75 tokens; here tokenisation does. See https://huggingface.co/papers/2312.01998 and
    https://huggingface.co/papers/2406.09188.

    Args:
        text (`str`, *optional*): The caption; `None` counts as empty.

    Returns:
        `str`: The cleaned caption, possibly empty.

    Examples:
        >>> clean_caption("  <PERSON> pays $5 for a Red Dress ")
        'person pays 5 for a red dress'
    """
    return (text or "").replace("<PERSON>", "person").lower().replace("$", "").strip()


def clean_captions(captions: pa.ChunkedArray) -> pa.Array:
    """Clean a column of captions at once, each as [`clean_caption`] does.

    Args:
        captions (`pyarrow.ChunkedArray` of strings): Captions.

    Returns:
        `pyarrow.Array`: The cleaned captions.
    """
    captions = pa.concat_arrays([pa.array([], captions.type), *captions.chunks]).fill_null("")
    cleaned = pc.ascii_lower(pc.replace_substring(captions, "<PERSON>", "person"))
    cleaned = pc.utf8_trim(pc.replace_substring(cleaned, "$", ""), characters=WHITESPACE)
    # Arrow lowers some letters beyond ASCII as Python does not.
    foreign = pc.invert(pc.string_is_ascii(captions))
    mended = pa.array([clean_caption(text) for text in captions.filter(foreign).to_pylist()], cleaned.type)
    return pc.replace_with_mask(cleaned, foreign, mended) if len(mended) else cleaned


def has_words(tokenizer, text: str) -> bool:
    """Check whether a tokenizer has all words of a text; word-level ones may not, byte-pair ones always do.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`): The tokenizer.
        text (`str`): The text.

    Returns:
        `bool`: Whether no word of it is unknown.
    """
    if tokenizer.unk_token_id in (None, tokenizer.eos_token_id):
        return True
    return tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"]


def split_subject(caption: str, tag: Callable[[str], list[tuple[str, str]]]) -> tuple[str, str] | None:
    """Split a caption into its subject and what is said of it.

    The subject is all up to the first noun, the attribute the rest. Repeats of the last word, an artefact of
    captioning models, are removed first. See https://huggingface.co/papers/2503.19296.

    Args:
        caption (`str`): A caption.
        tag (callable): See [`get_tagger`].

    Returns:
        `tuple[str, str]` or `None`: Subject and attribute; `None` where the caption has fewer than 4 words, no noun,
        or nothing behind its first noun.

    Examples:
        >>> from trainer.data.keywords import get_tagger
        >>> split_subject("a red dress on a beach beach", get_tagger("rule"))
        ('a red dress', 'on a beach')
        >>> split_subject("a red dress", get_tagger("rule"))
    """
    words = caption.split()
    # BLIP, which wrote the published captions, ends some in a word that repeats.
    while len(words) > 1 and words[-1] == words[-2]:
        words.pop()
    caption = " ".join(words)
    noun = next((word for word, kind in tag(caption) if kind == "noun"), None)
    if len(words) < 4 or noun is None:
        return None
    # As a whole word: the noun `cat` is not in `category`.
    end = re.search(rf"(?<!\w){re.escape(noun)}(?!\w)", caption)
    subject, attribute = (caption[: end.end()], caption[end.end() :].strip()) if end else ("", "")
    return (subject, attribute) if attribute and subject != attribute else None


_MAX_CHARACTERS = 2000  # of a caption; longer lines are something else


def read_captions(
    source: str | Path | Sequence[str | Path],
    columns: Sequence[str] = ("text", "caption"),
    split: str | None = None,
) -> tuple[list[str | None], dict[str, list[int]]]:
    """Read captions, one a row; rows without a caption become `None`.

    Args:
        source (`str`, `Path`, or list of them):
            txt files of one caption a line, UTF-8; or files, patterns, a folder or a Hub id with one of `columns`, as
            [`load_table`] takes them.
        columns (sequence of `str`, defaults to `("text", "caption")`): Columns that captions may be in.
        split (`str`, *optional*): Split of a folder or a Hub data set; `train` by default.

    Returns:
        `tuple`: Captions, and for each reason the rows that were skipped, counted from 1: `blank`, `too_long` (over
        2,000 characters), `binary` (no UTF-8, or control characters).

    Raises:
        ValueError: If there is no such file or split, it has no such column, or most of it is binary.
    """
    files = find_files(source)
    are_lines = isinstance(files, list) and all(path.is_file() and path.suffix.lower() == ".txt" for path in files)
    if are_lines and split in (None, "train"):
        # Not splitlines, which also cuts at form feeds and the like: rows are counted as editors count them.
        texts = [
            line.removesuffix(b"\r").decode(errors="replace")
            for path in files
            for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
        ]
    else:
        table = load_table(files, split)
        column = next((name for name in columns if name in table.column_names), None)
        if column is None:
            wanted, found = " or ".join(map(repr, columns)), ", ".join(table.column_names)
            raise ValueError(f"'{source}' needs a column {wanted}, found: {found}.")
        texts = [text if isinstance(text, str) else "" for text in table[column]]
    flaws = [_find_flaw(text) for text in texts]
    names = ("blank", "too_long", "binary")
    skipped = {name: [row for row, flaw in enumerate(flaws, start=1) if flaw == name] for name in names}
    if len(skipped["binary"]) > len(texts) / 2:
        raise ValueError(
            f"'{source}' looks binary: most lines are not UTF-8 text; give a text file, one caption a line."
        )
    return [None if flaw else text for text, flaw in zip(texts, flaws, strict=True)], skipped


def _find_flaw(text: str) -> str | None:
    # Cleaning would leave nothing of it.
    if re.fullmatch(r"[\s.$]*", text):
        return "blank"
    if len(text) > _MAX_CHARACTERS:
        return "too_long"
    return "binary" if re.search(r"[\x00-\x08\x0e-\x1f\ufffd]", text) else None
