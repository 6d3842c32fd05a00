"""Checkpoints of a run: which are complete, and whose they are."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_rtd import read_json


__all__ = ["RUN_FILE", "find_checkpoints", "find_last_complete_checkpoint", "is_complete", "refuse_other_run"]

RUN_FILE = "run.json"
_SHA256 = re.compile("[0-9a-f]{64}")


def find_checkpoints(output_dir: str | Path) -> list[Path]:
    """List the checkpoints of a run, newest first.

    Args:
        output_dir (`str` or `Path`): Folder of the run; need not exist.

    Returns:
        `list[Path]`: Folders named `checkpoint-STEP`, by falling step.
    """
    folders = [
        path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()
    ]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def is_complete(checkpoint: str | Path) -> bool:
    """Check whether every file that a resume needs was written to its end.

    Args:
        checkpoint (`str` or `Path`): Folder of the checkpoint.

    Returns:
        `bool`: Whether the state, the weights and the optimizer can all be read.
    """
    folder = Path(checkpoint)
    weights = list(folder.glob("*.safetensors"))
    try:
        read_json(folder / "trainer_state.json", "")
        read_json(folder / RUN_FILE, "")
        for path in weights:
            with safe_open(path, framework="pt"):  # checks the header against the size of the file
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    # torch writes zip archives: one that was cut short lacks the directory at its end.
    pickles = {folder / "optimizer.pt", folder / "scheduler.pt", *folder.glob("*.pt"), *folder.glob("*.pth")}
    return bool(weights) and all(zipfile.is_zipfile(path) for path in pickles)


def refuse_other_run(folder: Path, run_facts: Mapping) -> None:
    """Refuse a run or a checkpoint with other facts than those that are recorded in it.

    Args:
        folder (`Path`): Folder with `RUN_FILE`.
        run_facts (`Mapping`): What identifies the run, see [`BaseTrainer`].

    Raises:
        ValueError: If a fact differs; names it.
    """
    recorded = read_json(folder / RUN_FILE, "restore it, or choose another output_dir")
    if foreign := [name for name in run_facts if recorded.get(name) != run_facts[name]]:
        if not recorded.keys() >= set(foreign):
            raise ValueError(
                f"'{folder}' is of a run by another version, which this one cannot continue. Start it again with "
                "another output_dir, or install the version that began it."
            )
        changes = ", ".join(_describe_change(name, recorded.get(name), run_facts[name]) for name in foreign)
        raise ValueError(
            f"'{folder}' is of another run: {changes}. Continue with what it was started with, or choose another "
            "output_dir."
        )


def _describe_change(name: str, old, new) -> str:
    # Two hashes differ in nothing that a reader can use. By their form: methods from outside name facts of their own.
    is_hash = any(isinstance(value, str) and _SHA256.fullmatch(value) for value in (old, new))
    return f"{name} differs" if is_hash else f"{name} was {old}, now {new}"


def find_last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """Find the newest checkpoint that a run can resume from.

    Args:
        output_dir (`str` or `Path`): Folder of the run.

    Returns:
        `Path` or `None`: Newest complete checkpoint; `None` where there is none.
    """
    return next((path for path in find_checkpoints(output_dir) if is_complete(path)), None)
