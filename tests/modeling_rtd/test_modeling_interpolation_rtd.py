import copy

import pytest
import torch
from peft import LoraConfig

from modeling_rtd import RTDModel, hash_tensors
from tests.factories import build_clip, build_images, shake
from trainer.training.lora import add_lora


def compose(model, processor):
    with torch.no_grad():
        return model(**processor(images=build_images(2), conditions=["is red", "with the dog"])).composed_embeds


@pytest.fixture
def tuned(model):
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    return model


@pytest.fixture
def adapted(model):
    add_lora(model.text_model, r=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.text_model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_ends_are_the_two_towers_bit_for_bit(tuned, processor):
    before, after = (tuned.interpolate_text_model(alpha) for alpha in (0.0, 1.0))
    assert hash_tensors(before.text_model) == hash_tensors(tuned.original_text_model)
    assert hash_tensors(after.text_model) == hash_tensors(tuned.text_model)
    assert not torch.equal(compose(before, processor), compose(after, processor))


def test_every_weight_in_between_is_the_weighted_mean(tuned):
    states = [tower.state_dict() for tower in (tuned.original_text_model, tuned.text_model)]
    for name, tensor in tuned.interpolate_text_model(0.3).text_model.state_dict().items():
        torch.testing.assert_close(tensor, 0.7 * states[0][name] + 0.3 * states[1][name], atol=1e-6, rtol=0)


def test_the_model_itself_stays_and_the_other_parts_are_shared(tuned):
    key, place = hash_tensors(tuned.text_model), dict(tuned.config.original_text_model)
    half = tuned.interpolate_text_model(0.5)
    assert hash_tensors(tuned.text_model) == key
    assert tuned.config.original_text_model == place == half.config.original_text_model
    assert half.vision_model is tuned.vision_model
    assert half.projection is tuned.projection
    assert half.original_text_model is tuned.original_text_model


def test_an_interpolated_model_survives_saving(tuned, processor, tmp_path):
    half = tuned.interpolate_text_model(0.5)
    half.save_pretrained(tmp_path)
    loaded = RTDModel.from_pretrained(tmp_path)
    assert torch.equal(compose(loaded, processor), compose(half, processor))
    assert hash_tensors(loaded.original_text_model) == hash_tensors(tuned.original_text_model)


def test_half_types_are_rounded_once(tokenizer):
    model = RTDModel.from_clip(build_clip(dtype=torch.bfloat16), "lincir", tokenizer=tokenizer)
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    first, second = (tower.text_projection.weight.double() for tower in (model.original_text_model, model.text_model))
    weight = model.interpolate_text_model(0.5).text_model.text_projection.weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, (0.5 * first + 0.5 * second).to(torch.bfloat16))


def test_an_adapter_is_scaled_in_its_weights(adapted):
    layer = adapted.text_model.text_projection
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    weight = adapted.interpolate_text_model(0.25).text_model.text_projection.weight
    torch.testing.assert_close(weight, layer.base_layer.weight + 0.25 * update, atol=1e-6, rtol=0)


def test_the_ends_of_an_adapter_are_its_base_and_the_merged_tower(adapted, processor, tmp_path):
    after = compose(adapted, processor)
    torch.testing.assert_close(compose(adapted.interpolate_text_model(1.0), processor), after, atol=1e-5, rtol=0)
    base = adapted.interpolate_text_model(0.0)
    adapted.text_model.disable_adapters()
    before = compose(adapted, processor)
    assert torch.equal(compose(base, processor), before)
    assert not torch.allclose(before, after, atol=1e-3)
    base.save_pretrained(tmp_path)
    assert torch.equal(compose(RTDModel.from_pretrained(tmp_path), processor), before)


def test_layers_that_an_adapter_trains_whole_are_interpolated_too(model):
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["text_projection"], "task_type": None}
    model.text_model.add_adapter(LoraConfig(r=4, **settings))
    layer = model.text_model.text_projection
    shake(layer.modules_to_save["default"])
    first, second = layer.original_module.weight, layer.modules_to_save["default"].weight
    assert not torch.equal(first, second)
    weight = model.interpolate_text_model(0.5).text_model.text_projection.weight
    torch.testing.assert_close(weight, (first + second) / 2)


def test_tokens_that_an_adapter_trains_are_merged(model, processor):
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3, 5], lora_bias=True))
    before = compose(model.interpolate_text_model(0.0), processor)
    shake(torch.nn.ParameterList([part for part in model.text_model.parameters() if part.requires_grad]))
    after = compose(model, processor)
    torch.testing.assert_close(compose(model.interpolate_text_model(1.0), processor), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(compose(model.interpolate_text_model(0.0), processor), before, atol=1e-5, rtol=0)
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("change", [{"init_lora_weights": "pissa"}, {"bias": "all"}, {"bias": "lora_only"}], ids=str)
def test_an_adapter_that_has_changed_its_base_has_no_tower_from_before(model, processor, tmp_path, change):
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], **change))
    shake(torch.nn.ParameterList([part for part in model.text_model.parameters() if part.requires_grad]))
    merged = model.interpolate_text_model(1.0)
    torch.testing.assert_close(compose(merged, processor), compose(model, processor), atol=1e-5, rtol=0)
    for use in (
        lambda: model.interpolate_text_model(0.5),
        lambda: model.original_text_model,
        lambda: merged.get_text_features(**processor(text=["a dog"])),
        lambda: merged.save_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match="'default' has changed the text tower below it"):
            use()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(tuned, alpha):
    with pytest.raises(ValueError, match=r"`alpha` .* 0 .* 1 .*got"):
        tuned.interpolate_text_model(alpha)


def test_a_model_that_rtd_has_not_trained_is_refused(model):
    with pytest.raises(ValueError, match="load a model that RTD has trained"):
        model.interpolate_text_model(0.5)


def test_one_tower_that_is_interpolated_keeps_the_other_and_claims_nothing(tuned, tmp_path):
    one = tuned.without_original_text_model({"after": 0.9})
    for alpha, measured in ((0.5, None), (1.0, {"after": 0.9})):
        model = one.interpolate_text_model(alpha)
        assert model.config.original_text_model.get("measured") == measured
        assert model.plain_text_model is tuned.original_text_model
        model.save_pretrained(tmp_path / str(alpha))
        loaded = RTDModel.from_pretrained(tmp_path / str(alpha))
        assert hash_tensors(loaded.plain_text_model) == hash_tensors(tuned.original_text_model)
    assert one.plain_text_model is one.text_model
