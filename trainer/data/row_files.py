"""Files of rows: finding them, reading them at once or as a stream, and noticing those that are not whole."""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import io
import itertools
import json
import re
import tarfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json
import yaml
from datasets import (
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Json,
    Value,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets import config as datasets_config
from datasets.config import REPOCARD_FILENAME, REPOYAML_FILENAME
from datasets.data_files import get_data_patterns
from datasets.exceptions import DatasetsError
from datasets.iterable_dataset import ArrowExamplesIterable
from datasets.packaged_modules.csv.csv import Csv
from huggingface_hub import DatasetCard, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError

from modeling_rtd import read_json


__all__ = [
    "FORMATS",
    "FileStream",
    "FileWatch",
    "find_broken",
    "find_files",
    "is_stream",
    "leave_encoded",
    "load_files",
    "load_repository",
    "replace_column",
    "take_split",
    "word_full_disk",
]

FORMATS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".tar": "webdataset",
}
_MAX_DEPTH = 64  # of json; Arrow's schemas end at about 60
_BLOCK = 1 << 24  # bytes of a file, more than `datasets` parses at once
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


def find_files(source: str | Path | Sequence[str | Path]) -> list[Path] | str:
    """Find the files that a place names.

    Args:
        source (`str`, `Path`, or list of them): File, pattern, folder or Hub id; or several files and patterns.

    Returns:
        `list[Path]` or `str`: Files; the folder or the Hub id, where `datasets` finds them.

    Raises:
        ValueError: If a pattern matches no file, or it is not a place.
    """
    if not isinstance(source, list | tuple | str | Path) or not source:
        raise ValueError(f"data are files, a folder, a Hub id or rows, got {source!r:.40}.")
    if isinstance(source, list | tuple):
        if len(source) == 1:
            return find_files(source[0])
        return [path for part in source for path in (_match(part) or [Path(part)])]
    path = Path(source)
    if path.is_dir():
        return str(source)
    # `org/name` is an id of the Hub unless there is such a file.
    if path.suffix.lower() not in FORMATS and not path.exists() and not _is_pattern(source):
        return str(source) if str(source).count("/") == 1 else [path]
    return _match(source) or [path]


def _is_pattern(source: str | Path) -> bool:
    return any(sign in str(source) for sign in "*?[") and not Path(source).exists()


def _match(source: str | Path) -> list[Path]:
    if not _is_pattern(source):
        return []
    path = Path(source)
    root, parts = Path(path.anchor), list(path.relative_to(path.anchor).parts)
    while (root / parts[0]).exists():  # a folder may be named `d[2]`
        root /= parts.pop(0)
    paths = sorted(root.glob(str(Path(*parts))))
    if not paths:
        raise ValueError(f"'{source}' matches no file.")
    return paths


def take_split(splits: Mapping, split: str | None):
    """Take one of several splits.

    Args:
        splits (`datasets.DatasetDict` or `datasets.IterableDatasetDict`): Splits by name.
        split (`str`, *optional*): Its name; `train` by default.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: The split.

    Raises:
        ValueError: If there is none of this name.
    """
    split = split or "train"
    if split not in splits:
        raise ValueError(f"there is no split '{split}', only {', '.join(map(repr, splits))}; pass one as `split`.")
    return splits[split]


def load_repository(name: str, split: str | None = None, streaming: bool = False) -> Dataset | IterableDataset:
    """Load a folder or a Hub data set.

    Args:
        name (`str`): Folder, or Hub id.
        split (`str`, *optional*): Split; `train` by default.
        streaming (`bool`, defaults to `False`): Read rows as they are asked for.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: Its rows.

    Raises:
        ValueError: If there is no such data set or split.
    """
    folder = Path(name)
    _refuse_outside(folder if folder.is_dir() else _fetch_card(name), name)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():  # of `save_to_disk`
            saved = load_from_disk(name)
            if not isinstance(saved, DatasetDict):
                saved = {"train": saved, str(saved.split or "train"): saved}
            saved = take_split(saved, split)
            return saved.to_iterable_dataset() if streaming else saved
        options = _escape_folder(name)
        if tables := _list_tables(name, options):
            if streaming and not folder.is_dir():
                return _stream_urls(take_split(tables, split))
            # Of the split alone, which is what a run reads.
            files = [_download(name, file) for file in take_split(tables, split)]
            return load_files(files, streaming=streaming)
        return _name_columns(load_dataset(name, split=split or "train", streaming=streaming, **options))
    except ConnectionError as error:  # offline: what was downloaded before is in the cache of the Hub
        with contextlib.suppress(EntryNotFoundError, ValueError):
            kept = snapshot_download(name, repo_type="dataset", local_files_only=True)
            rows = load_repository(kept, split, streaming)
            warnings.warn(
                f"the Hub cannot be reached: of '{name}' those files are read that were downloaded before, which may "
                f"not be all (version {Path(kept).name[:12]}).",
                stacklevel=2,
            )
            return rows
        raise error
    # A folder with a script of its name is a RuntimeError; it was not run.
    except (ValueError, FileNotFoundError, RuntimeError, DatasetsError) as error:
        if _is_full(error):
            raise
        if folder.is_dir():
            cause = _find_cause(error)
            raise ValueError(f"the folder '{name}' cannot be read as a data set: {cause}") from error
        if "split" not in str(error).lower():
            raise
        raise ValueError(f"'{name}' has no split '{split or 'train'}': {error}") from error


def _fetch_card(name: str) -> Path:
    """Fetch what a Hub data set says of its files, and give the folder of it, which may not exist."""
    folder = Path(f"no folder of {name}")
    for file in (REPOCARD_FILENAME, REPOYAML_FILENAME):
        # What cannot be reached is worded by `datasets`, or is in its cache.
        with contextlib.suppress(EntryNotFoundError, OSError, ValueError):
            folder = Path(hf_hub_download(name, file, repo_type="dataset")).parent
    return folder


_OUTSIDE = "the {} '{}' names data outside of it, '{}', and nothing is read or fetched that you have not named."


def _refuse_outside(folder: Path, name: str) -> None:
    """Refuse data that name files elsewhere: `datasets` would read or fetch them."""
    remedy, named = "write the data set again", []
    for file in folder.glob("dataset_dict.json"):
        named += read_json(file, remedy, splits=list)["splits"]
    for file in (*folder.glob("state.json"), *folder.glob("*/state.json")):
        named += _list_texts(read_json(file, remedy, _data_files=list)["_data_files"])
    cards = [DatasetCard.load(file, ignore_metadata_errors=True).data for file in folder.glob(REPOCARD_FILENAME)]
    cards += [yaml.safe_load(file.read_bytes()) or {} for file in folder.glob(REPOYAML_FILENAME)]
    for card in cards:
        configs = card.get("configs")
        for config in configs if isinstance(configs, list) else []:
            named += _list_texts([config.get(name) for name in ("data_files", "data_dir")])
    outside = next((name for name in map(str, named) if re.search(r"^[/~]|://|::|\.\.|\\", name)), None)
    if outside is not None:
        raise ValueError(_OUTSIDE.format("folder" if Path(name).is_dir() else "data set", name, outside))


def _list_texts(settings) -> list[str]:
    # No recursion: YAML may repeat a part a billion times.
    texts, pending, seen = [], [settings], set()
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, list | dict) and id(part) not in seen:
            seen.add(id(part))
            pending += part.values() if isinstance(part, dict) else part
    return texts


def _find_cause(error: Exception) -> BaseException:
    """Find what `datasets` words as "An error occurred"."""
    return (error.__cause__ if isinstance(error, DatasetsError) else None) or error


def _escape_folder(name: str) -> dict:
    """Give `datasets` the files of a folder such as `d[2]`, whose name it takes for a pattern."""
    folder = Path(name)
    if not (folder.is_dir() and glob.has_magic(str(folder.resolve()))):
        return {}
    if any((folder / file).is_file() for file in (REPOCARD_FILENAME, REPOYAML_FILENAME)):
        raise ValueError(f"the folder '{name}' has a card, and signs of a pattern in its name: rename it.")
    root = glob.escape(str(Path(name).resolve()))
    patterns = get_data_patterns(root)
    return {"data_files": {split: [f"{root}/{name}" for name in names] for split, names in patterns.items()}}


def _list_tables(name: str, options: dict) -> dict[str, list[str]]:
    """List the csv or json files of data by split: `datasets` alone shifts columns, and Arrow dies of some."""
    builder = load_dataset_builder(name, **options)
    splits = dict(builder.config.data_files or {})
    files = list(itertools.chain(*splits.values()))
    if not Path(name).is_dir():
        _refuse_elsewhere(name, files)
    kinds = {FORMATS.get(Path(file).suffix.lower()) for file in files}
    if isinstance(builder, Csv) and kinds != {"csv"}:
        other = next(file for file in files if not file.lower().endswith(".csv"))
        raise ValueError(f"'{other}' would be read as csv, and is not a .csv file: unpack or write it as one.")
    return splits if kinds in ({"csv"}, {"json"}) else {}


def _refuse_elsewhere(name: str, urls: Sequence[str]) -> None:
    other = next((url for url in urls if not url.startswith(f"hf://datasets/{name}@")), None)
    if other is not None:
        raise ValueError(_OUTSIDE.format("data set", name, other))


def _download(name: str, place: str) -> Path:
    revision, _, file = place.removeprefix(f"hf://datasets/{name}@").partition("/")
    if Path(name).is_dir():
        return Path(place)
    return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))


class FileWatch:
    """Notice files that change while they are read.

    Args:
        paths (sequence of `Path`): The files.
    """

    def __init__(self, paths: Sequence[Path] = ()):
        self.sizes = {path: self._look(path) for path in paths}

    @staticmethod
    def _look(path: Path) -> tuple[int, int]:
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size, path.stat().st_mtime_ns
        return 0, 0

    def check(self) -> None:
        """Refuse to continue where a file is not what it was.

        Raises:
            ValueError: If one changed; names it.
        """
        for path, before in self.sizes.items():
            after = self._look(path)
            if after != before:
                raise ValueError(
                    f"'{path}' changed while it was read ({before[0]} bytes before, {after[0]} now): let what writes "
                    "it end, and start again."
                )


@dataclass(frozen=True)
class FileStream:
    """A stream of files, with what they were when it was opened.

    Args:
        rows (`datasets.IterableDataset`): The stream.
        watch ([`FileWatch`]): The files.
        is_shuffled (`bool`, defaults to `False`): Whether rows come in another order than that of the files.
    """

    rows: IterableDataset
    watch: FileWatch
    is_shuffled: bool = False


def is_stream(source) -> bool:
    """Check whether data are a stream, whose rows can be read in order only.

    Args:
        source: Data, as a trainer takes them.

    Returns:
        `bool`: Whether they are.
    """
    return isinstance(source, IterableDataset | IterableDatasetDict | FileStream)


@contextlib.contextmanager
def word_full_disk(folder: str | Path | None = None) -> Iterator[None]:
    """Say which disk is full where a cache cannot be written; what writes it leaves nothing behind.

    Args:
        folder (`str` or `Path`, *optional*): Folder of the cache; defaults to that of `datasets`.

    Raises:
        OSError: If the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise OSError(
            f"the disk is full: what is trained on is kept in '{folder or datasets_config.HF_DATASETS_CACHE}'. Free "
            "some space, set HF_DATASETS_CACHE to another disk, or read rows as a stream, of which nothing is kept "
            "(--streaming)."
        ) from error


def _is_full(error: Exception) -> bool:
    codes = {getattr(cause, "errno", None) for cause in (error, error.__cause__)}
    # numpy gives no code: "192000 requested and 16352 written".
    return bool(codes & {errno.ENOSPC, errno.EDQUOT}) or " requested and " in str(error)


def load_files(paths: Sequence[Path], split: str | None = None, streaming: bool = False) -> Dataset | IterableDataset:
    """Load rows from files of one type.

    Args:
        paths (sequence of `Path`): Files.
        split (`str`, *optional*): Files have none but `train`.
        streaming (`bool`, defaults to `False`): Read rows as they are asked for. Now only the start and the end of
            each file are looked at; rows of csv files are checked as they come.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: Their rows, in order.

    Raises:
        ValueError: If a file is missing, not whole, of another type, or cannot be parsed, or changes while it is read.
            If there is no such split.
    """
    kind, watch = _check_files(paths, is_whole=not streaming), FileWatch(paths)
    if split not in (None, "train"):
        raise ValueError(
            f"there is no split '{split}' in '{paths[0]}', since files are read whole. Leave the split out (--split), "
            "or name a folder or a Hub data set."
        )
    try:
        table = _read(kind, paths, streaming)
    except Exception as error:
        if _is_full(error):
            raise
        watch.check()
        cause = _find_cause(error)
        if not str(cause) or any(words in str(cause) for words in _NO_ROWS):
            cause = "a file holds no row"
        source = "', '".join(map(str, paths[:3]))
        raise ValueError(f"'{source}' cannot be read as {kind}: {cause}") from error
    if streaming:
        return _name_columns(table)
    watch.check()
    return _name_columns(_settle_texts(table))


def _read(kind: str, paths: Sequence[Path | str], streaming: bool) -> Dataset | IterableDataset:
    if kind == "csv" and streaming:
        return _stream_csv(paths)
    options = {"features": _check_columns(paths, True), "keep_default_na": False} if kind == "csv" else {}
    # Escaped: `datasets` takes `a[1].csv` for a pattern.
    files = [glob.escape(str(path)) for path in paths]
    table = load_dataset(kind, data_files=files, split="train", streaming=streaming, **options)
    return _read_dates(_turn_columns(table), paths) if kind == "json" and not streaming else table


def _stream_urls(urls: Sequence[str]) -> IterableDataset:
    """Stream csv or json files of a Hub data set."""
    kind = FORMATS[Path(urls[0]).suffix.lower()]
    for url in urls:
        _check_start(url, kind, is_whole=False)
    return _name_columns(_read(kind, urls, streaming=True))


def _turn_columns(table: Dataset) -> Dataset:
    """Read a json file of columns, each a list, as rows."""
    is_columns = len(table) == 1 and all(pa.types.is_list(field.type) for field in table.data.schema)
    return Dataset.from_dict(table[0]) if is_columns else table


def _read_dates(table: Dataset, paths: Sequence[Path]) -> Dataset:
    """Read columns of dates as texts, which they are in json; Arrow reads them as points in time."""
    for name, feature in table.features.items():
        if isinstance(feature, Value) and feature.dtype.startswith("timestamp"):
            texts = [text for path in paths for text in _read_json_texts(path, name)]
            table = replace_column(table, name, texts)
    return table


def _read_json_texts(path: Path, name: str) -> list[str | None]:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if path.suffix.lower() == ".json" or content.lstrip().startswith(b"["):
        with contextlib.suppress(ValueError):
            rows = json.loads(content)
            if isinstance(rows, dict):
                return rows[name] if isinstance(rows[name], list) else [rows[name]]
            return [row.get(name) for row in rows]
    options = {"explicit_schema": pa.schema([(name, pa.string())]), "unexpected_field_behavior": "ignore"}
    rows = pyarrow.json.read_json(
        pa.BufferReader(content), pyarrow.json.ReadOptions(block_size=_BLOCK), pyarrow.json.ParseOptions(**options)
    )
    return rows[name].to_pylist()


_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")  # as `datasets` words it


def _settle_texts(table: Dataset) -> Dataset:
    """Read as texts what other libraries save as another kind of text, and of mixed json columns what is text."""
    for name, feature in table.features.items():
        if isinstance(feature, Value) and feature.dtype == "string_view":
            table = table.cast_column(name, Value("string"))
        elif isinstance(feature, Json):
            # As `Json`, all of its texts would be refused, the first of them by name.
            texts = [value if isinstance(value, str) else None for value in table[name]]
            table = replace_column(table, name, texts)
    return table


def replace_column(table: Dataset, name: str, texts: Sequence[str | None]) -> Dataset:
    """Replace a column by one of texts.

    Args:
        table (`datasets.Dataset`): Rows.
        name (`str`): Name of the column.
        texts (`list[str]`): One a row, `None` for none.

    Returns:
        `datasets.Dataset`: The rows; the column is the last one.
    """
    # Removed last: a table without columns has no rows.
    table = table.rename_column(name, f"{name} before")
    return table.add_column(name, list(texts), feature=Value("string")).remove_columns(f"{name} before")


def _check_files(paths: Sequence[Path], is_whole: bool) -> str:
    """Refuse files that are missing, not whole or of several types, and name their type."""
    kinds = set()
    for path in paths:
        if not path.is_file():
            raise ValueError(f"'{path}' is neither a file nor a Hub data set id (org/name).")
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"'{path}' is not a {', '.join(FORMATS)} file; convert it to one of these.")
        kinds.add(FORMATS[path.suffix.lower()])
    if len(kinds) > 1:
        raise ValueError(f"the files are of several types ({', '.join(sorted(kinds))}); give files of one type.")
    kind = kinds.pop()
    if broken := find_broken(paths):
        path, flaw = next(iter(broken.items()))
        more = f" Of {len(paths)} files {len(broken)} are not whole." if len(broken) > 1 else ""
        raise ValueError(f"'{path}' cannot be read as {kind}: {flaw}.{more}")
    for path in paths:
        _check_start(path, kind, is_whole)
    return kind


def leave_encoded(table: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Leave images, sounds and the like as they are: `datasets` would decode any format, even to rename a column.

    Args:
        table (`datasets.Dataset` or `datasets.IterableDataset`): Rows.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: The rows, of which nothing is decoded.
    """
    for name, feature in (table.features or {}).items():
        if getattr(feature, "decode", False):
            table = table.cast_column(name, replace(feature, decode=False))
    return table


def _name_columns(table: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Name the columns of a web data set as tables do: its rows have the columns `__key__` and `__url__`."""
    features = table.features or {}
    if not {"__key__", "__url__"} <= features.keys():
        return table
    table = leave_encoded(table)
    for name, feature in features.items():
        if isinstance(feature, Image) and "image" not in features:
            table = table.rename_column(name, "image")
            break
    if isinstance(features.get("json"), Mapping):
        own = set(features) - {"json"}
        row = Features({name: value for name, value in features["json"].items() if name not in own})
        columns = Features({name: value for name, value in table.features.items() if name != "json"} | row)
        table = table.map(lambda example: example["json"], remove_columns=["json"], features=columns)
    if "txt" in features and "text" not in table.features:
        table = table.rename_column("txt", "text")
    return table


def _check_start(path: Path | str, kind: str, is_whole: bool) -> None:
    """Refuse json that ends the process in a library, or that one changes: `null`, deep nesting, repeated keys."""
    if kind != "json":
        return
    with _open_rows(path) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start and start not in b"{[":
        raise ValueError(f"'{path}' cannot be read as json: it starts with {start!r}; a row is an object, {{...}}.")
    try:
        if start == b"[":
            with _open_rows(path) as file:
                json.loads(file.read(), object_pairs_hook=_check_pairs, parse_int=str)
        elif _measure_depth(path, is_whole) > _MAX_DEPTH:
            raise RecursionError(f"more than {_MAX_DEPTH} levels")
    except RecursionError as error:
        raise ValueError(f"'{path}' cannot be read as json: it is nested too deeply ({error}).") from error
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read as json: {error}; correct or write it again.") from error


def _check_pairs(pairs: list[tuple]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' repeats")
    if re.search("[\ud800-\udfff]", "".join(part for pair in pairs for part in pair if isinstance(part, str))):
        raise ValueError(f"half an emoji, which is not text, in a row with {', '.join(map(ascii, names))}")


def _measure_depth(path: Path | str, is_whole: bool) -> int:
    """Measure how deep brackets nest within the blocks of a file, those of texts left out."""
    depth = 0
    with _open_rows(path) as file:
        while content := file.read(_BLOCK):
            brackets = content.translate(None, _NO_BRACKETS).replace(b"{}", b"")
            if len(brackets) > _MAX_DEPTH:
                brackets = re.sub(rb'"(?:[^"\\]|\\.)*"?', b"", content).translate(None, _NO_BRACKETS)
            steps = np.cumsum(np.where(np.isin(np.frombuffer(brackets, np.uint8), list(b"[{")), 1, -1))
            depth = max(depth, int((steps - np.minimum.accumulate(steps)).max(initial=0)))
            if not is_whole:
                break
    return depth


def _check_columns(paths: Sequence[Path | str], is_whole: bool) -> Features:
    """Check that rows of csv files fit their header, and read it; all are texts: `null`, `NA` and `3` stay as such.

    With one comma too many in the first row, pandas would shift all columns.
    """
    names = None
    for path in paths:
        with contextlib.closing(_read_csv(path)) as blocks:
            header = next(blocks)
            names = names or header
            if missing := [name for name in names if name not in header]:
                raise ValueError(f"'{path}' lacks the column '{missing[0]}' of '{paths[0]}'; rename it in one.")
            for _ in itertools.islice(blocks, None if is_whole else 1):
                pass
    return Features({name: Value("string") for name in names})


def _read_csv(path: Path | str) -> Iterator[list]:
    """Read the header of a csv file, and then its rows in blocks, each checked."""
    try:
        # Excel writes a byte order mark, which would belong to the name of the first column.
        with io.TextIOWrapper(_open_rows(path), newline="", encoding="utf-8-sig") as file:
            rows, read = csv.reader(file, strict=True), 0
            header = _check_header(next(rows, []), path)
            yield header
            while block := list(itertools.islice(rows, 1000)):
                for number, row in enumerate(block, start=read + 1):
                    if row and len(row) != len(header):
                        raise ValueError(
                            f"row {number} of '{path}' has {len(row)} values for {len(header)} columns; put a text "
                            "that holds a comma in double quotes."
                        )
                read += len(block)
                yield list(filter(None, block))
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not UTF-8 ({error.reason} at {error.start}); save it as UTF-8.") from error
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num} of '{path}': {error}; double a quote within a text.") from error


def _open_rows(path: Path | str):
    return HfFileSystem().open(path, "rb") if str(path).startswith("hf://") else Path(path).open("rb")


def _stream_csv(paths: Sequence[Path | str]) -> IterableDataset:
    """Stream csv files by the reader that checks them; pandas, which `datasets` streams with, shifts columns."""
    columns = _check_columns(paths, is_whole=False)
    rows = ArrowExamplesIterable(_generate_csv, {"paths": list(paths), "names": tuple(columns)})
    return IterableDataset(rows, DatasetInfo(features=columns))


def _generate_csv(paths: list[Path | str], names: tuple[str, ...]) -> Iterator[tuple[tuple, pa.Table]]:
    for place, path in enumerate(paths):
        blocks = _read_csv(path)
        header = next(blocks)
        for number, block in enumerate(filter(None, blocks)):
            texts = dict(zip(header, zip(*block, strict=True), strict=True))
            yield (place, number), pa.table({name: pa.array(texts[name], pa.string()) for name in names})


def _check_header(header: list[str], path: Path | str) -> list[str]:
    """Refuse what is not a header, and name columns without a name as pandas does, which writes one for its index."""
    if not header:
        raise ValueError(f"'{path}' is empty.")
    sign = next((sign for sign in ";\t|" if sign in header[0]), None)
    if len(header) == 1 and (sign or header[0].startswith("sep=")):
        raise ValueError(f"the columns of '{path}' are not separated by commas ({header[0]!r}); save it with commas.")
    header = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    if len(set(header)) < len(header):
        raise ValueError(f"columns of '{path}' repeat: {', '.join(header)}; remove or rename one.")
    return header


def find_broken(paths: Sequence[Path]) -> dict[Path, str]:
    """Find files that are missing, cannot be opened or are cut off, by their ends alone.

    Args:
        paths (sequence of `Path`): Files of one type.

    Returns:
        `dict[Path, str]`: Those that are not whole, and what each lacks.
    """
    broken = {}
    for path in paths:
        look, flaw = _ENDS.get(path.suffix.lower(), (_open, ""))
        try:
            look(path)
        except FileNotFoundError:
            broken[path] = "it is missing"
        except OSError as error:
            broken[path] = f"it cannot be opened ({error.strerror})"
        except ValueError:
            broken[path] = flaw
    return broken


def _open(path: Path) -> None:
    path.open("rb").close()


def _ends_in_a_row(path: Path) -> None:
    """Raise a `ValueError` where the last line of a jsonl file is a part of a row."""
    with path.open("rb") as file:
        size = 1 << 16
        while True:
            start = max(0, path.stat().st_size - size)
            file.seek(start)
            line = file.read().rstrip().rpartition(b"\n")
            if b"\n" in line[1] or not start:
                break
            size *= 4
    if line[2].startswith(b"{"):
        # Whole, but not UTF-8 or too deep: the rows are checked for that.
        with contextlib.suppress(UnicodeDecodeError, RecursionError):
            json.loads(line[2])


def _ends_as_a_tar(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * tarfile.BLOCKSIZE))
        if file.read().strip(b"\0"):
            raise ValueError("a tar ends in two empty blocks")


def _ends_as_a_parquet(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        if file.read() not in (b"PAR1", b"PARE"):
            raise ValueError("a parquet ends in its name, or that of an encrypted one")


_ENDS = {
    ".jsonl": (
        _ends_in_a_row,
        "the last line is not a whole row; if the file is cut off, copy it again, else correct or remove that line",
    ),
    ".parquet": (_ends_as_a_parquet, "there is no footer, so the file is cut off; copy or write it again"),
    ".tar": (_ends_as_a_tar, "the archive has no end, so the file is cut off; copy or write it again"),
}
