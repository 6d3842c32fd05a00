"""Metrics as folders for the library evaluate: `evaluate.load(path_of("recall_at_k"))`."""

from __future__ import annotations

from pathlib import Path

from modeling_rtd import suggest


__all__ = ["path_of"]


def path_of(name: str) -> str:
    """Tell where a metric lies.

    Args:
        name (`str`): `"recall_at_k"`, `"map_at_k"` or `"subset_recall_at_k"`.

    Returns:
        `str`: Folder, to be given to `evaluate.load`.

    Raises:
        ValueError: If there is no such metric.
    """
    folders = sorted(path.parent for path in Path(__file__).parent.glob("*/*.py"))
    if name not in (known := [folder.name for folder in folders]):
        raise ValueError(suggest("metric", name, known))
    return str(Path(__file__).parent / name)
