from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, TrainerCallback

from modeling_rtd import RTDModel, RTDProcessor
from trainer.worlds import find_world
from trainer.worlds.clip import train_clip
from trainer.worlds.data import build_world
from trainer.worlds.small_world import build_small_world, build_tokenizer


@pytest.fixture(scope="module")
def toy():
    return build_small_world("toy")


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return *train_clip(toy, output_dir=folder), folder


def test_tokenizer_has_the_ids_that_clip_needs():
    tokenizer = build_tokenizer("demo")
    ids = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id
    assert ids == (0, 1, 2, 3)
    assert tokenizer.model_max_length == 40


def test_placeholder_is_an_ordinary_word():
    tokenizer = build_tokenizer("demo")
    assert "$" not in tokenizer.all_special_tokens
    assert len(tokenizer("$", add_special_tokens=False)["input_ids"]) == 1


def test_special_tokens_in_a_text_can_be_split_like_any_text():
    tokenizer = build_tokenizer("demo")
    ids = tokenizer(["A red <eos> STAR"], add_special_tokens=False, split_special_tokens=True)["input_ids"][0]
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.convert_ids_to_tokens([*ids[:2], ids[-1]]) == ["a", "red", "star"]


def test_tokenizer_survives_saving(tmp_path):
    tokenizer, text = build_tokenizer("demo"), "a photo of $ that has a navy backdrop"
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text).data == tokenizer(text).data
    assert loaded.model_max_length == 40


def test_clip_training_moves_every_tensor(toy, trained):
    model = trained[0]
    torch.manual_seed(0)
    frozen = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    untrained = train_clip(dataclasses.replace(toy, preset=dataclasses.replace(toy.preset, clip_steps=1)))[0]
    same = [n for (n, a), b in zip(model.named_parameters(), untrained.parameters(), strict=True) if torch.equal(a, b)]
    assert not frozen
    assert not same


def test_clip_training_is_deterministic(toy, trained):
    again = train_clip(toy)[0]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained[0].parameters(), strict=True))


def test_trained_clip_reloads_with_equal_embeddings(trained):
    model, tokenizer, _, folder = trained
    inputs = tokenizer(["a red star", "two big blue circles on white"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_text_features(**inputs).pooler_output
        loaded = CLIPModel.from_pretrained(folder).get_text_features(**inputs).pooler_output
    assert torch.equal(loaded, expected)


def test_text_embedding_does_not_depend_on_padding(trained):
    model, tokenizer, *_ = trained
    short, padded = (tokenizer("a red star", padding=p, return_tensors="pt") for p in (False, "max_length"))
    with torch.no_grad():
        difference = model.get_text_features(**short).pooler_output - model.get_text_features(**padded).pooler_output
    assert difference.abs().max() < 1e-5


def test_image_processor_changes_no_geometry(toy, trained):
    image, processor = toy.images[0]["image"], trained[2]
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    pixels = processor(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs((pixels * std + mean) * 255 - np.asarray(image)).max() < 1e-3


def test_a_tokenizer_keeps_the_words_with_hyphens_of_the_wardrobe(tmp_path):
    _, tokenizer, _ = train_clip(build_world(find_world("wardrobe"), "toy"), output_dir=tmp_path)
    text = "a knee-length t-shirt that has the sky backdrop changed to $"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).data == tokenizer(text).data


@pytest.mark.parametrize(
    ("family", "row"),
    [
        ("siglip", ["a", "red", "star", 3]),
        pytest.param("metaclip_2", [0, "a", "red", "star", 2], marks=pytest.mark.slow),
    ],
)
def test_a_world_has_a_backbone_of_each_family(family, row, tmp_path):
    losses = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            losses.append(state.global_step)

    clip, tokenizer, image_processor = train_clip(
        build_small_world("toy"), output_dir=tmp_path, callbacks=[Watch()], family=family
    )
    assert len(losses) == (10 if family == "siglip" else 8)
    assert clip.config.model_type == family
    processor = RTDProcessor.from_clip(str(tmp_path))
    assert processor.family == family
    ids = [tokenizer.convert_tokens_to_ids(word) if isinstance(word, str) else word for word in row]
    assert processor.tokenize_texts(["A red star"]) == [ids]
    model = RTDModel.from_clip(str(tmp_path))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    if family == "siglip":
        # Half of the scale, below zero, and two steps from there.
        assert clip.logit_bias.item() == pytest.approx(-0.5 * clip.logit_scale.exp().item(), abs=0.1)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="did you mean 'siglip'"):
        build_tokenizer("toy", "siglipp")
