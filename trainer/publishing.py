"""Publishing: what of a model's directory goes to the Hub, what must not, and the one commit that takes it there."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_rtd import RTDModel, RTDProcessor
from trainer.assembly import load_model_and_processor
from trainer.leaks import find_leaks
from trainer.model_card import CardFacts, describe_model, render_card
from trainer.provenance import read_stages
from trainer.systems import hash_parts


__all__ = ["Publication", "prepare_publication", "push"]

_ADAPTER_FACTS = "rtd_adapter.json"
_LEFT_OUT = ("README.md", ".git", ".cache", ".gitattributes", "__pycache__", "evaluation")
# What an earlier publication may have left on the Hub; everything else there is somebody's own.
_OWNED = (".safetensors", ".safetensors.index.json", "_rtd.py")


@dataclass(frozen=True)
class Publication:
    """What goes up.

    Args:
        repo (`str`): Hub id.
        files (`dict[str, Path | bytes]`): By path in the repository: a file as it lies there, or what is written anew.
        card ([`CardFacts`]): What the card tells.
        notes (`list[str]`): What could not be checked here, and is on pushing.
    """

    repo: str
    files: dict[str, Path | bytes]
    card: CardFacts
    notes: list[str] = field(default_factory=list)


def prepare_publication(
    folder: str | Path,
    repo: str,
    base_model: str | None = None,
    licence: str | None = None,
    results: Sequence[str | Path] = (),
    without: Sequence[str] = (),
    is_final: bool = False,
) -> Publication:
    """Gather what goes up, render its card, and refuse what must not be published.

    The code is that of this package, by which the model is loaded here. Nothing in the folder is changed.

    Args:
        folder (`str` or `Path`): Directory of a model or of an adapter.
        repo (`str`): Hub id, `org/name`.
        base_model (`str`, *optional*):
            Hub id of the CLIP underneath, where the model was made of a directory; `"none"` where it is not on the
            Hub, and the model carries all of it.
        licence (`str`, *optional*): Licence of the weights, as the Hub names it.
        results (`Sequence[str | Path]`, defaults to those in the folder `evaluation`):
            Records of `rtd evaluate`, `diagnosis.json` of `rtd diagnose`, `metrics.json` of `rtd demo`.
        without (`Sequence[str]`, defaults to none): What was not measured: `"evaluation"`, `"alignment"`.
        is_final (`bool`, defaults to `False`): Whether what cannot be checked is refused instead of noted.

    Returns:
        [`Publication`]: Checked.

    Raises:
        ValueError: If the folder is no complete model, the base is another, results are of another model, facts of
            the card are missing, or a file holds a pickle, a token or a path of this machine.
    """
    folder = Path(folder)
    validate_repo_id(repo)
    if "/" not in repo:
        raise ValueError(f"'{repo}' is no place on the Hub: write org/name.")
    names = _list_files(folder)
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    files |= _list_code(_ADAPTER_FACTS in names)
    recorded = _find_base(folder, names)
    base_model = base_model or recorded
    _check_base(base_model, _ADAPTER_FACTS in names)
    files |= _name_base(folder, names, recorded, None if base_model == "none" else base_model)
    _check_complete(files)
    model, processor, notes = _load(folder, base_model, recorded, is_final)
    own = _read_results(results or sorted(folder.glob("evaluation/*.json")), model, repo)
    files |= {f"evaluation/{name}": _to_bytes(content) for name, content in own.items()}
    kinds = _sort_results(own)
    card = describe_model(
        model,
        processor,
        repo,
        base_model=base_model,
        licence=licence,
        stages=read_stages(folder),
        without=without,
        **kinds,
    )
    if card.unfilled:
        missing = "\n".join(f"  {name}: {text}" for name, text in card.unfilled.items())
        raise ValueError(f"the card lacks facts:\n{missing}")
    files["README.md"] = str(render_card(card)).encode()
    if leaks := find_leaks(files, folder):
        raise ValueError("these must not be published:\n" + "\n".join(f"  {leak}" for leak in leaks))
    return Publication(repo, dict(sorted(files.items())), card, notes)


def push(publication: Publication, private: bool = False, endpoint: str | None = None) -> tuple[str, list[str]]:
    """Put a publication on the Hub, in one commit.

    Weights and code of an earlier publication that are no longer among the files are removed by the same commit, so
    that the repository is never half of one and half of another.

    Args:
        publication ([`Publication`]): What goes up.
        private (`bool`, defaults to `False`): Whether a new repository is private.
        endpoint (`str`, *optional*): Another Hub; that of `HF_ENDPOINT` by default.

    Returns:
        `tuple[str, list[str]]`: Address of the repository, and the files that were removed.

    Raises:
        OSError: If the Hub cannot be reached or refuses.
    """
    api = HfApi(endpoint=endpoint)
    address = api.create_repo(publication.repo, private=private, exist_ok=True)
    remote = api.list_repo_files(publication.repo)
    stale = [name for name in remote if name.endswith(_OWNED) and name not in publication.files]
    additions = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in publication.files.items()
    ]
    removals = [CommitOperationDelete(name) for name in stale]
    api.create_commit(publication.repo, [*additions, *removals], commit_message="Publish with rtd-cir")
    return str(address), stale


def _list_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"there is no directory '{folder}'.")
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    names = [path.as_posix() for path in paths if path.parts[0] not in _LEFT_OUT and path.name not in _LEFT_OUT]
    if not {"config.json", _ADAPTER_FACTS} & set(names):
        inner = next((name for name in ("model", "adapter") if (folder / name).is_dir()), None)
        hint = f"it is a run: publish '{folder / inner}'." if inner else "name the folder of a model or an adapter."
        raise ValueError(f"'{folder}' holds no model; {hint}")
    return names


def _list_code(is_adapter: bool) -> dict[str, Path]:
    """List the files of this package that loading from the Hub reads, as transformers finds them when it saves."""
    entries = [inspect.getfile(part) for part in ([RTDProcessor] if is_adapter else [RTDModel, RTDProcessor])]
    paths = [Path(path) for entry in entries for path in (entry, *get_relative_import_files(entry))]
    return {path.name: path for path in paths}


def _read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _find_base(folder: Path, names: Sequence[str]) -> str | None:
    return _read(folder, _ADAPTER_FACTS if _ADAPTER_FACTS in names else "config.json").get("base_model")


def _check_base(base_model: str | None, is_adapter: bool) -> None:
    if base_model is None:
        return  # the card says what is missing
    if base_model == "none":
        if is_adapter:
            raise ValueError("an adapter is nothing without its base: publish that first, and name it (--base-model).")
        return
    if Path(base_model).exists() or base_model.count("/") > 1:
        raise ValueError(
            f"the model was made of '{base_model}' on this machine, which nobody else has: name the same CLIP as it "
            "is on the Hub (--base-model ID), or say --base-model none where it is not there."
        )


def _name_base(folder: Path, names: Sequence[str], recorded: str | None, base_model: str | None) -> dict[str, bytes]:
    """Write the files that name the base anew, where it has another name on the Hub."""
    if recorded == base_model:
        return {}
    if _ADAPTER_FACTS in names:
        facts = _read(folder, _ADAPTER_FACTS) | {"base_model": base_model}
        adapter = _read(folder, "adapter_config.json") | {"base_model_name_or_path": base_model}
        return {_ADAPTER_FACTS: _to_bytes(facts), "adapter_config.json": _to_bytes(adapter)}
    config = _read(folder, "config.json") | {"base_model": base_model}
    original = config.get("original_text_model")
    if original and original["repo"] is not None and original["repo"] == recorded:
        config["original_text_model"] = {**original, "repo": base_model}
    return {"config.json": _to_bytes(config)}


def _to_bytes(content) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _check_complete(files: Mapping[str, Path | bytes]) -> None:
    """Refuse a repository that could not be loaded from the Hub."""
    needed = {"processor_config.json"}
    if _ADAPTER_FACTS in files:
        needed |= {"adapter_config.json", "adapter_model.safetensors", "projection/model.safetensors"}
    else:
        content = files["config.json"]
        config = json.loads(content if isinstance(content, bytes) else content.read_text(encoding="utf-8"))
        classes = [*config.get("auto_map", {}).values()]
        classes += [
            task["impl"] for task in (config.get("custom_pipelines") or {"": {"impl": "its pipeline."}}).values()
        ]
        needed |= {f"{name.rpartition('.')[0]}.py" for name in classes}
        original = config.get("original_text_model")
        if original and original["repo"] is None:
            needed.add(f"{original['subfolder']}/model.safetensors")
        elif original and original["repo"] is not None and Path(original["repo"]).exists():
            raise ValueError(
                f"the text tower from before RTD lies in '{original['repo']}' on this machine: name the CLIP that "
                "holds it as it is on the Hub (--base-model ID), or train without --original_text_model."
            )
    if missing := sorted(needed - files.keys()):
        raise ValueError(
            f"the directory is not complete, {', '.join(missing)} is missing: load the model and its processor with "
            "this version, and save both again (`save_pretrained`)."
        )


def _load(folder: Path, base_model: str | None, recorded: str | None, is_final: bool):
    """Load what is published, from the base that is named, so that a wrong one is found before others find it."""
    if base_model in (None, "none", recorded):
        return *load_model_and_processor(str(folder)), []
    try:
        if (folder / _ADAPTER_FACTS).exists():
            model = RTDModel.from_adapter(str(folder), base=base_model, dtype=torch.float32)
        else:
            model = RTDModel.from_pretrained(folder, dtype=torch.float32)
            original = model.config.original_text_model
            if original and original["repo"] is not None:
                model.config.original_text_model = {**original, "repo": base_model}
                _ = model.original_text_model  # compares its hash
        return model, RTDProcessor.from_pretrained(folder), []
    except (OSError, ValueError) as error:
        is_away = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
        if is_final or not is_away:
            raise ValueError(f"'{base_model}' is not the base of this model, or cannot be had: {error}") from error
    note = f"'{base_model}' cannot be had here: that it is the base of this model is checked on pushing"
    return *load_model_and_processor(str(folder)), [note]


def _read_results(paths: Sequence[str | Path], model: RTDModel, repo: str) -> dict[str, dict | list]:
    """Read what other commands have written, and refuse what they have written about another model."""
    results, hashes = {}, hash_parts(model)
    for path in map(Path, paths):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"'{path}' cannot be read as results: {error}") from error
        if isinstance(content, dict) and {"benchmark", "system", "metrics"} <= content.keys():
            system = content["system"]
            if system.get("sha256") != hashes or system.get("alpha") is not None or system.get("mode") != "composed":
                raise ValueError(f"'{path}' judges other weights than these; judge the model that is published.")
            content = copy.deepcopy(content)
            content["system"]["name_or_path"] = repo
        elif isinstance(content, dict) and {"about", "alignment"} <= content.keys():
            about = content["about"]
            if any(about[f"{part}_sha256"] != hashes[part] for part in ("text_model", "projection")):
                raise ValueError(f"'{path}' diagnoses other weights than these; diagnose the model that is published.")
            content = {"about": about | {"model": repo}, "alignment": content["alignment"]}
        elif not (isinstance(content, list) and content and all("variant" in row for row in content)):
            raise ValueError(
                f"'{path}' is no result: give records of `rtd evaluate`, diagnosis.json of `rtd diagnose` or "
                "metrics.json of `rtd demo`."
            )
        results[path.name] = content
    return results


def _sort_results(results: Mapping[str, dict | list]) -> dict:
    contents = list(results.values())
    return {
        "evaluations": [content for content in contents if isinstance(content, dict) and "system" in content],
        "diagnosis": next((c for c in contents if isinstance(c, dict) and "about" in c), None),
        "comparison": next((content for content in contents if isinstance(content, list)), ()),
    }
