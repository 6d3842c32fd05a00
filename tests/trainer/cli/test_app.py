"""The verb; the page itself is tested in `tests/trainer/app`."""

import sys

import pytest
import torch

from modeling_rtd import Gallery, RTDModel, encode_images
from trainer.app import page
from trainer.app.service import PROJECTION_ALONE
from trainer.cli.main import main
from trainer.training.lora import build_lora_config


@pytest.fixture
def served(monkeypatch):
    """What would be served, in place of serving it."""
    served = {}

    class Closed:
        def block_thread(self):
            served["waited"] = True

    def serve_page(desk, host, port, hosts):
        served.update(desk=desk, host=host, port=port, hosts=hosts)
        return Closed(), "http://127.0.0.1:1/"

    monkeypatch.setattr(page, "serve_page", serve_page)
    monkeypatch.setattr(page, "import_gradio", lambda: None)
    return served


def test_a_folder_is_served_on_this_machine_alone(place, photos, served, capsys):
    (photos / "bad.png").write_bytes(b"nonsense")
    assert main(["app", place, "--gallery", str(photos)]) == 0
    captured = capsys.readouterr()
    assert "skipped" in captured.err
    assert "bad.png' cannot be read" in captured.err
    assert captured.out == f"15 images of {photos.resolve()}; stop with Ctrl+C\npage: http://127.0.0.1:1/\n"
    assert served["host"] == "127.0.0.1"
    assert served["waited"]


def test_another_address_is_served_when_asked_for_and_said(place, photos, served, capsys):
    address = ["--host", "0.0.0.0", "--port", "8000", "--allowed-hosts", "photos.example"]
    assert main(["app", place, "--gallery", str(photos), *address]) == 0
    assert "anyone who reaches 0.0.0.0 can search this gallery" in capsys.readouterr().err
    assert (served["host"], served["port"], served["hosts"]) == ("0.0.0.0", 8000, ["photos.example"])


def test_an_index_knows_its_folder_or_is_told(place, photos, served, model, processor, tmp_path, capsys):
    paths = [str(photos / f"{i:02}.png") for i in range(3)]
    Gallery(folder=tmp_path / "index").add(model, processor, paths)
    Gallery(folder=tmp_path / "named").add(model, processor, paths, ["00.png", "01.png", "02.png"])
    assert main(["app", place, "--gallery", str(tmp_path / "index")]) == 0
    assert served["desk"].root == photos.resolve()
    assert main(["app", place, "--gallery", str(tmp_path / "named"), "--images", str(photos)]) == 0
    picture, _ = served["desk"].draw([{"id": "01.png"}])[0]
    assert len(picture.getcolors(10**6)) > 1
    gallery = Gallery(encode_images(model, processor, paths), ["a", "b", "c"], [{"path": path} for path in paths])
    gallery.verify_embeddings(model, processor, {"a": paths[0]})
    gallery.save(tmp_path / "taken")
    assert main(["app", place, "--gallery", str(tmp_path / "taken")]) == 0
    assert served["desk"].root == photos.resolve()
    picture, _ = served["desk"].draw([{"id": "b"}])[0]
    assert len(picture.getcolors(10**6)) > 1
    assert main(["app", place, "--gallery", str(tmp_path / "named")]) == 2
    assert "name their folder with --images" in capsys.readouterr().err


def test_images_behind_links_are_counted_or_refused(place, photos, served, tmp_path, capsys):
    links = tmp_path / "links"
    links.mkdir()
    for i in range(3):
        (links / f"{i}.png").symlink_to(photos / f"{i:02}.png")
    assert main(["app", place, "--gallery", str(links)]) == 2
    assert f"3 of 3 images are outside of '{links}', first '{links / '0.png'}'" in capsys.readouterr().err
    assert main(["app", place, "--gallery", str(links), "--images", str(photos)]) == 0
    picture, _ = served["desk"].draw([{"id": str(photos / "00.png")}])[0]
    assert len(picture.getcolors(10**6)) > 1
    (photos / "05.png").rename(links / "5.png")
    capsys.readouterr()
    assert main(["app", place, "--gallery", str(links)]) == 0
    assert "3 of 4 images are outside of" in capsys.readouterr().err


def test_further_adapters_become_voices(clip, tokenizer, processor, photos, served, tmp_path):
    for part in (clip, tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path / "clip")
    torch.manual_seed(1)
    model = RTDModel.from_clip(str(tmp_path / "clip"), "lincir")
    model.text_model.add_adapter(build_lora_config())
    model.save_adapter(str(tmp_path / "one"))
    processor.save_pretrained(tmp_path / "one")
    further = f"other={tmp_path / 'one'}"
    assert main(["app", str(tmp_path / "one"), "--gallery", str(photos), "--adapter", further]) == 0
    assert set(served["desk"].voices) == {"RTD (default)", "RTD (other)", PROJECTION_ALONE}


def test_examples_are_read_from_a_file(place, photos, served, tmp_path, capsys):
    file = tmp_path / "examples.jsonl"
    file.write_text('{"image": "photos/02.png", "text": "is red"}\n')
    flags = ["app", place, "--gallery", str(photos), "--examples", str(file)]
    assert main(flags) == 0
    assert served["desk"].examples == [(str(photos.resolve() / "02.png"), "is red")]
    for content, message in [
        ('{"image": "photos/9.png", "text": ""}', "9.png"),
        ('{"image": 1}', "line 1"),
        ("x", "line 1"),
    ]:
        file.write_text(content)
        assert main(flags) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter", "other"], "--adapter takes NAME=PLACE, got 'other'"),
        (["--images", "nowhere"], "'nowhere' is not a folder"),
        (["--top-k", "0"], "--top-k must be at least 1, got 0"),
        (["--port", "99999"], "--port must be between 1 and 65535, got 99999"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(place, photos, flags, message, capsys):
    assert main(["app", place, "--gallery", str(photos), *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_gradio_is_named_before_a_model_is_loaded(photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "nowhere", "--gallery", str(photos)]) == 2
    assert "the page needs gradio: pip install gradio" in capsys.readouterr().err
