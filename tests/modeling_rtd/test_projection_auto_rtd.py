"""What holds for every projection: sizes, one pass each, saving, and equal results in every batch."""

import copy

import pytest
import torch

from modeling_rtd import (
    PROJECTIONS,
    RTDModel,
    RTDProcessor,
    RTDProjectionConfig,
    build_projection,
    load_projection,
)
from tests.factories import build_clip, build_image_processor, build_images, build_tokenizer


LARGE = {"projection_dim": 768, "text_hidden_size": 768, "vision_hidden_size": 1024}
methods = pytest.mark.parametrize("method", sorted(PROJECTIONS))


def build(method, seed=0):
    """A model of equal joint and text sizes, whose projection has some of everything."""
    clip = build_clip(projection_dim=32, max_position_embeddings=40)
    tokenizer = build_tokenizer(40)
    torch.manual_seed(seed)
    model = RTDModel.from_clip(clip, method, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.projection.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, RTDProcessor(build_image_processor(), tokenizer, default_template=method)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("searle", 14_162_688),
        ("lincir", 14_162_688),
        ("pic2word", 1_050_368),
        ("context_i2w", 68_471_297),
        ("fti4cir", 54_327_552),
    ],
)
def test_parameter_counts_at_the_size_of_vit_l_14(method, count):
    with torch.device("meta"):
        projection = PROJECTIONS[method](RTDProjectionConfig(projection_type=method, **LARGE))
    assert sum(parameter.numel() for parameter in projection.parameters()) == count


@methods
def test_a_query_costs_one_vision_pass_and_one_pass_of_each_needed_text(method):
    model, processor = build(method)
    calls = []
    model.vision_model.register_forward_hook(lambda *_: calls.append("vision"))
    model.text_model.register_forward_hook(lambda *_: calls.append("text"))
    model(**processor(images=build_images(2), conditions=["is red", "with no sleeves"]))
    context = ["text"] if "context_embeds" in model.projection.consumes else []
    assert calls == ["vision", *context, "text"]


@methods
@torch.no_grad()
def test_a_batch_gives_the_same_queries_as_one_by_one(method):
    model, processor = build(method)
    images, conditions = build_images(6), ["is red", "with no sleeves and the dog", "is blue", "a cat", "is", "no dog"]
    together = model(**processor(images=images, conditions=conditions))
    alone = [
        model(**processor(images=[image], conditions=[condition])).composed_embeds
        for image, condition in zip(images, conditions, strict=True)
    ]
    torch.testing.assert_close(together.composed_embeds, torch.cat(alone), atol=1e-6, rtol=0)


@torch.no_grad()
def test_images_of_one_batch_may_have_different_numbers_of_pseudo_words():
    model, processor = build("fti4cir")
    inputs = processor(images=build_images(8), conditions=["is red"] * 8)
    features = model.get_image_features(inputs["pixel_values"])
    features.pooler_output *= torch.linspace(0.01, 20, 8)[:, None]  # spreads the shares
    words, mask = model.get_pseudo_tokens(image_features=features)
    counts = mask.sum(1).tolist()
    assert len(set(counts)) > 2
    batch = model.get_composed_features(
        inputs["input_ids"], inputs["attention_mask"], inputs["placeholder_mask"], image_features=features
    ).pooler_output
    for row, count in enumerate(counts):
        # Written out with just as many placeholders, and no mask.
        pieces = ["a photo of ", " with ", *[" "] * (count - 2), " but is red"]
        compact = processor.pad(processor.tokenize_pieces([pieces]))
        alone = model.text_model(**compact, pseudo_token_embeds=words[row : row + 1, :count]).text_embeds
        torch.testing.assert_close(batch[row : row + 1], alone, atol=1e-6, rtol=0)


@methods
@torch.no_grad()
def test_a_saved_model_and_its_projection_alone_load_with_equal_results(method, tmp_path):
    model, processor = build(method)
    model.save_pretrained(tmp_path / "model")
    model.projection.save_pretrained(tmp_path / "projection")
    inputs = processor(images=build_images(2), conditions=["is red", "with no sleeves"])
    expected = model(**inputs).composed_embeds
    loaded = RTDModel.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(**inputs).composed_embeds, expected)
    assert loaded.config.context_token_id == model.config.context_token_id
    for place in ("model", "projection"):
        projection = load_projection(str(tmp_path / place))
        assert all(torch.equal(projection.state_dict()[k], v) for k, v in model.projection.state_dict().items())


@methods
def test_what_a_projection_reads_must_come(method):
    model, _ = build(method)
    needed = model.projection.consumes
    if needed == ("image_embeds",):
        assert model.projection(torch.zeros(1, 32))[0].shape == (1, 1, 32)
        return
    with pytest.raises(ValueError, match=f"reads {needed[0]}, {needed[1]}.*image_tokens"):
        model.projection(torch.zeros(1, 32))


def test_image_tokens_of_another_tower_are_refused():
    model, _ = build("fti4cir")
    with pytest.raises(ValueError, match="size 48, got \\(1, 17, 64\\)"):
        model.projection(torch.zeros(1, 32), torch.zeros(1, 17, 64))


@pytest.mark.parametrize("method", ["context_i2w", "fti4cir"])
def test_a_projection_of_another_vision_tower_is_refused(method):
    config = RTDProjectionConfig(projection_type=method, projection_dim=32, text_hidden_size=32, vision_hidden_size=64)
    with pytest.raises(ValueError, match="'vision_hidden_size': 64.*'vision_hidden_size': 48"):
        RTDModel.from_clip(build_clip(projection_dim=32), build_projection(config), tokenizer=build_tokenizer())


@torch.no_grad()
def test_the_context_is_read_by_the_tower_from_before_rtd_with_its_own_token():
    model, processor = build("context_i2w")
    before = model.text_model
    tuned = copy.deepcopy(before)
    tuned.text_projection.weight.mul_(3.0)
    model.replace_text_model(tuned)
    contexts = []
    model.projection.register_forward_hook(lambda module, inputs, output: contexts.append(inputs[2]))
    inputs = processor(images=build_images(1), conditions=["is red"])
    model(**inputs)
    ids = inputs["input_ids"].masked_fill(inputs["placeholder_mask"], model.config.context_token_id)
    assert torch.equal(contexts[0], before(input_ids=ids).text_embeds)
