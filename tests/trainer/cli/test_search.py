import json

import pytest
from PIL import Image
from transformers import pipeline

from modeling_rtd import Gallery, RTDModel
from tests.factories import build_images
from trainer.app.history import SearchHistory
from trainer.cli.main import main
from trainer.training.lora import add_lora


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(build_images(8)):
        image.save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(8)]


@pytest.fixture
def pipe(model, processor, photos, tmp_path):
    """A pipeline over the index that the command line searches."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    gallery = Gallery(folder=tmp_path / "index")
    gallery.add(model, processor, photos)
    return pipeline("composed-image-retrieval", model=model, processor=processor, gallery=gallery, device="cpu")


@pytest.fixture
def search(pipe, tmp_path, capsys):
    def search(*more, gallery=tmp_path / "index", status=0):
        places = ["--gallery", str(gallery), "--sheet", str(tmp_path / "sheet.png")]
        assert main(["search", str(tmp_path / "model"), *places, *more]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return search


def names(results):
    return [result["id"] for result in results]


def test_the_algebra_is_that_of_the_pipeline(search, pipe, photos, tmp_path):
    query = {"image": photos[:2], "weights": [2.0, 1.0], "text": "is red", "strength": 0.6}
    query |= {"negative": "a dog", "negative_weight": 0.4}
    flags = ["--image", photos[0], "--image", photos[1], "--weight", "2", "--weight", "1", "--text", "is red"]
    flags += ["--strength", "0.6", "--negative", "a dog", "--negative-weight", "0.4"]
    answer = json.loads(search(*flags, "--json"))
    results = answer.pop("results")
    assert answer == query
    assert names(results) == names(pipe(query))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 2 * 96  # a row for each reference


def test_a_search_in_turns_is_kept(search, pipe, photos, tmp_path):
    file = str(tmp_path / "history.json")
    first = json.loads(search("--image", photos[0], "--text", "is red", "--history", file, "--json"))
    chosen = first["results"][1]["id"]
    second = json.loads(search("--use", "2", "--text", "is blue", "--history", file, "--json"))
    assert second["image"] == chosen
    assert names(second["results"]) == names(pipe({"image": chosen, "text": "is blue"}))
    third = json.loads(search("--use", "1", "--use", "3", "--turn", "1", "--history", file, "--json"))
    assert third["image"] == [first["results"][0]["id"], first["results"][2]["id"]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--image 0 --text red --strength 1.2", "`strength` must be between 0"),
        ("--image 0 --text red --negative RED", "the negative text is the query's own text, 'red'"),
        ("--image 0 --weight 1 --weight 2", "`weights` needs one number for each of 1 images"),
        ("--text red --negative-weight 1", "`negative_weight` comes without `negative`"),
        ("--use 1 --text red", "--use means a result of a search before this one"),
        ("--use 1 --text red --history new.json", "the history 'new.json' does not exist yet"),
        ("--use 1 --image 0 --history new.json", "give either --image, a new reference, or --use"),
        ("--text red --history none/new.json", "there is no folder 'none' for the history"),
        ("--text red --top-k -1", "--top-k must be at least 1, got -1"),
        ("--history FILE --use 1 --use 2 --weight 1 --text red", "`weights` needs one number for each of 2 images"),
    ],
)
def test_bad_options_are_refused_before_a_folder_is_encoded(
    search, pipe, photos, tmp_path, monkeypatch, flags, message
):
    history = SearchHistory(pipe)
    history.ask(text="a dog")
    history.save(tmp_path / "FILE")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Gallery, "from_images", None)
    flags = [photos[0] if flag == "0" else flag for flag in flags.split()]
    assert message in search(*flags, gallery=tmp_path / "photos", status=2)


def search_folder(place, folder, tmp_path, *more):
    reference = str(tmp_path / "reference.png")
    build_images(1, seed=7)[0].save(reference)
    return main(
        [
            "search",
            place,
            "--gallery",
            str(folder),
            "--image",
            reference,
            "--sheet",
            str(tmp_path / "sheet.png"),
            *more,
        ]
    )


def test_search_prints_a_table_and_draws_a_sheet(place, folder, tmp_path, capsys):
    assert search_folder(place, folder, tmp_path, "--text", "is red", "--top-k", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rank  score   image"
    scores = [float(line.split()[1]) for line in lines[1:5]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 96


def test_search_names_unreadable_images_and_goes_on(place, folder, tmp_path, capsys):
    (folder / "0.png").write_bytes(b"no image")
    assert search_folder(place, folder, tmp_path, "--text", "is red") == 0
    captured = capsys.readouterr()
    assert "1 of 6 images were skipped" in captured.err
    assert "0.png" in captured.err
    assert len([line for line in captured.out.splitlines() if ".png" in line and "sheet" not in line]) == 5


def test_search_leaves_the_reference_out(place, folder, tmp_path, capsys):
    arguments = ["search", place, "--gallery", str(folder), "--image", str(folder / "2.png"), "--text", "is red"]
    assert main([*arguments, "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "2.png" not in capsys.readouterr().out


@pytest.mark.parametrize("mistake", ["no images", "no reference"])
def test_search_refuses_what_it_cannot_read(place, folder, tmp_path, capsys, mistake):
    if mistake == "no images":
        assert search_folder(place, tmp_path / "nowhere", tmp_path) == 2
        assert "is not a folder" in capsys.readouterr().err
    else:
        assert main(["search", place, "--gallery", str(folder), "--image", str(tmp_path / "none.png")]) == 2
        assert "none.png' cannot be read: there is no such file" in capsys.readouterr().err


def test_search_takes_an_adapter_repository(clip_place, processor, folder, tmp_path, capsys):
    model = RTDModel.from_clip(clip_place, "lincir")
    add_lora(model.text_model, r=4)
    for part in (model.save_adapter, processor.save_pretrained):
        part(tmp_path / "adapter")
    assert search_folder(str(tmp_path / "adapter"), folder, tmp_path, "--text", "is red") == 0
    assert "rank  score" in capsys.readouterr().out
