"""Publishing data: text triplets, or a small gallery of images, as a data set on the Hub."""

from __future__ import annotations

import io
import json
from pathlib import Path

from datasets import Dataset, Features, Image, Value
from huggingface_hub import DatasetCard, DatasetCardData

from trainer.data.image_files import list_images
from trainer.data.triplets import load_triplets
from trainer.publishing.pictures import refuse_places
from trainer.publishing.publication import Publication, add_record, check_repo, refuse_leaks
from trainer.publishing.secret_scan import find_leaks
from trainer.publishing.tables import write_cell


__all__ = ["prepare_data_set"]

# As `push_to_hub` of `datasets` names it.
_FILE = "data/train-00000-of-00001.parquet"
_MOST_IMAGES = 5000
_TEMPLATE = Path(__file__).parent / "templates/data_card.md"
_BOUNDS = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def prepare_data_set(place: str | Path, repo: str, license: str | None = None) -> Publication:
    """Gather what goes up of a data set, with a card, and refuse what must not be published.

    Args:
        place (`str` or `Path`): File of text triplets, see [`load_triplets`], or folder of at most 5,000 images.
        repo (`str`): Hub id, `org/name`.
        license (`str`, *optional*): License of the data, as the Hub names it.

    Returns:
        [`Publication`]: One parquet file, which the Hub shows as a table, and the card.

    Raises:
        ValueError: If the license is missing, the data cannot be read, there are too many images, a photograph holds
            where it was taken, or a text holds a secret or a path of this machine.
    """
    check_repo(repo)
    if license is None:
        raise ValueError("the card lacks facts: give all of them.\n  license: the license of the data; --license ID")
    is_gallery = Path(place).is_dir()
    rows = _read_images(Path(place)) if is_gallery else load_triplets(str(place))
    texts = rows.remove_columns("image") if is_gallery else rows
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in texts).encode()
    # Of the texts: a scan of the parquet file, which is compressed, would find nothing.
    refuse_leaks(find_leaks({Path(place).name: lines}, Path(place).absolute().parent))
    content = io.BytesIO()
    rows.to_parquet(content)
    card = DatasetCard.from_template(
        DatasetCardData(
            license=license,
            pretty_name=repo.rpartition("/")[2],
            size_categories=_name_size(len(rows)),
            task_categories=["image-feature-extraction"] if is_gallery else ["sentence-similarity"],
            tags=["composed-image-retrieval", "gallery" if is_gallery else "text-triplets"],
            configs=[{"config_name": "default", "data_files": [{"split": "train", "path": _FILE}]}],
        ),
        template_path=str(_TEMPLATE),
        title=repo.rpartition("/")[2],
        repo=repo,
        is_gallery=is_gallery,
        count=f"{len(rows):,}",
        example=None if is_gallery else {name: write_cell(text) for name, text in rows[0].items()},
        license=license,
    )
    return Publication(repo, add_record({_FILE: content.getvalue(), "README.md": str(card).encode()}), kind="dataset")


def _name_size(count: int) -> str:
    """Name the category of the Hub that a number of rows is in."""
    place = max(len(str(count)) - 4, -1)
    return f"{_BOUNDS[place]}<n<{_BOUNDS[place + 1]}" if place >= 0 else "n<1K"


def _read_images(folder: Path) -> Dataset:
    paths = list_images(folder)
    if len(paths) > _MOST_IMAGES:
        raise ValueError(
            f"'{folder}' holds {len(paths):,} images, and {_MOST_IMAGES:,} are published in one file: push larger "
            "galleries with `datasets` (`Dataset.push_to_hub`)."
        )
    refuse_places(paths)
    names = [path.relative_to(folder).as_posix() for path in paths]
    pairs = zip(names, paths, strict=True)
    # The bytes as they are: encoded again, a JPEG would lose.
    images = [{"bytes": path.read_bytes(), "path": name.rpartition("/")[2]} for name, path in pairs]
    return Dataset.from_dict({"id": names, "image": images}, Features({"id": Value("string"), "image": Image()}))
