import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection

from modeling_rtd import RTDConfig, RTDModel, RTDTextModel, SEARLEProjection, build_projection, load_projection
from tests.factories import build_clip, build_images, build_tokenizer


PAIRS = ["is red", "is blue with the cat and the dog", "has no more sleeves ."]


def encode_separately(tower, processor, prompts, words):
    """Encode prompts one by one, without padding, by transformers' own layers."""
    rows = []
    for ids, word in zip(prompts, words, strict=True):
        input_ids = torch.tensor([[processor.placeholder_token_id if i == -1 else i for i in ids]])
        embeds = tower.embeddings.token_embedding(input_ids).clone()
        embeds[0, [place for place, i in enumerate(ids) if i == -1]] = word
        hidden = tower.embeddings(inputs_embeds=embeds)
        length = len(ids)
        mask = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)[None, None]
        hidden = tower.final_layer_norm(tower.encoder(hidden, attention_mask=mask).last_hidden_state)
        rows.append(tower.text_projection(hidden[0, -1]))
    return torch.stack(rows)


def pack_pairs(processor, conditions):
    prompts, heads = processor.build_prompts(conditions)
    end = processor.tokenizer.eos_token_id
    packed = processor.pad([[*ids[:head], end, *ids[head:]] for ids, head in zip(prompts, heads, strict=True)])
    return prompts, heads, packed, torch.tensor(heads)


@pytest.mark.parametrize(
    ("attention", "dtype", "tolerance"),
    [("sdpa", torch.float64, 1e-12), ("sdpa", torch.float32, 3e-6), ("eager", torch.float32, 3e-6)],
)
def test_a_packed_pair_of_prompts_equals_two_separate_prompts(model, processor, attention, dtype, tolerance):
    tower = model.text_model.to(dtype)
    tower.set_attn_implementation(attention)
    prompts, heads, packed, branch_index = pack_pairs(processor, PAIRS)
    words = torch.randn(len(PAIRS), 1, 32, dtype=dtype)
    inputs = {"input_ids": packed["input_ids"], "placeholder_mask": packed["placeholder_mask"]}
    output = tower(**inputs, pseudo_token_embeds=words, branch_index=branch_index).text_embeds
    short = [[*ids[:head], processor.tokenizer.eos_token_id] for ids, head in zip(prompts, heads, strict=True)]
    torch.testing.assert_close(
        output[:, 0], encode_separately(tower, processor, prompts, words), atol=tolerance, rtol=0
    )
    torch.testing.assert_close(output[:, 1], encode_separately(tower, processor, short, words), atol=tolerance, rtol=0)


def test_a_packed_pair_has_the_gradients_of_two_prompts(model, processor):
    tower = model.text_model.double()
    prompts, heads, packed, branch_index = pack_pairs(processor, PAIRS)
    words = torch.randn(len(PAIRS), 1, 32, dtype=torch.float64)
    weights = torch.randn(2, len(PAIRS), 24, dtype=torch.float64)
    packed.pop("attention_mask")
    output = tower(**packed, pseudo_token_embeds=words, branch_index=branch_index).text_embeds
    (output.transpose(0, 1) * weights).sum().backward()
    grads = [p.grad.clone() for p in tower.parameters()]
    tower.zero_grad()
    short = [[*ids[:head], 3] for ids, head in zip(prompts, heads, strict=True)]
    both = torch.stack([encode_separately(tower, processor, rows, words) for rows in (prompts, short)])
    (both * weights).sum().backward()
    for ours, theirs in zip(grads, (p.grad for p in tower.parameters()), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


def test_trimmed_equals_padded_to_the_full_length(model, processor):
    tower = model.text_model.double()
    _, _, packed, branch_index = pack_pairs(processor, PAIRS)
    words = torch.randn(len(PAIRS), 1, 32, dtype=torch.float64)
    ids, mask = packed["input_ids"], packed["placeholder_mask"]
    padding = 21 - ids.shape[1]
    long_ids = torch.nn.functional.pad(ids, (0, padding), value=0)
    long_mask = torch.nn.functional.pad(mask, (0, padding))
    short = tower(ids, placeholder_mask=mask, pseudo_token_embeds=words, branch_index=branch_index)
    long = tower(long_ids, placeholder_mask=long_mask, pseudo_token_embeds=words, branch_index=branch_index)
    torch.testing.assert_close(short.text_embeds, long.text_embeds, atol=1e-12, rtol=0)


def test_unused_pseudo_word_slots_equal_the_compact_sequence(model, processor):
    tower = model.text_model.double()
    ids = torch.tensor([[1, 5, 6, 7, 4, 4, 4, 8, 11, 3], [1, 5, 6, 7, 4, 4, 4, 8, 12, 3]])
    words = torch.randn(2, 3, 32, dtype=torch.float64)
    used = torch.tensor([[True, False, False], [True, True, True]])
    output = tower(ids, placeholder_mask=ids == 4, pseudo_token_embeds=words, pseudo_token_mask=used).text_embeds
    compact = encode_separately(tower, processor, [[1, 5, 6, 7, -1, 8, 11, 3]], [words[0, :1]])
    torch.testing.assert_close(output[:1], compact, atol=1e-12, rtol=0)
    full = encode_separately(tower, processor, [[1, 5, 6, 7, -1, -1, -1, 8, 12, 3]], [words[1]])
    torch.testing.assert_close(output[1:], full, atol=1e-12, rtol=0)


def test_positions_of_the_placeholder_id_are_taken_where_no_mask_is_given(model):
    ids, words = torch.tensor([[1, 5, 6, 7, 4, 3]]), torch.randn(1, 1, 32)
    given = model.text_model(ids, placeholder_mask=ids == 4, pseudo_token_embeds=words).text_embeds
    assert torch.equal(model.text_model(ids, pseudo_token_embeds=words).text_embeds, given)


def save_as_legacy(clip, folder):
    """Write a repository as transformers 4 did: eos id 2, `*_config_dict`, buffers of position ids in the file."""
    clip.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    config["text_config_dict"], config["vision_config_dict"] = config["text_config"], config["vision_config"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["clip", "with_projection", "legacy", "text", "rtd"])
def test_the_text_tower_loads_completely_and_equals_clip(kind, clip, model, processor, tmp_path):
    if kind == "legacy":  # the largest id of a row must then be its end of text
        clip.text_model.embeddings.token_embedding = torch.nn.Embedding(101, 32)
        clip.config.text_config.vocab_size = 101
        save_as_legacy(clip, tmp_path)
        inputs = {"input_ids": torch.tensor([[1, 5, 6, 100, 0], [1, 5, 6, 7, 100]])}
        clip = CLIPModel.from_pretrained(tmp_path)
    else:
        inputs = processor(text=["a red dress", "a photo of the small dog and the cat"])
        parts = {
            "clip": lambda: clip,
            "with_projection": lambda: load_with_projection(clip, tmp_path / "source"),
            "text": lambda: model.text_model,
            "rtd": lambda: model,
        }
        parts[kind]().save_pretrained(tmp_path)
    tower, report = RTDTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert torch.equal(tower(**inputs).text_embeds, clip.get_text_features(**inputs).pooler_output)


def load_with_projection(clip, folder):
    clip.save_pretrained(folder)
    return CLIPTextModelWithProjection.from_pretrained(folder)


def test_a_bare_text_model_is_refused_for_its_missing_projection(clip, tmp_path):
    clip.save_pretrained(tmp_path / "clip")
    CLIPTextModel.from_pretrained(tmp_path / "clip").save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"lacks \['text_projection.weight'\].*with its projection"):
        RTDTextModel.from_pretrained(tmp_path / "bare")


@pytest.mark.parametrize("loader", [RTDModel, RTDTextModel, AutoModel, CLIPModel, CLIPTextModelWithProjection])
def test_one_directory_loads_as_every_class_with_equal_towers(loader, model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    inputs = processor(text=["a red dress", "the small dog"])
    if loader in (RTDTextModel, CLIPTextModelWithProjection):
        text = loaded(**inputs).text_embeds
    else:
        text = loaded.get_text_features(**inputs).pooler_output
        pixels = processor(images=build_images(2))["pixel_values"]
        expected = model.get_image_features(pixels).pooler_output
        assert torch.equal(loaded.get_image_features(pixels).pooler_output, expected)
    assert torch.equal(text, model.get_text_features(**inputs).pooler_output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saving_and_loading_is_bit_exact(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    loaded = RTDModel.from_pretrained(tmp_path, dtype=dtype)
    for (name, ours), theirs in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_file_holds_clips_own_names_and_the_projection(model, clip, tmp_path):
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    clip.save_pretrained(tmp_path / "clip")
    assert names - set(load_file(tmp_path / "clip/model.safetensors")) == {
        f"projection.layers.{layer}.{part}" for layer in (0, 3, 6) for part in ("weight", "bias")
    }


def test_the_image_side_is_clips_own(model, clip, processor):
    pixels = processor(images=build_images(3))["pixel_values"]
    ours = model.get_image_features(pixels).pooler_output
    assert torch.equal(ours, clip.get_image_features(pixels).pooler_output)


def test_a_composed_query_is_the_prompt_with_the_projected_image(model, processor):
    images = build_images(2)
    inputs = processor(images=images, conditions=["is red", "with no sleeves and the dog"])
    output = model(**inputs)
    words = model.projection.layers(model.get_image_features(inputs["pixel_values"]).pooler_output)
    prompts, _ = processor.build_prompts(["is red", "with no sleeves and the dog"])
    expected = torch.nn.functional.normalize(encode_separately(model.text_model, processor, prompts, words), dim=-1)
    torch.testing.assert_close(output.composed_embeds, expected, atol=2e-6, rtol=0)


def test_compiling_the_tower_needs_no_graph_break(model, processor):
    _, _, packed, branch_index = pack_pairs(processor, PAIRS)
    inputs = {k: packed[k] for k in ("input_ids", "placeholder_mask")}
    inputs |= {"pseudo_token_embeds": torch.randn(3, 1, 32), "branch_index": branch_index}
    expected = model.text_model(**inputs).text_embeds
    compiled = torch.compile(model.text_model, fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).text_embeds, expected, atol=1e-5, rtol=0)


def test_gradient_checkpointing_gives_equal_gradients(model, processor):
    tower = model.text_model.double().train()
    _, _, packed, branch_index = pack_pairs(processor, PAIRS)
    packed.pop("attention_mask")
    words = torch.randn(3, 1, 32, dtype=torch.float64, requires_grad=True)

    def compute_grads():
        tower.zero_grad()
        words.grad = None
        tower(**packed, pseudo_token_embeds=words, branch_index=branch_index).text_embeds.square().sum().backward()
        return [p.grad.clone() for p in [words, *tower.parameters()]]

    plain = compute_grads()
    enable = getattr(tower, "activation_checkpointing_enable", tower.gradient_checkpointing_enable)
    enable()
    for ours, theirs in zip(compute_grads(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def test_hidden_states_and_attentions_are_returned(model, processor):
    inputs = processor(text=["a red dress"])
    model.text_model.set_attn_implementation("eager")
    output = model.text_model(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3
    assert len(output.attentions) == 2
    assert isinstance(model.text_model(**inputs, return_dict=False), tuple)


def test_flash_attention_is_refused_for_packed_pairs(model, processor):
    _, _, packed, branch_index = pack_pairs(processor, PAIRS)
    model.text_model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="ignores the mask between them.*sdpa"):
        model.text_model(packed["input_ids"], branch_index=branch_index)


@pytest.mark.parametrize("with_gradients", [True, False])
def test_flex_attention_on_a_cpu_is_refused(model, processor, with_gradients):
    inputs = processor(text=["a red dress", "the small dog and the cat"])
    model.text_model.set_attn_implementation("flex_attention")
    with torch.set_grad_enabled(with_gradients), pytest.raises(ValueError, match="flex.*sdpa"):
        model.text_model(**inputs)


def test_a_plain_clip_is_no_rtd_model(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="from_clip"):
        RTDModel.from_pretrained(tmp_path)


def test_a_composed_prompt_longer_than_the_tower_is_refused(model):
    ids = torch.full((1, 21), 5)
    ids[0, 4], ids[0, -1] = 4, 3
    with pytest.raises(ValueError, match="takes 20 tokens, got 21"):
        model.text_model(ids, placeholder_mask=ids == 4, pseudo_token_embeds=torch.zeros(1, 1, 32))


def test_pseudo_words_need_a_place(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    tower = RTDTextModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names no placeholder token"):
        tower(torch.tensor([[1, 4, 3]]), pseudo_token_embeds=torch.zeros(1, 1, 32))


def test_a_clip_directory_is_enough(clip, tokenizer, processor, tmp_path):
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = RTDModel.from_clip(str(tmp_path), "searle")
    assert model.config.placeholder_token_id == 4
    inputs = processor(text=["the small dog"])
    assert torch.equal(model.get_text_features(**inputs).pooler_output, clip.get_text_features(**inputs).pooler_output)


def test_an_unknown_projection_is_named_with_the_nearest(clip, tokenizer):
    with pytest.raises(ValueError, match="unknown projection 'lincri'; did you mean 'lincir'"):
        RTDModel.from_clip(clip, "lincri", tokenizer=tokenizer)


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


def test_the_projection_at_vit_l_size_has_the_published_parameter_count():
    with torch.device("meta"):
        projection = build_projection(RTDConfig().projection_config)
    assert sum(p.numel() for p in projection.parameters()) == 14_162_688


def test_a_projection_starts_from_pytorchs_own_initialisation():
    torch.manual_seed(3)
    ours = build_projection(RTDConfig().projection_config).layers[0]
    theirs = torch.nn.Linear(768, 3072)
    assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.01)
    assert ours.bias.abs().max().item() == pytest.approx(768**-0.5, rel=0.02)


def test_pseudo_words_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"must have the shape \(1, K, 32\), got \(1, 1, 16\)"):
        model.text_model(torch.tensor([[1, 4, 3]]), pseudo_token_embeds=torch.zeros(1, 1, 16))


def test_a_composed_query_without_images_says_what_is_missing(model, processor):
    with pytest.raises(ValueError, match="`pixel_values` is missing"):
        model(**processor(conditions="is red"))


@pytest.fixture
def query(processor):
    """A query of two images with a condition each."""
    return dict(processor(images=build_images(2), conditions=["is red", "with the dog"]))


def test_images_alone_are_encoded(model, query):
    output = model(query["pixel_values"])
    assert list(output) == ["image_embeds"]
    assert torch.equal(output.image_embeds, model(**query).image_embeds)


def test_a_tuple_is_returned_where_one_is_asked_for(model, query):
    output = model(**query, return_dict=False)
    assert [part.shape for part in output] == [(2, 24), (2, 24), (2, 1, 32)]
    assert torch.equal(output[0], model(**query).composed_embeds)
    assert type(model.get_image_features(query["pixel_values"], return_dict=False)) is tuple
    assert type(model.get_text_features(query["input_ids"], return_dict=False)) is tuple
    assert type(model.get_composed_features(**query, return_dict=False)) is tuple
    model.config.return_dict = False
    assert type(model(**query)) is tuple


def test_states_and_attentions_of_both_towers_are_returned_where_they_are_asked_for(model, query):
    model.set_attn_implementation("eager")
    output = model(**query, output_hidden_states=True, output_attentions=True)
    for part in (output.text_model_output, output.vision_model_output):
        assert len(part.hidden_states) == 3
        assert len(part.attentions) == 2
    expected = model(**query)
    assert list(expected) == ["composed_embeds", "image_embeds", "pseudo_token_embeds"]
    assert torch.equal(output.composed_embeds, expected.composed_embeds)


def test_images_of_another_size_are_taken_by_interpolation(model, query):
    images = torch.nn.functional.interpolate(query["pixel_values"], 48)
    output = model(**query | {"pixel_values": images}, interpolate_pos_encoding=True)
    expected = model.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    assert torch.equal(output.image_embeds, torch.nn.functional.normalize(expected, dim=-1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda query: query | {"return_loss": True}, "`return_loss` has no effect"),
        (lambda query: query | {"nonsense": 1}, "unknown argument of the model 'nonsense'"),
        (lambda query: query | {"placeholder_masc": 1}, "did you mean 'placeholder_mask'"),
        (lambda query: query | {"pixel_values": query["pixel_values"][:1]}, "got 1 images and 2 prompts"),
        (lambda query: query | {"pixel_values": query["pixel_values"][0]}, "must have the shape"),
    ],
)
def test_calls_that_cannot_be_followed_are_refused(model, query, change, message):
    with pytest.raises(ValueError, match=message):
        model(**change(query))


def test_clips_order_of_arguments_is_refused(model, query):
    with pytest.raises(ValueError, match="pass them by name"):
        model(query["input_ids"], query["pixel_values"])


def test_clips_own_configurations_are_taken(clip):
    text, vision = clip.config.text_config, clip.config.vision_config
    assert RTDConfig(text_config=text).placeholder_token_id is None
    config = RTDConfig.from_text_vision_configs(text, vision, logit_scale_init_value=1.0)
    assert config.logit_scale_init_value == 1.0
    output = RTDModel(config)(torch.zeros(1, 3, 32, 32))
    assert output.image_embeds.shape == (1, 24)


def test_a_checkpoint_is_not_a_model(model, tmp_path):
    model.text_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a text tower alone.*replace_text_model"):
        RTDModel.from_pretrained(tmp_path)


def test_ids_of_another_tokenizer_are_refused_until_the_tower_has_words_for_them(model, processor, query, tmp_path):
    query["input_ids"][0, 6] = 35
    with pytest.raises(ValueError, match=r"has 35 words, and a text has the id 35.*resize_token_embeddings"):
        model(**query)
    model.text_model.resize_token_embeddings(36, mean_resizing=False)
    expected = model(**query).composed_embeds
    model.save_pretrained(tmp_path)
    assert torch.equal(RTDModel.from_pretrained(tmp_path)(**query).composed_embeds, expected)
