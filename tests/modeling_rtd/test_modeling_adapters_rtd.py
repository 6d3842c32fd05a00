import copy
import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_rtd import RTDModel, RTDTextModel, has_adapters, hash_tensors
from tests.factories import build_images, shake
from trainer.training.lora import add_lora


@pytest.fixture
def place(model, processor, tmp_path):
    """Directory of a model, on which adapters are trained."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def save(place, tmp_path):
    """Save the directory of an adapter as if it had been trained, and give the model with it."""

    def save(name="adapter", seed=0, dtype=torch.float32, **config):
        model = RTDModel.from_pretrained(place, dtype=dtype)
        model.config.base_model = place
        model.add_adapter(LoraConfig(**{"r": 4, "target_modules": ["q_proj", "fc1", "text_projection"]} | config))
        shake(
            torch.nn.ParameterList([p for n, p in model.named_parameters() if p.requires_grad and "text_model" in n]),
            seed,
        )
        model.save_adapter(tmp_path / name)
        return str(tmp_path / name), model.eval()

    return save


@pytest.fixture
def compose(processor):
    """Compose two queries."""
    inputs = processor(images=build_images(2), conditions=["is red", "with the dog"])

    def compose(model, **arguments):
        with torch.no_grad():
            return model(**inputs, **arguments).composed_embeds

    return compose


@pytest.fixture
def adapted(model):
    add_lora(model.text_model, r=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.text_model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def damage(adapter, change):
    path = Path(adapter, "adapter_model.safetensors")
    save_file(change(load_file(path)), path, {"format": "pt"})


def test_a_subfolder_is_that_of_the_adapter_and_not_of_its_base(save, place, compose):
    adapter, trained = save()
    folder = Path(adapter)
    loaded = RTDModel.from_adapter(str(folder.parent), base=place, subfolder=folder.name)
    torch.testing.assert_close(compose(loaded.eval()), compose(trained), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear", "lora_alpha": 3},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"use_rslora": True}, marks=pytest.mark.slow),
    ],
)
def test_an_adapter_gives_the_same_embeddings_by_every_loader(save, place, compose, config):
    adapter, trained = save(**config)
    expected = compose(trained)
    assert not torch.allclose(expected, compose(RTDModel.from_pretrained(place)), atol=1e-2)
    loaded = RTDModel.from_pretrained(place)
    loaded.load_adapter(adapter)
    towers = [
        PeftModel.from_pretrained(RTDTextModel.from_pretrained(place), adapter).merge_and_unload(),
        AutoPeftModel.from_pretrained(adapter, import_allowlist=["modeling_rtd"]).get_base_model(),
    ]
    ways = [loaded, RTDModel.from_adapter(adapter, base=place), AutoModel.from_pretrained(adapter)]
    ways += [loaded.with_parts(tower, loaded.projection) for tower in towers]
    for way in ways:
        torch.testing.assert_close(compose(way.eval()), expected, atol=1e-6, rtol=0)
    merged = loaded.interpolate_text_model(1.0)
    assert not has_adapters(merged.text_model)
    torch.testing.assert_close(compose(merged), expected, atol=1e-6, rtol=0)


def test_an_adapter_of_half_precision_loads_as_it_was_saved(save, place, compose):
    adapter, trained = save(dtype=torch.bfloat16)
    loaded = RTDModel.from_pretrained(place, dtype=torch.bfloat16)
    loaded.load_adapter(adapter)
    assert torch.equal(compose(loaded), compose(trained))


def test_an_adapter_is_hot_swapped_and_chosen_by_query(save, place, compose):
    (first, one), (second, two) = save("first", 1), save("second", 2)
    model = RTDModel.from_pretrained(place)
    base = compose(model)
    model.load_adapter(first, "a")
    model.load_adapter(second, "b")
    assert model.active_adapters() == ["b"]
    mixed = compose(model, adapter_names=["a", "b"])
    torch.testing.assert_close(mixed, torch.stack([compose(one)[0], compose(two)[1]]), atol=1e-6, rtol=0)
    model.text_model.load_adapter(first, "b", hotswap=True)
    torch.testing.assert_close(compose(model), compose(one), atol=1e-6, rtol=0)
    model.disable_adapters()
    assert torch.equal(compose(model), base)
    model.enable_adapters()
    model.delete_adapter("b")
    model.set_adapter("a")
    torch.testing.assert_close(compose(model), compose(one), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {name.replace("encoder", "decoder"): tensor for name, tensor in tensors.items()},
        lambda tensors: dict(list(tensors.items())[::2]),
        lambda tensors: {name: tensor * 1.01 for name, tensor in tensors.items()},
        lambda tensors: {},
    ],
    ids=["renamed", "half", "changed", "none"],
)
def test_an_adapter_whose_tensors_are_not_all_there_is_refused_and_leaves_nothing(save, place, compose, change):
    adapter, _ = save()
    damage(adapter, change)
    model = RTDModel.from_pretrained(place)
    before, base = hash_tensors(model.text_model), compose(model)
    with pytest.raises(ValueError, match="is damaged"):
        model.load_adapter(adapter)
    assert not has_adapters(model.text_model)
    assert hash_tensors(model.text_model) == before
    assert torch.equal(compose(model), base)
    with pytest.raises(ValueError, match="is damaged"):
        RTDModel.from_adapter(adapter, base=place)


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": 99},
        {"use_rslora": True},
        {"alpha_pattern": {"fc1": 20}},
        {"init_lora_weights": "pissa"},
        {"alora_invocation_tokens": [1]},
        {"trainable_token_indices": [0]},
        {"peft_type": "EVIL"},
        {"peft_type": ["LORA"]},
        {"init_lora_weights": {}},
    ],
    ids=str,
)
def test_an_adapter_whose_configuration_was_changed_is_refused_and_leaves_nothing(save, place, change):
    adapter, _ = save()
    config = Path(adapter, "adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    model = RTDModel.from_pretrained(place)
    before = hash_tensors(model.text_model)
    with pytest.raises(ValueError, match=r"is damaged.*adapter_config.json|adapter_config.json' is damaged"):
        model.load_adapter(adapter)
    assert not has_adapters(model.text_model)
    assert hash_tensors(model.text_model) == before


@pytest.mark.parametrize("lacking", [{"scaling_sha256"}, {"scaling_sha256", "adapter_sha256"}])
def test_an_adapter_of_an_earlier_version_has_no_hashes(save, place, compose, lacking):
    adapter, trained = save()
    facts = Path(adapter, "rtd_adapter.json")
    facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if k not in lacking}))
    torch.testing.assert_close(
        compose(RTDModel.from_adapter(adapter, base=place)), compose(trained), atol=1e-6, rtol=0
    )


def test_a_tower_that_peft_wraps_is_not_saved_as_an_adapter(model, tmp_path):
    wrapped = get_peft_model(copy.deepcopy(model.text_model), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="PeftModel\\s+through itself"):
        model.with_parts(wrapped, model.projection).save_adapter(tmp_path)


@pytest.mark.parametrize("name", ["", "a.b", "__base__", 3, None, ["x"], "layers"])
def test_a_name_that_no_adapter_may_have_is_refused(save, place, name):
    with pytest.raises(ValueError, match="`adapter_name`"):
        RTDModel.from_pretrained(place).load_adapter(save()[0], name)


@pytest.mark.parametrize("names", ["a", 3, ["zz", None], [[], None], [{}, None], ["", None]])
def test_names_of_adapters_are_a_list_of_those_that_are_there(model, compose, names):
    with pytest.raises(ValueError, match="adapter"):
        compose(model, adapter_names=names)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (LoraConfig(r=4, target_modules=["q_proj"], use_dora=True), "use_dora"),
        (LoraConfig(r=4, target_modules=["q_proj"], bias="all"), "bias"),
        (LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa"), "pissa"),
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "IA3"),
        (LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3]), "trainable_token_indices"),
        (LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["final_layer_norm"]), "final_layer_norm"),
    ],
)
def test_an_adapter_that_could_not_be_loaded_is_not_saved(place, compose, tmp_path, config, what):
    model = RTDModel.from_pretrained(place)
    model.add_adapter(config)
    shake(torch.nn.ParameterList([part for part in model.text_model.parameters() if part.requires_grad]))
    with pytest.raises(ValueError, match=f"since it has .*{what}.*replace_text_model"):
        model.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    whole = RTDModel.from_pretrained(place)
    whole.replace_text_model(model.interpolate_text_model(1.0).text_model)
    torch.testing.assert_close(compose(whole), compose(model.eval()), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:Adapter .* have invalid shape")  # peft: of any bias of LoRA
@pytest.mark.parametrize("whole", ["text_projection", "token_embedding"])
def test_layers_that_are_trained_whole_are_an_adapters_own(save, place, compose, whole):
    config = {"target_modules": ["q_proj"], "modules_to_save": [whole], "lora_bias": True}
    (one, first), (two, second) = (save(name, seed, **config) for seed, name in enumerate(("one", "two")))
    base = compose(RTDModel.from_pretrained(place))
    model = RTDModel.from_adapter(one, base=place).eval()
    model.load_adapter(two, "two")
    mixed = compose(model, adapter_names=["default", "two"])
    torch.testing.assert_close(mixed, torch.stack([compose(first)[0], compose(second)[1]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(compose(model, adapter_names=["__base__"] * 2), base, atol=1e-6, rtol=0)
    damage(one, lambda tensors: {n: tensor + (whole in n) for n, tensor in tensors.items()})
    with pytest.raises(ValueError, match="is damaged"):
        RTDModel.from_adapter(one, base=place)


def test_an_adapter_that_names_a_module_to_import_is_refused(save, place):
    adapter, _ = save()
    path = Path(adapter, "adapter_config.json")
    facts = json.loads(path.read_text()) | {"megatron_core": "antigravity", "megatron_config": {"a": 1}}
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="`megatron_config`"):
        RTDModel.from_pretrained(place).load_adapter(adapter)


def test_a_refused_adapter_leaves_those_that_are_there(save, place, compose):
    (good, trained), (bad, _) = save("good", 1), save("bad", 2)
    damage(bad, lambda tensors: dict(list(tensors.items())[1:]))
    model = RTDModel.from_pretrained(place)
    model.load_adapter(good, "good")
    with pytest.raises(ValueError, match="is damaged"):
        model.load_adapter(bad, "bad")
    assert model.active_adapters() == ["good"]
    torch.testing.assert_close(compose(model), compose(trained), atol=1e-6, rtol=0)


def test_a_fresh_adapter_is_put_on_the_text_tower_alone(model, compose):
    before = compose(model)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    adapted = {name.partition(".")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {"text_model"}
    assert model.active_adapters() == ["default"]
    assert torch.equal(compose(model), before)
    assert model.visual_projection.weight.requires_grad


def test_what_is_not_an_adapter_is_named(save, place, model, tmp_path):
    adapter, _ = save()
    for tower in (RTDModel, RTDTextModel):
        with pytest.raises(ValueError, match=r"load (it|an adapter) with RTDModel\.from_adapter"):
            tower.from_pretrained(adapter)
    bare = tmp_path / "checkpoint-500"
    copy.deepcopy(RTDModel.from_adapter(adapter, base=place)).text_model.save_pretrained(bare)
    for load in (RTDModel.from_pretrained, RTDModel.from_adapter, model.load_adapter):
        with pytest.raises(ValueError, match="an adapter without a projection"):
            load(str(bare))
    for load in (RTDModel.from_adapter, model.load_adapter):
        with pytest.raises(ValueError, match="is not an adapter: load it with RTDModel.from_pretrained"):
            load(place)
        with pytest.raises(ValueError, match="no adapter was found"):
            load("nowhere/nothing")


def test_an_adapter_names_the_class_of_its_tower(save):
    config = json.loads(Path(save()[0], "adapter_config.json").read_text())
    assert config["auto_mapping"] == {"base_model_class": "RTDTextModel", "parent_library": "modeling_rtd"}


def test_a_model_with_an_adapter_is_not_saved_as_a_whole(model, tmp_path):
    add_lora(model.text_model)
    with pytest.raises(ValueError, match="save_adapter"):
        model.save_pretrained(tmp_path)


def test_a_model_without_an_adapter_has_none_to_save(model, tmp_path):
    with pytest.raises(ValueError, match="no adapter"):
        model.save_adapter(tmp_path)


def test_an_adapter_is_not_loaded_as_a_whole_model(model, tmp_path, hub):
    add_lora(model.text_model)
    model.save_adapter(tmp_path / "adapter")
    hub.repos["org/adapter"] = {path.name: path.read_bytes() for path in (tmp_path / "adapter").glob("*.*")}
    message = r"adapter' is an adapter: load it with RTDModel.from_adapter\('.*adapter'\)"
    for place in (tmp_path / "adapter", "org/adapter"):
        with pytest.raises(ValueError, match=message):
            RTDModel.from_pretrained(place)
    with pytest.raises(ValueError, match=message):
        RTDModel.from_pretrained(tmp_path, subfolder="adapter")
    for load in (RTDModel.from_pretrained, RTDModel.from_adapter):
        with pytest.raises(ValueError, match="is a run: name '.*adapter'"):
            load(tmp_path)


def test_an_interpolation_scales_an_adapter_in_its_weights(adapted):
    layer = adapted.text_model.text_projection
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    weight = adapted.interpolate_text_model(0.25).text_model.text_projection.weight
    torch.testing.assert_close(weight, layer.base_layer.weight + 0.25 * update, atol=1e-6, rtol=0)


def test_an_interpolation_of_an_adapter_ends_at_its_base_and_the_merged_tower(adapted, compose, tmp_path):
    after = compose(adapted)
    torch.testing.assert_close(compose(adapted.interpolate_text_model(1.0)), after, atol=1e-5, rtol=0)
    base = adapted.interpolate_text_model(0.0)
    adapted.text_model.disable_adapters()
    before = compose(adapted)
    assert torch.equal(compose(base), before)
    assert not torch.allclose(before, after, atol=1e-3)
    base.save_pretrained(tmp_path)
    assert torch.equal(compose(RTDModel.from_pretrained(tmp_path)), before)


def test_layers_that_an_adapter_trains_whole_are_interpolated_too(model):
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["text_projection"], "task_type": None}
    model.text_model.add_adapter(LoraConfig(r=4, **settings))
    layer = model.text_model.text_projection
    shake(layer.modules_to_save["default"])
    first, second = layer.original_module.weight, layer.modules_to_save["default"].weight
    assert not torch.equal(first, second)
    weight = model.interpolate_text_model(0.5).text_model.text_projection.weight
    torch.testing.assert_close(weight, (first + second) / 2)


def compose_two(model, processor):
    with torch.no_grad():
        return model(**processor(images=build_images(2), conditions=["is red", "with the dog"])).composed_embeds


def test_tokens_that_an_adapter_trains_are_merged(model, processor):
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3, 5], lora_bias=True))
    before = compose_two(model.interpolate_text_model(0.0), processor)
    shake(torch.nn.ParameterList([part for part in model.text_model.parameters() if part.requires_grad]))
    after = compose_two(model, processor)
    torch.testing.assert_close(compose_two(model.interpolate_text_model(1.0), processor), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(compose_two(model.interpolate_text_model(0.0), processor), before, atol=1e-5, rtol=0)
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("change", [{"init_lora_weights": "pissa"}, {"bias": "all"}, {"bias": "lora_only"}], ids=str)
def test_an_adapter_that_has_changed_its_base_has_no_tower_from_before(model, processor, tmp_path, change):
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], **change))
    shake(torch.nn.ParameterList([part for part in model.text_model.parameters() if part.requires_grad]))
    merged = model.interpolate_text_model(1.0)
    torch.testing.assert_close(compose_two(merged, processor), compose_two(model, processor), atol=1e-5, rtol=0)
    for use in (
        lambda: model.interpolate_text_model(0.5),
        lambda: model.original_text_model,
        lambda: merged.get_text_features(**processor(text=["a dog"])),
        lambda: merged.save_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match="'default' has changed the text tower below it"):
            use()


@pytest.mark.parametrize("other", ["dress2", "s"])
def test_an_adapter_is_saved_beside_one_whose_name_is_like_its_own(save, place, tmp_path, other):
    adapter, _ = save()
    model = RTDModel.from_pretrained(place)
    for name in ("dress", other):
        model.load_adapter(adapter, name)
    model.set_adapter("dress")
    model.save_adapter(tmp_path / "again")
    assert Path(tmp_path, "again", "adapter_model.safetensors").is_file()


def test_an_adapter_that_changed_the_tower_below_it_is_not_removed_alone(place):
    model = RTDModel.from_pretrained(place)
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="replace_text_model"):
        model.delete_adapter("default")
