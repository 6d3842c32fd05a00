"""Embeddings of a benchmark's images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.factories import build_stand_in, load_place
from trainer.evaluation.benchmark_images import ImageEmbeddings
from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.evaluator import RetrievalEvaluator


def test_images_are_read_as_published(data, place, tmp_path):
    """By hand: no turning by EXIF, boxes cut, padded to squares, resized, cropped with rounding to even."""
    (model, processor), root = load_place(place), build_stand_in("genecis", tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    for path in (root / "VG_100K_all").glob("*.jpg"):
        Image.open(path).save(path, exif=exif, quality=95)
    benchmark = load_benchmark("genecis/focus_attribute", root=root)
    images = ImageEmbeddings(model, processor, benchmark)
    for row in (0, 3, 9):
        item = benchmark.gallery[row]
        x, y, w, h = item["box"]
        with Image.open(item["image"]) as image:
            left, top = max(0, x - 0.7 * w), max(0, y - 0.7 * h)
            crop = image.crop((left, top, min(50, left + 1.7 * w), min(40, top + 1.7 * h)))
        square = Image.new("RGB", (max(crop.size),) * 2)
        square.paste(crop, ((square.width - crop.width) // 2, (square.height - crop.height) // 2))
        pixels = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        pixels = (pixels - processor.image_processor.image_mean) / processor.image_processor.image_std
        with torch.no_grad():
            batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
            expected = model.get_image_features(batch).pooler_output[0]
        torch.testing.assert_close(images.gallery[row], expected, atol=2e-5, rtol=1e-4)


def test_embeddings_of_images_are_kept_and_a_stopped_run_goes_on(data, place, tmp_path, monkeypatch):
    (model, processor), benchmark = load_place(place), load_benchmark("circo", root=data / "circo")
    expected = RetrievalEvaluator(model, processor, benchmark, 7)(model)
    encode, seen = ImageEmbeddings.get_features, []

    def count(self, sources, limit=None):
        if limit and len(seen) >= limit:
            raise KeyboardInterrupt
        seen.extend(sources)
        return encode(self, sources)

    monkeypatch.setattr(ImageEmbeddings, "get_features", lambda self, sources: count(self, sources, 28))
    with pytest.raises(KeyboardInterrupt):
        RetrievalEvaluator(model, processor, benchmark, 7, tmp_path)
    assert len(seen) == 28
    next(tmp_path.rglob("7-7.npy")).write_bytes(b"cut off")
    monkeypatch.setattr(ImageEmbeddings, "get_features", count)
    assert RetrievalEvaluator(model, processor, benchmark, 7, tmp_path)(model) == expected
    assert len(seen) == 28 + 7 + 60 - 28
    assert RetrievalEvaluator(model, processor, benchmark, 64, tmp_path)(model) == expected
    assert len(seen) == 67
    assert [path.suffix for path in tmp_path.rglob("*")] == [".npy"]
    torch.nn.init.ones_(model.visual_projection.weight)
    RetrievalEvaluator(model, processor, benchmark, 64, tmp_path)
    assert len(seen) == 127


@pytest.mark.parametrize("options", [["--mode", "audio"], ["--template", "$ $ {condition}"]])
def test_options_are_refused_before_an_image_is_encoded(data, place, tmp_path, monkeypatch, options, run_evaluate):
    def encode(self, sources):
        raise AssertionError("an image is encoded")

    monkeypatch.setattr(ImageEmbeddings, "get_features", encode)
    run_evaluate(place, "--benchmark", "cirr", "--root", data / "cirr", *options, out=tmp_path, code=2)


def test_a_box_without_a_pixel_is_refused(place, tmp_path, capsys, run_evaluate):
    root = build_stand_in("genecis", tmp_path / "data")
    path = root / "genecis/focus_attribute.json"
    rows = json.loads(path.read_text())
    rows[0]["target"]["instance_bbox"] = [10, 10, 0.01, 0.01]
    path.write_text(json.dumps(rows))
    run_evaluate(place, "--benchmark", "genecis/focus_attribute", "--root", root, out=tmp_path / "out", code=2)
    assert "has no [10.0, 10.0, 0.01, 0.01] to be cut: 0 x 0 pixels" in capsys.readouterr().err
