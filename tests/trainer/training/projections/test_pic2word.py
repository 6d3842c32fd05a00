import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from modeling_rtd import RTDModel
from tests.factories import build_images
from trainer.training.projections.pic2word import Pic2WordTrainingArguments, crop_randomly
from trainer.training.projections.trainer import ProjectionTrainer


@pytest.fixture
def build(clip, tokenizer, processor, tmp_path):
    """Build a trainer of a fresh Pic2Word projection."""

    def build(source=None, **arguments):
        torch.manual_seed(0)
        model = RTDModel.from_clip(clip, "pic2word", tokenizer=tokenizer)
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "weight_decay": 0.01,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return ProjectionTrainer(
            model,
            Pic2WordTrainingArguments(**(defaults | arguments)),
            train_dataset=Dataset.from_dict({"image": build_images(12)}) if source is None else source,
            processing_class=processor.with_template("pic2word"),
        )

    return build


def test_its_own_prompt_has_a_comma_and_rtds_has_not(processor):
    assert processor.prompt_templates["pic2word"] == "a photo of $ , {condition}"
    assert processor.prompt_templates["rtd"] == "a photo of $ that {condition}"
    assert processor.with_template("pic2word")(conditions="is red")["input_ids"].tolist() == [
        [1, 5, 6, 7, 4, 9, 13, 19, 3]
    ]


def test_the_loss_is_symmetric_info_nce_at_clips_own_scale(build):
    trainer = build(augment=False)
    model, projection = trainer.objective.model, trainer.model.eval()
    batch = trainer.data_collator(list(trainer.train_dataset.select(range(8))))
    loss = trainer.objective.compute_loss(projection, batch, epoch=0).item()
    with torch.no_grad():
        pixels = trainer.processor(images=build_images(12)[:8])["pixel_values"]
        image = model.get_image_features(pixels).pooler_output
        words = projection(image)[0]
        prompts = torch.tensor([[1, 5, 6, 7, 4, 3]] * 8)
        text = model.text_model(prompts, pseudo_token_embeds=words).text_embeds
    u = (image / image.norm(dim=1, keepdim=True)).double().numpy()
    t = (text / text.norm(dim=1, keepdim=True)).double().numpy()
    scores = np.exp(np.exp(float(model.logit_scale)) * u @ t.T)
    expected = -(np.log(np.diag(scores) / scores.sum(1)).mean() + np.log(np.diag(scores) / scores.sum(0)).mean()) / 2
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("augment", [True, False])
def test_training_moves_the_projection_and_lowers_the_loss(build, augment):
    trainer = build(augment=augment, max_steps=40, logging_steps=10)
    before = {name: tensor.clone() for name, tensor in trainer.objective.model.state_dict().items()}
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    for name, tensor in trainer.objective.model.state_dict().items():
        assert torch.equal(tensor, before[name]) is not name.startswith("projection."), name


def test_biases_do_not_decay(build):
    trainer = build(augment=False)
    assert trainer.get_decay_parameter_names(trainer.model) == [
        "layers.0.0.weight",
        "layers.1.0.weight",
        "fc_out.weight",
    ]


def test_an_unreadable_image_is_left_out_with_a_count(build, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(build_images(9)):
        image.save(folder / f"{i}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:100])
    for augment in (True, False):
        with pytest.warns(UserWarning, match=r"1 of 9 images .*3\.png"):
            trainer = build(source=folder, augment=augment)
        assert len(trainer.train_dataset) == 8


def test_images_of_which_none_can_be_read_are_refused(build):
    table = Dataset.from_list([{"image": {"bytes": b"no image", "path": None}}] * 9)
    with pytest.raises(ValueError, match="none of 9 images can be read"):
        build(source=table.cast_column("image", ImageFeature(decode=False)))


def test_a_folder_without_images_is_refused(build, tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        build(source=tmp_path / "nowhere")


@pytest.mark.parametrize("size", [(40, 30), (500, 8), (1, 1)])
def test_random_crops_keep_most_of_the_image(size):
    crops = [crop_randomly(Image.new("RGB", size, "red"), (32, 32)) for _ in range(20)]
    assert {crop.size for crop in crops} == {(32, 32)}
    assert {crop.getpixel((16, 16)) for crop in crops} == {(255, 0, 0)}


def test_a_stream_gives_the_batches_of_the_table(build):
    table = Dataset.from_dict({"image": build_images(12)})
    batches = []
    for source in (table, table.cast_column("image", ImageFeature()).to_iterable_dataset()):
        trainer = build(source)
        torch.manual_seed(3)
        batches.append(trainer.data_collator(list(itertools.islice(trainer.train_dataset, 8)))["pixel_values"])
    assert torch.equal(*batches)
    trainer.train()


def test_another_row_takes_the_place_of_an_image_that_is_cut_off(build):
    trainer = build()
    rows = [dict(row) for row in trainer.train_dataset.select(range(4))]
    rows[1]["image"] = {"bytes": rows[1]["image"]["bytes"][:60], "path": None}
    with pytest.warns(UserWarning, match="1 of 4 images of a batch are cut off"):
        pixels = trainer.data_collator(rows)["pixel_values"]
    assert pixels.shape[0] == 4
    with pytest.raises(ValueError, match="none of the 1 images"):
        trainer.data_collator(rows[1:2])


@pytest.mark.parametrize("arguments", [{"augment": False}, {"num_images": 8}])
def test_arguments_without_effect_on_a_stream_are_refused(build, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        build(Dataset.from_dict({"image": build_images(12)}).to_iterable_dataset(), **arguments)
