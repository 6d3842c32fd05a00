import json
import shutil

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    GPT2Config,
    SiglipConfig,
    SiglipModel,
)

from modeling_rtd import RTDModel, RTDProcessor, RTDTextModel, load_text_model
from modeling_rtd.configuration_rtd import RTDMetaClip2TextConfig
from modeling_rtd.modeling_backbones_rtd import find_backbone
from tests.factories import FAMILIES, build_backbone, build_clip, build_tokenizer, save_backbone


OTHERS = ("siglip2", "altclip", "chinese_clip", "blip", "clip_vision_model")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("load", [RTDModel.from_clip, RTDProcessor.from_clip, load_text_model])
@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_refused_by_name_before_their_weights_are_fetched(load, name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    with pytest.raises(ValueError, match=f"'{name}'"):
        load(str(tmp_path))


def test_naflex_is_refused_with_the_checkpoint_to_take_instead(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    with pytest.raises(ValueError, match="google/siglip2-base-patch16-224"):
        RTDModel.from_clip(str(tmp_path))


@pytest.mark.parametrize("load", [RTDModel.from_clip, RTDProcessor.from_clip])
def test_a_repository_of_open_clip_alone_is_named(load, tmp_path):
    with pytest.raises(ValueError, match="of the architecture None"):
        load(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match="rtd convert .* --from open_clip -o DIR"):
        load(str(tmp_path))


def test_a_loaded_model_of_another_architecture_is_refused():
    backbone, tokenizer = build_backbone("siglip")
    backbone.config.text_config.model_type = "siglip2_text_model"
    with pytest.raises(ValueError, match="siglip2_text_model"):
        RTDModel.from_clip(backbone, tokenizer=tokenizer)


def test_a_text_part_that_names_another_projection_size_loads_right(tmp_path):
    clip, tokenizer = build_clip(), build_tokenizer()
    clip.config.text_config.projection_dim = clip.config.vision_config.projection_dim = 512
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    batch = tokenizer(["a red dress"], return_tensors="pt")
    with torch.no_grad():
        expected = clip.get_text_features(**batch).pooler_output
        for tower in (RTDModel.from_clip(str(tmp_path)).text_model, load_text_model(str(tmp_path))):
            torch.testing.assert_close(tower(**batch).text_embeds, expected, atol=3e-6, rtol=0)


def test_an_end_of_text_that_the_tokenizer_never_writes_is_refused():
    with pytest.raises(ValueError, match="pools at the id 7, but the tokenizer ends a text with 3"):
        RTDModel.from_clip(build_clip(eos_token_id=7), tokenizer=build_tokenizer())


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="the tokenizer has 35 ids and the text tower 20"):
        RTDModel.from_clip(build_clip(vocab_size=20), tokenizer=build_tokenizer())


def test_features_that_differ_from_the_familys_own_are_refused(monkeypatch):
    backbone, tokenizer = build_backbone("metaclip_2")
    monkeypatch.setattr(RTDMetaClip2TextConfig, "pools_largest_id", True)
    with pytest.raises(ValueError, match="text features differ from those of MetaClip2Model"):
        RTDModel.from_clip(backbone, tokenizer=tokenizer)


def test_a_backbone_in_half_precision_passes_the_comparison():
    for family in ("clip", "metaclip_2", "siglip"):
        backbone, tokenizer = build_backbone(family)
        assert RTDModel.from_clip(backbone.bfloat16(), tokenizer=tokenizer).dtype == torch.bfloat16


def test_a_backbone_in_training_stays_in_training():
    clip = build_clip().train()
    RTDModel.from_clip(clip, tokenizer=build_tokenizer())
    assert clip.training


def test_the_padding_of_a_siglip_is_that_of_its_tokenizer(tmp_path):
    place = save_backbone(tmp_path, "siglip")
    assert json.loads((tmp_path / "config.json").read_text())["text_config"].get("pad_token_id", 1) == 1
    assert RTDModel.from_clip(place).config.text_config.pad_token_id == 0


def test_a_tower_of_another_family_names_what_loads_it(tmp_path):
    with pytest.raises(ValueError, match="'siglip_text_model', which is not that of RTDTextModel: load_text_model"):
        RTDTextModel.from_pretrained(save_backbone(tmp_path, "siglip"))


def test_a_text_tower_alone_is_no_backbone(tmp_path):
    place = save_backbone(tmp_path / "backbone", "siglip")
    load_text_model(place).save_pretrained(tmp_path / "tower")
    _, tokenizer = build_backbone("siglip")
    tokenizer.save_pretrained(tmp_path / "tower")
    with pytest.raises(ValueError, match="is a text tower alone"):
        RTDModel.from_clip(str(tmp_path / "tower"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tower_loads_alone_from_its_repository_and_from_what_it_saved(name, tmp_path):
    place = save_backbone(tmp_path / "backbone", name)
    expected = RTDModel.from_clip(place).text_model.state_dict()
    load_text_model(place).save_pretrained(tmp_path / "tower")
    loaded = load_text_model(str(tmp_path / "tower"))
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())
    assert loaded.config.pad_token_id == (1 if name == "metaclip_2" else 0)


def test_a_text_tower_of_another_kind_is_named():
    with pytest.raises(ValueError, match="'gpt2'"):
        find_backbone(GPT2Config())


def shrink(config):
    """Make a real configuration small, and leave its ids and what depends on them."""
    for name in ("text_config", "vision_config"):
        if name in config:
            config[name].update(SMALL)
        if config.get(f"{name}_dict"):
            config[f"{name}_dict"].update(SMALL)
    return config


@pytest.mark.parametrize(
    "name",
    [
        "openai--clip-vit-base-patch32",
        "resaved--clip-vit-large-patch14--transformers-5",
        pytest.param("openai--clip-vit-large-patch14", marks=pytest.mark.slow),
        pytest.param("patrickjohncyh--fashion-clip", marks=pytest.mark.slow),
        pytest.param("resaved--clip-vit-base-patch32--transformers-4.57", marks=pytest.mark.slow),
    ],
)
def test_real_repositories_of_clip_load_right(name, shared, tmp_path):
    for file in (shared / "data/hub_configs" / name).glob("*.*"):
        shutil.copyfile(file, tmp_path / file.name)
    config = shrink(json.loads((tmp_path / "config.json").read_text()))
    clip = CLIPModel(CLIPConfig.from_dict(config)).eval()
    clip.save_pretrained(tmp_path / "weights")
    (tmp_path / "weights/config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "weights/model.safetensors").rename(tmp_path / "model.safetensors")
    model, processor = RTDModel.from_clip(str(tmp_path)), RTDProcessor.from_clip(str(tmp_path))
    assert processor.max_length == 77
    assert processor.placeholder_token_id == 259
    texts = ["A photo of a red dress, with 3 buttons.", "naïve — 犬 😀"]
    batch = processor.tokenizer(texts, padding=True, return_tensors="pt")
    assert processor(text=texts)["input_ids"].tolist() == batch["input_ids"].tolist()
    with torch.no_grad():
        expected = clip.get_text_features(**batch).pooler_output
        ours = model.get_text_features(**processor(text=texts)).pooler_output
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        alone = load_text_model(str(tmp_path))(**batch).text_embeds
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("place", "is_whole"),
    [
        ("stabilityai--stable-diffusion-xl-base-1.0/text_encoder_2", True),
        ("stabilityai--stable-cascade-prior/text_encoder", True),
        ("stabilityai--stable-diffusion-3-medium-diffusers/text_encoder", True),
        ("stabilityai--stable-diffusion-3-medium-diffusers/text_encoder_2", True),
        ("playgroundai--playground-v2.5-1024px-aesthetic/text_encoder_2", True),
        ("playgroundai--playground-v2.5-1024px-aesthetic/text_encoder", False),
        ("stabilityai--stable-diffusion-xl-base-1.0/text_encoder", False),
        ("black-forest-labs--FLUX.1-dev/text_encoder", False),
        ("stabilityai--stable-diffusion-2-1/text_encoder", False),
        ("runwayml--stable-diffusion-v1-5/text_encoder", False),
    ],
)
def test_text_encoders_of_diffusers_load_where_they_have_a_projection(place, is_whole, shared, tmp_path):
    config = json.loads((shared / "data/hub_configs" / place / "config.json").read_text()) | SMALL
    model = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config)).float().eval()
    part = model if is_whole else model.text_model
    part.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if not is_whole:
        with pytest.raises(ValueError, match="text_projection"):
            load_text_model(str(tmp_path))
        return
    ids = torch.tensor([[49406, 320, 1125, 49407]])
    with torch.no_grad():
        tower = load_text_model(str(tmp_path), dtype=torch.float32)
        torch.testing.assert_close(tower(input_ids=ids).text_embeds, model(ids).text_embeds)


@pytest.mark.parametrize(
    ("place", "architecture"),
    [
        ("Xenova--chinese-clip-vit-base-patch16", "'chinese_clip'"),
        ("immich-app--XLM-Roberta-Large-Vit-B-16Plus", "None"),
        ("resaved--clip-vit-base-patch32--transformers-4.3x", "'clip_vision_model'"),
        ("stabilityai--stable-cascade-prior/image_encoder", "'clip_vision_model'"),
        ("lambdalabs--sd-image-variations-diffusers/image_encoder", "'clip_vision_model'"),
    ],
)
def test_real_repositories_of_other_architectures_are_refused_by_name(place, architecture, shared):
    with pytest.raises(ValueError, match=f"is of the architecture {architecture}"):
        RTDModel.from_clip(str(shared / "data/hub_configs" / place))


def test_a_siglip_configuration_alone_makes_the_right_classes():
    config = SiglipConfig(text_config=SMALL | {"vocab_size": 40}, vision_config=SMALL | {"image_size": 32})
    _, tokenizer = build_backbone("siglip")
    model = RTDModel.from_clip(SiglipModel(config).eval(), tokenizer=tokenizer)
    assert isinstance(model.visual_projection, torch.nn.Identity)
    assert model.logit_scale.shape == model.logit_bias.shape == (1,)
    assert model.config.projection_dim == 32
