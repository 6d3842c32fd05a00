import pytest
import torch

from trainer.training.arguments import RTDTrainingArguments
from trainer.training.projections.lincir import LinCIRTrainingArguments


def test_defaults_are_the_published_recipe():
    args = RTDTrainingArguments(use_cpu=True)
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm, args.seed) == (1e-5, 0.01, 0.0, 12345)
    assert (args.max_steps, args.per_device_train_batch_size, args.lr_scheduler_type) == (2000, 128, "constant")
    assert (args.warmup_steps, args.dataloader_drop_last, args.temperature, args.noise_scale) == (0, True, 0.07, 0.5)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.999, 1e-8)


def test_switching_everything_off_is_refused():
    with pytest.raises(ValueError, match="nothing to train on"):
        RTDTrainingArguments(composition=False, refined_batch=False)


@pytest.mark.parametrize("argument", [{"push_to_hub": True}, {"hub_token": "hf_secret"}])
def test_a_run_is_never_uploaded_with_its_arguments(argument, tmp_path):
    with pytest.raises(ValueError, match="publish the result with `rtd publish`") as refused:
        RTDTrainingArguments(output_dir=str(tmp_path), **argument)
    assert "hf_secret" not in str(refused.value)


@pytest.mark.parametrize("arguments", [LinCIRTrainingArguments, RTDTrainingArguments])
@pytest.mark.parametrize("there", [True, False])
def test_memory_is_pinned_where_there_is_an_accelerator(arguments, there, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    args = arguments()
    assert args.dataloader_pin_memory == args.accelerator_config.non_blocking == there
    assert arguments(dataloader_pin_memory=not there).dataloader_pin_memory != there


@pytest.mark.parametrize(
    "arguments", [{"caption_weight": -1.0}, {"caption_weight": float("nan")}, {"caption_interval": 0}]
)
def test_a_term_of_plain_captions_that_is_none_is_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        RTDTrainingArguments(use_cpu=True, **arguments)


def test_condition_augmentations_are_named_once_and_in_their_order():
    arguments = {"condition_augmentation": ("typo", "rewording", "typo"), "use_cpu": True}
    assert RTDTrainingArguments(**arguments).condition_augmentation == "rewording,typo"
    assert RTDTrainingArguments(condition_augmentation="", use_cpu=True).condition_augmentation is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"condition_augmentation": "typos"}, "did you mean 'typo'"),
        ({"condition_augmentation": "typo", "composition": False}, "no effect without `composition`"),
    ],
)
def test_condition_augmentations_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RTDTrainingArguments(use_cpu=True, **arguments)
