import json

import datasets
import pytest
from huggingface_hub import DatasetCard

from tests.factories import build_images, build_triplets
from trainer.cli.main import main
from trainer.data.triplets import load_triplets
from trainer.publishing import data_set


REPO = "someone/data"


@pytest.fixture
def connected(hub, monkeypatch):
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_DATASETS_OFFLINE": False}.items():
        monkeypatch.setattr(datasets.config, name, value)
    return hub


@pytest.fixture
def triplets(tmp_path):
    (tmp_path / "triplets.jsonl").write_text("\n".join(map(json.dumps, build_triplets(20))))
    return tmp_path / "triplets.jsonl"


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images/more").mkdir(parents=True)
    for name, image in zip(("a.png", "more/b.jpg"), build_images(2), strict=True):
        image.save(tmp_path / "images" / name)
    return tmp_path / "images"


def publish(place, *more):
    return main(["publish", str(place), REPO, "--dataset", "--license", "cc-by-4.0", *more])


def test_triplets_come_back_from_the_hub_as_they_were(triplets, connected):
    assert publish(triplets, "--push") == 0
    stored = connected.repos[f"datasets/{REPO}"]
    assert load_triplets(REPO)[:] == load_triplets(triplets)[:]
    card = DatasetCard(stored["README.md"].decode())
    assert (card.data.license, card.data.size_categories) == ("cc-by-4.0", "n<1K")
    assert f"--triplets {REPO}" in card.text


def test_a_caption_with_a_bar_is_one_cell_of_the_card(tmp_path):
    names = ("reference_caption", "conditioning_caption", "target_caption")
    (tmp_path / "t.jsonl").write_text(json.dumps(dict.fromkeys(names, "a | b\nc")))
    card = data_set.prepare_data_set(tmp_path / "t.jsonl", REPO, "mit").files["README.md"].decode()
    assert [line.rpartition("| a ")[2] for line in card.splitlines() if "\\|" in line] == ["\\| b c |"] * 3


@pytest.mark.parametrize(
    ("count", "name"), [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (18_800_000, "10M<n<100M")]
)
def test_the_size_of_a_data_set_is_named_as_the_hub_names_it(count, name):
    assert data_set._name_size(count) == name


def test_a_gallery_comes_back_from_the_hub_as_it_was(images, connected):
    assert publish(images, "--push") == 0
    rows = datasets.load_dataset(REPO, split="train")
    assert rows["id"][:] == ["a.png", "more/b.jpg"]
    raw = rows.cast_column("image", datasets.Image(decode=False))
    assert [image["bytes"] for image in raw["image"]] == [(images / name).read_bytes() for name in rows["id"]]


def test_without_push_nothing_goes_up(triplets, hub, capsys):
    assert publish(triplets) == 0
    assert "Nothing was uploaded" in capsys.readouterr().out
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ("license", "--license ID"),
        ("images", "2 images"),
        ("secret", "must not be published"),
        ("place", "write org/"),
    ],
)
def test_what_must_not_be_published_is_refused(mistake, complaint, triplets, images, monkeypatch, capsys):
    place, repo, license = triplets, REPO, ["--license", "mit"]
    if mistake == "license":
        license = []
    elif mistake == "images":
        place = images
        monkeypatch.setattr(data_set, "_MOST_IMAGES", 1)
    elif mistake == "secret":
        row = build_triplets(1)[0] | {"target_caption": "hf_" + "a" * 34}
        triplets.write_text(json.dumps(row))
    else:
        repo = "data"
    assert main(["publish", str(place), repo, "--dataset", *license]) == 2
    assert complaint in capsys.readouterr().err
