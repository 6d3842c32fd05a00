"""Making of triplets: from captions, block by block."""

from __future__ import annotations

import hashlib
import multiprocessing
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice

import numpy as np
import torch
from transformers import AutoConfig

from modeling_rtd import RTDConfig, RTDProcessor, RTDTextTower, hash_tensors, load_text_model, suggest
from trainer.data.captions import clean_caption, has_words
from trainer.data.keywords import get_keyword_fn, is_latin
from trainer.data.language_model import PROMPT, LanguageModel, parse_output
from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.encoding.captions import encode_captions
from trainer.triplet_making.lexicon import Lexicon
from trainer.triplet_making.rules import draw_edits


__all__ = ["METHODS", "TripletMaker", "hash_triplet", "make_triplets"]

METHODS = ("rules", "lm")
_NOTHING_PARSED_AFTER = 64  # captions
_ATTEMPTS = 4  # edits tried for a triplet before it is given up


class TripletMaker:
    """Makes triplets block by block; a block depends on the captions and the settings, not on other blocks.

    Args:
        captions, method, options: See [`make_triplets`].
    """

    def __init__(
        self,
        captions: Sequence[str | None],
        method: str = "rules",
        seed: int = 0,
        per_caption: int = 1,
        *,
        keyword_fn: str = "rule",
        model: str | None = None,
        language_model: str | Callable[[list[str], int], list[str]] | None = None,
        similarity_band: tuple[float, float] = (0.5, 0.98),
    ):
        if method not in METHODS:
            raise ValueError(suggest("method", method, METHODS))
        if (method == "lm") != (language_model is not None):
            raise ValueError("method 'lm', and no other, needs a `language_model`: directory or Hub id.")
        if per_caption < 1 or seed < 0:
            raise ValueError(f"per_caption must be 1 or more and seed 0 or more, got {per_caption} and {seed}.")
        if not -1 <= similarity_band[0] < similarity_band[1] <= 1:
            raise ValueError(f"similarity_band must be two rising cosines in [-1, 1], got {similarity_band}.")
        cleaned = (" ".join(clean_caption(caption).split()).rstrip(" .") for caption in captions)
        self.rows, self.other_script = _Rows(), []
        for row, text in enumerate(cleaned, start=1):
            # Rules know English. What they cannot read is counted, and keeps out of the lexicon.
            if text and method == "rules" and not is_latin(text):
                self.other_script.append(row)
            elif text:
                self.rows.append(row, text)
        if not len(self.rows):
            count = len(self.other_script)
            hint = f": rules know English only, and {count} are in another script; take method 'lm'"
            raise ValueError(f"there is no usable caption{hint if count else ''}.")
        self.seed, self.per_caption, self.band = seed, per_caption, similarity_band
        # A block of a language model is one batch of 16 prompts.
        self.block_size = 256 if method == "rules" else max(1, 16 // per_caption)
        self.tower, self.processor = _load(model, _load_tower) if model is not None else (None, None)
        self.lexicon = self.write = self._edit = None
        if method == "rules":
            self.lexicon = Lexicon(self.rows, get_keyword_fn(keyword_fn))
            is_known = partial(has_words, self.processor.tokenizer) if self.processor else bool
            self._edit = _Editor(self.lexicon, seed, is_known, _ATTEMPTS if self.tower else 1)
        else:
            self.write = language_model if callable(language_model) else _load(language_model, LanguageModel)
        self.settings = {
            "method": method,
            "seed": seed,
            "per_caption": per_caption,
            "keyword_fn": keyword_fn,
            "model": hash_tensors(self.tower) if self.tower else None,
            "language_model": getattr(self.write, "name", None),
            "similarity_band": list(similarity_band),
            "captions": self.rows.hash(),
        }

    def __len__(self) -> int:
        return -(-len(self.rows) // self.block_size)

    def make_blocks(self, start: int, seen: set[bytes], num_proc: int = 1) -> Iterator[tuple[list[dict], Counter]]:
        """Make the blocks from one on; processes edit captions, and this one alone keeps what is not `seen`."""
        if num_proc < 1 or (num_proc > 1 and not self.lexicon):
            raise ValueError(f"num_proc must be 1 or, for the method 'rules', more, got {num_proc}.")
        blocks = range(start, len(self))
        if num_proc == 1:
            yield from (self.make_block(block, seen) for block in blocks)
            return
        with multiprocessing.Pool(num_proc, _start_process, (self._edit,)) as pool:

            def edit(block: int):
                return pool.apply_async(_edit_slots, (self._list_slots(block),))

            # Only a few blocks ahead: a similarity model is slower than the rules, and edits would fill the memory.
            window = 4 * num_proc
            ahead = deque(map(edit, blocks[:window]))
            for block in blocks:
                proposals = ahead.popleft().get()
                if block + window < len(self):
                    ahead.append(edit(block + window))
                yield self.make_block(block, seen, proposals)

    def _list_slots(self, block: int) -> list[tuple]:
        rows = self.rows.read(block * self.block_size, self.block_size)
        return [(row, text, k) for row, text in rows for k in range(self.per_caption)]

    def make_block(self, block: int, seen: set[bytes], proposals: list | None = None) -> tuple[list[dict], Counter]:
        """Make the triplets of a block whose hashes are not `seen` yet, add those, and count what was dropped."""
        slots = self._list_slots(block)
        if proposals is None:
            proposals = list(map(self._edit, slots)) if self.lexicon else self._write(slots, block, seen)
        similarities = self._compare({(edit[1], edit[3]) for edits in proposals for edit in edits})
        nothing = "no_edit" if self.lexicon else "unparsable_output"
        triplets, dropped = [], Counter({nothing: proposals.count([])})
        for slot, edits in zip(slots, proposals, strict=True):
            # Without a tower the first edit is nearly always kept: the others are drawn if it is not.
            more = islice(self._edit.draw(slot), 1, _ATTEMPTS) if edits and self._edit and not self.tower else ()
            for template, *texts in chain(edits, more):
                similarity = similarities.get((texts[0], texts[2]))
                if texts[0].lower() == texts[2].lower():
                    dropped["target_equal_to_reference"] += 1
                elif hash_triplet(texts) in seen:
                    dropped["duplicate"] += 1
                elif similarity is not None and not self.band[0] <= similarity <= self.band[1]:
                    dropped["outside_similarity_band"] += 1
                else:
                    seen.add(hash_triplet(texts))
                    triplet = dict(zip(TRIPLET_COLUMNS, texts, strict=True)) | {"template": template, "row": slot[0]}
                    triplets.append(triplet if similarity is None else triplet | {"similarity": similarity})
                    break
        return triplets, dropped

    def _write(self, slots: list[tuple], block: int, seen: set[bytes]) -> list[list[tuple]]:
        seed = int(np.random.SeedSequence([self.seed, block]).generate_state(1)[0])
        outputs = self.write([PROMPT.format(caption=text) for _, text, _ in slots], seed)
        parsed = [parse_output(output) for output in outputs]
        tried = min((block + 1) * self.block_size, len(self.rows))
        # A model that errs is not refused; one that never follows the form of the prompt is.
        if not seen and not any(parsed) and tried >= min(_NOTHING_PARSED_AFTER, len(self.rows)):
            raise ValueError(
                f"no output of the language model could be parsed after {tried} captions. It must continue the prompt "
                f"with 'condition => target: caption', but wrote for example {outputs[0][:200]!r}. Take another model."
            )
        return [[("lm", text, *found)] if found else [] for (_, text, _), found in zip(slots, parsed, strict=True)]

    def _compare(self, pairs: set[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """Compute the cosine of each pair of texts; none without a tower."""
        if self.tower is None or not pairs:
            return {}
        texts = sorted({text for pair in pairs for text in pair})
        embeds = torch.nn.functional.normalize(encode_captions(self.tower, self.processor, texts, desc=None), dim=-1)
        embeds = dict(zip(texts, embeds, strict=True))
        return {(a, b): round(float(embeds[a] @ embeds[b]), 4) for a, b in pairs}


class _Rows:
    """Captions with their rows, in three blocks of memory, where a list would hold three objects for each.

    They are iterated over as texts.
    """

    def __init__(self):
        self._rows, self._ends, self._bytes = array("q"), array("q", [0]), bytearray()

    def append(self, row: int, text: str) -> None:
        self._rows.append(row)
        self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in self.read(0, len(self)))

    def read(self, start: int, count: int) -> Iterator[tuple[int, str]]:
        for i in range(start, min(start + count, len(self))):
            yield self._rows[i], self._bytes[self._ends[i] : self._ends[i + 1]].decode()

    def hash(self) -> str:
        digest = hashlib.sha256()
        for place, (row, text) in enumerate(self.read(0, len(self))):
            digest.update(f"{chr(0) if place else ''}{row} {text}".encode())
        return digest.hexdigest()


class _Editor:
    """Draws edits of a caption, by its row: a block can be made without those before it, and in another process."""

    def __init__(self, lexicon: Lexicon, seed: int, is_known: Callable[[str], bool], attempts: int):
        self.lexicon, self.seed, self.is_known, self.attempts = lexicon, seed, is_known, attempts

    def draw(self, slot: tuple) -> Iterator[tuple]:
        row, text, k = slot
        yield from draw_edits(self.lexicon, text, np.random.default_rng([self.seed, row, k]), self.is_known)

    def __call__(self, slot: tuple) -> list[tuple]:
        return list(islice(self.draw(slot), self.attempts))


def _start_process(edit: _Editor) -> None:
    global _edit
    _edit = edit


def _edit_slots(slots: list[tuple]) -> list[list[tuple]]:
    return list(map(_edit, slots))


def hash_triplet(texts: Sequence[str]) -> bytes:
    """Hash reference, condition and target, whatever their case, to twelve bytes."""
    # Of 100 million triplets the chance that two collide is below 1 in 10^12.
    return hashlib.sha256("\0".join(texts).lower().encode()).digest()[:12]


def _load_tower(name: str) -> tuple[RTDTextTower, RTDProcessor]:
    is_rtd = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type == RTDConfig.model_type
    processor = (RTDProcessor.from_pretrained if is_rtd else RTDProcessor.from_clip)(name)
    return load_text_model(name).eval(), processor


def _load(name: str, load: Callable):
    try:
        return load(name)
    except OSError as error:
        raise ValueError(f"'{name}' cannot be loaded; give a directory or Hub id: {error}") from error


def make_triplets(
    captions: Sequence[str | None], method: str = "rules", num_proc: int = 1, **options
) -> Iterator[dict]:
    """Make text triplets from plain captions, no two alike, none whose target is its reference.

    `"rules"` knows English, and leaves out captions in another script than Latin. It edits a caption by the templates
    of [`WORDINGS`]. Which words are nouns or adjectives, which of them are
    exchangeable and which phrases go with a noun is read off the captions themselves. `"lm"` asks a local causal
    language model with [`PROMPT`] and samples. Both are ours, neither is the data of the paper
    (https://huggingface.co/papers/2406.09188), which were made by a larger language model.

    Args:
        captions (`list[str]`): Captions; empty ones and `None` are skipped, but count as rows.
        method (`str`, defaults to `"rules"`): `"rules"` or `"lm"`.
        num_proc (`int`, defaults to 1): For `"rules"`: processes that edit captions; any number gives the same.
        seed (`int`, defaults to 0): With the row (`"lm"`: block of rows) decides all draws.
        per_caption (`int`, defaults to 1): Triplets tried for each caption.
        keyword_fn (`str`, defaults to `"rule"`): For `"rules"`: who tags the words, see [`get_keyword_fn`].
        model (`str`, *optional*):
            Directory or Hub id of a CLIP or RTD model. Its text tower measures how similar reference and target are;
            conditions with words that its vocabulary lacks are not used.
        language_model (`str` or callable, *optional*):
            For `"lm"`: directory or Hub id, or a function from prompts and a seed to outputs.
        similarity_band (`tuple[float, float]`, defaults to `(0.5, 0.98)`):
            With `model`, cosines that are kept. Ours: the lower end drops what is another picture, the upper end what
            the tower cannot distinguish. Not tuned.

    Returns:
        Iterator of `dict`: The three columns of a triplet, `template`, `row` (of the caption, counted from 1), and
        with `model` their `similarity`.

    Raises:
        ValueError: If an option is not accepted, no caption is usable, or no output of a language model parses.

    Examples:
        >>> captions = [
        ...     f"a {size} {colour} {thing} on {ground}"
        ...     for size in ("big", "small")
        ...     for colour in ("red", "blue")
        ...     for thing in ("dog", "cat", "car")
        ...     for ground in ("sand", "snow", "grass")
        ... ]
        >>> triplets = list(make_triplets(captions, seed=1))
        >>> [triplets[0][name] for name in ("reference_caption", "conditioning_caption", "target_caption")]
        ['a big red dog on sand', 'the big dog is not red but blue', 'a big blue dog on sand']
    """
    maker = TripletMaker(captions, method, **options)
    return (triplet for made, _ in maker.make_blocks(0, set(), num_proc) for triplet in made)
