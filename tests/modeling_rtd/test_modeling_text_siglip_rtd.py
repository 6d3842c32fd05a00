import pytest
import torch

from modeling_rtd import RTDModel
from tests.factories import build_backbone


@pytest.fixture(scope="module")
def tower():
    backbone, tokenizer = build_backbone("siglip")
    return RTDModel.from_clip(backbone, tokenizer=tokenizer).text_model.eval()


@torch.no_grad()
def test_a_row_is_as_long_as_in_training_and_read_in_both_directions(tower):
    first, other = (tower(input_ids=torch.tensor([[6, 7, word, 1]])).last_hidden_state for word in (8, 9))
    assert first.shape == (1, 20, 32)
    assert (first - other).abs().amax(-1).min() > 1e-4  # the word at place 2 changes what every place reads


@torch.no_grad()
def test_a_mask_is_without_effect(tower):
    ids = torch.tensor([[6, 7, 1, 0]])
    masked = tower(input_ids=ids, attention_mask=(ids != 0).long()).text_embeds
    assert torch.equal(masked, tower(input_ids=ids).text_embeds)
