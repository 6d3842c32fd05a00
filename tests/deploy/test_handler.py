"""The handler of inference endpoints, as such a machine runs it: from the model's folder."""

import base64
import importlib.util
import io
import json
import shutil
from pathlib import Path

import pytest

from modeling_rtd import Gallery
from modeling_rtd.pipeline_rtd import ComposedImageRetrievalPipeline
from tests.factories import build_images


HANDLER = Path(__file__).parents[2] / "deploy" / "handler.py"


def encode_file(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def start(folder):
    shutil.copy(HANDLER, folder)
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


@pytest.fixture
def folder(model, processor, tmp_path):
    ComposedImageRetrievalPipeline(model=model, processor=processor).save_pretrained(str(tmp_path / "repo"))
    return tmp_path / "repo"


def test_without_a_gallery_it_embeds_and_with_one_it_searches(folder, model, processor):
    images = build_images(4)
    gallery = Gallery(folder=folder / "gallery")
    gallery.add(model, processor, images, list("abcd"))
    pipe = ComposedImageRetrievalPipeline(model=model, processor=processor, gallery=gallery)
    expected = pipe({"image": images[1], "text": "is red"}, top_k=2)
    query = {"image": encode_file(images[1]), "text": "is red"}
    found = start(folder)({"inputs": query, "parameters": {"top_k": 2}})
    assert json.loads(json.dumps(found)) == found
    assert [hit["id"] for hit in found] == [hit["id"] for hit in expected]

    shutil.rmtree(folder / "gallery")
    handler = start(folder)
    (embedding,) = handler({"inputs": query}).values()
    assert [hit["id"] for hit in gallery.search([embedding], top_k=2)[0]] == [hit["id"] for hit in expected]
    several = query | {"image": [f"data:image/png;base64,{query['image']}"] * 2, "weights": [1, 2]}
    assert handler({"inputs": several})["embedding"] == pytest.approx(embedding, abs=1e-5)
    for data, sentence in (
        ({}, "must be a query such as"),
        ({"inputs": {"text": " "}}, "a text that is blank"),
        ({"inputs": {"image": "/etc/passwd"}}, "paths and URLs are not read"),
        ({"inputs": {"image": "https://example.com/a.png"}}, "paths and URLs are not read"),
        ({"inputs": {"image": "YWJj"}}, "one of BMP"),
        ({"inputs": query, "parameters": {"top_k": 2}}, "there is no gallery"),
    ):
        with pytest.raises(ValueError, match=sentence):
            handler(data)
