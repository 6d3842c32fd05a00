"""A module of sentence-transformers: composed queries, images and plain texts, encoded into one space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .modeling_rtd import RTDModel
from .processing_rtd import RTDProcessor
from .query_rtd import Query, encode_composed, read_query


try:
    from sentence_transformers.base.modality import is_image_url_or_path
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError("sentence-transformers reads this file: pip install 'sentence-transformers>=6.0'") from error


__all__ = ["RTDSentenceTransformer"]

# Of more formats than are decoded here: nobody means the name of such a file as a text.
_IMAGE_NAME = re.compile(r"\S+\.(avif|bmp|gif|heic|jpe?g|png|tiff?|webp)", re.IGNORECASE)


class RTDSentenceTransformer(InputModule):
    """What `SentenceTransformer(place, trust_remote_code=True)` runs; `modules.json` of a saved model names it.

    An input is a query as [`ComposedImageRetrievalPipeline`] reads it: `{"image": ..., "text": ...}` is a composed
    query, `{"image": ...}` or an image alone an image, and `{"text": ...}` or a string alone a plain text. A string is
    an image where it is a URL or the path of an image file. The entries `weights`, `strength`, `negative`,
    `negative_weight` and `adapter` are read too.

    Args:
        model ([`RTDModel`]): The model.
        processor ([`RTDProcessor`]): Its processor.

    Examples:
        >>> from sentence_transformers import SentenceTransformer  # doctest: +SKIP
        >>> model = SentenceTransformer("org/rtd-vitl", trust_remote_code=True)  # doctest: +SKIP
        >>> model.encode([{"image": "dress.jpg", "text": "but in red"}, "a red dress"])  # doctest: +SKIP
    """

    # The folder is a model of transformers as well, whose files are at its root.
    save_in_root = True

    def __init__(self, model: RTDModel, processor: RTDProcessor):
        super().__init__()
        self.model, self.processor, self._given = model, processor, processor

    @property
    def modalities(self) -> list:
        """`list`: Kinds of inputs. A batch of several kinds is a "message" to sentence-transformers."""
        return ["text", "image", ("image", "text"), "message"]

    @property
    def tokenizer(self):
        """`transformers.PreTrainedTokenizerBase`: CLIP's tokenizer."""
        return self.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        """`int`: Tokens of a text at most; a smaller number may be set."""
        return self.processor.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.processor = self._given._limit(max_length=value)

    def get_embedding_dimension(self) -> int:
        """Give the size of an embedding.

        Returns:
            `int`: That of CLIP's joint space.
        """
        return self.model.config.projection_dim

    def preprocess(self, inputs: Sequence, prompt: str | None = None, **kwargs) -> dict[str, list[Query]]:
        """Check inputs and load their images.

        Args:
            inputs (`list`): See the class.
            prompt (`str`, *optional*): Goes in front of each text. Defaults to nothing.
            kwargs: `task`, which changes nothing.

        Returns:
            `dict`: Queries under the one key `pixel_values`.

        Raises:
            ValueError: If an input is a chat message, a pair or no query, or `processing_kwargs` came.
        """
        if kwargs.get("processing_kwargs"):
            raise ValueError("`processing_kwargs` are not accepted: the processor prepares all images as CLIP does.")
        queries = [read_query(_as_query(item), self.processor) for item in inputs]
        for query in queries:
            if query.exclude:
                raise ValueError("`exclude` is for a search: an embedding leaves nothing out; use `negative`.")
            if prompt and query.condition is not None:
                query.condition = prompt + query.condition
        # By a name that sentence-transformers' trainer knows, so that it reaches `forward`, which refuses it.
        return {"pixel_values": queries}

    def forward(self, features: dict, **kwargs) -> dict:
        """Encode queries.

        Args:
            features (`dict`): As `preprocess` returns it.

        Returns:
            `dict`: With `sentence_embedding`, a `torch.Tensor` of shape `(num_queries, projection_dim)`: float32,
            L2-normalised.

        Raises:
            ValueError: In training, as by `SentenceTransformerTrainer`.
        """
        if self.training and torch.is_grad_enabled():
            raise ValueError(
                "this model is not trained by sentence-transformers, which would change the image side too. Train its "
                "text tower with RTDTrainer of rtd-cir (`rtd train`), or call eval() first."
            )
        embeds = encode_composed(self.model, self.processor, features["pixel_values"])
        return features | {"sentence_embedding": embeds.to(self.model.device)}

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: dict | None = None,
        processor_kwargs: dict | None = None,
        config_kwargs: dict | None = None,
        backend: str = "torch",
        **kwargs,
    ) -> RTDSentenceTransformer:
        """Load model and processor; sentence-transformers calls it.

        Args:
            model_name_or_path (`str`): Directory or Hub id.
            subfolder, token, cache_folder, revision, local_files_only: Where it is, as everywhere.
            model_kwargs, config_kwargs (`dict`, *optional*): Passed to [`RTDModel.from_pretrained`].
            processor_kwargs (`dict`, *optional*): Passed to [`RTDProcessor.from_pretrained`].
            backend (`str`, defaults to `"torch"`): The only one.
            kwargs: Not read.

        Returns:
            [`RTDSentenceTransformer`]: In evaluation mode.

        Raises:
            ValueError: If another backend is asked for.
        """
        if backend != "torch":
            raise ValueError(f"the backend '{backend}' is not supported: leave `backend` out.")
        where = {"subfolder": subfolder, "token": token, "cache_dir": cache_folder, "revision": revision}
        where = {name: value for name, value in where.items() if value} | {"local_files_only": local_files_only}
        model = RTDModel.from_pretrained(model_name_or_path, **where | (config_kwargs or {}) | (model_kwargs or {}))
        processor = RTDProcessor.from_pretrained(model_name_or_path, **where | (processor_kwargs or {}))
        return cls(model.eval(), processor)

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Save model and processor; sentence-transformers adds its own files.

        Args:
            output_path (`str`): Directory.
            args, kwargs: Not read.
        """
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)


def _as_query(item) -> Mapping:
    """Write an input of sentence-transformers as a query."""
    first = item[0] if isinstance(item, list | tuple) and item else item
    if isinstance(first, Mapping) and {"role", "content"} & first.keys():
        raise ValueError('chat messages are not read: pass {"image": ..., "text": ...}.')
    if isinstance(item, list | tuple):
        raise ValueError('pairs are not read: pass {"image": ..., "text": ...}.')
    if isinstance(item, Mapping) and not {"bytes", "path"} <= item.keys():  # not an undecoded image of `datasets`
        return item
    if not isinstance(item, str) or is_image_url_or_path(item):
        return {"image": item}
    if _IMAGE_NAME.fullmatch(item):  # would be encoded as a text in silence
        reason = "has a suffix that sentence-transformers does not know" if Path(item).exists() else "is no file"
        raise ValueError(
            f"'{item}' is named like an image, but {reason}: pass it as `image` or `text` of a dictionary."
        )
    return {"text": item}
