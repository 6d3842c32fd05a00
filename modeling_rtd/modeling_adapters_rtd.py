"""Adapters of the text tower: loading, choosing, mixing and saving them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from .errors_rtd import pick_where, suggest
from .files_rtd import name_damage, read_json
from .modeling_text_rtd import hash_tensors
from .projection_auto_rtd import load_projection


__all__ = ["ADAPTER_FACTS", "RTDAdapterMixin", "has_adapters", "refuse_adapter"]

ADAPTER_FACTS = "rtd_adapter.json"  # in the directory of an adapter, and of nothing else
_BASE = "__base__"  # peft's own name for no adapter


def has_adapters(module: torch.nn.Module) -> bool:
    """Say whether a network carries adapters, put on it by transformers or by peft.

    Args:
        module (`torch.nn.Module`): A text tower, or a `peft.PeftModel` of it.

    Returns:
        `bool`: Whether its frozen self is reached by disabling them.
    """
    return bool(getattr(module, "peft_config", None))


class RTDAdapterMixin:
    """The part of [`RTDModel`] that deals with LoRA adapters of its text tower."""

    @classmethod
    def from_adapter(
        cls, name_or_path: str, base: str | None = None, is_trainable: bool = False, **kwargs
    ) -> RTDAdapterMixin:
        """Load an adapter repository: a CLIP, a projection, and an adapter of the text tower.

        Further adapters of the same base are loaded with `load_adapter` and chosen with `set_adapter`; the gallery
        does not change.

        Args:
            name_or_path (`str`): Directory or Hub id of the adapter repository.
            base (`str`, *optional*): The CLIP underneath; where the adapter says by default.
            is_trainable (`bool`, defaults to `False`): Whether the adapter is to be trained further.
            kwargs: Passed to `CLIPModel.from_pretrained`.

        Returns:
            [`RTDModel`]: With the adapter active; its `original_text_model` is the base with the adapter disabled.

        Raises:
            ValueError: If the base is not found, or is not the one the adapter was trained on.
        """
        facts = _read_adapter_facts(name_or_path)
        base, dtype = base or facts["base_model"], kwargs.pop("dtype", None)
        if base is None:
            raise ValueError(f"the adapter '{name_or_path}' does not say which CLIP it was trained on: pass base=.")
        # Resolved to a folder first: transformers 5.19 would read the repository's adapter as one of the projection.
        weights = cached_file(name_or_path, SAFE_WEIGHTS_NAME, subfolder="projection")
        cached_file(name_or_path, CONFIG_NAME, subfolder="projection")
        projection = load_projection(str(Path(weights).parent))
        try:
            # In the type it was trained in, so that its hash can be compared.
            model = cls.from_clip(base, projection, dtype=getattr(torch, facts["dtype"]), **kwargs)
        except OSError as error:
            raise ValueError(
                f"the adapter '{name_or_path}' was trained on '{base}', which is not there: pass base= with the place "
                "of that CLIP."
            ) from error
        model.load_adapter(name_or_path, is_trainable=is_trainable)
        return model if dtype is None else model.to(dtype)

    def load_adapter(self, name_or_path: str, adapter_name: str = "default", is_trainable: bool = False) -> None:
        """Load one more adapter of the same base, and make it the active one.

        Args:
            name_or_path (`str`): Directory or Hub id of the adapter repository.
            adapter_name (`str`, defaults to `"default"`): Name to choose it by, see `set_adapter`.
            is_trainable (`bool`, defaults to `False`): Whether the adapter is to be trained further.

        Raises:
            ValueError: If the adapter was trained on another text tower or with another projection.
        """
        facts = _read_adapter_facts(name_or_path)
        config, base = self.config.text_config, self.config.base_model
        shapes = (config.hidden_size, config.num_hidden_layers)
        if hash_tensors(self.text_model) != facts["text_model_sha256"]:
            raise ValueError(
                f"the adapter '{name_or_path}' was trained on another base than '{base}' (width and layers {shapes}): "
                f"the text tower of '{facts['base_model']}' (width and layers {tuple(facts['shapes'])}) has another "
                "SHA-256; load it on that CLIP, in the type it was trained in."
            )
        if hash_tensors(self.projection) != facts["projection_sha256"]:
            raise ValueError(f"the adapter '{name_or_path}' was trained with another projection; use from_adapter.")
        with name_damage(name_or_path):
            self.text_model.load_adapter(name_or_path, adapter_name, is_trainable=is_trainable)
        self.set_adapter(adapter_name)

    def set_adapter(self, adapter_name: str) -> None:
        """Choose the active adapter of the text tower.

        Args:
            adapter_name (`str`): Name it was loaded under.
        """
        self.text_model.set_adapter(adapter_name)

    def save_adapter(self, save_directory: str) -> None:
        """Save the active adapter with all it needs beside its base: the projection, and which CLIP it belongs to.

        Args:
            save_directory (`str`): Directory of the adapter repository.

        Raises:
            ValueError: If the text tower has no adapter.
        """
        if not has_adapters(self.text_model):
            raise ValueError(
                "the text tower has no adapter of its own: save the whole model with save_pretrained, or a PeftModel "
                "through itself."
            )
        text_config = self.config.text_config
        for name in self.text_model.active_adapters():
            self.text_model.peft_config[name].base_model_name_or_path = self.config.base_model
        self.text_model.save_pretrained(save_directory)
        self.projection.save_pretrained(Path(save_directory) / "projection")
        facts = {
            "base_model": self.config.base_model,
            "text_model_sha256": hash_tensors(self.text_model),
            "projection_sha256": hash_tensors(self.projection),
            "dtype": str(self.dtype).removeprefix("torch."),
            "shapes": [text_config.hidden_size, text_config.num_hidden_layers],
        }
        Path(save_directory, ADAPTER_FACTS).write_text(json.dumps(facts, indent=2))

    def check_adapters(self, adapter_names: Sequence[str | None]) -> None:
        """Check that the text tower has the adapters that some queries name.

        Args:
            adapter_names (`list[str]`): Names, `"__base__"` for no adapter, or `None` for the active one.

        Raises:
            ValueError: If it has no adapter of a name.
        """
        known = {*getattr(self.text_model, "peft_config", {}), _BASE}
        unknown = next((name for name in adapter_names if name is not None and name not in known), None)
        if unknown is not None:
            raise ValueError(suggest("adapter", unknown, known))

    def _settle_adapters(self, adapter_names: Sequence[str | None] | None) -> list[str] | None:
        """Name an adapter for every row; `None` where there is nothing to mix."""
        if adapter_names is None:
            return None
        self.check_adapters(adapter_names)
        if any(getattr(module, "_disable_adapters", False) for module in self.text_model.modules()):
            asked = next((name for name in adapter_names if name not in (None, _BASE)), None)
            if asked is not None:
                raise ValueError(f"the adapter '{asked}' was asked for, but adapters are disabled: enable them first.")
            return None
        if not has_adapters(self.text_model):
            return None
        active = self.text_model.active_adapters  # a method where transformers adapted the tower, not so in peft
        active = active() if callable(active) else active
        if None in adapter_names and len(active) != 1:
            raise ValueError(
                f"several adapters are active ({', '.join(active)}): name one for each query of the batch."
            )
        return [active[0] if name is None else name for name in adapter_names]

    @contextlib.contextmanager
    def _mix_adapters(self, adapter_names: Sequence[str | None] | None):
        """Let each row of a batch pass through an adapter of its own, by peft's `adapter_names`."""
        names = self._settle_adapters(adapter_names)
        if names is None:
            yield
            return

        def name_rows(module, args, kwargs):
            return args, kwargs | {"adapter_names": names}

        # What `PeftModel` does in its own forward; a tower that transformers adapted has no such wrapper.
        hooks = [
            module.register_forward_pre_hook(name_rows, with_kwargs=True)
            for module in self.text_model.modules()
            if any(
                isinstance(getattr(module, name, None), torch.nn.ModuleDict) for name in ("lora_A", "modules_to_save")
            )
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def refuse_adapter(name_or_path, **kwargs) -> None:
    """Refuse an adapter repository where a whole model is loaded.

    Args:
        name_or_path (`str` or `Path`, *optional*): Directory or Hub id of what is to be loaded.
        kwargs: Of `from_pretrained`; those that say where to look are followed.

    Raises:
        ValueError: If an adapter lies there.
    """
    if name_or_path is None:
        return
    quiet = ("missing_entries", "connection_errors", "gated_repo")
    where = pick_where(kwargs) | {f"_raise_exceptions_for_{name}": False for name in quiet}
    # transformers would load the base in its place, and then hand the adapter to a method of another signature.
    if cached_file(str(name_or_path), ADAPTER_FACTS, **where):
        place = Path(name_or_path, kwargs.get("subfolder") or "")
        raise ValueError(f"'{place}' is an adapter: load it with RTDModel.from_adapter('{place}').")


def _read_adapter_facts(name_or_path: str) -> dict:
    file, remedy = cached_file(name_or_path, ADAPTER_FACTS), "save the adapter again"
    facts = read_json(
        file,
        remedy,
        base_model=str | None,
        text_model_sha256=str,
        projection_sha256=str,
        dtype=str,
        shapes=list,
    )
    if not isinstance(getattr(torch, facts["dtype"], None), torch.dtype):
        raise ValueError(f"'{file}' is damaged, '{facts['dtype']}' is not a type of tensors: {remedy}.")
    return facts
