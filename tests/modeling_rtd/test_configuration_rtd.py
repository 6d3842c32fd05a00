import math

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


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text_config", "num_hidden_layers", -3),
        ("text_config", "num_attention_heads", -2),
        ("vision_config", "patch_size", 0),
        ("text_config", "vocab_size", 10**12),
        ("text_config", "layer_norm_eps", math.nan),
        ("vision_config", "layer_norm_eps", -1e-5),
        ("text_config", "eos_token_id", -3),
        ("text_config", "eos_token_id", 49408),
        ("text_config", "eos_token_id", [49407]),
    ],
)
def test_numbers_of_another_network_are_refused_by_name(part, name, value):
    with pytest.raises(ValueError, match=f"`{name}` of the configuration's `{part}`"):
        RTDConfig(**{part: {name: value}})
