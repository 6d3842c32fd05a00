import numpy as np
import pytest
import torch
from datasets import Dataset

from tests.factories import build_images
from trainer.data.images import load_images
from trainer.encoding.image_features import ImageFeatures


@torch.no_grad()
def test_an_image_in_several_rows_is_encoded_once(model, processor, tmp_path):
    first, second = build_images(2)
    table = load_images(Dataset.from_dict({"image": [first, second, first]}))
    features = ImageFeatures(model, processor, table, tmp_path)
    assert len(features) == 3
    assert np.load(features.paths["image_embeds"]).shape == (2, 24)
    expected = model.get_image_features(processor(images=[first, second, first])["pixel_values"]).pooler_output
    torch.testing.assert_close(features([0, 1, 2])["image_embeds"], expected, atol=1e-5, rtol=0)


def test_padded_images_are_other_features(model, processor, tmp_path):
    table = load_images(Dataset.from_dict({"image": build_images(1, size=(40, 80))}))
    plain, padded = (ImageFeatures(model, processor, table, tmp_path, name) for name in ("none", "target"))
    assert plain.paths != padded.paths
    assert not torch.equal(plain([0])["image_embeds"], padded([0])["image_embeds"])


def test_features_that_do_not_fit_are_refused_before_they_are_computed(model, processor, tmp_path, monkeypatch):
    table = load_images(Dataset.from_dict({"image": build_images(1)}))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(ValueError, match="0.0 GiB are free"):
        ImageFeatures(model, processor, table, tmp_path)
