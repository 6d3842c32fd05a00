"""Processing: images to pixels, conditions to prompts with placeholders for pseudo-words."""

from __future__ import annotations

import copy
import html
import numbers
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image, ImageOps
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format, is_scaled_image
from transformers.processing_utils import TextKwargs
from transformers.utils import AUDIO_TOKENIZER_NAME, PROCESSOR_NAME, cached_file

from .configuration_rtd import (
    PLACEHOLDER,
    RTDConfig,
    find_context_token_id,
    find_placeholder_token_id,
    name_family,
    read_backbone_config,
)
from .errors_rtd import check_path, pick_where, suggest
from .files_rtd import is_utf8, name_damage, read_json
from .images_rtd import MAX_PIXELS, is_url, open_image
from .projection_auto_rtd import PROJECTIONS
from .projection_rtd import RTD_TEMPLATE, RTDProjection


try:
    import ftfy
except ImportError:
    ftfy = None


__all__ = ["RTDProcessor"]

_CONDITION = "{condition}"
_FAMILIES = ("clip", "metaclip_2", "siglip")
_LONGEST_STRIP = 100  # sides of one to this: CLIP's preprocessing enlarges the shorter side to its own size
# Arguments of transformers' tokenizers that are followed, and the values of others that ask for what is done anyway.
_TEXT_ARGUMENTS = ("padding", "truncation", "max_length", "return_tensors")
_TEXT_VALUES = {
    "add_special_tokens": (True,),
    "padding_side": ("right",),
    "return_attention_mask": (True,),
    "verbose": (True, False),
}


class RTDProcessor(ProcessorMixin):
    """Image processor, tokenizer and named prompt templates.

    A template holds one `$` per pseudo-word and `{condition}` once, such as `"a photo of $ that {condition}"` or
    `"a {condition} of $"`. Placeholders are spliced between tokenised pieces, so a `$` or any special token
    in a user's text is ordinary text. Truncation cuts the condition and never a placeholder.

    Where the package `ftfy` is installed, texts for a CLIP are repaired with it first, as OpenAI's own tokenizer does.
    Curly quotes become straight, full-width letters plain and `&amp;` an `&`. Without it they are read as they are.
    Texts for a SigLIP are lower-cased: SigLIP 2 was trained so, and its tokenizer does not do it.

    Args:
        image_processor (`transformers.CLIPImageProcessorPil` or `transformers.SiglipImageProcessorPil`):
            Preprocessing of the backbone.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the backbone, unchanged; it says what is before and behind a text.
        prompt_templates (`dict[str, str]`, *optional*):
            Templates by name; each projection's own, and `"rtd"`, by default.
        default_template (`str`, defaults to `"lincir"`): Name of the template used where none is given.
        max_length (`int`, *optional*):
            Tokens the text tower takes, start and end of text included. Defaults to the tokenizer's length, at most
            CLIP's 77.
        family (`str`, defaults to `"clip"`): Family of the backbone, `"clip"`, `"metaclip_2"` or `"siglip"`.

    Raises:
        ValueError: If a template lacks its placeholder or its condition, the tokenizer does not end a text, or the
            family is unknown.
    """

    _cuts = True  # whether texts that are too long are cut, or refused

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        prompt_templates=None,
        default_template="lincir",
        max_length=None,
        family="clip",
        **kwargs,
    ):
        own = {name: projection.prompt_template for name, projection in PROJECTIONS.items()}
        self.prompt_templates = prompt_templates or own | {"rtd": RTD_TEMPLATE}
        self.default_template = default_template
        for name, template in self.prompt_templates.items():
            if PLACEHOLDER not in template or template.count(_CONDITION) != 1:
                raise ValueError(
                    f"the prompt template '{name}' is '{template}', but must hold '{PLACEHOLDER}', and '{_CONDITION}' "
                    "once."
                )
        self._find_template(default_template)
        super().__init__(image_processor, tokenizer, **kwargs)
        self._placeholder_token_id = find_placeholder_token_id(tokenizer)
        # A tokenizer that was saved without a length says 1e30.
        self.max_length = max_length or min(tokenizer.model_max_length, 77)
        self.family = family
        if family not in _FAMILIES:
            raise ValueError(suggest("family of backbones", family, _FAMILIES))
        self._before, self._behind = _find_ends(tokenizer)
        # An unknown token stands for a word of the user's, where it is none of those at the ends.
        self._reserved = {*tokenizer.all_special_ids} - ({tokenizer.unk_token_id} - {*self._before, *self._behind})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load as every transformers processor does, but never run code that the repository brings.

        Images are preprocessed by Pillow, as those of a gallery have been; `backend="torchvision"` is faster where
        torchvision is installed, and its pixels differ a little.
        """
        check_path(pretrained_model_name_or_path, "pretrained_model_name_or_path")
        if "use_fast" not in kwargs:  # else transformers takes torchvision as soon as it is installed
            kwargs.setdefault("backend", "pil")
        with name_damage(pretrained_model_name_or_path):
            _refuse_audio(pretrained_model_name_or_path, **pick_where(kwargs) | {"force_download": False})
            processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs | {"trust_remote_code": False})
            settings = processor.image_processor.to_dict()
            sides = [side for name in ("size", "crop_size") for side in (settings.get(name) or {}).values() if side]
            if max(sides) ** 2 > MAX_PIXELS:
                raise ValueError(f"it makes images of {max(sides)} pixels a side, more than any backbone reads.")
            # A setting of a wrong type shows when it is used: better here, by the name of the repository.
            processor.prepare_images(Image.new("RGB", (2, 2)))
            processor.pad(processor.build_prompts([""])[0])
            return processor

    @classmethod
    def _load_tokenizer_from_pretrained(cls, *args, backend: str | None = None, **kwargs):
        # transformers hands the backend of images to the tokenizer too, which would keep and save it as its own.
        # Without a configuration it looks for a class, and warns of `rtd` where this code came with a model.
        return super()._load_tokenizer_from_pretrained(*args, **kwargs | {"config": RTDConfig()})

    @classmethod
    def from_clip(cls, clip: str, projection: str | RTDProjection = "lincir", **kwargs) -> RTDProcessor:
        """Build the processor of a backbone for the prompts of a projection.

        Args:
            clip (`str`): Repository or directory of a CLIP, a MetaCLIP 2, a SigLIP or a SigLIP 2.
            projection (`str` or [`RTDProjection`], defaults to `"lincir"`): Whose template is the default.
            kwargs:
                Passed to `from_pretrained` of image processor and tokenizer; `backend` to the first alone, `"pil"`
                (default) or `"torchvision"`.

        Returns:
            [`RTDProcessor`]: Ready to save beside the model.
        """
        name = projection if isinstance(projection, str) else projection.config.projection_type
        kwargs = kwargs | {"trust_remote_code": False}
        backend = kwargs.pop("backend", "pil")
        config = read_backbone_config(clip, **pick_where(kwargs))
        tokenizer = AutoTokenizer.from_pretrained(clip, **kwargs)
        text_config = getattr(config, "text_config", config)
        return cls(
            AutoImageProcessor.from_pretrained(clip, backend=backend, **kwargs),
            tokenizer,
            default_template=name,
            max_length=min(tokenizer.model_max_length, text_config.max_position_embeddings),
            family=name_family(text_config),
        )

    def with_template(self, name: str) -> RTDProcessor:
        """Give the same processor with another default template.

        Args:
            name (`str`): Name of a template.

        Returns:
            [`RTDProcessor`]: A new processor; image processor and tokenizer are shared.

        Raises:
            ValueError: If there is no such template.
        """
        parts = self.image_processor, self.tokenizer, self.prompt_templates
        return type(self)(*parts, name, self.max_length, self.family)

    @property
    def image_size_px(self) -> tuple[int, int]:
        """`tuple[int, int]`: Height and width of preprocessed images; SigLIP's preprocessing does not crop."""
        size = getattr(self.image_processor, "crop_size", None) or self.image_processor.size
        return size["height"], size["width"]

    @property
    def placeholder_token_id(self) -> int:
        """`int`: Id that stands for a pseudo-word."""
        return self._placeholder_token_id

    @property
    def context_word(self) -> str:
        """`str`: Takes its place in the text of a context in place of the pseudo-word."""
        return self.tokenizer.decode([find_context_token_id(self.tokenizer)]).strip()

    def _find_template(self, name: str | None) -> str:
        name = name or self.default_template
        if not isinstance(name, str):
            raise ValueError(f"a template is a text or the name of one, got a {type(name).__name__}.")
        if PLACEHOLDER in name and name.count(_CONDITION) == 1:
            return name  # a template itself, such as that of a benchmark
        if name not in self.prompt_templates:
            raise ValueError(suggest("prompt template", name, self.prompt_templates))
        return self.prompt_templates[name]

    def __call__(
        self,
        images=None,
        text: str | Sequence[str] | None = None,
        conditions: str | Sequence[str] | None = None,
        template: str | None = None,
        return_tensors: str = "pt",
        **kwargs,
    ) -> BatchFeature:
        """Prepare images, plain texts, or composed queries.

        Args:
            images (image, path, URL, or list of them, *optional*):
                Reference or gallery images, see `load_image`; turned upright by their EXIF tag and to RGB.
            text (`str` or `list[str]`, *optional*): Plain texts, for `get_text_features`.
            conditions (`str` or `list[str]`, *optional*):
                Conditions of composed queries. An empty one asks for the reference alone and gives a warning.
            template (`str`, *optional*): Name of the prompt template. Defaults to `default_template`.
            return_tensors (`str`, defaults to `"pt"`): Only PyTorch tensors are made.
            kwargs:
                As every processor of transformers takes them, alone or in the dictionaries `text_kwargs`,
                `images_kwargs` and `common_kwargs`. Of texts and conditions: `padding` (`True`, the default, pads to
                the longest row, `"max_length"` to `max_length`), `max_length` (at most the processor's, the default)
                and `truncation` (`True`, the default; `False` refuses longer texts). Of images: those of the image
                processor.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(batch_size, 3, height, width)`, and `input_ids`,
            `attention_mask` and (with conditions) `placeholder_mask` of shape `(batch_size, seq_len)`.

        Raises:
            ValueError: If neither or both of `text` and `conditions` come with nothing to do, counts differ, or an
                argument is unknown or asks for what is not done.
        """
        of_text, of_images = self._sort_arguments(kwargs)
        for tensors in (return_tensors, of_text.pop("return_tensors", "pt"), of_images.pop("return_tensors", "pt")):
            if tensors != "pt":
                raise ValueError(f'only return_tensors="pt" is supported, got {tensors!r}.')
        if text is not None and conditions is not None:
            raise ValueError("give `text` for plain queries or `conditions` for composed ones, not both.")
        if images is None and text is None and conditions is None:
            raise ValueError("nothing to process: give `images`, `text` or `conditions`.")
        worker, data = self._limit(**of_text), {}
        if images is not None:
            data["pixel_values"] = self.prepare_images(images, **of_images)
        if text is not None:
            data |= worker.pad(worker.tokenize_texts(_as_list("text", text)), of_text.get("padding", True))
            # `get_text_features` passes on what it gets, and plain text has no pseudo-words.
            del data["placeholder_mask"]
        if conditions is not None:
            conditions = _as_list("conditions", conditions)
            if images is not None and len(conditions) != len(data["pixel_values"]):
                raise ValueError(
                    f"got {len(data['pixel_values'])} images and {len(conditions)} conditions: give each its image, "
                    "such as images=[image] * 2 for two conditions of one image."
                )
            empty = sum(not c.strip() for c in conditions)
            if empty:
                warnings.warn(
                    f"{empty} of {len(conditions)} conditions are empty: searching by the reference alone.",
                    stacklevel=2,
                )
            data |= worker.pad(worker.build_prompts(conditions, template)[0], of_text.get("padding", True))
        return BatchFeature(data)

    def _sort_arguments(self, kwargs: Mapping) -> tuple[dict, dict]:
        """Separate arguments of texts from those of images, and refuse what nothing would follow."""
        known = {
            "text_kwargs": set(TextKwargs.__annotations__),
            "images_kwargs": set(self.image_processor.valid_kwargs.__annotations__),
        }
        found = {part: dict(kwargs.get(part) or {}) for part in known}
        groups = {*known, "common_kwargs", "audio_kwargs", "videos_kwargs"}  # the last two are of no part that is here
        alone = dict(kwargs.get("common_kwargs") or {}) | {k: v for k, v in kwargs.items() if k not in groups}
        takers = {name: [part for part in known if name in known[part]] for name in alone}
        odd = [name for name, parts in takers.items() if not parts]
        odd += [name for part in known for name in found[part] if name not in known[part]]
        if odd:
            own = {"images", "text", "conditions", "template", *_TEXT_ARGUMENTS, *known["images_kwargs"]}
            raise ValueError(suggest("argument of the processor", odd[0], own))
        for name, parts in takers.items():
            for part in parts:
                found[part].setdefault(name, alone[name])
        text = {name: value for name, value in found["text_kwargs"].items() if value is not None}
        for name, value in text.items():
            if name not in _TEXT_ARGUMENTS and value not in _TEXT_VALUES.get(name, (False,)):
                raise ValueError(
                    f"the processor does not follow `{name}`, got {value!r}: leave it out. Of texts it follows "
                    f"{', '.join(_TEXT_ARGUMENTS)}."
                )
        return {name: text[name] for name in text if name in _TEXT_ARGUMENTS}, found["images_kwargs"]

    def _limit(self, max_length: int | None = None, truncation: bool | str = True, **_) -> RTDProcessor:
        """Give a processor that cuts texts at a length, or refuses those that are longer."""
        if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int)):
            raise ValueError(f"`max_length` must be a whole number, got {max_length!r}.")
        # Start and end of text, and one token between them.
        least = self.max_length - self._room + 1
        if max_length is not None and not least <= max_length <= self.max_length:
            raise ValueError(
                f"`max_length` is {max_length}, but texts have {least} to {self.max_length} tokens, which is what the "
                "text tower takes."
            )
        if truncation not in (True, False, "longest_first", "do_not_truncate"):
            raise ValueError(f"`truncation` must be True or False, got {truncation!r}.")
        # A copy, since threads may share a processor.
        limited = copy.copy(self)
        limited.max_length = max_length or self.max_length
        limited._cuts = truncation not in (False, "do_not_truncate")
        return limited

    def prepare_images(self, images, **kwargs) -> torch.Tensor:
        """Load and preprocess images.

        Args:
            images (image, path, URL, or list of them): See `load_image`; also an array of many, or lists of lists.
            kwargs: Passed to the image processor.

        Returns:
            `torch.Tensor` of shape `(batch_size, 3, height, width)`.

        Raises:
            ValueError: If there is none, or one cannot be read; names it.
        """
        input_data_format = kwargs.pop("input_data_format", None)
        images = _list_images(images)
        if not images:
            raise ValueError("`images` is empty: give at least one image.")
        if kwargs.get("do_rescale") is False and not any(isinstance(i, Image.Image | str | Path) for i in images):
            kwargs.pop("do_rescale")  # values from 0 to 1: they have become those of any other image here
        loaded = [self.load_image(image, input_data_format) for image in images]
        try:
            return self.image_processor(images=loaded, return_tensors="pt", **kwargs)["pixel_values"]
        except StrictDataclassError as error:
            raise ValueError(f"the image processor refuses its arguments: {error}") from error

    @staticmethod
    def load_image(image, input_data_format: str | None = None) -> Image.Image:
        """Load one image, turned upright by its EXIF tag and to RGB; the first frame of an animated one.

        Args:
            image (image, path, URL, `bytes` or array):
                See [`open_image`], with its bounds; also an undecoded image of the library `datasets`, or an array or
                tensor of shape `(channels, height, width)`, `(height, width, channels)` or `(height, width)`. Images
                of 16 bits are scaled, and so are images of floats from 0 to 1.
            input_data_format (`str`, *optional*):
                `"channels_first"` or `"channels_last"` of an array. Defaults to what its shape shows.

        Returns:
            `PIL.Image.Image`: The whole image, decoded.

        Raises:
            ValueError: If it cannot be read, or one side is more than 100 times as long as the other; names it.
        """
        try:
            if isinstance(image, Mapping) and {"bytes", "path"} <= image.keys():
                image = image["path"] if image["bytes"] is None else image["bytes"]
                if is_url(image):
                    raise ValueError("a data set names it, and nothing is fetched for that: download it first")
            if isinstance(image, np.ndarray | torch.Tensor):
                image = _draw_array(image, input_data_format)
            if isinstance(image, Image.Image):
                return _turn_upright(open_image(image))
            with open_image(image) as opened:
                return _turn_upright(opened)
        except Exception as error:
            is_path = isinstance(image, str | Path) and not str(image).startswith(("http", "data:"))
            name = f"'{str(image)[:200]}'" if isinstance(image, str | Path) else f"of type {type(image).__name__}"
            reason = error
            if is_path and len(str(image)) < 250 and not os.path.exists(image):  # noqa: PTH110
                reason = "there is no such file"
            raise ValueError(f"the image {name} cannot be read: {reason}") from error

    def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise plain texts.

        Args:
            texts (`list[str]`): Texts.

        Returns:
            `list[list[int]]`: Token ids with start and end of text, at most `max_length` a row.
        """
        return self._finish(self._tokenize(texts))

    def tokenize_pieces(self, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Tokenise texts given as the pieces around their placeholders.

        Args:
            texts (`list[list[str]]`): For each text its pieces, one more than it has placeholders.

        Returns:
            `list[list[int]]`: Token ids with start and end of text and placeholders marked `-1`, at most `max_length`
            a row.
        """
        return self._finish(self._splice(texts))

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        # Special tokens that a user types are split like any text: an end of text in the middle would cut the query.
        if not len(texts):
            return []
        for text in texts:
            if not is_utf8(text):
                raise ValueError(f"the text {ascii(text)[:80]} is not UTF-8, as half an emoji: correct it.")
        if ftfy is not None and self.family == "clip":
            texts = [html.unescape(html.unescape(ftfy.fix_text(text))) for text in texts]  # twice, as OpenAI's own
        texts = [text.lower() for text in texts] if self.family == "siglip" else list(texts)
        # Not verbose: what is cut is warned of here, and transformers would announce "indexing errors" beside it.
        tokens = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        self._warn_of_unknown_words(texts, tokens)
        # The vocabulary of XLM-R has its special tokens as pieces too, and finds them in a text.
        return [
            row if self._reserved.isdisjoint(row) else [token for token in row if token not in self._reserved]
            for row in tokens["input_ids"]
        ]

    def _splice(self, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        pieces = iter(self._tokenize([piece for text in texts for piece in _shift_spaces(text)]))
        rows = []
        for text in texts:
            row = list(next(pieces))
            for _ in text[1:]:
                row += [-1, *next(pieces)]
            rows.append(row)
        return rows

    def build_prompts(
        self,
        conditions: Sequence[str],
        template: str | None = None,
        references: Sequence[str] | None = None,
        blank: str = "reference",
    ) -> tuple[list[list[int]], list[int]]:
        """Build the prompts of composed queries.

        Args:
            conditions (`list[str]`): Conditions.
            template (`str`, *optional*): Prompt template or its name. Defaults to `default_template`.
            references (`list[str]`, *optional*):
                Reference captions to be written in place of the pseudo-words (plain concatenation, the ablation of
                RTD's refined concatenation).
            blank (`str`, defaults to `"reference"`):
                What a blank condition gives: `"reference"`, the prompt of the reference alone, which is the template
                up to its last `$`; or `"verbatim"`, the template with nothing in the condition's place, as published
                evaluation code writes it.

        Raises:
            ValueError: If `blank` is neither, or there is no such template.

        Returns:
            `tuple`: Rows of token ids with start and end of text, placeholders marked `-1`; and for each row the
            length of the prompt of the reference alone, without its end of text.
        """
        if blank not in ("reference", "verbatim"):
            raise ValueError(suggest("treatment of a blank condition", blank, ("reference", "verbatim")))
        before, after = self._find_template(template).split(_CONDITION)
        lead, last, bridge = before.rpartition(PLACEHOLDER)
        space = " " if before != before.rstrip() else ""  # it belongs to the word behind it
        bridge, tail = self._splice([[bridge], after.split(PLACEHOLDER)])
        if references is None:
            heads = self._splice([(lead + last).split(PLACEHOLDER)]) * len(conditions)
        else:
            lead = lead.partition(PLACEHOLDER)[0]
            room = self._room
            heads = [ids[:room] for ids in self._tokenize([lead + caption for caption in references])]
        rows, cut = [], 0
        tokenized = self._tokenize([(space + text.strip()).rstrip() for text in conditions])
        for head, condition, words in zip(heads, conditions, tokenized, strict=True):
            room = max(self._room - len(head) - len(bridge) - len(tail), 0)
            cut += len(words) > room
            is_alone = blank == "reference" and head and not condition.strip()
            rows.append(head if is_alone else [*head, *bridge, *words[:room], *tail])
            if -1 in rows[-1][self._room :]:
                raise ValueError(
                    f"the prompt template's placeholders do not fit into {self.max_length} tokens: use a shorter "
                    "template, or a larger `max_length`."
                )
        self._warn_of_cuts(cut, len(rows), "condition")
        return [self._enclose(row) for row in rows], [len(self._before) + len(head) for head in heads]

    def _finish(self, rows: list[list[int]]) -> list[list[int]]:
        self._warn_of_cuts(sum(len(row) > self._room for row in rows), len(rows), "text")
        return [self._enclose(row) for row in rows]

    @property
    def _room(self) -> int:
        return self.max_length - len(self._before) - len(self._behind)

    def _enclose(self, row: list[int]) -> list[int]:
        return [*self._before, *row[: self._room], *self._behind]

    def _warn_of_cuts(self, cut: int, total: int, kind: str) -> None:
        if not cut:
            return
        message = f"{cut} of {total} texts are longer than the {self.max_length} tokens that fit"
        if not self._cuts:
            raise ValueError(f"{message}: shorten them, or pass truncation=True.")
        warnings.warn(f"{message}; the end of the {kind} is cut off.", stacklevel=4)

    def _warn_of_unknown_words(self, texts: Sequence[str], tokens) -> None:
        """Say which words cannot be read. CLIP's own tokenizer spells any; one of whole words, of a toy, does not."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == self.tokenizer.eos_token_id or not self.tokenizer.is_fast:
            return
        places = [
            (i, j) for i, row in enumerate(tokens["input_ids"]) for j, token in enumerate(row) if token == unknown
        ]
        if places:
            spans = ((text, tokens.token_to_chars(text, place)) for text, place in places[:100])
            words = list(dict.fromkeys(texts[text][span.start : span.end] for text, span in spans))[:5]
            warnings.warn(
                f"{len(places)} of {sum(map(len, tokens['input_ids']))} words are unknown to the tokenizer and "
                f"read as nothing, such as {', '.join(map(repr, words))}.",
                stacklevel=5,
            )

    def pad(self, rows: Sequence[Sequence[int]], padding: bool | str = True) -> dict[str, torch.Tensor]:
        """Pad rows of token ids to one length.

        Args:
            rows (`list[list[int]]`): Token ids, placeholders marked `-1`.
            padding (`bool` or `str`, defaults to `True`):
                `True` or `"longest"` pads to the longest row, `"max_length"` to the processor's `max_length`; `False`
                or `"do_not_pad"` refuses rows that differ.

        Returns:
            `dict`: `input_ids`, `attention_mask` and `placeholder_mask`, each of shape `(batch_size, seq_len)`.

        Raises:
            ValueError: If `padding` is none of these, or rows of several lengths are not to be padded.
        """
        if padding not in (True, False, "longest", "max_length", "do_not_pad"):
            raise ValueError(f"`padding` must be True, False or 'max_length', got {padding!r}.")
        lengths = torch.tensor([len(row) for row in rows])
        if padding in (False, "do_not_pad") and lengths.unique().numel() > 1:
            raise ValueError("texts of several lengths make no tensor without padding: pass padding=True.")
        ids = pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=self.tokenizer.pad_token_id
        )
        if padding == "max_length":
            ids = pad(ids, (0, self.max_length - ids.shape[1]), value=self.tokenizer.pad_token_id)
        placeholder_mask = ids == -1
        return {
            "input_ids": ids.masked_fill(placeholder_mask, self.placeholder_token_id),
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "placeholder_mask": placeholder_mask,
        }

    @property
    def model_input_names(self) -> list[str]:
        """`list[str]`: Names of the tensors this processor makes."""
        return ["pixel_values", "input_ids", "attention_mask", "placeholder_mask"]


def _refuse_audio(place: str | Path, **where) -> None:
    """Refuse an audio tokenizer: transformers would load the repository that it names, and offer to run its code."""
    where |= {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    for name in (PROCESSOR_NAME, AUDIO_TOKENIZER_NAME):
        file = cached_file(str(place), name, **where)
        if file and (name == AUDIO_TOKENIZER_NAME or "audio_tokenizer" in read_json(file, "save the processor again")):
            raise ValueError(f"its {name} names an audio tokenizer, which nothing here needs: remove it.")


def _reduce_to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode[0] not in "IF":
        return image
    # Pillow would clip at 255, which leaves most of an image of 16 bits white, and one of floats from 0 to 1 black.
    values = np.asarray(ImageOps.exif_transpose(image))
    values = values * 255.0 if image.mode == "F" else values // 257
    return Image.fromarray(np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8))


def _list_images(images) -> list:
    """List single images: lists of lists are flattened, and an array of many is taken apart."""
    if hasattr(images, "iloc") or (isinstance(images, np.ndarray) and images.dtype.kind in "OUS"):
        images = images.tolist()  # a column of pandas, or an array of paths
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        first = images
        while isinstance(first, Sequence) and not isinstance(first, str | bytes) and len(first):
            first = first[0]
        if not isinstance(first, numbers.Number):
            return [one for image in images for one in _list_images(image)]
        try:
            images = np.asarray(images)
        except ValueError as error:
            raise ValueError(f"the lists of numbers in `images` form no array: {error}") from error
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def _draw_array(array: np.ndarray | torch.Tensor, input_data_format: str | None) -> Image.Image:
    """Read an array as CLIP's image processor does, but floats from 0 to 1 as an image and not as black."""
    if torch.is_tensor(array):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    if array.ndim not in (2, 3):
        raise ValueError(f"an image has two or three dimensions, and the array the shape {array.shape}")
    if array.ndim == 3:
        order = input_data_format or infer_channel_dimension_format(array, num_channels=(1, 3, 4))
        array = np.moveaxis(array, 0, -1) if order == ChannelDimension.FIRST else array
        array = array[..., 0] if array.shape[-1] == 1 else array
    if array.dtype == np.uint16:
        array = array // 257
    elif array.dtype.kind in "fb" and array.size and is_scaled_image(array):
        array = array * 255.0
    if not array.size or not 0 <= array.min() <= array.max() <= 255:
        raise ValueError(
            "its values must go from 0 to 255, or as floats from 0 to 1; pixels that are preprocessed go to the model"
        )
    return Image.fromarray(array.astype(np.uint8))


def _turn_upright(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(_reduce_to_eight_bits(image)).convert("RGB")
    if max(image.size) > _LONGEST_STRIP * min(image.size) or not min(image.size):
        width, height = image.size
        raise ValueError(f"it has {width} by {height} pixels, and one side may be {_LONGEST_STRIP} times the other")
    return image


def _find_ends(tokenizer) -> tuple[list[int], list[int]]:
    """Find the special tokens that a tokenizer puts before and behind a text."""
    word, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    # Seen from a text: a tokenizer may name a start of text, as SigLIP 2's, and never write it.
    start = next((i for i in range(len(whole)) if whole[i : i + len(word)] == word), 0)
    before, behind = whole[:start], whole[start + len(word) :]
    if tokenizer.eos_token_id not in behind:
        raise ValueError(
            f"the tokenizer puts the ids {behind} behind a text, and its end of text, {tokenizer.eos_token_id}, is "
            "not among them. The text tower needs it: pass the tokenizer of the backbone."
        )
    return before, behind


def _shift_spaces(pieces: Sequence[str]) -> list[str]:
    """Let a space belong to the word behind it, as tokenizers of SentencePiece's kind have it; CLIP's skips spaces."""
    shifted, space = [], ""
    for piece in pieces:
        bare = piece.rstrip()
        shifted.append(space + bare if bare else "")
        space = " " if bare != piece else "" if bare else space
    return shifted


def _as_list(name: str, value: str | Sequence[str]) -> list[str]:
    # The keys of a dictionary would be read as texts, and a set has no order.
    if isinstance(value, Mapping | bytes | set) or not hasattr(value, "__iter__"):
        raise ValueError(f"`{name}` must be a string or a list of strings, got a {type(value).__name__}.")
    values = [value] if isinstance(value, str) else list(value)
    if not values:
        raise ValueError(f"`{name}` is empty: give at least one text.")
    for position, item in enumerate(values):
        if not isinstance(item, str):
            raise ValueError(f"`{name}` must hold strings, got {type(item).__name__} at position {position}.")
    return values
