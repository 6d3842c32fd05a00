import pytest

from modeling_rtd import RTDConfig
from modeling_rtd.configuration_rtd import find_context_token_id, find_placeholder_token_id
from speed.build_clip import build_clip_tokenizer
from tests.factories import build_tokenizer


def test_parts_become_configurations_without_their_places():
    config = RTDConfig(text_config={"placeholder_token_id": 259, "_name_or_path": "/here/clip", "model_type": "x"})
    assert (config.text_config.model_type, config.text_config._name_or_path) == ("clip_text_model", "")
    assert config.placeholder_token_id == 259
    assert config.projection_config.projection_type == "lincir"


def test_a_pseudo_word_takes_the_place_of_one_known_token():
    tokenizer = build_tokenizer()
    assert find_context_token_id(tokenizer) == find_placeholder_token_id(tokenizer) == 4
    tokenizer.unk_token = "$"
    tokenizer.mask_token = "red"  # a tokenizer without a "$" of its own lends this one
    assert find_placeholder_token_id(tokenizer) == tokenizer.convert_tokens_to_ids("red")
    tokenizer.mask_token, tokenizer.eos_token = None, "$"
    with pytest.raises(ValueError, match=r"splits '\$' into the ids \[4\]"):
        find_placeholder_token_id(tokenizer)


def test_clips_vocabulary_has_the_published_ids(shared):
    tokenizer = build_clip_tokenizer(shared / "data/clip_bpe/bpe_simple_vocab_16e6.txt.gz")
    assert (find_placeholder_token_id(tokenizer), find_context_token_id(tokenizer)) == (259, 49405)
