import copy
import functools
import json

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model

from modeling_rtd import RTDModel, RTDTextModel, has_adapters, hash_tensors, load_projection
from tests.factories import build_clip, build_images, build_processor, build_tokenizer, build_triplets
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.lora import add_lora, build_lora_config, merge_adapter
from trainer.training.rtd_trainer import RTDTrainer


ROWS = build_triplets(48)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directory of a CLIP."""
    place = tmp_path_factory.mktemp("base") / "clip"
    build_clip().save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    return str(place)


def train_adapter(place, folder, model=None, name="adapter", steps=4, seed=1, tower=None, **arguments):
    """Train an adapter on a base."""
    torch.manual_seed(seed)
    model = model or RTDModel.from_clip(place, "lincir")
    tower = tower or (model.text_model if has_adapters(model.text_model) else add_lora(model.text_model, r=4))
    args = RTDTrainingArguments(
        **{
            "output_dir": str(folder / f"run-{name}"),
            "max_steps": steps,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "anchor_cache": "never",
            "seed": seed,
            "logging_steps": 1,
        }
        | arguments
    )
    trainer = RTDTrainer(
        tower,
        args,
        projection=model.projection,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=build_processor(),
    )
    trainer.train()
    return model.eval(), trainer


@pytest.fixture
def train(place, tmp_path):
    return functools.partial(train_adapter, place, tmp_path)


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    """A model with a trained adapter, and its trainer; not to be changed."""
    return train_adapter(place, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def tuned(trained):
    """A copy of the model with a trained adapter."""
    return copy.deepcopy(trained[0])


def compose(model, processor):
    with torch.no_grad():
        return model(**processor(images=build_images(2), conditions=["is red", "with the dog"])).composed_embeds


def test_a_fresh_adapter_changes_nothing_bit_for_bit(model, processor):
    before = compose(model, processor)
    add_lora(model.text_model)
    assert torch.equal(compose(model, processor), before)


def test_only_linear_layers_of_the_text_tower_are_adapted_alone_or_inside_a_model(model):
    whole = get_peft_model(copy.deepcopy(model), build_lora_config())
    adapted = {name.split(".lora_")[0] for name, _ in whole.named_parameters() if ".lora_" in name}
    assert len(adapted) == 2 * 6 + 1
    assert all(".text_model." in name for name in adapted)
    alone = add_lora(model.text_model)
    assert len({name.split(".lora_")[0] for name, _ in alone.named_parameters() if ".lora_" in name}) == 13


def test_training_moves_the_adapter_and_leaves_the_base_bit_for_bit(trained, place):
    tuned, trainer = trained
    assert trainer._frozen is None  # anchors come from the base, so one tower is in memory
    base = RTDTextModel.from_pretrained(place)
    assert hash_tensors(tuned.text_model) == hash_tensors(base)
    for name, parameter in tuned.text_model.named_parameters():
        assert parameter.requires_grad is (".lora_" in name)
        if ".lora_B" in name:
            assert parameter.abs().max() > 0, name


def test_the_adapter_disabled_is_the_base_bit_for_bit(tuned, processor):
    inputs = processor(text=["a red dress", "the small dog"])
    expected = copy.deepcopy(tuned.text_model)
    expected.delete_adapter("default")
    with torch.no_grad():
        assert torch.equal(tuned.get_text_features(**inputs).pooler_output, expected(**inputs).text_embeds)
        assert not torch.allclose(tuned.text_model(**inputs).text_embeds, expected(**inputs).text_embeds, atol=1e-2)


def test_anchors_with_an_adapter_equal_those_of_a_frozen_copy(train, place):
    losses = []
    for adapted in (True, False):
        model = RTDModel.from_clip(place, load_projection_once(place))
        tower = add_lora(model.text_model, r=4) if adapted else model.text_model
        _, trainer = train(model=model, tower=tower, name=str(adapted), steps=1)
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def load_projection_once(place):
    torch.manual_seed(5)
    return RTDModel.from_clip(place, "lincir").projection


def test_a_peft_model_of_the_tower_trains_alike(train, place):
    losses = []
    for wraps in (True, False):
        model = RTDModel.from_clip(place, load_projection_once(place))
        torch.manual_seed(2)
        tower = get_peft_model(model.text_model, build_lora_config(r=4)) if wraps else add_lora(model.text_model, r=4)
        _, trainer = train(model=model, tower=tower, name=str(wraps))
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_an_adapter_repository_gives_the_same_model(tuned, processor, tmp_path):
    tuned.save_adapter(tmp_path / "adapter")
    loaded = RTDModel.from_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(compose(loaded, processor), compose(tuned, processor), atol=1e-6, rtol=0)


def test_an_adapter_repository_names_base_and_task_type(tuned, place, tmp_path):
    tuned.save_adapter(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == place
    assert config["task_type"] is None
    assert load_projection(str(tmp_path / "adapter/projection")).config.projection_type == "lincir"


def test_merged_equals_adapter(tuned, processor, place, tmp_path):
    tuned.save_adapter(tmp_path / "adapter")
    merged = merge_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(compose(merged, processor), compose(tuned, processor), atol=2e-6, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    loaded = RTDModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(compose(loaded, processor), compose(tuned, processor), atol=2e-6, rtol=0)
    text = processor(text=["a dog"])
    with torch.no_grad():
        before = RTDTextModel.from_pretrained(place)(**text).text_embeds
        torch.testing.assert_close(loaded.get_text_features(**text).pooler_output, before, atol=1e-6, rtol=0)


def test_an_adapter_is_trained_on(train, tuned, processor, tmp_path):
    tuned.save_adapter(tmp_path / "adapter")
    again = RTDModel.from_adapter(str(tmp_path / "adapter"), is_trainable=True)
    before = compose(again.eval(), processor)
    train(model=again, name="again")
    assert not torch.allclose(compose(again.eval(), processor), before, atol=1e-3)


def test_adapters_are_swapped_on_one_base(train, tuned, processor, tmp_path):
    first = tuned
    first.save_adapter(tmp_path / "first")
    second, _ = train(model=RTDModel.from_clip(first.config.base_model, first.projection), name="second", seed=7)
    second.save_adapter(tmp_path / "second")
    model = RTDModel.from_adapter(str(tmp_path / "first"))
    model.load_adapter(str(tmp_path / "second"), "second")
    torch.testing.assert_close(compose(model, processor), compose(second, processor), atol=1e-6, rtol=0)
    model.set_adapter("default")
    torch.testing.assert_close(compose(model, processor), compose(first, processor), atol=1e-6, rtol=0)


def test_an_adapter_with_another_projection_is_refused(train, tuned, place, tmp_path):
    tuned.save_adapter(tmp_path / "first")
    other, _ = train(model=RTDModel.from_clip(place, "lincir"), name="other", seed=5)
    other.save_adapter(tmp_path / "other")
    with pytest.raises(ValueError, match="trained with another projection"):
        RTDModel.from_adapter(str(tmp_path / "first")).load_adapter(str(tmp_path / "other"), "other")


def test_plain_text_leaves_a_disabled_adapter_disabled(tuned, processor):
    tuned.text_model.disable_adapters()
    before = compose(tuned, processor)
    tuned.get_text_features(**processor(text="a dog"))
    assert torch.equal(compose(tuned, processor), before)


def test_a_resumed_adapter_equals_a_straight_one_bit_for_bit(train, place):
    settings = {"save_strategy": "steps", "save_steps": 2, "steps": 4}
    projection = load_projection_once(place)
    straight, _ = train(model=RTDModel.from_clip(place, projection), name="straight", **settings)
    model = RTDModel.from_clip(place, projection)
    _, trainer = train(model=model, name="straight-too", **settings)
    for ours, theirs in zip(model.text_model.parameters(), straight.text_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    fresh = RTDModel.from_clip(place, projection)
    torch.manual_seed(99)  # another initialisation, which the checkpoint overwrites
    resumed = RTDTrainer(
        add_lora(fresh.text_model, r=4),
        trainer.args,
        projection=projection,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=trainer.processor,
    )
    resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    for ours, theirs in zip(fresh.text_model.parameters(), straight.text_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_another_base_is_refused_with_its_place_and_shapes(tuned, tokenizer, tmp_path):
    tuned.save_adapter(tmp_path / "adapter")
    for name, other in {"same": build_clip(seed=3), "wide": build_clip(hidden_size=64)}.items():
        other.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"another base than .*same.* \(32, 2\)"):
        RTDModel.from_adapter(str(tmp_path / "adapter"), base=str(tmp_path / "same"))
    with pytest.raises(ValueError, match="made for .*32.*the backbone has .*64"):
        RTDModel.from_adapter(str(tmp_path / "adapter"), base=str(tmp_path / "wide"))


@pytest.mark.filterwarnings("ignore:Could not find a config file")  # peft looks for the base, too
def test_a_base_that_is_not_there_is_named(tuned, tmp_path):
    place = tuned.config.base_model = str(tmp_path / "moved")
    tuned.save_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=f"trained on '{place}'.* pass base="):
        RTDModel.from_adapter(str(tmp_path / "adapter"))
