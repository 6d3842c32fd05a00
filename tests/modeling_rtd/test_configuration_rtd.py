import json
import math
import shutil

import pytest

from modeling_rtd import RTDConfig, RTDModel, RTDTextModel, load_projection
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


LOADERS = [
    RTDModel.from_pretrained,
    RTDTextModel.from_pretrained,
    load_projection,
    lambda place: RTDModel.from_clip(place, "lincir"),
]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("value", ["org/kernel", "flash_attention_2", {"text_config": "org/kernel"}])
def test_code_for_attention_that_a_configuration_names_is_not_fetched(model, clip, tmp_path, load, value):
    (model if load != LOADERS[-1] else clip).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": value}))
    with pytest.raises(ValueError, match="names an implementation of attention"):
        load(tmp_path)


@pytest.mark.parametrize("load", LOADERS)
def test_weights_outside_of_their_folder_are_refused(model, clip, tmp_path, load):
    folder = tmp_path / "model"
    (model if load != LOADERS[-1] else clip).save_pretrained(folder, max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = next(iter(content["weight_map"].values()))
    shutil.copy(folder / shard, tmp_path / shard)
    index.write_text(json.dumps(content).replace(f'"{shard}"', f'"../{shard}"'))
    with pytest.raises(ValueError, match=rf"names the weights '\.\./{shard}'"):
        load(folder)


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
