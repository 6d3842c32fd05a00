import copy
import json
import pickle

import huggingface_hub
import pytest
import torch
from torch.testing import assert_close

from modeling_rtd import Query, RTDConfig, RTDModel, RTDTextModel, encode_composed, exclude_text, hash_tensors
from tests.factories import build_clip, build_images, shake
from trainer.training.lora import add_lora


HERE = {"repo": None, "subfolder": "original_text", "revision": None, "dtype": "float32", "sha256": "0"}


@pytest.fixture
def tuned(model):
    """A model after RTD, with another text tower than before."""
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    return model


@pytest.fixture
def read(processor):
    """What a model answers to a plain text."""

    def read(model):
        with torch.no_grad():
            return model.get_text_features(**processor(text=["a red dress"])).pooler_output

    return read


@pytest.fixture
def go_offline(hub, monkeypatch):
    def go_offline():
        hub.repos.clear()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    return go_offline


def compose(model, processor):
    with torch.no_grad():
        return model(**processor(images=build_images(2), conditions=["is red", "with the dog"])).composed_embeds


def put_up(folder, below=""):
    return {f"{below}{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_place(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["original_text_model"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def test_it_answers_plain_text_after_rtd(model, read, processor, tmp_path):
    before = read(model)
    tuned = copy.deepcopy(model.text_model)
    tuned.text_projection.weight.data.mul_(2.0)
    model.replace_text_model(tuned)
    model.save_pretrained(tmp_path)
    loaded = RTDModel.from_pretrained(tmp_path)
    assert_close(read(loaded), before, atol=1e-6, rtol=0)
    after = loaded.text_model(**processor(text=["a red dress"])).text_embeds
    assert_close(after, 2 * before, atol=1e-6, rtol=0)


def test_it_may_stay_where_it_is(clip, model, read, tmp_path):
    before = read(model)
    clip.save_pretrained(tmp_path / "clip")
    model.replace_text_model(shake(copy.deepcopy(model.text_model)), original_repo=str(tmp_path / "clip"))
    model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model/original_text").exists()
    assert_close(read(RTDModel.from_pretrained(tmp_path / "model")), before, atol=1e-6, rtol=0)


def test_another_tower_in_its_place_is_refused(tuned, tmp_path):
    tuned.save_pretrained(tmp_path)
    RTDTextModel.from_pretrained(tmp_path / "original_text").half().save_pretrained(tmp_path / "original_text")
    with pytest.raises(ValueError, match="not the one RTD started from"):
        _ = RTDModel.from_pretrained(tmp_path).original_text_model


def test_a_tower_trained_in_place_is_no_replacement(model):
    with pytest.raises(ValueError, match="trained in place.* with load_text_model"):
        model.replace_text_model(model.text_model)


def test_it_is_no_part_of_the_model(tuned):
    assert not [name for name in tuned.state_dict() if "original" in name]
    tower = tuned.original_text_model
    assert not [module for module in tuned.modules() if module is tower]
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_a_change_of_type_gives_a_copy_and_keeps_the_tower(tuned, read, tmp_path):
    before, key = read(tuned), hash_tensors(tuned.original_text_model)
    tuned.to(torch.bfloat16)
    assert read(tuned).dtype == torch.bfloat16
    assert tuned.original_text_model is tuned.original_text_model
    tuned.save_pretrained(tmp_path)
    assert hash_tensors(RTDTextModel.from_pretrained(tmp_path / "original_text")) == key
    assert_close(read(RTDModel.from_pretrained(tmp_path, dtype=torch.float32)), before, atol=1e-6, rtol=0)


def test_a_change_of_device_gives_a_copy(tuned):
    tuned.to("meta")
    assert tuned.original_text_model.device.type == "meta"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("kind", ["before", "after", "lent", "adapted"])
def test_a_duplicate_answers_as_the_model_does(model, read, duplicate, kind):
    if kind == "adapted":
        add_lora(model.text_model, r=2)
    elif kind != "before":
        model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    if kind == "lent":
        model = model.with_parts(shake(copy.deepcopy(model.text_model), seed=2), model.projection)
    twin = duplicate(model)
    assert_close(read(twin), read(model), atol=1e-6, rtol=0)
    assert kind == "before" or twin.original_text_model is not model.original_text_model


def test_a_view_without_adapters_can_be_copied(model, processor):
    add_lora(model.text_model, r=2)
    view = copy.deepcopy(model.original_text_model)
    inputs = processor(text=["a red dress"])
    assert torch.equal(view(**inputs).text_embeds, model.original_text_model(**inputs).text_embeds)


def test_with_an_adapter_it_is_the_tower_with_the_adapter_off(model, read, processor):
    before = read(model)
    add_lora(model.text_model, r=2)
    for name, parameter in model.text_model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_()
    assert_close(read(model), before, atol=1e-6, rtol=0)
    assert not torch.allclose(model.text_model(**processor(text=["a red dress"])).text_embeds, before)


def test_other_parts_read_plain_text_as_the_model_does(tuned, read):
    before = read(tuned)
    other = tuned.with_parts(shake(copy.deepcopy(tuned.text_model), seed=2), tuned.projection)
    assert other.original_text_model is tuned.original_text_model
    assert other.config.original_text_model is None
    other.replace_text_model(shake(copy.deepcopy(tuned.text_model), seed=3))
    assert not torch.equal(read(other), before)
    assert_close(read(tuned), before, atol=1e-6, rtol=0)


def test_other_parts_need_no_tower_before_plain_text_comes(tuned, tmp_path):
    tuned.save_pretrained(tmp_path)
    (tmp_path / "original_text/model.safetensors").unlink()
    loaded = RTDModel.from_pretrained(tmp_path)
    other = loaded.with_parts(loaded.text_model, loaded.projection)
    with pytest.raises(ValueError, match="before RTD.* could not be loaded"):
        _ = other.original_text_model


def test_what_lies_between_a_borrowed_tower_and_another_keeps_it_when_saved(tuned, read, tmp_path):
    other = tuned.with_parts(shake(copy.deepcopy(tuned.text_model), seed=2), tuned.projection)
    other.interpolate_text_model(0.5).save_pretrained(tmp_path)
    assert_close(read(RTDModel.from_pretrained(tmp_path)), read(tuned), atol=1e-6, rtol=0)


def test_a_model_in_a_subfolder_finds_its_tower(tuned, read, tmp_path):
    tuned.save_pretrained(tmp_path / "root/inner/model")
    loaded = RTDModel.from_pretrained(tmp_path / "root", subfolder="inner/model")
    assert_close(read(loaded), read(tuned), atol=1e-6, rtol=0)
    loaded.save_pretrained(tmp_path / "again")
    assert_close(read(RTDModel.from_pretrained(tmp_path / "again")), read(tuned), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("below", "shards"),
    [
        ("", {}),
        ("inner/", {"max_shard_size": "10KB"}),
        pytest.param("inner/", {}, marks=pytest.mark.slow),
        pytest.param("", {"max_shard_size": "10KB"}, marks=pytest.mark.slow),
    ],
    ids=["whole", "inner shards", "inner whole", "shards"],
)
def test_a_cache_warmed_once_serves_offline(tuned, read, hub, go_offline, tmp_path, below, shards):
    tuned.save_pretrained(tmp_path / "model")
    if shards:
        (tmp_path / "model/original_text/model.safetensors").unlink()
        tuned.original_text_model.save_pretrained(tmp_path / "model/original_text", **shards)
    hub.repos["org/rtd"] = put_up(tmp_path / "model", below)
    where = {"cache_dir": tmp_path / "cache", "subfolder": below.rstrip("/"), "token": "hf_secret"}
    warm = RTDModel.from_pretrained("org/rtd", **where)
    go_offline()
    for loaded in (warm, copy.deepcopy(warm), RTDModel.from_pretrained("org/rtd", **where)):
        assert_close(read(loaded), read(tuned), atol=1e-6, rtol=0)


def test_the_clip_underneath_is_fetched_along(clip, model, read, hub, go_offline, tmp_path):
    before = read(model)
    clip.save_pretrained(tmp_path / "clip")
    model.replace_text_model(shake(copy.deepcopy(model.text_model)), original_repo="org/clip")
    model.save_pretrained(tmp_path / "model")
    hub.repos |= {"org/clip": put_up(tmp_path / "clip"), "org/rtd": put_up(tmp_path / "model", "inner/")}
    where = {"cache_dir": tmp_path / "cache", "subfolder": "inner"}
    RTDModel.from_pretrained("org/rtd", **where)
    go_offline()
    assert_close(read(RTDModel.from_pretrained("org/rtd", **where)), before, atol=1e-6, rtol=0)


def test_a_tower_out_of_reach_stops_plain_text_alone(model, read, hub, processor, tmp_path):
    model.replace_text_model(shake(copy.deepcopy(model.text_model)), original_repo="org/gone")
    model.save_pretrained(tmp_path)
    loaded = RTDModel.from_pretrained(tmp_path)
    assert loaded.text_model(**processor(text=["a red dress"])).text_embeds.isfinite().all()
    with pytest.raises(ValueError, match="the text tower from before RTD.*org/gone"):
        read(loaded)


def test_a_token_stays_out_of_a_pickle(tuned, tmp_path):
    tuned.save_pretrained(tmp_path)
    assert b"hf_secret" not in pickle.dumps(RTDModel.from_pretrained(tmp_path, token="hf_secret"))


@pytest.mark.parametrize(
    ("name", "revision", "recorded"),
    [("org/clip", None, "a1b2"), ("org/clip", "v1", "v1"), ("org/copy", None, None)],
)
def test_the_commit_that_a_tower_names_is_recorded(clip, model, hub, tmp_path, name, revision, recorded):
    clip.save_pretrained(tmp_path)
    hub.repos["org/clip"] = put_up(tmp_path)
    tower = RTDTextModel.from_pretrained("org/clip")
    tower.config._commit_hash = "a1b2"
    model.set_original_text_model(tower, name, revision)
    assert model.config.original_text_model["revision"] == recorded


def test_a_folder_has_no_commit(clip, model, tmp_path):
    clip.save_pretrained(tmp_path)
    model.set_original_text_model(RTDTextModel.from_pretrained(tmp_path), str(tmp_path))
    assert model.config.original_text_model["revision"] is None


def test_a_place_that_is_changed_is_read_anew(tuned, tmp_path):
    build_clip(seed=5).save_pretrained(tmp_path)
    tuned.config.original_text_model = tuned.config.original_text_model | {"repo": str(tmp_path), "subfolder": ""}
    with pytest.raises(ValueError, match="not the one RTD started from"):
        _ = tuned.original_text_model


BAD = ["../x", "a/../../x", "/tmp/x", "", ".", "a//b", "..\\x", "C:x", None, 3]


@pytest.mark.parametrize("subfolder", BAD, ids=repr)
def test_a_place_outside_the_repository_is_refused_on_loading_and_on_saving(tuned, tmp_path, subfolder):
    tuned.save_pretrained(tmp_path / "model")
    change_place(tmp_path / "model", subfolder=subfolder)
    with pytest.raises(ValueError, match=r"names the subfolder .*original_text"):
        RTDModel.from_pretrained(tmp_path / "model")
    tuned.config.original_text_model = tuned.config.original_text_model | {"subfolder": subfolder}
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="names the subfolder"):
        tuned.save_pretrained(tmp_path / "out/model")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", [{"subfolder": "x"}, "x", [], HERE | {"dtype": "load"}], ids=repr)
def test_a_place_that_is_none_is_refused(model, place):
    config = RTDConfig(**model.config.to_dict())
    config.original_text_model = place
    with pytest.raises(ValueError, match="`original_text_model` of the configuration"):
        RTDModel(config)


def test_a_model_saved_without_it_reads_plain_text_with_its_one_tower(tuned, read, processor, tmp_path):
    with pytest.warns(UserWarning, match="rtd diagnose"):
        tuned.save_pretrained(tmp_path, keep_original=False)
    assert not (tmp_path / "original_text").exists()
    loaded = RTDModel.from_pretrained(tmp_path)
    after = loaded.text_model(**processor(text=["a red dress"])).text_embeds
    assert torch.equal(read(loaded), after)
    assert not torch.equal(read(tuned), after)  # the model itself stays as it is
    inputs = processor(text=["a red dress"])
    context = loaded.text_model(**inputs).text_embeds
    loaded.config.context_token_id = 5
    assert torch.equal(loaded.encode_context(**inputs), context)


def test_a_negative_text_is_read_by_the_one_tower(tuned, processor):
    one = tuned.without_original_text_model({"after": 0.9})
    query = Query("a red dress", negative="a dog", negative_weight=0.5)
    texts = [one.text_model(**processor(text=[text])).text_embeds for text in ("a red dress", "a dog")]
    wanted = exclude_text(*(torch.nn.functional.normalize(text, dim=-1) for text in texts), 0.5)
    assert_close(encode_composed(one, processor, [query]), wanted.detach().cpu(), atol=1e-6, rtol=0)


def test_what_was_measured_of_one_tower_is_kept_without_a_warning(tuned, tmp_path, recwarn):
    tuned.without_original_text_model({"after": 0.9}).save_pretrained(tmp_path)
    assert not [warning for warning in recwarn if "plain text" in str(warning.message)]
    assert RTDModel.from_pretrained(tmp_path).config.original_text_model["measured"] == {"after": 0.9}


def test_one_tower_finds_the_other_in_the_clip_underneath(clip, model, tmp_path):
    clip.save_pretrained(tmp_path / "clip")
    model.config.base_model = str(tmp_path / "clip")
    before = hash_tensors(model.text_model)
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    model.without_original_text_model({}).save_pretrained(tmp_path / "one")
    loaded = RTDModel.from_pretrained(tmp_path / "one")
    assert hash_tensors(loaded.original_text_model) == before
    half = loaded.interpolate_text_model(0.5)
    assert hash_tensors(half.plain_text_model) == before


def test_one_tower_without_its_clip_cannot_be_interpolated(tuned, tmp_path):
    tuned.without_original_text_model({}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="could not be loaded"):
        RTDModel.from_pretrained(tmp_path).interpolate_text_model(0.5)


def test_a_model_with_one_tower_already_is_refused(model):
    with pytest.raises(ValueError, match="no second text tower"):
        model.without_original_text_model()


@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_model_of_other_parts_is_saved_with_the_tower_that_reads_its_plain_text(
    model, processor, tmp_path, is_adapted
):
    text = processor(text=["a dog"])
    before = model.get_text_features(**text).pooler_output
    tuned = shake(copy.deepcopy(model.text_model), seed=2)
    if is_adapted:
        shake(add_lora(model.text_model).text_projection.lora_B)
    model.with_parts(tuned, model.projection).save_pretrained(tmp_path)
    loaded = RTDModel.from_pretrained(tmp_path)
    assert hash_tensors(loaded.text_model) == hash_tensors(tuned)
    assert_close(loaded.get_text_features(**text).pooler_output, before)
    assert all(part.requires_grad for name, part in model.text_model.named_parameters() if ".lora_" in name)


def test_an_interpolation_ends_at_the_two_towers_bit_for_bit(tuned, processor):
    before, after = (tuned.interpolate_text_model(alpha) for alpha in (0.0, 1.0))
    assert hash_tensors(before.text_model) == hash_tensors(tuned.original_text_model)
    assert hash_tensors(after.text_model) == hash_tensors(tuned.text_model)
    assert not torch.equal(compose(before, processor), compose(after, processor))


def test_every_interpolated_weight_is_the_weighted_mean(tuned):
    states = [tower.state_dict() for tower in (tuned.original_text_model, tuned.text_model)]
    for name, tensor in tuned.interpolate_text_model(0.3).text_model.state_dict().items():
        torch.testing.assert_close(tensor, 0.7 * states[0][name] + 0.3 * states[1][name], atol=1e-6, rtol=0)


def test_an_interpolation_leaves_the_model_and_shares_the_other_parts(tuned):
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


def test_half_types_are_interpolated_with_one_rounding(tokenizer):
    model = RTDModel.from_clip(build_clip(dtype=torch.bfloat16), "lincir", tokenizer=tokenizer)
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    first, second = (tower.text_projection.weight.double() for tower in (model.original_text_model, model.text_model))
    weight = model.interpolate_text_model(0.5).text_model.text_projection.weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, (0.5 * first + 0.5 * second).to(torch.bfloat16))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(tuned, alpha):
    with pytest.raises(ValueError, match=r"`alpha` .* 0 .* 1 .*got"):
        tuned.interpolate_text_model(alpha)


def test_a_model_that_rtd_has_not_trained_is_not_interpolated(model):
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
