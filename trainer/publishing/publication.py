"""Publishing: what of a model's directory goes to the Hub, what must not, and the one commit that takes it there."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_rtd import (
    ADAPTER_FACTS,
    CUSTOM_PIPELINES,
    SENTENCE_TRANSFORMERS_FILES,
    ComposedImageRetrievalPipeline,
    RTDConfig,
    RTDModel,
    RTDProcessor,
    check_path,
    parse_json,
    read_json,
)
from trainer.loading import check_place, load_model_and_processor
from trainer.publishing.card_results import read_results, sort_results, write_eval_results
from trainer.publishing.model_card import CardFacts, describe_model, render_card
from trainer.publishing.pictures import check_picture
from trainer.publishing.provenance import hash_parts, read_stages
from trainer.publishing.secret_scan import find_leaks


__all__ = [
    "Publication",
    "add_record",
    "check_repo",
    "list_removals",
    "prepare_publication",
    "push",
    "refuse_leaks",
]

_RECORD = "publication.json"  # what a publication wrote: on the Hub, a file that it does not list is somebody's own
# What of a folder goes up; everything else is refused. This list is the guard against what must not be published, the
# scan for secrets only the second one.
_OURS = re.compile(
    r"(?:(?:original_text|projection)/)?(?:config\.json|model(?:-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json)"
    r"|rtd_adapter\.json|adapter_config\.json|adapter_model\.safetensors|provenance\.json|publication\.json|evaluation/[^/]+\.json|\w+_rtd\.py"
    r"|(?:modules|config_sentence_transformers|(?:pre)?processor_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt"
)


@dataclass(frozen=True)
class Publication:
    """What goes up.

    Args:
        repo (`str`): Hub id.
        files (`dict[str, Path | bytes]`): By path in the repository: a file as it is there, or what is written anew.
        card ([`CardFacts`], *optional*): Facts of the card of a model.
        notes (`list[str]`): What could not be checked here, and is on pushing.
        kind (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`.
    """

    repo: str
    files: dict[str, Path | bytes]
    card: CardFacts | None = None
    notes: list[str] = field(default_factory=list)
    kind: str = "model"


def prepare_publication(
    folder: str | Path,
    repo: str,
    base_model: str | None = None,
    license: str | None = None,
    results: Sequence[str | Path] = (),
    without: Sequence[str] = (),
    is_final: bool = False,
    picture: str | Path | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    benchmark_data: Mapping[str, str] | None = None,
) -> Publication:
    """Gather what goes up, render its card, and refuse what must not be published.

    The code is that of this package, by which the model is loaded here. Nothing in the folder is changed.

    Args:
        folder (`str` or `Path`): Directory of a model or of an adapter.
        repo (`str`): Hub id, `org/name`.
        base_model (`str`, *optional*):
            Hub id of the CLIP underneath, where the model was made of a directory. `"none"` where it is not on the
            Hub, and the model carries all of it.
        license (`str`, *optional*): License of the weights, as the Hub names it.
        results (`Sequence[str | Path]`, defaults to those in the folder `evaluation`):
            Records of `rtd evaluate`, `diagnosis.json` of `rtd diagnose`, `metrics.json` of `rtd demo`.
        without (`Sequence[str]`, defaults to none): What was not measured: `"evaluation"`, `"alignment"`.
        is_final (`bool`, defaults to `False`): Whether what cannot be checked is refused instead of noted.
        picture (`str` or `Path`, *optional*): PNG of queries and what is found, which the card shows.
        license_name, license_link (`str`, *optional*): Where the license is `"other"`, its name and address.
        benchmark_data (`Mapping[str, str]`, *optional*):
            By name of a benchmark the Hub data set that it is, `org/name` or `org/name:task`. Its results also go to
            `.eval_results`, from where the Hub shows them on its leaderboard.

    Returns:
        [`Publication`]: Checked.

    Raises:
        ValueError: If the folder is not a complete model or holds more than one, the base is none,
            results are of another model or come twice, facts of the card are missing, or a file holds a secret or a
            path of this machine.
    """
    check_path(folder, "folder")
    folder = Path(folder)
    check_repo(repo)
    names = _list_files(folder)
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    # From this package: code in the folder is never published.
    files |= _list_code(ADAPTER_FACTS in names)
    recorded = _find_base(folder, names)
    base_model = base_model or recorded
    if problem := _find_base_problem(folder, names, base_model, recorded):
        base_model = None
    files |= _name_base(folder, names, recorded, None if base_model == "none" else base_model)
    _check_complete(files)
    model, processor, notes = _load(folder, base_model, recorded, is_final)
    if not notes and base_model not in (None, "none"):
        notes += _compare_base(model, base_model, is_final)
    own = read_results(results or sorted(folder.glob("evaluation/*.json")), hash_parts(model), repo)
    files |= {f"evaluation/{name}": _to_bytes(content) for name, content in own.items()}
    files |= write_eval_results(own, benchmark_data or {}, repo)
    if picture is not None:
        files[Path(picture).name] = check_picture(picture)
    card = describe_model(
        model,
        processor,
        repo,
        base_model=base_model,
        license=license,
        license_name=license_name,
        license_link=license_link,
        stages=read_stages(folder),
        without=without,
        picture=picture and Path(picture).name,
        **sort_results(own),
    )
    if missing := card.unfilled | ({"base_model": problem} if problem else {}):
        lines = "\n".join(f"  {name}: {text}" for name, text in missing.items())
        raise ValueError(f"the card lacks facts; give all of them:\n{lines}")
    files["README.md"] = str(render_card(card)).encode()
    refuse_leaks(find_leaks(files, folder))
    return Publication(repo, add_record(files), card, notes)


def add_record(files: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """Add the record of what a publication wrote, by which a later one knows its own files.

    Args:
        files (`Mapping[str, Path | bytes]`): By path in the repository.

    Returns:
        `dict[str, Path | bytes]`: In the order of their paths.
    """
    record = _to_bytes({"files": sorted({*files, _RECORD})})
    return dict(sorted({**files, _RECORD: record}.items()))


def refuse_leaks(leaks: Sequence[str]) -> None:
    """Refuse to publish what a scan has found.

    Args:
        leaks (`Sequence[str]`): What [`find_leaks`] returns.

    Raises:
        ValueError: If there is any.
    """
    if leaks:
        raise ValueError("these must not be published:\n" + "\n".join(f"  {leak}" for leak in leaks))


def check_repo(repo: str) -> None:
    """Refuse what is not the id of a repository with its owner.

    Args:
        repo (`str`): Hub id.

    Raises:
        ValueError: If it is none.
    """
    validate_repo_id(repo)
    if "/" not in repo:
        raise ValueError(f"'{repo}' is not a place on the Hub: write org/name.")


def list_removals(
    publication: Publication, endpoint: str | None = None, overwrite_foreign: bool = False
) -> tuple[list[str], str | None]:
    """List what an earlier publication has left on the Hub and this one has not.

    Args:
        publication ([`Publication`]): What goes up.
        endpoint (`str`, *optional*): Another Hub; that of `HF_ENDPOINT` by default.
        overwrite_foreign (`bool`, defaults to `False`):
            Whether files of the same names that no publication wrote may be overwritten. None is ever removed.

    Returns:
        `tuple`: Files that [`push`] removes, all of them listed in the record of the earlier publication. And the
        commit that was looked at, `None` where there is no repository yet.

    Raises:
        ValueError: If files that no publication wrote would be overwritten.
        OSError: If the Hub cannot be reached or refuses.
    """
    api, repo = HfApi(endpoint=endpoint), publication.repo
    with _reach_hub(endpoint):
        try:
            found = api.repo_info(repo, repo_type=publication.kind, timeout=10)
        except RepositoryNotFoundError:
            return [], None
        names = {file.rfilename for file in found.siblings or []}
        where = {"revision": found.sha, "repo_type": publication.kind}
        record = api.hf_hub_download(repo, _RECORD, **where) if _RECORD in names else None
    remedy = f"restore it in '{repo}', or publish to another repository"
    # What somebody has removed by hand meanwhile is not there to be removed.
    earlier = names & set(map(str, read_json(record, remedy).get("files") or ())) if record else set()
    foreign = sorted(names & publication.files.keys() - earlier)
    if foreign and not overwrite_foreign:
        raise ValueError(
            f"'{repo}' holds files that `rtd publish` has not written: {', '.join(foreign[:5])}"
            f"{', ...' if len(foreign) > 5 else ''}. Publish to another repository, or overwrite them with "
            "--overwrite-foreign; files of other names are never touched."
        )
    return sorted(earlier - publication.files.keys()), found.sha


def push(
    publication: Publication, private: bool = False, endpoint: str | None = None, overwrite_foreign: bool = False
) -> tuple[str, list[str]]:
    """Put a publication on the Hub, in one commit.

    What an earlier publication has left is removed by the same commit, so that the repository is never half of one
    and half of another.

    Args:
        publication ([`Publication`]): What goes up.
        private (`bool`, defaults to `False`): Whether a new repository is private.
        endpoint (`str`, *optional*): Another Hub; that of `HF_ENDPOINT` by default.
        overwrite_foreign (`bool`, defaults to `False`): See [`list_removals`].

    Returns:
        `tuple[str, list[str]]`: Address of the repository, and the files that were removed.

    Raises:
        ValueError: See [`list_removals`].
        OSError: If the Hub cannot be reached or refuses.
    """
    api = HfApi(endpoint=endpoint)
    with _reach_hub(endpoint):
        sdk = "gradio" if publication.kind == "space" else None
        options = {"repo_type": publication.kind, "space_sdk": sdk, "private": private, "exist_ok": True}
        address = api.create_repo(publication.repo, **options)
    removals, parent = list_removals(publication, endpoint, overwrite_foreign)
    with _reach_hub(endpoint, "it is one commit, so all of it is there or nothing"):
        additions = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in publication.files.items()
        ]
        operations = [*additions, *map(CommitOperationDelete, removals)]
        # On top of what was looked at: a commit that came in between is not overwritten.
        message = {"commit_message": "Publish with rtd-cir", "parent_commit": parent}
        api.create_commit(publication.repo, operations, repo_type=publication.kind, **message)
    return str(address), removals


@contextmanager
def _reach_hub(endpoint: str | None, outcome: str = "nothing was uploaded") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Errors of connection are those of the client's own library, which was another one before.
        reason = " ".join(str(error).split())
        place = endpoint or huggingface_hub.constants.ENDPOINT
        raise OSError(
            f"the Hub at '{place}' cannot be reached, or refuses ({reason}); {outcome}. Check HF_ENDPOINT or "
            "--endpoint."
        ) from error


def _list_files(folder: Path) -> list[str]:
    """List what of the folder goes up; card, results and code are written anew, and what is hidden stays here."""
    check_place(folder)
    if not folder.is_dir():  # a name that the Hub may know
        raise ValueError(f"there is no directory '{folder}'.")
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*"))]
    paths = [path for path in paths if not any(part.startswith((".", "__")) for part in path.parts)]
    # A link may lead to anything on this machine, under a name that is allowed.
    if links := [path.as_posix() for path in paths if (folder / path).is_symlink()]:
        raise ValueError(
            f"'{folder}' holds symbolic links, which are not followed: {', '.join(links[:5])}"
            f"{', ...' if len(links) > 5 else ''}; put the files themselves there (`cp -rL`)."
        )
    names = [path.as_posix() for path in paths if (folder / path).is_file()]
    written = re.compile(rf"README\.md|evaluation/.*|{re.escape(_RECORD)}|.*_rtd\.py")
    names = [name for name in names if not written.fullmatch(name)]
    if strange := [name for name in names if not _OURS.fullmatch(name)]:
        raise ValueError(
            f"'{folder}' holds files that do not belong to a model: {', '.join(strange[:5])}"
            f"{', ...' if len(strange) > 5 else ''}; move them elsewhere."
        )
    if {"config.json", ADAPTER_FACTS} <= set(names):
        raise ValueError(f"'{folder}' holds a model and an adapter: save each in a folder of its own.")
    return names


def _list_code(is_adapter: bool) -> dict[str, Path]:
    """List the files of this package that loading from the Hub reads, as transformers finds them when it saves."""
    parts = [RTDProcessor] if is_adapter else [RTDModel, RTDProcessor, ComposedImageRetrievalPipeline]
    entries = [inspect.getfile(part) for part in parts]
    paths = [Path(path) for entry in entries for path in (entry, *get_relative_import_files(entry))]
    return {path.name: path for path in paths}


def _read(folder: Path, name: str) -> dict:
    return read_json(folder / name, "save the model again")


def _find_base(folder: Path, names: Sequence[str]) -> str | None:
    if ADAPTER_FACTS in names:
        return _read(folder, ADAPTER_FACTS).get("base_model")
    config = _read(folder, "config.json")
    if config.get("model_type") != RTDConfig.model_type:
        raise ValueError(
            f"'{folder}' is not an RTD model, its config.json says '{config.get('model_type')}': put a projection on "
            "a CLIP with `rtd train-projection`."
        )
    return config.get("base_model")


def _is_on_this_machine(name: str) -> bool:
    return name.count("/") != 1 or Path(name).exists()


def _find_base_problem(folder: Path, names: Sequence[str], base_model: str | None, recorded: str | None) -> str | None:
    """Say why a base cannot be named on a card, together with what else the card lacks."""
    is_adapter = ADAPTER_FACTS in names
    if base_model == "none":
        if is_adapter:
            return "an adapter is nothing without its base: publish that first, and name it; --base-model ID"
    elif base_model is not None and _is_on_this_machine(base_model):
        return (
            f"the model was made of '{base_model}' on this machine, which nobody else has: name the same CLIP as it "
            "is on the Hub; --base-model ID, or none where it is not there"
        )
    elif base_model is not None:
        try:
            validate_repo_id(base_model)
        except ValueError as error:
            return f"{error}; --base-model ID"
    original = None if is_adapter else _read(folder, "config.json").get("original_text_model")
    if not original or not original.get("plain_text", True) or not original["repo"]:
        return None
    is_renamed = base_model not in (None, "none") and original["repo"] == recorded
    if is_renamed or not _is_on_this_machine(original["repo"]):
        return None
    return (
        f"the text tower from before RTD is in '{original['repo']}' on this machine: name the CLIP that holds it as "
        "it is on the Hub; --base-model ID, or train without --original_text_model, so that the model carries it"
    )


def _compare_base(model: RTDModel, base_model: str, is_final: bool) -> list[str]:
    """Refuse a base that is not on the Hub, or that no CLIP of these sizes is; note what cannot be looked up."""
    try:
        config = AutoConfig.from_pretrained(base_model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if is_final:
            raise ValueError(
                f"the base '{base_model}' could not be loaded from the Hub. Name the CLIP underneath as it is there "
                "(--base-model ID), or say --base-model none where it is not there."
            ) from error
        return [f"'{base_model}' could not be loaded here: that it is on the Hub is checked on pushing"]
    if _measure(config) != _measure(model.config):
        raise ValueError(f"'{base_model}' is not the base of this model: it is not a CLIP of these sizes.")
    return []


def _measure(config) -> list[int | None]:
    text = getattr(config, "text_config", None)
    sizes = [getattr(config, "projection_dim", None) or getattr(text, "projection_size", None)]
    for tower in ("text_config", "vision_config"):
        part = getattr(config, tower, None)
        sizes += [getattr(part, name, None) for name in ("hidden_size", "num_hidden_layers")]
    return sizes


def _name_base(folder: Path, names: Sequence[str], recorded: str | None, base_model: str | None) -> dict[str, bytes]:
    """Write the files that name the base anew, where it has another name on the Hub, and those that name our code."""
    if ADAPTER_FACTS in names:
        if recorded == base_model:
            return {}
        facts = _read(folder, ADAPTER_FACTS) | {"base_model": base_model}
        adapter = _read(folder, "adapter_config.json") | {"base_model_name_or_path": base_model}
        return {ADAPTER_FACTS: _to_bytes(facts), "adapter_config.json": _to_bytes(adapter)}
    config = _read(folder, "config.json") | {"base_model": base_model, "custom_pipelines": CUSTOM_PIPELINES}
    original = config.get("original_text_model")
    if base_model and original and original["repo"] == recorded != base_model:
        # The revision was one of the repository of the old name.
        config["original_text_model"] = {**original, "repo": base_model, "revision": None}
    elif original and not original.get("plain_text", True) and _is_on_this_machine(original["repo"] or ""):
        # Nobody needs the tower; where it was is a place of this machine.
        config["original_text_model"] = {**original, "repo": None, "subfolder": "original_text"}
    files = {
        name: content
        for name, content in SENTENCE_TRANSFORMERS_FILES.items()
        if name == "modules.json" or name not in names  # settings that are there stay; the code is ours
    }
    return {name: _to_bytes(content) for name, content in ({"config.json": config} | files).items()}


def _to_bytes(content) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _check_complete(files: Mapping[str, Path | bytes]) -> None:
    """Refuse a repository that could not be loaded from the Hub."""
    needed = {"processor_config.json"}
    if ADAPTER_FACTS in files:
        needed |= {"adapter_config.json", "adapter_model.safetensors", "projection/model.safetensors"}
    else:
        content = files["config.json"]
        content = content if isinstance(content, bytes) else content.read_bytes()
        config = parse_json(content, "config.json", "save the model again", custom_pipelines=dict)
        classes = [*config.get("auto_map", {}).values()]
        classes += [task["impl"] for task in config["custom_pipelines"].values()]
        needed |= {f"{name.rpartition('.')[0]}.py" for name in classes}
        original = config.get("original_text_model")
        is_kept = original and original.get("plain_text", True)
        if is_kept and original["repo"] is None:
            needed.add(f"{original['subfolder']}/model.safetensors")
    if missing := sorted(needed - files.keys()):
        raise ValueError(
            f"the directory is not complete, {', '.join(missing)} is missing: load the model and its processor with "
            "this version, and save both again (`save_pretrained`)."
        )


def _load(folder: Path, base_model: str | None, recorded: str | None, is_final: bool):
    """Load what is published, from the base that is named, so that a wrong one is found before others find it."""
    if base_model in (None, "none", recorded):
        model, processor = load_model_and_processor(str(folder))
        original = model.config.original_text_model
        if original and original["repo"] is None and original.get("plain_text", True):
            _ = model.original_text_model  # compares its hash
        return model, processor, []
    try:
        if (folder / ADAPTER_FACTS).exists():
            model = RTDModel.from_adapter(str(folder), base=base_model, dtype=torch.float32)
        else:
            model = RTDModel.from_pretrained(folder, dtype=torch.float32)
            original = model.config.original_text_model
            if original and original["repo"] is not None:
                model.config.original_text_model = {**original, "repo": base_model, "revision": None}
                _ = model.original_text_model  # compares its hash
        return model, RTDProcessor.from_pretrained(folder), []
    except (OSError, ValueError) as error:
        # Our own sentences have what the Hub's client raised as their cause.
        is_away = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
        if is_final or not is_away:
            raise ValueError(
                f"'{base_model}' is not the base of this model, or could not be loaded: {error}"
            ) from error
    note = f"'{base_model}' could not be loaded here: that it is the base of this model is checked on pushing"
    return *load_model_and_processor(str(folder)), [note]
