"""What trainers, collators and losses rely on holds for the text tower of every family."""

import pytest
import torch

from modeling_rtd import RTDModel
from tests.factories import FAMILIES, build_backbone


TEXTS = ["a photo of a small red dress", "the dog", "a house and a car with no sleeves"]
WORD = 6  # of what follows the special tokens in each vocabulary


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """The family's own model, its tokenizer, and our text tower."""
    backbone, tokenizer = build_backbone(request.param)
    return backbone, tokenizer, RTDModel.from_clip(backbone, tokenizer=tokenizer).text_model.eval()


def tokenize(tokenizer, texts, **kwargs):
    return tokenizer(texts, padding=True, return_tensors="pt", **kwargs)["input_ids"]


@torch.no_grad()
def encode_alone(family, rows):
    """Encode rows of ids one by one, by the family's own class, as it was trained."""
    backbone, tokenizer, _ = family
    length = backbone.config.text_config.max_position_embeddings
    if backbone.config.model_type == "siglip":
        rows = [[*row, *[tokenizer.pad_token_id] * (length - len(row))] for row in rows]
    features = [backbone.get_text_features(input_ids=torch.tensor([row])).pooler_output for row in rows]
    return torch.cat(features)


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("columns", [0, 3])
def test_plain_text_gives_the_familys_own_features_however_it_is_padded(family, columns):
    _, tokenizer, tower = family
    ids = tokenize(tokenizer, TEXTS)
    padded = torch.nn.functional.pad(ids, (0, columns), value=tokenizer.pad_token_id)
    expected = encode_alone(family, [tokenizer(text)["input_ids"] for text in TEXTS])
    assert_equal(tower(input_ids=padded).text_embeds, expected)
    mask = (padded != tokenizer.pad_token_id).long()
    assert_equal(tower(input_ids=padded, attention_mask=mask).text_embeds, expected)


@torch.no_grad()
def test_a_pseudo_word_that_is_a_words_embedding_is_that_word(family):
    _, tokenizer, tower = family
    ids = tokenize(tokenizer, TEXTS[:1])
    place = torch.zeros_like(ids, dtype=torch.bool)
    place[:, 2] = True
    words = tower.embeddings.token_embedding(ids[:, 2:3])
    written = ids.masked_fill(place, tower.config.placeholder_token_id)
    expected = encode_alone(family, ids.tolist())
    assert_equal(tower(input_ids=written, pseudo_token_embeds=words).text_embeds, expected)


@torch.no_grad()
def test_unused_slots_are_as_if_they_were_not_there(family):
    _, tokenizer, tower = family
    (row,) = tokenize(tokenizer, TEXTS[:1]).tolist()
    place = torch.tensor([[i in (2, 3, 4) for i in range(len(row) + 2)]])
    ids = torch.tensor([[*row[:3], WORD, WORD, *row[3:]]])
    words = tower.embeddings.token_embedding(torch.tensor([[row[2], 9, 9]]))
    used = torch.tensor([[True, False, False]])
    output = tower(input_ids=ids, placeholder_mask=place, pseudo_token_embeds=words, pseudo_token_mask=used)
    assert_equal(output.text_embeds, encode_alone(family, [row]))


@torch.no_grad()
def test_a_branch_gives_both_prompts(family):
    _, tokenizer, tower = family
    rows, ends = [tokenizer(text)["input_ids"] for text in TEXTS], torch.tensor([3, 2, 5])
    end = tokenizer.eos_token_id
    packed = [[*row[:place], end, *row[place:]] for row, place in zip(rows, ends.tolist(), strict=True)]
    ids = tokenizer.pad({"input_ids": packed}, return_tensors="pt")["input_ids"]
    output = tower(input_ids=ids, branch_index=ends).text_embeds
    assert_equal(output[:, 0], encode_alone(family, rows))
    short = [[*row[:place], end] for row, place in zip(rows, ends.tolist(), strict=True)]
    assert_equal(output[:, 1], encode_alone(family, short))


def test_a_full_row_may_carry_a_branch_and_one_more_token_is_refused(family):
    _, tokenizer, tower = family
    ids = torch.full((1, 21), WORD)
    ids[0, 20] = ids[0, 3] = tokenizer.eos_token_id
    assert tower(input_ids=ids, branch_index=torch.tensor([3])).text_embeds.shape == (1, 2, 24)
    with pytest.raises(ValueError, match="takes 20 tokens, got 21"):
        tower(input_ids=ids)


def test_gradients_reach_pseudo_words_and_every_weight(family):
    _, tokenizer, tower = family
    ids = tokenize(tokenizer, TEXTS)
    place = torch.zeros_like(ids, dtype=torch.bool)
    place[:, 1] = True
    words = torch.randn(3, 1, 32, requires_grad=True)
    inputs = {"input_ids": ids, "placeholder_mask": place, "pseudo_token_embeds": words}
    tower(**inputs, branch_index=torch.tensor([3, 2, 5])).text_embeds.sum().backward()
    assert words.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in tower.parameters())
    tower.zero_grad()
