"""Adapters of the text tower: loading, choosing, mixing, removing and saving them."""

from __future__ import annotations

import contextlib
import copy
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from .configuration_rtd import refuse_outside
from .errors_rtd import check_path, pick_where, refuse_no_place, suggest
from .files_rtd import name_damage, read_json, write_json
from .modeling_text_rtd import RTDTextTower, hash_named, hash_tensors
from .projection_auto_rtd import load_projection


__all__ = [
    "ADAPTER_FACTS",
    "RTDAdapterMixin",
    "find_changed_base",
    "find_inexact",
    "has_adapters",
    "hold_adapters",
    "refuse_parts",
    "remove_adapters",
]

ADAPTER_FACTS = "rtd_adapter.json"  # in the directory of an adapter, and of nothing else
# An adapter is read by this package alone, so that its folder brings no code of its own.
_SENTENCE_TRANSFORMERS_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "modeling_rtd.sentence_transformers_rtd.RTDSentenceTransformer"}
]
_BASE = "__base__"  # peft's own name for no adapter
# Settings of other kinds of adapters than those that are saved.
_FOREIGN = "alora_invocation_tokens layer_replication megatron_config trainable_token_indices use_dora".split()
_QUIET = {f"_raise_exceptions_for_{name}": False for name in ("missing_entries", "connection_errors", "gated_repo")}
_TURN = threading.RLock()  # one for all models of a process, so that models can be copied and pickled


def has_adapters(module: torch.nn.Module) -> bool:
    """Say whether a network carries adapters, put on it by transformers or by peft.

    Args:
        module (`torch.nn.Module`): A text tower, or a `peft.PeftModel` of it.

    Returns:
        `bool`: Whether its frozen self is reached by disabling them.
    """
    return bool(getattr(module, "peft_config", None))


@contextlib.contextmanager
def hold_adapters(tower: torch.nn.Module):
    """Use a text tower with adapters while no other thread of the process uses or changes any.

    Which adapter is active, or that none is, is a state of the tower, and a pass may need another one for its time.
    A tower without adapters is not waited for, nor is anything inside `torch.compile`.

    Args:
        tower (`torch.nn.Module`): A text tower, or a `peft.PeftModel` of it.
    """
    is_shared = has_adapters(tower) and not torch.compiler.is_compiling()
    with _TURN if is_shared else contextlib.nullcontext():
        yield


@torch.no_grad()
def remove_adapters(tower: RTDTextTower, merge: bool) -> RTDTextTower:
    """Give a tower without its adapters, as a copy.

    Args:
        tower ([`RTDTextModel`]): A tower with adapters of peft.
        merge (`bool`): Whether the active adapters go into the weights, or are left out.

    Returns:
        [`RTDTextModel`]: A plain tower.
    """
    adapted = copy.deepcopy(tower)
    if merge:
        # Layer by layer: what transformers adapted has no `merge_and_unload` of peft's wrapper.
        for layer in adapted.modules():
            if hasattr(layer, "base_layer"):
                layer.merge()
    tensors = {
        re.sub(r"(\.token_adapter)?\.(base_layer|original_module)\.", ".", name): tensor
        for name, tensor in adapted.state_dict().items()
    }
    if merge:  # layers that peft trains whole
        for adapter in tower.active_adapters():
            part = f".modules_to_save.{adapter}."
            tensors |= {name.replace(part, "."): tensor for name, tensor in tensors.items() if part in name}
    plain = type(tower)(tower.config).to(tower.device, tower.dtype)
    plain.load_state_dict({name: tensors[name] for name in plain.state_dict()})
    return plain.eval()


class RTDAdapterMixin:
    """The part of [`RTDModel`] that deals with LoRA adapters of its text tower.

    Threads may share a model. With adapters, their text passes and changes of adapters take turns, one at a time in a
    process. Vision passes do not wait, and without adapters nothing does. Passes through `model.text_model` itself
    take no turn.
    """

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
            kwargs: Passed to `CLIPModel.from_pretrained`; `revision` and `subfolder` are those of the adapter.

        Returns:
            [`RTDModel`]: With the adapter active; its `original_text_model` is the base with the adapter disabled.

        Raises:
            ValueError: If there is no adapter, it is damaged, or the base is not found or is not the one it was
                trained on.
        """
        where = pick_where(kwargs)
        _check_is_adapter(name_or_path, where)
        facts = _read_adapter_facts(name_or_path, where)
        base, dtype = base or facts["base_model"], kwargs.pop("dtype", None)
        if base is None:
            raise ValueError(f"the adapter '{name_or_path}' does not say which CLIP it was trained on: pass base=.")
        # Resolved to a folder first: transformers 5.19 would read the repository's adapter as one of the projection.
        inside = where | {"subfolder": f"{where.get('subfolder', '')}/projection".strip("/")}
        weights = cached_file(name_or_path, SAFE_WEIGHTS_NAME, **inside)
        cached_file(name_or_path, CONFIG_NAME, **inside)
        projection = load_projection(str(Path(weights).parent))
        kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
        try:
            # In the type it was trained in, so that its hash can be compared.
            model = cls.from_clip(base, projection, dtype=getattr(torch, facts["dtype"]), **kwargs)
        except OSError as error:
            raise ValueError(
                f"the adapter '{name_or_path}' was trained on '{base}', which is not there: pass base= with the place "
                "of that CLIP."
            ) from error
        model.load_adapter(name_or_path, is_trainable=is_trainable, **where)
        return model if dtype is None else model.to(dtype)

    def load_adapter(self, name_or_path: str, adapter_name: str = "default", is_trainable: bool = False, **kwargs):
        """Load one more adapter of the same base, and make it the active one.

        Args:
            name_or_path (`str`): Directory or Hub id of the adapter repository.
            adapter_name (`str`, defaults to `"default"`): Name to choose it by, see `set_adapter`.
            is_trainable (`bool`, defaults to `False`): Whether the adapter is to be trained further.
            kwargs: `revision`, `token` and the like say where the adapter is. Others come from transformers, which
                loads `AutoModel` of an adapter's folder this way, and are not used.

        Returns:
            What transformers' own `load_adapter` returns.

        Raises:
            ValueError: If there is no adapter, it was trained on another text tower or with another projection, or
                its tensors are not those that were saved. The model then stays as it was.
        """
        where = pick_where(kwargs)
        if not isinstance(adapter_name, str) or adapter_name in ("", _BASE) or "." in adapter_name:
            raise ValueError(f"`adapter_name` must be a text without '.', and not '{_BASE}', got {adapter_name!r}.")
        parts = {part for name, _ in self.text_model.named_modules() for part in name.split(".")}
        if adapter_name in parts - set(getattr(self.text_model, "peft_config", ())):
            # transformers would take keys of the tower for those of the adapter.
            raise ValueError(f"`adapter_name` is {adapter_name!r}, as a part of the text tower is: choose another.")
        _check_is_adapter(name_or_path, where)
        facts = _read_adapter_facts(name_or_path, where)
        _check_adapter_config(cached_file(name_or_path, "adapter_config.json", **where))
        config, base = self.config.text_config, self.config.base_model
        shapes = (config.hidden_size, config.num_hidden_layers)
        if hash_tensors(self.text_model) != facts["text_model_sha256"]:
            raise ValueError(
                f"the adapter '{name_or_path}' was trained on another base than '{base}' (width and layers {shapes}). "
                f"The text tower of '{facts['base_model']}' (width and layers {tuple(facts['shapes'])}) has another "
                "SHA-256. Load it on that CLIP, in the type it was trained in."
            )
        if hash_tensors(self.projection) != facts["projection_sha256"]:
            raise ValueError(f"the adapter '{name_or_path}' was trained with another projection; use from_adapter.")
        with _TURN:
            is_new = adapter_name not in getattr(self.text_model, "peft_config", {})
            try:
                with name_damage(name_or_path):
                    report = self.text_model.load_adapter(
                        name_or_path, adapter_name, is_trainable=is_trainable, adapter_kwargs=where
                    )
                # transformers drops keys that it does not know, such as DoRA's magnitudes, without an error.
                # Adapters of development versions have no hash, and those of earlier ones none of the scale.
                if facts.get("adapter_sha256") not in (None, _hash_adapter(self.text_model, adapter_name)):
                    raise ValueError(
                        f"the adapter '{name_or_path}' is damaged: its tensors have another SHA-256 than those that "
                        "were saved, or some are missing. Restore it from a copy, or save it again."
                    )
                if facts.get("scaling_sha256") not in (None, _hash_scaling(self.text_model, adapter_name)):
                    raise ValueError(
                        f"the adapter '{name_or_path}' is damaged: its adapter_config.json gives another scale (`r`, "
                        "`lora_alpha`, `use_rslora` and their patterns) than it was saved with. Restore that file."
                    )
            except Exception:
                # transformers has loaded it before it was checked, and would keep it.
                if is_new and adapter_name in getattr(self.text_model, "peft_config", {}):
                    self.text_model.delete_adapter(adapter_name)
                raise
            self.set_adapter(adapter_name)
            return report

    def add_adapter(self, adapter_config, adapter_name: str = "default") -> None:
        """Add a fresh adapter to the text tower, and make it the active one; nothing else is adapted or frozen.

        Args:
            adapter_config (`peft.PeftConfig`): Configuration; `build_lora_config` of `trainer` makes one.
            adapter_name (`str`, defaults to `"default"`): Name to choose it by.
        """
        with _TURN:
            self.text_model.add_adapter(adapter_config, adapter_name)

    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        """Remove adapters of the text tower.

        Args:
            adapter_names (`str` or `list[str]`): Names they were loaded under.

        Raises:
            ValueError: If an adapter has changed the tower below it, as PiSSA does, which would remain.
        """
        with _TURN:
            names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
            if has_changed := find_changed_base(self.text_model, names):
                raise ValueError(has_changed)
            self.text_model.delete_adapter(adapter_names)

    def disable_adapters(self) -> None:
        """Let the text tower run without its adapters until `enable_adapters`, in all threads."""
        with _TURN:
            self.text_model.disable_adapters()

    def enable_adapters(self) -> None:
        """Let the text tower run with its active adapter again."""
        with _TURN:
            self.text_model.enable_adapters()

    def active_adapters(self) -> list[str]:
        """Name the active adapters of the text tower.

        Returns:
            `list[str]`: Their names.
        """
        names = self.text_model.active_adapters  # a method where transformers adapted the tower, not so in peft
        return names() if callable(names) else names

    def set_adapter(self, adapter_name: str) -> None:
        """Choose the active adapter of the text tower.

        Args:
            adapter_name (`str`): Name it was loaded under.
        """
        with _TURN:
            self.text_model.set_adapter(adapter_name)

    def save_adapter(self, save_directory: str) -> None:
        """Save the active adapter with all it needs beside its base: the projection, and which CLIP it belongs to.

        Args:
            save_directory (`str`): Directory of the adapter repository.

        Raises:
            ValueError: If the text tower has no adapter, several are active, or the adapter could not be loaded again
                exactly.
        """
        check_path(save_directory, "save_directory")
        # What peft wraps has a list of names, and no method.
        if not has_adapters(self.text_model) or not callable(self.text_model.active_adapters):
            raise ValueError(
                "the text tower has no adapter of its own: save the whole model with save_pretrained, or a PeftModel "
                "through itself."
            )
        text_config = self.config.text_config
        names = self.text_model.active_adapters()
        if len(names) != 1:
            raise ValueError(f"one adapter is saved at a time, and {names} are active: choose one with set_adapter.")
        name = names[0]
        odd = find_inexact(self.text_model, name)
        if odd is not None:
            raise ValueError(
                f"the adapter '{name}' could not be loaded again exactly, since it has {odd}. Put its merged tower, "
                "interpolate_text_model(1.0).text_model, into the model as it was loaded, with replace_text_model. "
                "Then save that model whole."
            )
        self.text_model.peft_config[name].base_model_name_or_path = self.config.base_model
        # By this peft's own AutoPeftModel finds the tower's class.
        mapping = {"base_model_class": type(self.text_model).__name__, "parent_library": "modeling_rtd"}
        self.text_model.peft_config[name].auto_mapping = mapping
        self.text_model.save_pretrained(save_directory)
        self.projection.save_pretrained(Path(save_directory) / "projection")
        facts = {
            "base_model": self.config.base_model,
            "text_model_sha256": hash_tensors(self.text_model),
            "projection_sha256": hash_tensors(self.projection),
            "adapter_sha256": _hash_adapter(self.text_model, name),
            "scaling_sha256": _hash_scaling(self.text_model, name),
            "dtype": str(self.dtype).removeprefix("torch."),
            "shapes": [text_config.hidden_size, text_config.num_hidden_layers],
        }
        # Without it sentence-transformers loads the base alone, with an adapter of random weights.
        write_json(Path(save_directory, "modules.json"), _SENTENCE_TRANSFORMERS_MODULES)
        # Last: by this file a folder is an adapter.
        write_json(Path(save_directory, ADAPTER_FACTS), facts)

    def check_adapters(self, adapter_names: Sequence[str | None]) -> None:
        """Check that the text tower has the adapters that some queries name.

        Args:
            adapter_names (`list[str]`): Names, `"__base__"` for no adapter, or `None` for the active one.

        Raises:
            ValueError: If it has no adapter of a name.
        """
        if not isinstance(adapter_names, list | tuple):
            raise ValueError(f"`adapter_names` must be a list, one a query, got {adapter_names!r}.")
        known = [*getattr(self.text_model, "peft_config", {}), _BASE]
        unknown = next((name for name in adapter_names if name is not None and name not in known), None)
        if unknown is not None:
            raise ValueError(suggest("adapter", unknown, known))

    def _settle_adapters(self, adapter_names: Sequence[str | None] | None) -> list[str] | None:
        """Name an adapter for every row; `None` where there is nothing to mix."""
        if adapter_names is None:
            return None
        self.check_adapters(adapter_names)
        # peft passes over names where adapters are disabled, without an error.
        if any(getattr(module, "_disable_adapters", False) for module in self.text_model.modules()):
            asked = next((name for name in adapter_names if name not in (None, _BASE)), None)
            if asked is not None:
                raise ValueError(f"the adapter '{asked}' was asked for, but adapters are disabled: enable them first.")
            return None
        if not has_adapters(self.text_model):
            return None
        active = self.active_adapters()
        if None in adapter_names and len(active) != 1:
            raise ValueError(
                f"several adapters are active ({', '.join(active)}): name one for each query of the batch."
            )
        return [active[0] if name is None else name for name in adapter_names]

    @contextlib.contextmanager
    def _mix_adapters(self, adapter_names: Sequence[str | None] | None):
        """Let each row of a batch pass through an adapter of its own, by peft's `adapter_names`, in this turn."""
        with hold_adapters(self.text_model):
            names = self._settle_adapters(adapter_names)
            with contextlib.nullcontext() if names is None else self._name_rows(names):
                yield

    @contextlib.contextmanager
    def _name_rows(self, names: list[str]):

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


def find_inexact(tower: torch.nn.Module, adapter_name: str) -> str | None:
    """Find why an adapter could not be saved, loaded again exactly, and chosen by query.

    Args:
        tower ([`RTDTextModel`] or `peft.PeftModel`): The tower with its adapter.
        adapter_name (`str`): Name of the adapter.

    Returns:
        `str`: What it has that others have not; `None` where there is nothing.
    """
    config = tower.peft_config[adapter_name]
    odd = _find_odd(config.to_dict())
    if odd is not None:
        return f"{odd}={getattr(config, odd)!r:.40}"
    # Loading through transformers drops tensors of other kinds without an error.
    kept = re.compile(rf"\.(lora_[AB]|modules_to_save)\.{re.escape(adapter_name)}\.")
    own = re.compile(rf"\.(lora_\w+|modules_to_save|trainable_tokens_\w+)\.{re.escape(adapter_name)}(\.|$)")
    for name in tower.state_dict():
        if own.search(name) and not kept.search(name):
            return f"a tensor '{name}'"
    for name, part in tower.named_modules():
        # By query peft runs no others.
        whole = getattr(part, "modules_to_save", None)
        layer = whole[adapter_name] if isinstance(whole, torch.nn.ModuleDict) and adapter_name in whole else None
        if layer is not None and not isinstance(layer, torch.nn.Linear | torch.nn.Embedding):
            return f"'{name}' in modules_to_save, which is neither Linear nor Embedding"
    return None


def _find_odd(config: dict) -> str | None:
    """Name a setting that no saved adapter has; some change the base too, which its hash then does not fit."""
    odd = ["peft_type"] * (config.get("peft_type") != "LORA")
    odd += _find_changes(config) + [name for name in _FOREIGN if config.get(name)]
    return next(iter(odd), None)


def _find_changes(config: dict) -> list[str]:
    """Name settings with which an adapter changes the weights below it."""
    odd = ["bias"] * (config.get("bias") not in (None, "none"))
    return odd + ["init_lora_weights"] * (config.get("init_lora_weights") not in (True, False, "gaussian", None))


def find_changed_base(tower: torch.nn.Module, names: Sequence[str] | None = None) -> str | None:
    """Find an adapter that has changed the tower below it, which is then not the one from before RTD.

    Args:
        tower (`torch.nn.Module`): A text tower.
        names (`list[str]`, *optional*): Adapters to look at. Defaults to all.

    Returns:
        `str`: A sentence for a `ValueError`; `None` where there is none.
    """
    for name, config in getattr(tower, "peft_config", {}).items():
        if (names is None or name in names) and (changes := _find_changes(config.to_dict())):
            return (
                f"the adapter '{name}' has changed the text tower below it ({changes[0]}="
                f"{getattr(config, changes[0])!r}), so that the one from before RTD is not there any more. Put the "
                "merged tower, interpolate_text_model(1.0).text_model, into the model as it was loaded, with "
                "replace_text_model."
            )
    return None


def _hash_adapter(tower: torch.nn.Module, adapter_name: str) -> str:
    """Hash the tensors of an adapter, under any name and in any type of floats."""
    tensors = {
        name.replace(f".{adapter_name}.", ".", 1): tensor.float()
        for name, tensor in tower.state_dict().items()
        if (".lora_" in name or ".modules_to_save." in name) and f".{adapter_name}." in name
    }
    return hash_named(tensors)


def _hash_scaling(tower: torch.nn.Module, adapter_name: str) -> str:
    """Hash by what the layers multiply an adapter, which its configuration says, and no tensor."""
    scales = {name: getattr(module, "scaling", None) for name, module in tower.named_modules()}
    scales = {name: scale for name, scale in scales.items() if isinstance(scale, dict) and adapter_name in scale}
    return hash_named({name: torch.tensor(float(scale[adapter_name])) for name, scale in scales.items()})


def refuse_parts(name_or_path, **kwargs) -> None:
    """Refuse a repository of an adapter or of a text tower where a whole model is loaded.

    Args:
        name_or_path (`str` or `Path`, *optional*): Directory or Hub id of what is to be loaded.
        kwargs: Of `from_pretrained`; those that say where to look are followed.

    Raises:
        ValueError: If one is there; says how it is loaded.
    """
    if name_or_path is None:
        return
    where = pick_where(kwargs) | _QUIET
    place = Path(name_or_path, kwargs.get("subfolder") or "")
    # transformers would load the base in its place, and then hand the adapter to a method of another signature.
    if cached_file(str(name_or_path), ADAPTER_FACTS, **where):
        raise ValueError(f"'{place}' is an adapter: load it with RTDModel.from_adapter('{place}').")
    config = cached_file(str(name_or_path), CONFIG_NAME, **where)
    values = {} if config is None else read_json(config, "restore it from a copy, or save the model again")
    refuse_outside(name_or_path, values, kwargs.get("subfolder"))
    if str(values.get("model_type")).endswith("text_model"):
        raise ValueError(
            f"'{place}' holds a text tower alone, as a checkpoint does. Continue its training, which saves a whole "
            "model; or load it with load_text_model, and put that into its model with replace_text_model."
        )
    if config is None and cached_file(str(name_or_path), "adapter_config.json", **where):
        raise ValueError(
            f"'{place}' holds an adapter without a projection and '{ADAPTER_FACTS}', as a checkpoint does. Continue "
            "its training, which saves a whole adapter; or load it on its model with model.text_model.load_adapter."
        )
    if config is None and (inner := [place / name for name in ("model", "adapter") if (place / name).is_dir()]):
        raise ValueError(f"'{place}' is a run: name '{inner[0]}'.")


def _check_is_adapter(name_or_path: str, where: dict) -> None:
    """Refuse what is not an adapter repository, and say what it is."""
    refuse_no_place(name_or_path)
    if cached_file(name_or_path, ADAPTER_FACTS, **where, **_QUIET):
        return
    refuse_parts(name_or_path, **where)
    if cached_file(name_or_path, CONFIG_NAME, **where, **_QUIET):
        raise ValueError(
            f"'{name_or_path}' is not an adapter: load it with RTDModel.from_pretrained, or with from_clip if it is a "
            "CLIP."
        )
    raise ValueError(
        f"no adapter was found at '{name_or_path}': name a directory or Hub id that holds '{ADAPTER_FACTS}', as "
        "save_adapter writes it."
    )


def _check_adapter_config(file: str) -> None:
    """Refuse a configuration that says what no saved adapter has, and that changes the base or what is adapted."""
    remedy = "restore it from a copy, or save the adapter again"
    config = read_json(file, remedy, peft_type=str, init_lora_weights=bool | str | None)
    if odd := _find_odd(config):
        raise ValueError(f"'{file}' is damaged, its `{odd}` is {config.get(odd)!r:.40}: {remedy}.")


def _read_adapter_facts(name_or_path: str, where: dict) -> dict:
    file, remedy = cached_file(name_or_path, ADAPTER_FACTS, **where), "save the adapter again"
    facts = read_json(
        file,
        remedy,
        base_model=str | None,
        text_model_sha256=str,
        projection_sha256=str,
        adapter_sha256=str | None,
        scaling_sha256=str | None,
        dtype=str,
        shapes=list,
    )
    if not isinstance(getattr(torch, facts["dtype"], None), torch.dtype):
        raise ValueError(f"'{file}' is damaged, '{facts['dtype']}' is not a type of tensors: {remedy}.")
    return facts
