import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection

from modeling_rtd import RTDModel, RTDTextModel
from tests.factories import build_backbone, encode_separately


PAIRS = ["is red", "is blue with the cat and the dog", "has no more sleeves ."]


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


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiling_the_tower_needs_no_graph_break(model, processor, backend):
    _, _, packed, branch_index = pack_pairs(processor, PAIRS)
    inputs = {k: packed[k] for k in ("input_ids", "placeholder_mask")}
    inputs |= {"pseudo_token_embeds": torch.randn(3, 1, 32), "branch_index": branch_index}
    expected = model.text_model(**inputs).text_embeds
    compiled = torch.compile(model.text_model, fullgraph=True, backend=backend)
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


def test_pseudo_words_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"\(1, K, 32\), got \(1, 1, 16\)"):
        model.text_model(torch.tensor([[1, 4, 3]]), pseudo_token_embeds=torch.zeros(1, 1, 16))


@pytest.fixture(scope="module")
def siglip_tower():
    backbone, tokenizer = build_backbone("siglip")
    return RTDModel.from_clip(backbone, tokenizer=tokenizer).text_model.eval()


@torch.no_grad()
def test_a_row_of_siglip_is_as_long_as_in_training_and_read_in_both_directions(siglip_tower):
    first, other = (siglip_tower(input_ids=torch.tensor([[6, 7, word, 1]])).last_hidden_state for word in (8, 9))
    assert first.shape == (1, 20, 32)
    assert (first - other).abs().amax(-1).min() > 1e-4  # the word at place 2 changes what every place reads


@torch.no_grad()
def test_a_mask_is_without_effect_on_siglip(siglip_tower):
    ids = torch.tensor([[6, 7, 1, 0]])
    masked = siglip_tower(input_ids=ids, attention_mask=(ids != 0).long()).text_embeds
    assert torch.equal(masked, siglip_tower(input_ids=ids).text_embeds)
