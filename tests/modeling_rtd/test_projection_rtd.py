import pytest
import torch

from modeling_rtd import RTDConfig, RTDModel, SEARLEProjection, build_projection, load_projection
from tests.factories import build_clip, build_tokenizer


def test_a_projection_of_another_backbone_is_refused(clip, model):
    other = build_clip(hidden_size=16, projection_dim=12)
    with pytest.raises(ValueError, match="made for .*24.*32.*the backbone has .*12.*16"):
        RTDModel.from_clip(other, model.projection, tokenizer=build_tokenizer())


def test_a_projection_loads_from_its_own_and_from_a_whole_directory(model, tmp_path):
    model.save_pretrained(tmp_path / "whole")
    model.projection.save_pretrained(tmp_path / "alone")
    for name in ("whole", "alone"):
        loaded = load_projection(str(tmp_path / name))
        assert isinstance(loaded, SEARLEProjection)
        assert not loaded.training
        for ours, theirs in zip(loaded.parameters(), model.projection.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_projection_starts_from_pytorchs_own_initialisation():
    torch.manual_seed(3)
    ours = build_projection(RTDConfig().projection_config).layers[0]
    theirs = torch.nn.Linear(768, 3072)
    assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.01)
    assert ours.bias.abs().max().item() == pytest.approx(768**-0.5, rel=0.02)
