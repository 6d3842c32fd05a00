"""What the page of `rtd app` answers: from a visit's state and what was entered to the next state and pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from modeling_rtd import (
    NEGATIVE_WEIGHT,
    ComposedImageRetrievalPipeline,
    Gallery,
    RTDModel,
    RTDProcessor,
    has_adapters,
    open_image,
    suggest,
)
from trainer.app.history import SearchHistory


__all__ = ["SearchDesk", "Voice", "find_root", "list_voices", "new_state"]

PROJECTION_ALONE = "projection alone"
MAX_TURNS = 50  # of a visit
MAX_LETTERS = 1000  # of a text; a prompt takes 77 tokens
_THUMBNAIL_PX = 256
_LITTLE = 0.05  # of `edit_magnitude`; ours, see docs/conditions.md


@dataclass(frozen=True)
class Voice:
    """A way to answer: a model's text tower, or one of its adapters, over the gallery that all voices share.

    Args:
        pipeline ([`ComposedImageRetrievalPipeline`]): Answers.
        adapter (`str`, *optional*): Name of the adapter.
    """

    pipeline: ComposedImageRetrievalPipeline
    adapter: str | None = None


def list_voices(model: RTDModel, processor: RTDProcessor, gallery: Gallery) -> dict[str, Voice]:
    """List how a model can answer: each of its adapters, or RTD; and the projection with the text tower from before.

    Args:
        model ([`RTDModel`]): Perhaps with adapters.
        processor ([`RTDProcessor`]): Its processor.
        gallery ([`Gallery`]): Of the model's image tower.

    Returns:
        `dict[str, Voice]`: By name, the first of them the model as it is.

    Raises:
        ValueError: If the gallery was made by another image tower.
    """

    def build(one: RTDModel) -> ComposedImageRetrievalPipeline:
        return ComposedImageRetrievalPipeline(model=one, processor=processor, gallery=gallery, device=one.device)

    pipeline = build(model)
    if has_adapters(model.text_model):
        active = model.text_model.active_adapters()[0]
        # The active one first: the first voice answers where none is chosen.
        names = sorted(model.text_model.peft_config, key=lambda name: name != active)
        voices = {f"RTD ({name})": Voice(pipeline, name) for name in names}
        return voices | {PROJECTION_ALONE: Voice(pipeline, "__base__")}
    if model.config.original_text_model is None:
        return {PROJECTION_ALONE: Voice(pipeline)}
    if not model.config.original_text_model.get("plain_text", True):
        return {"RTD": Voice(pipeline)}
    before = model.with_parts(model.original_text_model, model.projection)
    return {"RTD": Voice(pipeline), PROJECTION_ALONE: Voice(build(before))}


def find_root(places: Sequence[str]) -> Path:
    """Find the folder that holds all images of a gallery.

    Args:
        places (`list[str]`): Of [`Gallery.locate`].

    Returns:
        `Path`: The lowest folder above all of them.

    Raises:
        ValueError: If one is not an absolute path, or only the root of the file system is above all.
    """
    if not places or not all(Path(place).is_absolute() for place in places):
        raise ValueError(
            "this gallery does not say by absolute paths where its images are: name their folder with --images."
        )
    root = Path(os.path.commonpath([Path(place).parent for place in places]))
    if root == Path(root.anchor):
        raise ValueError(f"the images of this gallery are all over '{root}': name one folder with --images.")
    return root


def new_state() -> dict:
    """Begin a visit.

    Returns:
        `dict`: `turns`, see [`SearchHistory`]. `reference` and `chosen` (a `path`, or an `id` with the turn and the
        rank it was found at, if any). `results` and `others` (of the voice compared with) that are shown, and their
        `turn`; the `page` of the gallery to be shown next.
    """
    return {"turns": [], "reference": None, "chosen": None, "results": [], "others": [], "turn": None, "page": 0}


class SearchDesk:
    """Answers what is asked on the page. It keeps nothing of a visit: that is in the state, see [`new_state`].

    Most methods take the state of a visit and return the next one.

    Args:
        voices (`dict[str, Voice]`): Ways to answer, by name, over one gallery.
        root (`str` or `Path`): Folder of the gallery's images. Nothing outside of it is ever opened, but uploads.
        top_k (`int`, defaults to 12): Results of a search, and images of the gallery shown at a time.
        examples (list of `tuple[str, str]`, *optional*): Path of a reference image and condition of queries to
            click. Defaults to none.
    """

    def __init__(
        self,
        voices: Mapping[str, Voice],
        root: str | Path,
        top_k: int = 12,
        examples: Sequence[tuple[str, str]] = (),
    ):
        self.voices, self.root, self.top_k = dict(voices), Path(root).resolve(), top_k
        self.examples = list(examples)
        self.gallery = next(iter(self.voices.values())).pipeline.gallery
        # Pages of `browse` are places in this list, which must not move under a visitor.
        self._ids = self.gallery.ids

    def _open_history(self, turns: Sequence[dict], name: str) -> SearchHistory:
        if name not in self.voices:
            raise ValueError(suggest("way to answer", name, self.voices))
        voice = self.voices[name]
        # Measures cost a second text pass; `hint` reads them.
        kept = {"top_k": self.top_k, "with_measures": True}
        kept |= {} if voice.adapter is None else {"adapter": voice.adapter}
        return SearchHistory(voice.pipeline, turns, root=self.root, **kept)

    def take_upload(self, state: dict, path: str | None) -> dict:
        """Take an uploaded file as the reference; without one, continue without a reference.

        Args:
            path (`str`, *optional*): Where the upload is.

        Raises:
            ValueError: If it cannot be read or is too large, see [`open_image`].
        """
        if path is None:
            return state | {"reference": None}
        # Decoded once here: what cannot be read is refused before it is a reference.
        self.read_upload(path, Path(path).name)
        return state | {"reference": {"path": path}}

    def take_example(self, state: dict, number: int) -> dict:
        """Take the reference of an example.

        Args:
            number (`int`): Position of the example, from 0.

        Raises:
            ValueError: If there is no such example.
        """
        if number not in range(len(self.examples)):
            raise ValueError(f"there is no example {number}: the page has {len(self.examples)}.")
        return state | {"reference": {"path": self.examples[number][0]}}

    def draw_examples(self) -> list[tuple[Image.Image, str]]:
        """Draw the examples.

        Returns:
            `list[tuple[PIL.Image.Image, str]]`: Small pictures of the references, each with its condition.
        """
        return [(self._shrink({"path": path}), text) for path, text in self.examples]

    def read_upload(self, file: str | bytes, name: str) -> Image.Image:
        """Read an upload whole, once its header says that it may be read.

        Args:
            file (`str` or `bytes`): Path or content of the upload.
            name (`str`): Of the upload, for the message.

        Returns:
            `PIL.Image.Image`: Decoded.

        Raises:
            ValueError: If it is of none of `IMAGE_FORMATS`, or has more than 50 million pixels.
        """
        try:
            opened = open_image(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"'{name}' is not an image that can be read: {error}.") from error
        try:
            with opened:
                return self._processor.load_image(opened)
        except ValueError as error:
            raise ValueError(f"'{name}' is not a whole image: it may have been cut off; send it again.") from error

    @property
    def _processor(self) -> RTDProcessor:
        return next(iter(self.voices.values())).pipeline.processor

    def search(
        self,
        state: dict,
        text: str = "",
        strength: float | None = None,
        negative: str = "",
        negative_weight: float | None = None,
        voice: str | None = None,
        other: str | None = None,
    ) -> dict:
        """Search with the reference of the state, as the next turn of its history.

        Args:
            text (`str`): Condition; plain text where there is no reference.
            strength (`float`, defaults to 1):
                How much it counts, see [`weigh_condition`]; nothing where either is missing.
            negative (`str`): What is not wanted.
            negative_weight (`float`, defaults to 0.25): How much that counts, see [`exclude_text`].
            voice (`str`, *optional*): Who answers. Defaults to the first voice.
            other (`str`, *optional*): Who answers too, to compare; that is not part of the history.

        Raises:
            ValueError: If the query is not accepted, a text is too long, or the history is full.
        """
        if len(state["turns"]) >= MAX_TURNS:
            raise ValueError(f"this search has {MAX_TURNS} turns, and more are not kept: start a new one.")
        longest = max(len(text or ""), len(negative or ""))
        if longest > MAX_LETTERS:
            raise ValueError(f"a text may have {MAX_LETTERS:,} letters, got {longest:,}: make it shorter.")
        reference, has_text = state["reference"], bool(text and text.strip())
        query = {"text": text if has_text else None}
        # The page always sends its sliders, and a strength without a condition is refused.
        if has_text and reference and strength not in (None, 1):
            query["strength"] = strength
        if negative and negative.strip():
            weight = NEGATIVE_WEIGHT if negative_weight is None else negative_weight
            query |= {"negative": negative, "negative_weight": weight}
        voice = voice or next(iter(self.voices))
        history = self._open_history(state["turns"], voice)
        found = {"results": self._take_turn(history, reference, query), "others": []}
        if other and other != voice:
            # A comparison is not a turn: the history continues with the first answer.
            found["others"] = self._take_turn(self._open_history(state["turns"], other), reference, query)
        turn = history.turns[-1] | {"voice": voice}
        turns = [*state["turns"], turn]
        return state | found | {"turns": turns, "turn": len(turns), "chosen": None}

    def _take_turn(self, history: SearchHistory, reference: dict | None, query: dict) -> list[dict]:
        if reference is None:
            return history.ask(**query)
        if "path" in reference:
            return history.ask(image=reference["path"], **query)
        if reference["turn"] is not None:
            return history.refine(reference["rank"], reference["turn"], **query)
        name = reference["id"]  # picked from the gallery, or out of a comparison
        return history.ask(image=history.locate(name), exclude=[name], **query)

    def browse(self, state: dict) -> dict:
        """Show the next images of the gallery, to pick a reference from; after the last, the first again."""
        start = state["page"] * self.top_k
        shown = [{"id": name} for name in self._ids[start : start + self.top_k]]
        page = state["page"] + 1 if start + self.top_k < len(self._ids) else 0
        return state | {"results": shown, "others": [], "turn": None, "page": page, "chosen": None}

    def show_turn(self, state: dict, number: int) -> dict:
        """Show the results of an earlier turn again.

        Args:
            number (`int`): Of the turn, from 1.

        Raises:
            ValueError: If there is no such turn.
        """
        if number not in range(1, len(state["turns"]) + 1):
            raise ValueError(f"there is no turn {number}: this search has {len(state['turns'])}.")
        results = state["turns"][number - 1]["results"]
        return state | {"results": results, "others": [], "turn": number, "chosen": None}

    def choose(self, state: dict, position: int, column: str = "results") -> dict:
        """Choose an image that is shown.

        Args:
            position (`int`): From 0.
            column (`str`, defaults to `"results"`): `"results"`, or `"others"` of the voice compared with.

        Raises:
            ValueError: If no such image is shown.
        """
        if column not in ("results", "others") or not 0 <= position < len(state[column]):
            raise ValueError("no such image is shown: choose one of those below.")
        turn = state["turn"] if column == "results" else None
        return state | {"chosen": {"id": state[column][position]["id"], "turn": turn, "rank": position + 1}}

    def use_chosen(self, state: dict) -> dict:
        """Make the chosen image the next reference.

        Raises:
            ValueError: If none is chosen.
        """
        if state["chosen"] is None:
            raise ValueError("choose an image first: click it, or reach it with the Tab key and press Enter.")
        return state | {"reference": state["chosen"], "chosen": None}

    def draw(self, results: Sequence[dict]) -> list[tuple[Image.Image, str]]:
        """Draw small pictures of results, which is all that the page ever sees of the gallery's files.

        Args:
            results (`list[dict]`): Of the state.

        Returns:
            `list[tuple[PIL.Image.Image, str]]`: Pictures with rank and score, or their name; grey where there is no
            image, or it is outside of the root.
        """
        pictures = []
        for rank, result in enumerate(results, start=1):
            label = f"{rank} · {result['score']:.3f}" if "score" in result else Path(result["id"]).name
            pictures.append((self._shrink(result), label))
        return pictures

    def draw_reference(self, state: dict) -> Image.Image | None:
        """Draw the reference.

        Returns:
            `PIL.Image.Image` or `None`: A small picture.
        """
        return None if state["reference"] is None else self._shrink(state["reference"])

    def _shrink(self, one: dict) -> Image.Image:
        # For `locate`, which refuses what is outside of the root.
        history = self._open_history((), next(iter(self.voices)))
        try:
            image = self._processor.load_image(one["path"] if "path" in one else history.locate(one["id"]))
        # A file that was moved or damaged since must not take the page down.
        except ValueError:
            return Image.new("RGB", (_THUMBNAIL_PX, _THUMBNAIL_PX), "lightgrey")
        if max(image.size) < _THUMBNAIL_PX // 2:  # small drawings stay sharp
            factor = _THUMBNAIL_PX // max(image.size)
            return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        return image

    def hint(self, state: dict) -> str:
        """Say of the last turn what a visitor should know beside its results.

        Returns:
            `str`: A sentence where the condition moved the query little, a heuristic; otherwise nothing.
        """
        moved = state["turns"][-1].get("edit_magnitude") if state["turns"] else None
        return "" if moved is None or moved >= _LITTLE else "This condition changed little: say it in other words."

    def describe_turns(self, state: dict) -> list[tuple[str, int]]:
        """Describe the history.

        Returns:
            `list[tuple[str, int]]`: Of each turn one line, and its number.
        """
        return [(f"{n}. {_describe(turn)}", n) for n, turn in enumerate(state["turns"], start=1)]


def _describe(turn: dict) -> str:
    query, chosen = turn["query"], turn["chosen"]
    if chosen is not None:
        reference = f"result {chosen['ranks'][0]} of turn {chosen['turn']}"
    else:
        reference = Path(query["image"]).name if "image" in query else "no reference"
    words = [reference, f"“{query['text']}”" if "text" in query else "similar images"]
    if "strength" in query:
        words.append(f"strength {query['strength']:g}")
    if "negative" in query:
        words.append(f"without “{query['negative']}” ({query['negative_weight']:g})")
    return ", ".join([*words, f"by {turn['voice']}"])
