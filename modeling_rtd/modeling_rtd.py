"""The composed retrieval model: a backbone's vision tower, a projection, and RTD's text tower."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.conversion_mapping import WeightRenaming, register_checkpoint_conversion_mapping
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_rtd import (
    RTDConfig,
    RTDProjectionConfig,
    find_context_token_id,
    name_family,
    read_backbone_config,
)
from .errors_rtd import check_path, pick_where, refuse_missing, settle_place, suggest
from .files_rtd import name_damage, write_json
from .modeling_adapters_rtd import RTDAdapterMixin, find_changed_base, has_adapters, refuse_parts, remove_adapters
from .modeling_backbones_rtd import check_text_features, find_backbone, load_backbone, settle_text_config
from .modeling_original_text_rtd import AdaptersDisabled, OriginalTextTower, interpolate_towers
from .modeling_text_rtd import RTDTextOutput, RTDTextTower
from .projection_auto_rtd import PROJECTIONS, build_projection, load_projection
from .projection_rtd import RTDProjection


if TYPE_CHECKING:
    # Never imported here. transformers copies and downloads the files that imports name, this one among them.
    from .sentence_transformers_rtd import RTDSentenceTransformer  # noqa: F401


__all__ = ["SENTENCE_TRANSFORMERS_FILES", "RTDModel", "RTDOutput"]

# By these sentence-transformers finds the module that runs a saved model.
SENTENCE_TRANSFORMERS_FILES = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers_rtd.RTDSentenceTransformer"}],
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
}

# Checked, since the towers pass on what they do not know: a misspelt argument would have no effect.
_FORWARD_ARGUMENTS = frozenset(TransformersKwargs.__annotations__) | {"adapter_names", "branch_index"}


@dataclass
class RTDOutput(ModelOutput):
    """Output of [`RTDModel`].

    Args:
        composed_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`): L2-normalised composed queries.
        image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`): L2-normalised reference images.
        pseudo_token_embeds (`torch.Tensor` of shape `(batch_size, K, hidden_size)`): The pseudo-words.
        text_model_output, vision_model_output (`ModelOutput`, *optional*):
            Of the two towers, with `output_hidden_states` or `output_attentions`.
    """

    composed_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    pseudo_token_embeds: torch.Tensor | None = None
    text_model_output: RTDTextOutput | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple:
        """Give all entries but those that are `None`; the towers' outputs become tuples too."""
        return tuple(part.to_tuple() if isinstance(part, ModelOutput) else part for part in super().to_tuple())


class RTDModel(RTDAdapterMixin, PreTrainedModel):
    """Composed image retrieval: a vision tower, a projection, and a text tower that reads pseudo-words.

    The towers are those of a CLIP, a MetaCLIP 2, a SigLIP or a SigLIP 2. A saved directory is in the family's own
    layout plus `projection.*`: it loads as `RTDModel`, as the text tower alone, through `AutoModel`, and as a plain
    `CLIPModel`, `MetaClip2Model` or `SiglipModel`. The image side is the family's own, so an index stays valid.

    Args:
        config ([`RTDConfig`]): Configuration.

    Threads may share a model; [`RTDAdapterMixin`] says what waits where its text tower has adapters.

    Examples:
        >>> from modeling_rtd import RTDModel, RTDProcessor
        >>> model = RTDModel.from_pretrained("org/rtd-vitl")  # doctest: +SKIP
        >>> processor = RTDProcessor.from_pretrained("org/rtd-vitl")  # doctest: +SKIP
        >>> inputs = processor(images="dress.jpg", conditions="is red", return_tensors="pt")  # doctest: +SKIP
        >>> query = model(**inputs).composed_embeds  # doctest: +SKIP
    """

    config: RTDConfig
    config_class = RTDConfig
    base_model_prefix = "rtd"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    # A buffer that transformers before 4.31 saved.
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$"]

    def __init__(self, config: RTDConfig):
        super().__init__(config)
        backbone = find_backbone(config.text_config)
        self.text_model = backbone.text_model._from_config(config.text_config)
        self.vision_model = backbone.vision_model._from_config(config.vision_config)
        # So that image features are computed in one way in all families.
        self.visual_projection = nn.Identity()
        if backbone.has_visual_projection:
            self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        if backbone.has_logit_bias:
            # In SigLIP's own shapes, so that the folder also loads as a plain `SiglipModel`.
            self.logit_scale, self.logit_bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.projection = build_projection(config.projection_config)
        self._original_text = OriginalTextTower(config)
        self.post_init()
        # transformers adds those of the parts, to which the other parts are unexpected: a layer too many would pass.
        self._keys_to_ignore_on_load_unexpected = set(type(self)._keys_to_ignore_on_load_unexpected)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load as every transformers model does, but never leave a tower or the projection at random.

        The files of the text tower from before RTD are fetched along, so that they are there without a network too.

        Raises:
            ValueError: If tensors are missing, as those of the projection are in a plain CLIP, it holds an adapter or
                a text tower alone, or its `original_text_model` names no folder inside a repository.
        """
        # Without a place transformers takes `config` and `state_dict`.
        if pretrained_model_name_or_path is not None or kwargs.get("state_dict") is None:
            check_path(pretrained_model_name_or_path, "pretrained_model_name_or_path")
        wants_report = kwargs.pop("output_loading_info", False)
        with name_damage(pretrained_model_name_or_path):
            refuse_parts(pretrained_model_name_or_path, **kwargs)
            try:
                model, report = super().from_pretrained(
                    pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
                )
            except RuntimeError as error:  # shapes of a plain CLIP do not fit the defaults of RTDConfig
                raise ValueError(
                    f"'{pretrained_model_name_or_path}' is not an RTD model; put a projection "
                    "on a CLIP with from_clip."
                ) from error
        refuse_missing(
            report, pretrained_model_name_or_path, "an RTD model (put a projection on a CLIP with from_clip)"
        )
        if left := sorted(report["unexpected_keys"]):
            raise ValueError(
                f"'{pretrained_model_name_or_path}' holds {left[:3]} and {len(left)} tensors in all for which its "
                "config.json has no place, such as more layers than `num_hidden_layers` says: restore that file."
            )
        model._original_text = OriginalTextTower(model.config, **pick_where(kwargs))
        model._original_text.fetch()
        return (model, report) if wants_report else model

    @classmethod
    def from_clip(
        cls, clip: str | PreTrainedModel, projection: str | RTDProjection = "lincir", tokenizer=None, **kwargs
    ):
        """Put a projection on a CLIP, a MetaCLIP 2, a SigLIP or a SigLIP 2.

        Args:
            clip (`str` or `transformers.PreTrainedModel`):
                Repository or directory, or a loaded `CLIPModel`, `MetaClip2Model` or `SiglipModel` (copied).
            projection (`str` or [`RTDProjection`], defaults to `"lincir"`):
                A projection, a directory or Hub id that holds one, or the name of a method, which gives a freshly
                initialised one to be trained.
            tokenizer (`transformers.PreTrainedTokenizerBase`, *optional*): Needed with a loaded model only.
            kwargs: Passed to `from_pretrained` of the backbone where `clip` is a string.

        Returns:
            [`RTDModel`]: In evaluation mode; its text tower is the backbone's own until RTD trains it.

        Raises:
            ValueError: If the backbone is of another family, the projection's name is unknown, its sizes do not fit,
                it reads a class token that the backbone does not have, or a tokenizer is missing or does not fit.
        """
        if isinstance(clip, str | Path):
            where = pick_where(kwargs)
            read_backbone_config(clip, **where)  # refused by name before anything else is fetched
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(clip, **where, trust_remote_code=False)
            clip = load_backbone(str(clip), **kwargs)
        if not isinstance(clip, PreTrainedModel):
            raise ValueError(f"`clip` must be a place or a loaded model, got {clip!r:.40} ({type(clip).__name__}).")
        if tokenizer is None:
            raise ValueError(
                "a loaded CLIP needs its tokenizer too: pass tokenizer=AutoTokenizer.from_pretrained(...)."
            )
        text_config = clip.config.text_config
        sizes = {
            "projection_dim": getattr(clip.config, "projection_dim", None) or text_config.projection_size,
            "text_hidden_size": text_config.hidden_size,
            "vision_hidden_size": clip.config.vision_config.hidden_size,
        }
        projection = _find_projection(projection, name_family(text_config), sizes)
        config = _build_config(clip, projection, tokenizer)
        model = cls(config).to(clip.dtype)
        tensors = clip.state_dict()
        if "text_projection.weight" in tensors:
            tensors["text_model.text_projection.weight"] = tensors.pop("text_projection.weight")
        tensors |= {f"projection.{name}": tensor for name, tensor in projection.state_dict().items()}
        # A wrong pooling gives plausible features: MetaCLIP 2's then have cosines of 0.06 to 0.52 with the right ones.
        model.load_state_dict(tensors)
        check_text_features(clip, model.eval().text_model, tokenizer)
        return model

    @property
    def original_text_model(self) -> RTDTextTower | AdaptersDisabled:
        """[`RTDTextModel`]: The text tower from before RTD, loaded on first use.

        Before RTD it is the text tower itself, with an adapter it is the base with the adapter disabled. A model that
        was saved without it finds it in the CLIP underneath.

        Raises:
            ValueError: If the place that the configuration names cannot be read, or its tensors are not those RTD
                started from.
        """
        return self._original_text.serve(self.text_model, self.device, self.dtype)

    @property
    def plain_text_model(self) -> RTDTextTower | AdaptersDisabled:
        """[`RTDTextModel`]: What reads plain text, negative text and contexts.

        That is `original_text_model`, since RTD trades plain caption retrieval for composition. A model that was saved
        without it reads plain text with its one text tower.

        Raises:
            ValueError: As `original_text_model`.
        """
        return self._original_text.serve(self.text_model, self.device, self.dtype, for_plain_text=True)

    def without_original_text_model(self, measured: dict | None = None) -> RTDModel:
        """Give this model without the text tower from before RTD: the one after it reads plain text too.

        For towers that RTD has trained with `caption_weight`. It halves the text weights, and there is no second
        download. Ours, not the paper's.

        Args:
            measured (`dict`, *optional*):
                What was measured of plain retrieval, by any names that JSON holds; it is kept in the configuration.
                Without it a warning names the command that measures it.

        Returns:
            [`RTDModel`]: Shares all its parts with this model, which stays as it is.

        Raises:
            ValueError: If there is no such tower: before RTD, or with an adapter.
        """
        if has_adapters(self.text_model) or self.config.original_text_model is None:
            raise ValueError(
                "there is no second text tower to leave out: the text tower is CLIP's own, or has an adapter. `rtd "
                "interpolate --alpha 1` makes a whole model of one."
            )
        if measured is None:
            warnings.warn(
                "plain text will be read by the text tower after RTD, and how well it finds images was not measured: "
                f"run `rtd diagnose {self.name_or_path or 'MODEL'} --benchmark NAME -o DIR`, which needs captions of "
                "targets (--captions), and pass what it finds as measured=.",
                stacklevel=2,
            )
        model = copy.copy(self)
        model.config = copy.copy(self.config)
        model._original_text = self._original_text.drop(model.config, measured)
        return model

    def set_original_text_model(
        self, tower: RTDTextTower, repo: str | None = None, revision: str | None = None
    ) -> None:
        """Keep a tower as the one from before RTD.

        Args:
            tower ([`RTDTextModel`]): The text tower RTD started from.
            repo (`str`, *optional*):
                Hub id or directory that holds it, such as the CLIP underneath; it is loaded from there on first use,
                and its hash is checked. Without it, saving writes the tower to the folder `original_text`.
            revision (`str`, *optional*):
                Revision of that repository; the commit that the tower's configuration names, where it does, by
                default.
        """
        self._original_text.keep(tower, repo, revision)

    def replace_text_model(self, tower: RTDTextTower, original_repo: str | None = None) -> None:
        """Put a trained text tower in place, and keep the first one as the original text model.

        Args:
            tower ([`RTDTextModel`]): The tower after RTD, of the same sizes.
            original_repo (`str`, *optional*): See `set_original_text_model`.

        Raises:
            ValueError: If the tower is the model's own, trained in place: what it was before is lost; or it is of
                another kind or size.
        """
        if tower is self.text_model:
            raise ValueError(
                "this is the model's own text tower, trained in place. Train a copy of it (copy.deepcopy), or load "
                "the tower again with load_text_model, so that the original is kept."
            )
        _refuse_stock_tower(tower)
        self.projection.check_text_tower(tower.config)
        if self.config.original_text_model is None:
            # After a second training the original is still the first tower.
            self.set_original_text_model(self.text_model, original_repo)
        self.text_model = tower.to(device=self.device, dtype=self.dtype).eval()

    def with_parts(self, text_model: RTDTextTower, projection: RTDProjection) -> RTDModel:
        """Give a model of other parts beside the same vision tower, without copying any.

        Args:
            text_model ([`RTDTextModel`]): Text tower, such as one in training.
            projection ([`RTDProjection`]): Projection.

        Returns:
            [`RTDModel`]: Shares all its parts; plain text and contexts still go where this model reads them.

        Raises:
            ValueError: If the text tower does not read pseudo-words.
        """
        _refuse_stock_tower(text_model)
        model = copy.copy(self)
        # A new dictionary: a copy shares that of this model, whose parts would change too.
        model._modules = {**self._modules, "text_model": text_model, "projection": projection}
        model.config = copy.copy(self.config)
        # The lender knows where the tower is.
        model.config.original_text_model = None
        model._original_text = self._original_text.lend(model.config, self.text_model)
        return model

    def interpolate_text_model(self, alpha: float) -> RTDModel:
        """Give a model whose text tower is between the one from before RTD and the one after it.

        RTD trades plain caption retrieval for composition; this chooses a point between the two. An adapter is
        merged. The other parts are shared with this model, which stays as it is; the result is saved as a whole model.

        Args:
            alpha (`float`): 0 gives the tower from before RTD, 1 the one after it; see [`interpolate_towers`].

        Returns:
            [`RTDModel`]: In evaluation mode; its `original_text_model` is this model's, and reads plain text.

        Raises:
            ValueError: If `alpha` is not between 0 and 1, or the text tower is the one from before RTD itself. If an
                adapter has changed that one, as PiSSA does, and `alpha` is not 1.
        """
        has_changed = find_changed_base(self.text_model)
        if has_changed and alpha != 1:
            raise ValueError(has_changed)
        if has_adapters(self.text_model):
            original, tuned = (remove_adapters(self.text_model, merge=merge) for merge in (False, True))
        else:
            original, tuned = self.original_text_model, self.text_model
        if original is tuned:
            raise ValueError(
                "the text tower is the one from before RTD, so there is nothing to interpolate; load a model that RTD "
                "has trained."
            )
        model = self.with_parts(interpolate_towers(original, tuned, alpha).eval(), self.projection)
        if has_changed:
            return model  # which asks this one for the tower from before RTD, and is refused it
        if has_adapters(self.text_model) or self.config.original_text_model is None:
            model.set_original_text_model(original)
        else:
            model._original_text = self._original_text.restore(model.config, with_measured=alpha == 1)
        return model

    def save_pretrained(self, save_directory, keep_original: bool = True, **kwargs):
        """Save as every transformers model does, with the original text tower where the folder carries it.

        sentence-transformers loads the folder too; its settings that are there stay.

        Args:
            save_directory (`str`): Directory.
            keep_original (`bool`, defaults to `True`): Otherwise save [`RTDModel.without_original_text_model`].
            kwargs: As for every transformers model.

        Raises:
            ValueError: If the text tower has an adapter, there is no original text tower to leave out, the place is a
                file, or `push_to_hub` came.
        """
        check_path(save_directory, "save_directory")
        if kwargs.pop("push_to_hub", False):
            self.push_to_hub()
        if Path(save_directory).is_file():
            raise ValueError(f"'{save_directory}' is a file, and a model is saved into a folder: name one.")
        if not keep_original:
            self.without_original_text_model().save_pretrained(save_directory, **kwargs)
            return
        if has_adapters(self.text_model):
            raise ValueError("the text tower has an adapter: save it with save_adapter, or merge it first.")
        if self._original_text.is_lent:
            original = self.plain_text_model
            if isinstance(original, AdaptersDisabled):
                original = remove_adapters(original.tower, merge=False)
            if original is not self.text_model:
                # Whose model this is made of is not in the folder.
                self.set_original_text_model(copy.deepcopy(original))
        self._original_text.save(save_directory)
        # A pipeline that saves itself writes this entry afterwards, with its code; a model alone has none.
        vars(self.config).pop("custom_pipelines", None)
        super().save_pretrained(save_directory, **kwargs)
        for name, content in SENTENCE_TRANSFORMERS_FILES.items() if kwargs.get("is_main_process", True) else ():
            path = Path(save_directory, name)
            # modules.json names our code; the other file may hold settings of a user's.
            if name == "modules.json" or not path.exists():
                write_json(path, content)

    def push_to_hub(self, *args, **kwargs):
        """Refuse: a model alone has no processor, and nothing in it would be checked.

        Raises:
            ValueError: Always; names the ways to publish.
        """
        raise ValueError(
            "a model is published with its processor, code and card: save it and run `rtd publish FOLDER REPO`, or "
            "call push_to_hub of its trainer."
        )

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Encode images: exactly CLIP's image features.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Preprocessed images.
            kwargs: Passed to the vision tower.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output` of shape `(batch_size, projection_dim)`, not normalised.

        Raises:
            ValueError: If `pixel_values` is not such a tensor, or prompts came along.
        """
        prompt = next((name for name in ("input_ids", "attention_mask", "placeholder_mask") if name in kwargs), None)
        if prompt is not None:
            raise ValueError(
                f"`{prompt}` belongs to a prompt, and images are encoded without: pass `pixel_values` alone, or call "
                "the model itself to compose."
            )
        if not torch.is_tensor(pixel_values) or pixel_values.ndim != 4:
            raise ValueError(
                "`pixel_values` must have the shape (batch_size, channels, height, width), got "
                f"{_name_shape(pixel_values)}; processor(images=...) makes it."
            )
        output = self.vision_model(pixel_values=pixel_values, **kwargs)
        output.pooler_output = self.visual_projection(output.pooler_output)
        return output

    @can_return_tuple
    def get_text_features(self, input_ids: torch.Tensor, attention_mask=None, **kwargs) -> BaseModelOutputWithPooling:
        """Encode plain text, with the text tower from before RTD where it is kept.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, seq_len)`): Token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*): 1 for tokens.
            kwargs: Passed to the text tower.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output` of shape `(batch_size, projection_dim)`, not normalised.

        Raises:
            ValueError: If the prompts of composed queries came.
        """
        if kwargs.get("placeholder_mask") is not None:
            raise ValueError(
                "`placeholder_mask` belongs to the prompts of composed queries: call the model itself or "
                "get_composed_features for these, and processor(text=...) for plain text."
            )
        return _as_features(self.plain_text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs))

    def get_pseudo_tokens(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: BaseModelOutputWithPooling | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        placeholder_mask: torch.Tensor | None = None,
    ):
        """Turn reference images into pseudo-words.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`, *optional*): Images.
            image_features (`BaseModelOutputWithPooling`, *optional*):
                What `get_image_features` returned for them, which spares the vision pass.
            input_ids, attention_mask, placeholder_mask (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Prompts, for a projection that reads them as context.

        Returns:
            `tuple`: `pseudo_token_embeds` of shape `(batch_size, K, hidden_size)` and `pseudo_token_mask` of shape
            `(batch_size, K)` or `None`.

        Raises:
            ValueError: If the projection reads something that did not come, or counts of images and prompts differ.
        """
        if image_features is None:
            # By name, also where the configuration asks for tuples (`return_dict`).
            image_features = self.get_image_features(pixel_values, return_dict=True)
        count = len(image_features.pooler_output)
        if input_ids is not None and len(input_ids) != count:
            raise ValueError(
                f"got {count} images and {len(input_ids)} prompts. Give each prompt its reference image, such as "
                "pixel_values.expand(len(input_ids), -1, -1, -1) for one image with several conditions."
            )
        context = None
        if "context_embeds" in self.projection.consumes and input_ids is not None:
            context = self.encode_context(input_ids, attention_mask, placeholder_mask)
        return self.projection(image_features.pooler_output, image_features.last_hidden_state, context)

    @torch.no_grad()
    def encode_context(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        placeholder_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode prompts as the context of a projection: by what reads plain text, without pseudo-words.

        Args:
            input_ids, attention_mask, placeholder_mask (`torch.Tensor` of shape `(batch_size, seq_len)`): Prompts.

        Returns:
            `torch.Tensor` of shape `(batch_size, projection_dim)`: Not normalised; none of it is trained.
        """
        if placeholder_mask is None:
            placeholder_mask = input_ids == self.config.placeholder_token_id
        input_ids = input_ids.masked_fill(placeholder_mask, self.config.context_token_id)
        return self.plain_text_model(input_ids=input_ids, attention_mask=attention_mask).text_embeds

    @can_return_tuple
    def get_composed_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        placeholder_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: BaseModelOutputWithPooling | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Compose reference images and conditions into queries.

        Args:
            input_ids, attention_mask, placeholder_mask (`torch.Tensor` of shape `(batch_size, seq_len)`):
                Prompts, as [`RTDProcessor`] makes them from `conditions`.
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`, *optional*): References.
            image_features (`BaseModelOutputWithPooling`, *optional*):
                What `get_image_features` returned for them, which spares the vision pass.
            kwargs:
                Passed to the text tower. `adapter_names` (`list[str]`) names an adapter for each row, `"__base__"` for
                none and `None` for the active one.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output` of shape `(batch_size, projection_dim)`, not normalised.

        Raises:
            ValueError: As `forward`.
        """
        _check_names(kwargs)
        prompts = (input_ids, attention_mask, placeholder_mask)
        pseudo_tokens = self.get_pseudo_tokens(pixel_values, image_features, *prompts)
        return _as_features(self._read_prompt(*prompts, pseudo_tokens, **kwargs))

    def _read_prompt(
        self, input_ids, attention_mask, placeholder_mask, pseudo_tokens, adapter_names=None, **kwargs
    ) -> RTDTextOutput:
        self._refuse_plain_texts(input_ids, placeholder_mask)
        with self._mix_adapters(adapter_names):
            return self.text_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                placeholder_mask=placeholder_mask,
                pseudo_token_embeds=pseudo_tokens[0],
                pseudo_token_mask=pseudo_tokens[1],
                **kwargs,
            )

    def _refuse_plain_texts(self, input_ids, placeholder_mask) -> None:
        """Refuse texts without a place for an image: it would not count, and nothing would show it."""
        placeholder = self.config.placeholder_token_id
        if placeholder_mask is not None or placeholder is None or torch.compiler.is_compiling():
            return
        if not (input_ids == placeholder).any(dim=-1).all():
            raise ValueError(
                "a text has no placeholder, so its image would not count. processor(images=..., conditions=...) makes "
                "the prompts of composed queries. Plain texts go to get_text_features, images to get_image_features."
            )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        placeholder_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> RTDOutput:
        """Compose queries: one vision pass, one short text pass. Images alone are encoded.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Reference images.
            input_ids, attention_mask, placeholder_mask (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Prompts; without them the output has `image_embeds` alone.
            interpolate_pos_encoding (`bool`, defaults to `False`): Take images of another size than the tower's.
            kwargs:
                `output_hidden_states` and `output_attentions` of both towers, and what else transformers' models take.
                `adapter_names` (`list[str]`) names an adapter for each row, `"__base__"` for none and `None` for the
                active one.

        Returns:
            [`RTDOutput`]: Normalised composed and image embeddings; similarity is their inner product.

        Raises:
            ValueError: If images are missing, counts differ, a text has no place for its image, or an argument is
                unknown or has no effect.
        """
        _check_call(pixel_values, input_ids, kwargs)
        shown = {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if kwargs.get(name)}
        image_features = self.get_image_features(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **shown
        )
        image_embeds = nn.functional.normalize(image_features.pooler_output, dim=-1)
        if input_ids is None:
            return RTDOutput(image_embeds=image_embeds, vision_model_output=image_features if shown else None)
        prompts = (input_ids, attention_mask, placeholder_mask)
        pseudo_tokens = self.get_pseudo_tokens(None, image_features, *prompts)
        output = self._read_prompt(*prompts, pseudo_tokens, **kwargs)
        return RTDOutput(
            composed_embeds=nn.functional.normalize(output.text_embeds, dim=-1),
            image_embeds=image_embeds,
            pseudo_token_embeds=pseudo_tokens[0],
            text_model_output=output if shown else None,
            vision_model_output=image_features if shown else None,
        )


def _check_call(pixel_values, input_ids, kwargs: dict) -> None:
    """Refuse what `forward` could not follow; takes arguments that ask for nothing out of `kwargs`."""
    if pixel_values is None:
        raise ValueError(
            "a composed query needs reference images and prompts, but `pixel_values` is missing; call "
            "processor(images=..., conditions=...), or use get_text_features for plain text."
        )
    if getattr(pixel_values, "ndim", 0) != 4 or getattr(input_ids, "ndim", 2) != 2:
        raise ValueError(
            "`pixel_values` must have the shape (batch_size, channels, height, width) and `input_ids` (batch_size, "
            f"seq_len), got {_name_shape(pixel_values)} and {_name_shape(input_ids)}; pass them by name."
        )
    if kwargs.pop("return_loss", None):
        raise ValueError("`return_loss` has no effect here: RTDTrainer computes the loss of its training.")
    _check_names(kwargs)


def _check_names(kwargs: dict) -> None:
    unknown = [name for name in kwargs if name not in _FORWARD_ARGUMENTS]
    if unknown:
        known = ("pixel_values", "input_ids", "attention_mask", "placeholder_mask", *_FORWARD_ARGUMENTS)
        raise ValueError(suggest("argument of the model", unknown[0], known))


def _name_shape(value) -> str:
    return str(tuple(value.shape)) if torch.is_tensor(value) else type(value).__name__


def _refuse_stock_tower(tower) -> None:
    # By what it has: the Hub copies our classes, and peft wraps them.
    if not hasattr(tower, "_kinds"):
        raise ValueError(
            f"a {type(tower).__name__} does not read pseudo-words: load the text tower with load_text_model, which "
            "takes the same places."
        )


def _find_projection(projection: str | RTDProjection, family: str, sizes: dict[str, int]) -> RTDProjection:
    """Give the projection that came, is at a place, or is built by the name of its method; of these sizes."""
    if not isinstance(projection, RTDProjection):
        # A Hub id has a slash, and no name of a method has one. A run's folder may be called like its method.
        is_place = str(projection) not in PROJECTIONS and (Path(projection).is_dir() or "/" in str(projection))
        projection = (
            load_projection(str(projection))
            if is_place
            else build_projection(RTDProjectionConfig(projection_type=projection, **sizes))
        )
    projection.check_backbone(family, **sizes)
    return projection


def _build_config(clip: PreTrainedModel, projection: RTDProjection, tokenizer) -> RTDConfig:
    """Configure the model that a backbone and a projection make."""
    backbone, sizes = find_backbone(clip.config.text_config), projection.config
    if "image_tokens" in projection.consumes and not backbone.has_class_token:
        raise ValueError(
            f"a '{sizes.projection_type}' projection reads the vision tower's class token, which "
            f"{type(clip).__name__} does not have: take 'lincir', 'searle' or 'pic2word', or a CLIP."
        )
    config = RTDConfig(
        text_config=clip.config.text_config.to_dict() | settle_text_config(clip.config, tokenizer),
        vision_config=clip.config.vision_config.to_dict(),
        projection_config=sizes.to_dict() | {"family": name_family(clip.config.text_config)},
        projection_dim=sizes.projection_dim,
        initializer_factor=clip.config.initializer_factor,
    )
    # SigLIP's configuration has no initial scale.
    if not backbone.has_logit_bias:
        config.logit_scale_init_value = clip.config.logit_scale_init_value
    if "context_embeds" in projection.consumes:
        config.context_token_id = find_context_token_id(tokenizer)
    config.base_model = settle_place(clip.name_or_path)
    # Otherwise the copy would choose its own, whatever the CLIP was loaded with.
    config._attn_implementation = clip.config._attn_implementation
    return config


def _as_features(output: RTDTextOutput) -> BaseModelOutputWithPooling:
    return BaseModelOutputWithPooling(
        last_hidden_state=output.last_hidden_state,
        pooler_output=output.text_embeds,
        hidden_states=output.hidden_states,
        attentions=output.attentions,
    )


# CLIP keeps the text projection beside the text tower, RTDTextModel inside it. Overwritten, since the package and a
# copy of this file from the Hub may both be imported.
register_checkpoint_conversion_mapping(
    "RTDModel",
    [WeightRenaming(source_patterns=r"^text_projection\.", target_patterns="text_model.text_projection.")],
    overwrite=True,
)
