"""What a trainer may be given to start from, and what comes out of it."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import IA3Config, LoHaConfig, LoraConfig, get_peft_model
from transformers import CLIPTextModelWithProjection, TrainingArguments, default_data_collator

from modeling_rtd import RTDModel, RTDProcessor, RTDTextModel, hash_tensors
from tests.factories import build_clip, build_images, build_processor, build_triplets
from trainer.publishing.provenance import read_stages
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.lora import add_lora, build_lora_config
from trainer.training.projections.trainer import ProjectionTrainer
from trainer.training.rtd_trainer import RTDTrainer


pytestmark = pytest.mark.usefixtures("undrawn")
ROWS = Dataset.from_list(build_triplets(48))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directory of a model with its CLIP beside it; not to be written to."""
    root, processor = tmp_path_factory.mktemp("start"), build_processor()
    for part in (build_clip(), processor.tokenizer, processor.image_processor):
        part.save_pretrained(root / "clip")
    torch.manual_seed(1)
    RTDModel.from_clip(str(root / "clip")).save_pretrained(root / "lincir/model")
    processor.save_pretrained(root / "lincir/model")
    return str(root / "lincir/model")


@pytest.fixture
def build_args(tmp_path):
    def build_args(name="run", **arguments):
        settings = {"max_steps": 2, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "save_strategy": "no"}
        quiet = {"use_cpu": True, "disable_tqdm": True, "anchor_cache": "never", "report_to": "none"}
        return RTDTrainingArguments(str(tmp_path / name), **(settings | quiet | arguments))

    return build_args


def compose(model, processor):
    with torch.no_grad():
        return model(**processor(images=build_images(2), conditions=["is red", "with the dog"])).composed_embeds


def test_the_lines_of_the_readme_run_as_they_stand(place, build_args, tmp_path):
    ROWS.to_json(tmp_path / "triplets.jsonl")
    trainer = RTDTrainer(model=place, args=build_args(), train_dataset=str(tmp_path / "triplets.jsonl"))
    trainer.train()
    assert trainer.save_model() == tmp_path / "run/model"
    loaded, processor = (
        RTDModel.from_pretrained(tmp_path / "run/model"),
        RTDProcessor.from_pretrained(tmp_path / "run/model"),
    )
    assert hash_tensors(loaded.text_model) == hash_tensors(trainer.model)
    before = RTDModel.from_pretrained(place)
    assert hash_tensors(loaded.original_text_model) == hash_tensors(before.text_model)
    assert [stage["stage"] for stage in read_stages(tmp_path / "run/model")] == ["rtd"]
    assert (tmp_path / "run/model/README.md").exists()
    torch.testing.assert_close(compose(loaded, processor), compose(trainer.rtd_model, processor))


def test_the_users_model_stays_as_it_is(place, build_args):
    model = RTDModel.from_pretrained(place)
    before = hash_tensors(model)
    trainer = RTDTrainer(model=model, args=build_args(), train_dataset=ROWS)
    trainer.train()
    assert hash_tensors(model) == before
    assert model.config.original_text_model is None
    assert hash_tensors(trainer.rtd_model.text_model) != hash_tensors(model.text_model)
    assert trainer.rtd_model.original_text_model is model.text_model


def test_a_model_in_memory_needs_its_processor(model, processor, build_args):
    model.config.base_model = None
    with pytest.raises(ValueError, match="processing_class="):
        RTDTrainer(model=model, args=build_args(), train_dataset=ROWS)
    RTDTrainer(model=model, args=build_args(), train_dataset=ROWS, processing_class=processor)


def build_adapted(way, place):
    """Give what a user may pass to train an adapter, and further arguments."""
    torch.manual_seed(3)
    model = RTDModel.from_pretrained(place)
    companions = {"projection": model.projection, "processing_class": RTDProcessor.from_pretrained(place)}
    tower = RTDTextModel.from_pretrained(place)
    return {
        "model": (model, {"peft_config": LoraConfig(r=4)}),
        "whole layers": (model, {"peft_config": LoraConfig(r=4, modules_to_save=["text_projection"])}),
        "rslora": (model, {"peft_config": LoraConfig(r=4, use_rslora=True)}),
        "tower": (add_lora(tower, r=4), companions),
        "peft": (get_peft_model(tower, build_lora_config(r=4)), companions),
    }[way]


SLOW_WAYS = [pytest.param(way, marks=pytest.mark.slow) for way in ("rslora", "whole layers", "peft")]


@pytest.mark.parametrize("way", ["model", "tower", *SLOW_WAYS])
def test_an_adapter_is_saved_as_it_was_trained(way, place, build_args, processor, tmp_path):
    given, arguments = build_adapted(way, place)
    trainer = RTDTrainer(model=given, args=build_args(), train_dataset=ROWS, **arguments)
    trainer.train()
    assert trainer.save_model() == tmp_path / "run/adapter"
    loaded = RTDModel.from_adapter(str(tmp_path / "run/adapter"))
    text = processor(text=["a red dress", "the small dog"])
    with torch.no_grad():
        expected = trainer.model.eval()(**text).text_embeds
        assert torch.equal(loaded.text_model(**text).text_embeds, expected)
        base = RTDTextModel.from_pretrained(place)(**text).text_embeds
    assert not torch.allclose(base, expected, atol=1e-3)
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["task_type"] is None


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(use_dora=True),
        LoraConfig(bias="all"),
        LoraConfig(init_lora_weights="pissa"),
        LoraConfig(trainable_token_indices={"token_embedding": [4]}),
        LoraConfig(modules_to_save=["final_layer_norm"]),
        IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
        LoHaConfig(target_modules=["q_proj"]),
    ],
    ids=["dora", "bias", "pissa", "tokens", "modules", "ia3", "loha"],
)
def test_adapters_that_could_not_be_loaded_again_are_refused_before_training(config, place, build_args):
    with pytest.raises(ValueError, match="cannot be saved and loaded exactly"):
        RTDTrainer(model=place, args=build_args(), train_dataset=ROWS, peft_config=config)


def test_a_tower_of_ones_own_finds_the_rest_of_its_model(place, build_args, tmp_path):
    model = RTDModel.from_pretrained(place)
    trainer = RTDTrainer(
        model=RTDTextModel.from_pretrained(place),
        args=build_args(),
        train_dataset=ROWS,
        projection=model.projection,
        processing_class=RTDProcessor.from_pretrained(place),
    )
    trainer.train()
    trainer.save_model()
    saved = RTDModel.from_pretrained(tmp_path / "run/model")
    assert hash_tensors(saved.text_model) == hash_tensors(trainer.model)
    assert hash_tensors(saved.projection) == hash_tensors(model.projection)
    assert saved.config.base_model == model.config.base_model


def test_a_tower_in_memory_is_saved_with_the_model_that_is_named(model, processor, build_args, tmp_path):
    trainer = RTDTrainer(
        model=copy.deepcopy(model.text_model),
        args=build_args(),
        train_dataset=ROWS,
        projection=model.projection,
        processing_class=processor,
    )
    trainer.train()
    with pytest.raises(ValueError, match=r"save_model\(model=...\)"):
        trainer.save_model()
    trainer.save_model(model=model)
    assert hash_tensors(RTDModel.from_pretrained(tmp_path / "run/model").text_model) == hash_tensors(trainer.model)


def test_a_tower_trained_in_place_is_saved_with_what_it_was(model, processor, build_args):
    companions = {"projection": model.projection, "processing_class": processor}
    before = hash_tensors(model.text_model)
    trainer = RTDTrainer(model=model.text_model, args=build_args(), train_dataset=ROWS, **companions)
    trainer.train()
    saved = RTDModel.from_pretrained(trainer.save_model(model=model))
    assert hash_tensors(saved.text_model) == hash_tensors(model.text_model) != before
    assert hash_tensors(saved.original_text_model) == before


def test_model_init_gives_each_training_a_fresh_tower(place, build_args):
    trials = []

    def build(trial):
        trials.append(trial)
        return place

    trainer = RTDTrainer(model_init=build, args=build_args(max_steps=1), train_dataset=ROWS)
    trainer.train()
    first = hash_tensors(trainer.model)
    trainer.train(trial=None)
    assert hash_tensors(trainer.model) == first
    assert trials == [None, None, None]
    assert hash_tensors(trainer.rtd_model.text_model) == first


def test_model_init_must_return_the_same_model(place, build_args, model):
    models = [RTDModel.from_pretrained(place), RTDModel.from_pretrained(place)]
    with torch.no_grad():
        models[1].text_model.text_projection.weight.mul_(2)
    trainer = RTDTrainer(model_init=lambda: models.pop(0), args=build_args(), train_dataset=ROWS)
    with pytest.raises(ValueError, match="another text_model"):
        trainer.train()


def test_a_trainer_without_triplets_evaluates(place, build_args):
    trainer = RTDTrainer(model=place, args=build_args(), eval_dataset=ROWS)
    assert trainer.evaluate().keys() >= {"eval_text_recall@1", "eval_text_recall@10"}
    with pytest.raises(ValueError, match="nothing to save"):
        trainer.save_model()


def test_text_side_recall_reads_references_by_the_tower_from_before_rtd(place, build_args, tmp_path):
    trainer = RTDTrainer(model=place, args=build_args(max_steps=8), train_dataset=ROWS, eval_dataset=ROWS)
    trainer.train()
    trainer.save_model()
    again = RTDTrainer(model=tmp_path / "run/model", args=build_args("judge"), eval_dataset=ROWS)
    recall = [one.evaluate()["eval_text_recall@10"] for one in (again, trainer)]
    assert recall[0] == recall[1] > 0


def test_own_metrics_read_composed_and_target_embeddings(place, build_args):
    def measure(prediction):
        same = prediction.predictions.shape == prediction.label_ids.shape == (48, 24)
        return {"same": float(same and not np.allclose(prediction.predictions, prediction.label_ids))}

    trainer = RTDTrainer(model=place, args=build_args(), eval_dataset=ROWS, compute_metrics=measure)
    assert trainer.evaluate()["eval_same"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"compute_loss_func": print}, {}, "compute_loss_func"),
        ({}, {"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({}, {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}, "metric_for_best"),
        ({}, {"metric_for_best_model": "text_recal@10"}, "did you mean 'text_recall@10'"),
        ({"images": "folder"}, {}, "leave images out"),
        ({"model_init": print}, {}, "one of the two"),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else None,
)
def test_what_would_have_no_effect_is_refused(arguments, settings, message, place, build_args):
    with pytest.raises(ValueError, match=message):
        RTDTrainer(model=place, args=build_args(**settings), train_dataset=ROWS, eval_dataset=ROWS, **arguments)


def test_other_models_and_arguments_are_refused_by_name(place, build_args, tmp_path):
    stock = CLIPTextModelWithProjection.from_pretrained(Path(place).parents[1] / "clip")
    with pytest.raises(ValueError, match="CLIPTextModelWithProjection.*pseudo-words"):
        RTDTrainer(model=stock, args=build_args(), train_dataset=ROWS)
    wrapped = get_peft_model(RTDModel.from_pretrained(place), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"PeftModel of a RTDModel.*peft_config="):
        RTDTrainer(model=wrapped, args=build_args(), train_dataset=ROWS)
    with pytest.raises(ValueError, match=r"`peft_config` is a dict"):
        RTDTrainer(model=place, args=build_args(), train_dataset=ROWS, peft_config={"r": 4})
    with pytest.raises(ValueError, match="RTDTrainingArguments"):
        RTDTrainer(model=place, args=TrainingArguments(str(tmp_path / "x")), train_dataset=ROWS)


@pytest.mark.parametrize("trainer", [RTDTrainer, ProjectionTrainer])
def test_a_processor_of_another_family_is_refused_by_both_names(trainer, model, processor, build_args):
    other = RTDProcessor(processor.image_processor, processor.tokenizer, family="siglip")
    args = build_args() if trainer is RTDTrainer else None
    with pytest.raises(ValueError, match="made for siglip.*of clip"):
        trainer(model, args, train_dataset=ROWS, processing_class=other)


def test_an_optimiser_of_weights_that_are_not_trained_is_refused(place, build_args):
    model = RTDModel.from_pretrained(place)  # a copy of its tower is trained
    optimizer = torch.optim.SGD(model.text_model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"none of the weights.*optimizer_cls_and_kwargs"):
        RTDTrainer(model=model, args=build_args(), train_dataset=ROWS, optimizers=(optimizer, None))


def test_batches_of_another_collator_are_refused_by_what_they_hold(place, build_args):
    RTDTrainer(model=place, args=build_args(), train_dataset=ROWS, data_collator=None).train()
    other = RTDTrainer(model=place, args=build_args("b"), train_dataset=ROWS, data_collator=default_data_collator)
    with pytest.raises(ValueError, match=r"a batch of \['row'\].*HardNegativeTripletCollator"):
        other.train()


def test_predictions_are_refused(place, build_args):
    with pytest.raises(ValueError, match="makes no predictions: `evaluate`"):
        RTDTrainer(model=place, args=build_args(), eval_dataset=ROWS).predict(ROWS)


def test_a_model_after_rtd_is_not_trained_again(place, build_args, tmp_path):
    trainer = RTDTrainer(model=place, args=build_args(), train_dataset=ROWS)
    trainer.train()
    with pytest.raises(ValueError, match="is trained with RTD already"):
        RTDTrainer(model=trainer.rtd_model, args=build_args(), train_dataset=ROWS, processing_class=trainer.processor)


def test_anchors_of_an_adapters_base_do_not_change_by_dropout(build_args, processor, model):
    model.text_model.config.attention_dropout = 0.5
    for layer in model.text_model.encoder.layers:
        layer.self_attn.dropout = 0.5
    tower = add_lora(model.text_model, r=4).train()
    companions = {"projection": model.projection, "processing_class": processor}
    trainer = RTDTrainer(model=tower, args=build_args(), train_dataset=ROWS, **companions)
    tower.train()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    first, second = (trainer._encode_anchors(batch)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert tower.training


def test_what_was_saved_is_published_after_the_checks_of_rtd_publish(place, build_args, hub):
    trainer = RTDTrainer(model=place, args=build_args(), train_dataset=ROWS)
    trainer.train()
    without = ["evaluation", "alignment"]
    with pytest.raises(ValueError, match="the card lacks facts"):
        trainer.push_to_hub("org/mine", "none", "apache-2.0")
    assert "org/mine" not in hub.repos
    trainer.push_to_hub("org/mine", "none", "apache-2.0", without=without)
    assert {"model.safetensors", "README.md", "modeling_rtd.py"} <= hub.repos["org/mine"].keys()
    assert not [name for name in hub.repos["org/mine"] if name.endswith(".bin")]
    with pytest.raises(ValueError, match="rtd publish"):
        trainer.rtd_model.push_to_hub("org/other")


def test_hyperparameter_search_finds_the_trial_that_trained(place, build_args):
    optuna = pytest.importorskip("optuna", reason="hyperparameter search runs where optuna is installed")
    rates = [0.0, 1e-2]
    trainer = RTDTrainer(model_init=lambda: place, args=build_args(max_steps=4), train_dataset=ROWS, eval_dataset=ROWS)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", rates)},
        compute_objective=lambda metrics: metrics["eval_text_recall@10"],
        n_trials=2,
        direction="maximize",
        backend="optuna",
        sampler=optuna.samplers.GridSampler({"learning_rate": rates}),
    )
    assert best.hyperparameters["learning_rate"] == 1e-2


def test_a_trial_of_a_search_trains_with_its_own_arguments(place, build_args):
    trainer = RTDTrainer(model_init=lambda: place, args=build_args(), train_dataset=ROWS)
    assert "plain_index" not in trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    trainer.args.caption_weight = 10.0
    trainer._hp_search_setup(None)
    assert trainer.run_facts["caption_weight"] == 10.0
    assert trainer.data_collator.caption_interval == 1
    trainer.args.noise_unit = "rms"
    with pytest.raises(ValueError, match="noise_unit"):
        trainer._hp_search_setup(None)
