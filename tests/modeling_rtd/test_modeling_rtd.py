import json
from io import BytesIO

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, CLIPModel, CLIPTextModelWithProjection

from modeling_rtd import RTDConfig, RTDModel, RTDTextModel
from tests.factories import build_clip, build_images, encode_separately


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


def test_the_tokenizer_of_a_clip_is_where_the_clip_is(clip, tokenizer, tmp_path):
    for part in (clip, tokenizer):
        part.save_pretrained(tmp_path / "clip")
    assert RTDModel.from_clip(str(tmp_path), subfolder="clip").config.text_config.placeholder_token_id is not None


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


def test_a_plain_clip_is_no_rtd_model(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="from_clip"):
        RTDModel.from_pretrained(tmp_path)


def test_a_clip_directory_is_enough(clip, tokenizer, processor, tmp_path):
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = RTDModel.from_clip(str(tmp_path), "searle")
    assert model.config.placeholder_token_id == 4
    inputs = processor(text=["the small dog"])
    assert torch.equal(model.get_text_features(**inputs).pooler_output, clip.get_text_features(**inputs).pooler_output)


def test_a_folder_that_is_called_like_a_method_is_not_taken_for_a_projection(clip, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "lincir").mkdir()
    monkeypatch.chdir(tmp_path)
    assert RTDModel.from_clip(clip, "lincir", tokenizer=tokenizer).projection.config.projection_type == "lincir"


def test_an_unknown_projection_is_named_with_the_nearest(clip, tokenizer):
    with pytest.raises(ValueError, match="unknown projection 'lincri'; did you mean 'lincir'"):
        RTDModel.from_clip(clip, "lincri", tokenizer=tokenizer)


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


def test_plain_texts_are_not_composed_with_images(model, processor, query):
    with pytest.raises(ValueError, match=r"has no placeholder.*conditions=.*get_text_features"):
        model(**processor(images=build_images(2), text=["is red", "with the dog"]))
    expected = model(**query).composed_embeds
    del query["placeholder_mask"]  # a `$` of the ids is a place as well
    assert torch.equal(model(**query).composed_embeds, expected)
    query["input_ids"][1] = query["input_ids"][1].where(query["input_ids"][1] != processor.placeholder_token_id, 5)
    with pytest.raises(ValueError, match="has no placeholder"):
        model.get_composed_features(**query)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, query: model.get_text_features(**query), "`placeholder_mask` belongs to .* composed"),
        (lambda model, query: model.get_text_features(["a dog"]), "must have the shape .* got list"),
        (lambda model, query: model.get_image_features(build_images(1)[0]), "must have the shape .* got Image"),
        (lambda model, query: model.get_image_features(query["pixel_values"][0]), r"got \(3, 32, 32\)"),
        (lambda model, query: model([[1.0]]), "must have the shape .* got list and NoneType"),
        (lambda model, query: model.get_composed_features(**query, tempalte="x"), "argument of the model 'tempalte'"),
    ],
)
def test_features_of_something_else_are_refused(model, query, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, query)


def test_a_tower_that_ignores_pseudo_words_or_is_of_another_size_is_not_put_in(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    stock = CLIPTextModelWithProjection.from_pretrained(tmp_path)
    wide = RTDModel.from_clip(build_clip(hidden_size=64), tokenizer=tokenizer).text_model
    for put in (model.replace_text_model, lambda tower: model.with_parts(tower, model.projection)):
        with pytest.raises(ValueError, match=r"CLIPTextModelWithProjection does not read.*load_text_model"):
            put(stock)
    with pytest.raises(ValueError, match="text_hidden_size"):
        model.replace_text_model(wide)
    assert model.config.original_text_model is None


def test_saving_goes_into_a_folder_and_not_to_the_hub(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="rtd publish"):
        model.save_pretrained(tmp_path / "model", push_to_hub=True)
    assert not (tmp_path / "model").exists()
    model.save_pretrained(tmp_path / "other process", is_main_process=False)
    assert not list((tmp_path / "other process").glob("*.json"))


@pytest.mark.filterwarnings("ignore")
def test_the_older_exporter_of_onnx_is_refused(model, query):
    with pytest.raises(ValueError, match="dynamo=True"):
        torch.onnx.export(model, tuple(query.values()), BytesIO(), dynamo=False)


def test_clips_order_of_arguments_is_refused(model, query):
    with pytest.raises(ValueError, match="pass them by name"):
        model(query["input_ids"], query["pixel_values"])


def test_clips_own_configurations_are_taken(clip):
    text, vision = clip.config.text_config, clip.config.vision_config
    assert RTDConfig(text_config=text).placeholder_token_id is None
    sizes = {"projection_dim": 24, "text_hidden_size": text.hidden_size, "vision_hidden_size": vision.hidden_size}
    config = RTDConfig(text_config=text, vision_config=vision, projection_config=sizes, projection_dim=24)
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


def test_images_are_not_encoded_with_prompts(model, query):
    with pytest.raises(ValueError, match="`input_ids` belongs to a prompt"):
        model.get_image_features(**query)


def test_a_configuration_of_fewer_layers_than_the_file_has_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"16 tensors .* config.json has no place.*num_hidden_layers"):
        RTDModel.from_pretrained(tmp_path)
