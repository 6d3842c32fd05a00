import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from modeling_rtd import Gallery, encode_images, images_rtd
from tests.factories import build_images
from trainer.cli.main import main


@pytest.fixture
def photos(tmp_path):
    """Folder of twelve images, one of them in a sub-folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, image in enumerate(build_images(12)):
        image.save(folder / ("more" if i == 5 else "") / f"{i}.png")
    return folder


@pytest.fixture
def index(place, photos, tmp_path):
    assert main(["index", place, "--images", str(photos), "-o", str(tmp_path / "index")]) == 0
    return tmp_path / "index"


def search(place, gallery, tmp_path, capsys, *more):
    capsys.readouterr()
    arguments = ["search", place, "--gallery", str(gallery), "--sheet", str(tmp_path / "sheet.png"), *more]
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_an_index_is_searched_through_codes_and_a_folder_is_not(place, photos, index, tmp_path, capsys):
    query = ["--text", "is red", "--json", "--precision"]
    whole, coded = (search(place, index, tmp_path, capsys, *flags)[1] for flags in (query[:3], [*query, "int8"]))
    assert coded == whole
    assert search(place, index, tmp_path, capsys, *query, "binary")[0] == 0
    assert "unknown precision 'int4'" in search(place, index, tmp_path, capsys, *query, "int4")[2]
    assert "--precision is for an index" in search(place, photos, tmp_path, capsys, *query, "int8")[2]


def test_an_index_answers_as_its_folder_does(place, photos, index, tmp_path, capsys):
    query = ["--image", str(photos / "2.png"), "--text", "is red", "--json"]
    answers = []
    for gallery in (photos, index):
        status, out, err = search(place, gallery, tmp_path, capsys, *query)
        assert status == 0
        assert "the reference is in the gallery and is left out" in err
        answers.append(json.loads(out)["results"])
    assert [hit["id"] for hit in answers[0]] == [hit["id"] for hit in answers[1]]
    assert [hit["rank"] for hit in answers[1]] == list(range(1, 11))
    assert str(photos / "2.png") not in [hit["id"] for hit in answers[1]]


def test_indexing_again_adds_what_is_new(place, photos, index, capsys):
    build_images(1, seed=9)[0].save(photos / "new.png")
    (photos / "bad.png").write_bytes(b"nonsense")
    assert main(["index", place, "--images", str(photos), "-o", str(index)]) == 0
    captured = capsys.readouterr()
    assert f"index: 13 images in {index}, 1 of them new" in captured.out
    assert "1 of 14 images were skipped" in captured.err
    assert "bad.png' cannot be read" in captured.err


def test_images_that_left_the_folder_are_named_and_removed_when_asked(place, photos, index, capsys):
    gone = sorted(photos.glob("*.png"))[0]
    gone.unlink()
    command = ["index", place, "--images", str(photos), "-o", str(index)]
    assert main(command) == 0
    assert f"1 images of the index, such as '{gone}', are no longer in {photos}" in capsys.readouterr().err
    assert str(gone) in Gallery.load(index).ids
    assert main([*command, "--prune"]) == 0
    assert str(gone) not in Gallery.load(index).ids


def test_an_image_that_was_replaced_is_read_again_when_asked(place, photos, index, tmp_path, capsys):
    build_images(1, seed=9)[0].save(sorted(photos.glob("*.png"))[0])
    answers = []
    for more in ([], ["--if-exists", "replace"]):
        assert main(["index", place, "--images", str(photos), "-o", str(index), *more]) == 0
        answers.append(search(place, index, tmp_path, capsys, "--text", "a dog", "--top-k", "12", "--json")[1])
    assert answers[0] != answers[1]


def test_images_that_were_replaced_are_counted(place, photos, index, capsys):
    build_images(1, seed=9)[0].save(photos / "new.png")
    assert main(["index", place, "--images", str(photos), "-o", str(index), "--if-exists", "replace"]) == 0
    assert "1 of them new, 12 replaced" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_of_a_file_are_searched(place, photos, tmp_path, capsys, suffix):
    rows = pd.DataFrame({"id": ["3", "4.png", str(photos / "more" / "5.png"), "other"], "year": [2023, 2024, 2023, 1]})
    facts = str(tmp_path / f"facts.{suffix}")
    write = {
        "csv": rows.to_csv,
        "parquet": rows.to_parquet,
        "jsonl": partial(rows.to_json, orient="records", lines=True),
    }
    write[suffix](facts, **({} if suffix == "jsonl" else {"index": False}))
    command = ["index", place, "--images", str(photos), "--metadata", facts, "-o", str(tmp_path / "index")]
    assert main(command) == 0
    assert "3 of 12 images" in capsys.readouterr().out
    query = ["--text", "red", "--json", "--where", "year=2023"]
    hits = json.loads(search(place, tmp_path / "index", tmp_path, capsys, *query)[1])["results"]
    assert {hit["id"] for hit in hits} == {str(photos / "3.png"), str(photos / "more" / "5.png")}


def test_metadata_of_other_images_are_refused(place, photos, tmp_path, capsys):
    for text, message in (
        ("id,year\na,1\n", "none of the ids, such as 'a',"),
        ("name,year\n3,1\n", r"column\(s\) id"),
    ):
        (tmp_path / "facts.csv").write_text(text)
        command = ["index", place, "--images", str(photos), "--metadata", str(tmp_path / "facts.csv")]
        assert main([*command, "-o", str(tmp_path / "index")]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not Gallery.is_in(tmp_path / "index")


def test_text_alone_and_image_alone(place, photos, index, tmp_path, capsys):
    status, out, _ = search(place, index, tmp_path, capsys, "--text", "a small dog", "--top-k", "3")
    assert (status, out.splitlines()[0], len(out.splitlines())) == (0, "rank  score   image", 5)
    status, out, _ = search(place, index, tmp_path, capsys, "--image", str(photos / "2.png"), "--keep-reference")
    assert out.splitlines()[1].split() == ["1", "1.0000", str(photos / "2.png")]


def test_the_sheet_shows_ranks_in_rows_of_ten(place, index, tmp_path, capsys):
    search(place, index, tmp_path, capsys, "--text", "a dog", "--top-k", "12")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 2 * 96 + 2 * 16
        assert sheet.width < 11 * 104 + 400
        second = sheet.crop((sheet.width - 11 * 104, 22 + 120, sheet.width, sheet.height)).convert("L")
        assert np.asarray(second).min() < 200


@pytest.mark.parametrize("kind", ["folder", "index"])
def test_a_sheet_among_the_images_is_refused(place, photos, index, tmp_path, capsys, kind):
    gallery = photos if kind == "folder" else index
    status, _, err = search(place, gallery, tmp_path, capsys, "--text", "a dog", "--sheet", str(photos / "sheet.png"))
    assert status == 2
    assert "would be among the images" in err
    assert not (photos / "sheet.png").exists()


def test_filters_scores_and_exclusions(place, photos, model, processor, tmp_path, capsys):
    gallery = Gallery(folder=tmp_path / "index")
    paths = sorted(str(path) for path in photos.glob("*.png"))
    gallery.add(model, processor, paths, metadata=[{"shop": "a", "year": i} for i in range(len(paths))])
    found = search(place, gallery.folder, tmp_path, capsys, "--text", "a dog", "--where", "year=[3, 4]", "--json")[1]
    assert {hit["id"] for hit in json.loads(found)["results"]} == set(paths[3:5])
    found = search(place, gallery.folder, tmp_path, capsys, "--text", "a", "--where", "year=3", "--where", "year=4")[1]
    assert [path in found for path in paths[3:6]] == [True, True, False]
    sheet = (tmp_path / "sheet.png").read_bytes()
    found = search(place, gallery.folder, tmp_path, capsys, "--text", "a dog", "--where", "year=1999")[1]
    assert "year=1999" in found
    assert (tmp_path / "sheet.png").read_bytes() == sheet
    options = ["--text", "a dog", "--exclude", paths[3], "--where", "year=[3, 4]", "--where", "shop=a", "--json"]
    found = search(place, gallery.folder, tmp_path, capsys, *options)[1]
    assert [hit["id"] for hit in json.loads(found)["results"]] == [paths[4]]
    status, out, _ = search(place, gallery.folder, tmp_path, capsys, "--text", "a dog", "--min-score", "1", "--json")
    assert (status, json.loads(out)["results"]) == (0, [])


def test_embeddings_made_elsewhere_are_compared_and_taken_over(place, photos, model, processor, tmp_path, capsys):
    paths = sorted(photos.glob("*.png"))
    np.save(tmp_path / "made.npy", encode_images(model, processor, paths).numpy())
    (tmp_path / "ids.txt").write_text("\n".join(path.stem for path in paths))
    out = tmp_path / "taken"
    command = ["index", place, "--embeddings", str(tmp_path / "made.npy"), "--ids", str(tmp_path / "ids.txt")]
    assert main([*command, "--images", str(photos), "-o", str(out), "--engine", "faiss", "--dtype", "float16"]) == 0
    shown = capsys.readouterr().out
    assert "8 images compared with their embeddings: smallest cosine 1.0000" in shown
    assert "engine='faiss'" in repr(Gallery.load(out))
    np.save(tmp_path / "made.npy", np.roll(encode_images(model, processor, paths).numpy(), 1, axis=0))
    assert main([*command, "--images", str(photos), "-o", str(tmp_path / "wrong")]) == 2
    assert "the ids are not in the order of the embeddings" in capsys.readouterr().err
    np.save(tmp_path / "made.npy", np.random.default_rng(0).normal(size=(len(paths), model.config.projection_dim)))
    assert main([*command, "--images", str(photos), "-o", str(tmp_path / "wrong")]) == 2
    assert "the embeddings do not match this image tower" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / "unseen")]) == 0
    assert "the embeddings were compared with no images" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
    assert main([*command, "--images", str(photos), "-o", str(out)]) == 2
    shown = capsys.readouterr()
    assert f"there is a gallery in '{out}' already" in shown.err
    assert "compared" not in shown.out


def test_results_have_their_places_beside_ids_of_another_program(place, photos, taken, tmp_path, capsys):
    found = search(place, taken, tmp_path, capsys, "--text", "a dog", "--top-k", "1")[1]
    shown, path = found.splitlines()[1].split()[-2:]
    assert (shown, Path(path).is_file()) == (Path(path).stem, True)


def test_other_columns_of_a_table_are_named(place, photos, model, processor, tmp_path):
    pandas = pytest.importorskip("pandas")
    paths = sorted(map(str, photos.glob("*.png")))
    rows = {"file": paths, "vec": list(encode_images(model, processor, paths).numpy()), "year": range(len(paths))}
    pandas.DataFrame(rows).to_parquet(tmp_path / "made.parquet")
    command = ["index", place, "--embeddings", str(tmp_path / "made.parquet"), "-o", str(tmp_path / "taken")]
    assert main(command) == 2
    assert main([*command, "--columns", "file", "vec"]) == 0
    assert Gallery.load(tmp_path / "taken").ids == paths


@pytest.fixture
def taken(place, photos, model, processor, tmp_path):
    """Folder of an index of embeddings made elsewhere, under the names of the images without their suffix."""
    paths = sorted(photos.rglob("*.png"))
    np.save(tmp_path / "made.npy", encode_images(model, processor, paths).numpy())
    (tmp_path / "ids.txt").write_text("\n".join(path.stem for path in paths))
    command = ["index", place, "--embeddings", str(tmp_path / "made.npy"), "--ids", str(tmp_path / "ids.txt")]
    assert main([*command, "--images", str(photos), "-o", str(tmp_path / "taken")]) == 0
    return tmp_path / "taken"


def test_embeddings_may_be_named_by_relative_paths(place, photos, model, processor, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = sorted(photos.rglob("*.png"))
    np.save("own.npy", encode_images(model, processor, paths).numpy())
    options = ["--embeddings", "own.npy", "--images", str(photos), "-o", "taken", "--ids", "ids.txt"]
    Path("ids.txt").write_text("\n".join(f"x{i}" for i in range(len(paths))))
    assert main(["index", place, *options]) == 2
    assert "such as 'x0', is the name of one of the images" in capsys.readouterr().err
    Path("ids.txt").write_text("\n".join(os.path.relpath(path) for path in paths))
    assert main(["index", place, *options]) == 0
    assert "images compared" in capsys.readouterr().out


def test_an_index_taken_over_is_searched_as_one_of_our_own(place, photos, taken, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ids such as '3' are no files of this folder
    query = ["--gallery", str(taken), "--image", str(photos / "2.png"), "--top-k", "12", "--json"]
    capsys.readouterr()
    assert main(["search", place, *query]) == 0
    assert not (tmp_path / "search.png").exists()  # JSON is for programs
    found = json.loads(capsys.readouterr().out)["results"]
    assert sorted(hit["id"] for hit in found) == sorted(f"{i}" for i in range(12) if i != 2)
    assert {hit["metadata"]["path"] for hit in found} == {str(path) for path in photos.rglob("*.png")} - {query[3]}
    assert main(["search", place, *query, "--sheet", "sheet.png"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert len({colour for _, colour in sheet.getcolors(1 << 20)}) > 1000  # images, and not grey places for them
    turns = ["--gallery", str(taken), "--history", "turns.json", "--top-k", "3", "--json"]
    assert main(["search", place, *turns, "--text", "a dog"]) == 0
    assert main(["search", place, *turns, "--use", "2", "--text", "is red"]) == 0


def test_images_of_an_index_taken_over_are_not_added_again(place, photos, taken, capsys):
    build_images(1, seed=9)[0].save(photos / "new.png")
    assert main(["index", place, "--images", str(photos), "-o", str(taken)]) == 0
    assert f"index: 13 images in {taken}, 1 of them new" in capsys.readouterr().out
    assert set(Gallery.load(taken).ids) == {*(f"{i}" for i in range(12)), str(photos / "new.png")}


def test_a_folder_with_the_manifest_of_another_program_is_a_folder_of_images(place, photos, tmp_path, capsys):
    (photos / "manifest.json").write_text('{"name": "site"}')
    status, out, _ = search(place, photos, tmp_path, capsys, "--text", "a dog", "--top-k", "3")
    assert (status, len(out.splitlines())) == (0, 5)
    assert main(["index", place, "--images", str(photos), "-o", str(photos)]) == 2
    assert f"'{photos}' holds something that is not a gallery; choose another folder" in capsys.readouterr().err
    assert (photos / "manifest.json").read_text() == '{"name": "site"}'


def test_a_folder_of_corrupt_images_fails(place, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"nonsense")
    assert main(["index", place, "--images", str(tmp_path / "bad"), "-o", str(tmp_path / "index")]) == 2
    assert "none of 1 images can be read" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--batch-size", "--num-workers"])
def test_counts_below_one_are_refused(place, photos, tmp_path, capsys, option):
    assert main(["index", place, "--images", str(photos), "-o", str(tmp_path / "index"), option, "-1"]) == 2
    assert f"`{option[2:].replace('-', '_')}` must be a whole number of at least 1, got -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "M", "--gallery", ".", "--text", "x", "--sheet", "nowhere/a.png"], "no folder 'nowhere' for the"),
        (["search", "M", "--gallery", ".", "--text", "x", "--sheet", "a.txt"], "'a.txt' is not an image"),
        (["index", "M", "-o", "O"], "nothing to index: give --images, --embeddings"),
        (["index", "M", "-o", "O", "--embeddings", "a.npy", "--prune"], "leave them out with --embeddings"),
        (
            ["index", "M", "-o", "O", "--embeddings", "a.npy", "--if-exists", "skip"],
            "leave them out with --embeddings",
        ),
        (["index", "M", "-o", "O", "--embeddings", "a.npy", "--columns", "a", "b"], "of a parquet file"),
        (["index", "M", "-o", "O", "--images", "nowhere"], "'nowhere' is not a folder"),
        (["search", "M", "--gallery", "G"], "nothing to search for: give --image, --text or both"),
        (["search", "M", "--gallery", "nowhere", "--text", "x"], "'nowhere' is not a folder"),
    ],
)
def test_bad_commands_are_refused_with_a_sentence(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_bad_filter_is_refused(place, index, tmp_path, capsys):
    for condition, message in [("year", "takes FIELD=VALUE, got 'year'"), ("year=3", "has a field 'year'")]:
        status, _, err = search(place, index, tmp_path, capsys, "--text", "x", "--where", condition)
        assert status == 2
        assert message in err


def test_pictures_that_are_links_have_their_own_names(place, photos, tmp_path, capsys):
    linked = tmp_path / "linked"
    linked.mkdir()
    for i, photo in enumerate([*photos.glob("*.png"), photos / "0.png"]):
        (linked / f"link{i}.png").symlink_to(photo)
    assert main(["index", place, "--images", str(linked), "-o", str(tmp_path / "index")]) == 0
    ids = sorted(str(path) for path in linked.iterdir())
    assert sorted(Gallery.load(tmp_path / "index").ids) == ids
    status, out, err = search(place, linked, tmp_path, capsys, "--image", ids[0], "--json")
    assert status == 0
    assert "the reference is in the gallery and is left out" in err
    assert ids[0] not in [hit["id"] for hit in json.loads(out)["results"]]


def test_nothing_is_fetched_that_only_an_index_names(place, photos, index, tmp_path, capsys, monkeypatch):
    fetched = []
    monkeypatch.setattr(images_rtd, "_fetch", lambda url, max_bytes: fetched.append(url) or b"")
    gallery = Gallery.load(index)
    urls = [f"http://127.0.0.1:9/{i}.png" for i in range(12)]
    rows = Gallery(np.concatenate([gallery._store.engine.get(gallery.ids)]), urls, folder=tmp_path / "theirs")
    rows._store.manifest.fingerprint = gallery._store.manifest.fingerprint
    rows._store.write_manifest()
    history = tmp_path / "history.json"
    query = ["--image", str(photos / "2.png"), "--text", "is red", "--history", str(history)]
    assert search(place, tmp_path / "theirs", tmp_path, capsys, *query)[0] == 0
    status, _, err = search(place, tmp_path / "theirs", tmp_path, capsys, "--use", "1", "--history", str(history))
    assert (status, fetched) == (2, [])
    assert "which the gallery names and you did not" in err
    assert search(place, tmp_path / "theirs", tmp_path, capsys, "--image", urls[0])[0] == 2
    assert fetched == urls[:1]
