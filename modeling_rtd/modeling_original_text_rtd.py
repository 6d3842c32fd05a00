"""The text tower from before RTD, which reads plain text: where it is, its hash, its loading, and mixtures with it."""

from __future__ import annotations

import contextlib
import copy
import re
import threading
from pathlib import Path

import torch
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

from .configuration_rtd import RTDConfig, refuse_outside
from .errors_rtd import settle_place
from .modeling_adapters_rtd import find_changed_base, has_adapters, hold_adapters
from .modeling_backbones_rtd import find_backbone
from .modeling_text_rtd import RTDTextTower, hash_tensors


__all__ = ["AdaptersDisabled", "OriginalTextTower", "interpolate_towers"]

_FOLDER = "original_text"  # of a model that carries the tower
_TURN = threading.RLock()  # one thread loads or moves the tower, and others wait for it
_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)  # in transformers' own order


class OriginalTextTower:
    """The text tower from before RTD of one model.

    A plain object and no module: the tower is not in the model's `state_dict`, and `to` does not move it.

    Args:
        config ([`RTDConfig`]): The model's; its `original_text_model` says where the tower is.
        where: How the model itself was loaded: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only` and
            `force_download`. They hold for the tower too.

    Raises:
        ValueError: If the configuration names a place that cannot be one.
    """

    def __init__(self, config: RTDConfig, **where):
        self._config, self._where = config, where
        self._lender = None  # another of these, and the text tower beside it
        self._place = self._tower = self._moved = None
        # Refused here, and not at the first plain text.
        _ = self.place

    def __getstate__(self):
        # A token belongs in no file; the tower was fetched when the model was loaded.
        return vars(self) | {"_where": {name: value for name, value in self._where.items() if name != "token"}}

    @property
    def place(self) -> dict | None:
        """`dict`: Where the tower is, see [`RTDConfig`]; `None` where the model's text tower is CLIP's own.

        Raises:
            ValueError: If it cannot be a place, or is outside the repository.
        """
        place = self._config.original_text_model
        if place is not None:
            _check_place(place)
        return place

    @property
    def is_kept(self) -> bool:
        """`bool`: Whether the tower is there to read plain text; otherwise the text tower after RTD does."""
        return self.place is not None and self.place.get("plain_text", True)

    @property
    def is_lent(self) -> bool:
        """`bool`: Whether another model lends the tower, and the configuration names no place of it."""
        if self._lender is None:
            return False
        lender, _ = self._lender
        return lender.place is None or lender.is_kept

    def serve(self, text_model: RTDTextTower, device: torch.device, dtype: torch.dtype, for_plain_text: bool = False):
        """Give the tower from before RTD, or what reads plain text, beside a text tower.

        Args:
            text_model ([`RTDTextModel`]): The model's text tower.
            device, dtype: Those of the model.
            for_plain_text (`bool`, defaults to `False`): Give the text tower itself where it reads plain text too.

        Returns:
            [`RTDTextModel`] or [`AdaptersDisabled`]: The text tower with its adapters off where it has some, the text
            tower itself before RTD, and the tower from before RTD after it.

        Raises:
            ValueError: If the tower could not be loaded, has another hash, or was changed by its adapters.
        """
        if has_adapters(text_model):
            if has_changed := find_changed_base(text_model):
                raise ValueError(has_changed)
            return AdaptersDisabled(text_model)
        if self._lender is not None:
            lender, text_model = self._lender
            return lender.serve(text_model, device, dtype, for_plain_text)
        if self.place is None or (for_plain_text and not self.is_kept):
            return text_model
        tower = self.load()
        if (tower.device, tower.dtype) == (device, dtype):
            return tower
        with _TURN:
            if self._moved is None or (self._moved.device, self._moved.dtype) != (device, dtype):
                # A copy: the tower itself keeps the tensors that its hash was taken of.
                self._moved = copy.deepcopy(tower).to(device=device, dtype=dtype)
            return self._moved

    def load(self) -> RTDTextTower:
        """Give the tower in the type that its hash was taken in; it is read from its place once.

        Returns:
            [`RTDTextModel`]: Frozen.

        Raises:
            ValueError: If the tower could not be loaded, or has another hash.
        """
        place = self.place
        if self._place == place:
            return self._tower
        with _TURN:
            return self._tower if self._place == place else self._load(place)

    def _load(self, place: dict) -> RTDTextTower:
        try:
            config = self._config.text_config  # the repository of a SigLIP 2 says another padding
            tower = find_backbone(config).text_model.from_pretrained(
                self._find(), config=config, dtype=getattr(torch, place["dtype"])
            )
        except OSError as error:
            raise ValueError(
                "the text tower from before RTD, which plain text, contexts and saving need, could not be loaded from "
                f"{place}: {error}"
            ) from error
        if hash_tensors(tower) != place["sha256"]:
            raise ValueError(
                f"the text tower at {place} is not the one RTD started from: its tensors have another SHA-256; "
                "restore that folder or revision, or train again."
            )
        self._hold(tower)
        return tower

    def fetch(self) -> None:
        """Bring the tower's files into the cache, so that it loads without a network too.

        Where that fails, the model can still compose; what needs the tower says so.
        """
        if self.is_kept:
            # Without a network the model still composes; what needs this tower says so when it does.
            with contextlib.suppress(OSError):
                self._find(force_download=self._where.get("force_download", False))

    def _find(self, force_download: bool = False) -> Path:
        """Give the folder of the tower's files, after they have been downloaded where they are on the Hub."""
        place, where = self.place, self._where | {"force_download": force_download}
        where["subfolder"] = place["subfolder"]
        where["revision"] = place.get("revision")
        if place["repo"] is None:
            where["subfolder"] = "/".join(filter(None, [self._where.get("subfolder"), place["subfolder"]]))
            where["revision"] = getattr(self._config, "_commit_hash", None) or self._where.get("revision")
        repo = place["repo"] or self._config.name_or_path
        config = cached_file(repo, CONFIG_NAME, **where)
        quiet = {f"_raise_exceptions_for_{name}": False for name in ("missing_entries", "connection_errors")}
        found = (path for name in _WEIGHTS if (path := cached_file(repo, name, **where, **quiet)))
        weights = next(found, None)
        if config is None or weights is None:
            raise OSError(f"'{repo}' has no {CONFIG_NAME} or no weights in '{where['subfolder']}'.")
        if weights.endswith(".index.json"):
            get_checkpoint_shard_files(repo, weights, **where)
        refuse_outside(Path(config).parent, {})
        return Path(config).parent

    def keep(self, tower: RTDTextTower, repo: str | None = None, revision: str | None = None) -> None:
        """Hold a tower as the one from before RTD, and write its place and hash to the configuration.

        Args:
            tower ([`RTDTextModel`]): The tower; it is frozen.
            repo, revision (`str`, *optional*): See [`RTDModel.set_original_text_model`].
        """
        if repo and repo == tower.name_or_path and not Path(repo).is_dir():  # a commit of no other repository
            revision = revision or getattr(tower.config, "_commit_hash", None)
        self._config.original_text_model = {
            "repo": settle_place(repo),
            "subfolder": "" if repo else _FOLDER,
            "revision": revision,
            "dtype": str(tower.dtype).removeprefix("torch."),
            "sha256": hash_tensors(tower),
        }
        self._hold(tower)

    def _hold(self, tower: RTDTextTower) -> None:
        self._lender = self._moved = None
        self._tower = tower.eval().requires_grad_(False)
        self._place = dict(self.place)  # last: other threads take the tower once it is set

    def save(self, folder: str | Path) -> None:
        """Write the tower into a saved model that carries it; one that is elsewhere stays there.

        Args:
            folder (`str` or `Path`): Of the model.

        Raises:
            ValueError: If the tower could not be loaded, has another hash, or its place is outside the folder.
        """
        place = self.place
        if self.is_kept and place["repo"] is None:
            self.load().save_pretrained(Path(folder) / place["subfolder"])

    def drop(self, config: RTDConfig, measured: dict | None) -> OriginalTextTower:
        """Give what a model has whose own text tower reads plain text; its configuration says so from here on.

        Args:
            config ([`RTDConfig`]): Of that model.
            measured (`dict`, *optional*): What is known of its plain retrieval.

        Returns:
            [`OriginalTextTower`]: Looks for the tower in the CLIP underneath, if anyone asks.
        """
        place = self.place
        if place["repo"] is None and config.base_model is not None:
            place = place | {"repo": config.base_model, "subfolder": ""}
        config.original_text_model = place | {"plain_text": False, "measured": measured}
        twin = self.share(config)
        twin._place = self._place and dict(twin.place)
        return twin

    def restore(self, config: RTDConfig, with_measured: bool) -> OriginalTextTower:
        """Give what a model has that keeps the tower, also where this one left it out.

        Args:
            config ([`RTDConfig`]): Of that model; the place is written to it.
            with_measured (`bool`): Keep what was measured of plain retrieval, which is of one text tower only.

        Returns:
            [`OriginalTextTower`]: With the tower itself, where it is loaded.
        """
        left = {"plain_text"} if with_measured else {"plain_text", "measured"}
        config.original_text_model = {name: value for name, value in self.place.items() if name not in left}
        twin = self.share(config)
        twin._place = self._place and dict(twin.place)
        return twin

    def share(self, config: RTDConfig) -> OriginalTextTower:
        """Give the same tower to a model whose configuration names the same place.

        Args:
            config ([`RTDConfig`]): Of that model.

        Returns:
            [`OriginalTextTower`]: With the tower itself, where it is loaded.
        """
        twin = copy.copy(self)
        twin._config = config
        return twin

    def lend(self, config: RTDConfig, text_model: RTDTextTower) -> OriginalTextTower:
        """Let a model with other parts read plain text as this one does; its configuration names no place.

        Args:
            config ([`RTDConfig`]): Of that model.
            text_model ([`RTDTextModel`]): The text tower of this one.

        Returns:
            [`OriginalTextTower`]: Serves what this object serves.
        """
        borrower = OriginalTextTower(config)
        borrower._lender = (self, text_model)
        return borrower


class AdaptersDisabled:
    """A text tower that runs without its adapters, and gives them back after each pass.

    Args:
        tower ([`RTDTextModel`]): The tower with adapters.
    """

    def __init__(self, tower: RTDTextTower):
        self._tower = tower

    @property
    def tower(self) -> RTDTextTower:
        """[`RTDTextModel`]: The tower with its adapters."""
        return self._tower

    def __call__(self, *args, **kwargs):
        """Run the tower itself; see [`RTDTextModel.forward`]."""
        with hold_adapters(self._tower):
            was_disabled = any(getattr(module, "_disable_adapters", False) for module in self._tower.modules())
            self._tower.disable_adapters()
            try:
                return self._tower(*args, **kwargs)
            finally:
                if not was_disabled:
                    self._tower.enable_adapters()

    def __getattr__(self, name):
        if name == "_tower":  # a copy in the making
            raise AttributeError(name)
        return getattr(self._tower, name)


@torch.no_grad()
def interpolate_towers(original: RTDTextTower, tuned: RTDTextTower, alpha: float) -> RTDTextTower:
    """Give the tower whose every weight is `(1 - alpha) * original + alpha * tuned`.

    Weight interpolation of a model and its fine-tuned self (WiSE-FT, https://huggingface.co/papers/2109.01903); for
    RTD it is ours, not the paper's.

    Args:
        original ([`RTDTextModel`]): The tower from before RTD, without adapters.
        tuned ([`RTDTextModel`]): The tower after RTD, of the same shapes, without adapters.
        alpha (`float`): 0 gives exactly the original, 1 exactly the tuned tower.

    Returns:
        [`RTDTextModel`]: A tower of its own, of the tuned tower's type and on its device.

    Raises:
        ValueError: If `alpha` is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"`alpha` must be between 0 (the text tower from before RTD) and 1 (the one after it), got {alpha}."
        )
    tower = copy.deepcopy(tuned)
    for before, after in zip(original.parameters(), tower.parameters(), strict=True):
        # In float32, where the half types would round twice; exact at both ends.
        after.copy_(torch.lerp(before.to(after.device).float(), after.float(), alpha))
    return tower


def _check_place(place: dict) -> None:
    """Refuse a place that a configuration of unknown origin names, before anything is read or written there."""
    needed = {"repo", "subfolder", "dtype", "sha256"}
    if not isinstance(place, dict) or not place.keys() >= needed:
        raise ValueError(
            f"`original_text_model` of the configuration must have the keys {sorted(needed)}, got {place!r}."
        )
    subfolder, is_here = place["subfolder"], place["repo"] is None
    # A colon would begin a drive of Windows.
    is_plain = isinstance(subfolder, str) and ":" not in subfolder
    is_plain = is_plain and not {"", ".", ".."} & set(re.split(r"[/\\]", subfolder))
    if not is_plain and (is_here or subfolder != ""):
        raise ValueError(
            f"`original_text_model` of the configuration names the subfolder {subfolder!r}, but it must be a folder "
            f"inside the repository, such as '{_FOLDER}'. Load a model that you trust."
        )
    if not isinstance(getattr(torch, str(place["dtype"]), None), torch.dtype):
        raise ValueError(
            f"`original_text_model` of the configuration names the type {place['dtype']!r}, not one of torch."
        )
