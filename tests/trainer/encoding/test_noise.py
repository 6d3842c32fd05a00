import pytest
import torch

from modeling_rtd import RTDModel
from tests.factories import build_backbone, build_triplets
from trainer.encoding.captions import encode_captions
from trainer.encoding.noise import draw_noise, measure_noise, settle_noise_unit


def test_noise_depends_on_seed_epoch_and_row_alone():
    rows = [7, 2, 9, 4]
    whole = draw_noise(rows, 16, seed=1, epoch=3)
    assert torch.equal(whole, torch.cat([draw_noise([row], 16, seed=1, epoch=3) for row in rows]))
    for other in (draw_noise(rows, 16, seed=2, epoch=3), draw_noise(rows, 16, seed=1, epoch=2)):
        assert not torch.isclose(whole, other).any()


def test_noise_is_a_uniform_times_a_normal():
    noise = draw_noise(range(4000), 64, seed=0, epoch=0).double()
    scale = noise.std(dim=1)  # one uniform draw a row
    assert abs(scale.mean() - 0.5) < 0.02
    assert 0.99 < scale.max() < 1.25
    assert scale.min() < 0.01
    unit = noise / noise.square().mean(1, keepdim=True).sqrt()
    assert abs(unit.mean()) < 0.01
    assert abs((unit**4).mean() - 3) < 0.15


def test_a_scale_is_absolute_on_a_clip_or_in_units_of_its_embeddings(model, processor):
    captions = ["a red dress", "the dog and the cat"]
    assert [settle_noise_unit(unit, model.text_model) for unit in (None, "rms")] == ["absolute", "rms"]
    sizes = [measure_noise(unit, model.text_model, processor, captions) for unit in ("absolute", "rms")]
    rms = encode_captions(model.text_model, processor, captions).square().mean().sqrt().item()
    assert sizes == [1.0, pytest.approx(rms, rel=1e-3)]


def test_the_size_does_not_depend_on_how_many_captions_there_are(model, processor):
    captions = [row["target_caption"] for row in build_triplets(300)]
    size = measure_noise("rms", model.text_model, processor, captions[:256])
    assert measure_noise("rms", model.text_model, processor, captions) == size


def test_a_unit_must_be_known_and_beside_clip_given():
    backbone, tokenizer = build_backbone("siglip")
    tower = RTDModel.from_clip(backbone, tokenizer=tokenizer).text_model
    with pytest.raises(ValueError, match="these are of siglip.*noise_unit='rms'"):
        settle_noise_unit(None, tower)
    with pytest.raises(ValueError, match="did you mean 'rms'"):
        settle_noise_unit("rmse", tower)
