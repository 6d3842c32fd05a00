import pytest
import torch
from transformers import GPT2Config

from modeling_rtd import RTDModel, load_text_model
from modeling_rtd.modeling_backbones_rtd import find_backbone
from tests.factories import FAMILIES, save_backbone


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tower_loads_alone_from_its_repository_and_from_what_it_saved(name, tmp_path):
    place = save_backbone(tmp_path / "backbone", name)
    expected = RTDModel.from_clip(place).text_model.state_dict()
    load_text_model(place).save_pretrained(tmp_path / "tower")
    loaded = load_text_model(str(tmp_path / "tower"))
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())
    assert loaded.config.pad_token_id == (1 if name == "metaclip_2" else 0)


def test_a_text_tower_of_another_kind_is_named():
    with pytest.raises(ValueError, match="'gpt2'"):
        find_backbone(GPT2Config())
