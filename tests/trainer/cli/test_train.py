import json
import shutil

import pytest
from datasets import Dataset

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import FAST, build_images, build_stand_in, build_triplets
from trainer.cli.main import main
from trainer.worlds.clip import train_clip
from trainer.worlds.small_world import build_small_world


pytestmark = pytest.mark.usefixtures("undrawn")


def test_train_leaves_a_model_that_answers(place, triplets, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", place, "--triplets", triplets, "--output_dir", str(out), *FAST]) == 0
    assert f"model: {out}/model" in capsys.readouterr().out
    model, processor = RTDModel.from_pretrained(out / "model"), RTDProcessor.from_pretrained(out / "model")
    assert model.config.original_text_model["subfolder"] == "original_text"
    assert model(**processor(images=build_images(1), conditions="is red")).composed_embeds.shape == (1, 24)
    facts = json.loads((out / "training.json").read_text())
    assert facts["steps"] == 4
    assert (out / "losses.png").exists()
    assert facts["peak_resident_mib"] > 100


def test_train_goes_on_with_its_run_and_refuses_a_foreign_one(place, triplets, tmp_path, capsys):
    out = ["--output_dir", str(tmp_path / "run"), "--save_steps", "2"]
    assert main(["train", place, "--triplets", triplets, *out, *FAST]) == 0
    assert main(["train", place, "--triplets", triplets, *out, *FAST]) == 0
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(row) for row in build_triplets(48, seed=5)))
    assert main(["train", place, "--triplets", str(other), *out, *FAST]) == 2
    assert "of another run: triplets differs" in capsys.readouterr().err


def test_train_with_lora_leaves_an_adapter_repository(clip_place, place, triplets, tmp_path):
    out = str(tmp_path / "run")
    arguments = [clip_place, "--projection", place, "--triplets", triplets, "--lora_r", "4"]
    assert main(["train", *arguments, "--output_dir", out, *FAST]) == 0
    model = RTDModel.from_adapter(f"{out}/adapter")
    assert model.config.base_model == clip_place


def test_a_clip_without_a_projection_is_refused(clip_place, triplets, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", clip_place, "--triplets", triplets, "--output_dir", out, *FAST]) == 2
    assert "is a CLIP without a projection" in capsys.readouterr().err


def test_the_model_by_its_old_option_is_refused_with_the_new_form(place, triplets, capsys):
    assert main(["train", "--model", place, "--triplets", triplets]) == 2
    assert "rtd train MODEL" in capsys.readouterr().err


def test_train_asks_for_its_model(triplets, tmp_path, capsys):
    assert main(["train", "--triplets", triplets, "-o", str(tmp_path / "run")]) == 2
    assert "name the model first" in capsys.readouterr().err


def test_the_name_of_a_method_is_no_trained_projection(clip_place, triplets, tmp_path, capsys):
    command = ["train", clip_place, "--projection", "lincir", "--triplets", triplets]
    assert main([*command, "--output_dir", str(tmp_path / "run"), *FAST]) == 2
    assert "train it first with `rtd train-projection --method lincir`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_command_with_another_recipe_is_refused(place, triplets, tmp_path, capsys):
    command = ["train", place, "--triplets", triplets, "--output_dir", str(tmp_path / "run"), *FAST]
    assert main([*command, "--save_strategy", "no"]) == 0
    facts = (tmp_path / "run/training.json").read_text()
    assert main([*command, "--noise_scale", "3"]) == 2
    assert "noise_scale was 0.5, now 3.0" in capsys.readouterr().err
    assert (tmp_path / "run/training.json").read_text() == facts


@pytest.mark.slow
def test_a_tuned_model_is_not_tuned_again(place, triplets, tmp_path, capsys):
    command = ["--triplets", triplets, *FAST]
    assert main(["train", place, *command, "--output_dir", str(tmp_path / "one")]) == 0
    assert main(["train", str(tmp_path / "one/model"), *command, "--output_dir", str(tmp_path / "two")]) == 2
    assert "is trained with RTD already" in capsys.readouterr().err


def test_a_wrong_place_of_the_original_is_found_before_training(place, triplets, tmp_path, capsys):
    command = ["train", place, "--triplets", triplets, "--output_dir", str(tmp_path / "run"), *FAST]
    assert main([*command, "--original_text_model", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_train_judges_on_a_benchmark_and_records_it(tmp_path):
    world, clip = build_small_world("toy"), str(tmp_path / "clip")
    train_clip(world, output_dir=clip)
    RTDModel.from_clip(clip, "lincir").save_pretrained(tmp_path / "start")
    RTDProcessor.from_clip(clip).save_pretrained(tmp_path / "start")
    world.triplets.to_json(tmp_path / "triplets.jsonl")
    command = ["train", str(tmp_path / "start"), "--triplets", str(tmp_path / "triplets.jsonl"), *FAST]
    judge = ["--benchmark", "small_world/toy", "--eval_strategy", "steps", "--eval_steps", "2"]
    assert main([*command, *judge, "--output_dir", str(tmp_path / "run")]) == 0
    evaluations = json.loads((tmp_path / "run/training.json").read_text())["evaluations"]
    assert [evaluation["step"] for evaluation in evaluations] == [2, 4]
    assert "eval_recall@10" in evaluations[0]


def test_train_judges_on_images_of_a_directory(place, triplets, tmp_path):
    root = build_stand_in("cirr", tmp_path / "cirr")
    judge = ["--benchmark", "cirr", "--benchmark_root", str(root), "--eval_strategy", "steps", "--eval_steps", "4"]
    command = ["train", place, "--triplets", triplets, "--output_dir", str(tmp_path / "run"), *judge]
    assert main([*command, *FAST]) == 0
    evaluations = json.loads((tmp_path / "run/training.json").read_text())["evaluations"]
    assert 0 <= evaluations[0]["eval_subset_recall@2"] <= 1


def test_a_model_that_is_not_there_is_named(triplets, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "nowhere"), "--triplets", triplets, "--output_dir", out, *FAST]) == 2
    assert f"there is no directory '{tmp_path}/nowhere'." in capsys.readouterr().err


def test_shards_are_streamed_and_a_killed_run_goes_on(place, tmp_path, capsys):
    rows = build_triplets(96)
    for i in range(2):
        Dataset.from_list(rows[48 * i : 48 * i + 48]).to_parquet(tmp_path / f"{i}.parquet")
    command = ["train", place, "--triplets", f"{tmp_path}/*.parquet", "--streaming", *FAST, "--save_steps", "1"]
    for name in ("straight", "broken"):
        assert main([*command, "-o", str(tmp_path / name)]) == 0
    shutil.rmtree(tmp_path / "broken/model")
    for step in (3, 4):
        shutil.rmtree(tmp_path / f"broken/checkpoint-{step}")
    assert main([*command, "-o", str(tmp_path / "broken")]) == 0
    one, other = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("straight", "broken"))
    assert one == other
    assert json.loads((tmp_path / "broken/training.json").read_text())["data"] == {"triplets": "*.parquet"}
    assert main([*command, "-o", str(tmp_path / "x"), "--anchor_cache", "always"]) == 2
    assert "a stream is not kept" in capsys.readouterr().err


def test_several_files_and_a_split_are_read(place, tmp_path, capsys):
    for name in ("train", "test"):
        Dataset.from_list(build_triplets(24)).to_parquet(tmp_path / f"rows/{name}.parquet")
    files = [str(tmp_path / f"rows/{name}.parquet") for name in ("train", "test")]
    run = ["--output_dir", str(tmp_path / "run"), *FAST]
    assert main(["train", place, "--triplets", *files, *run]) == 0
    assert json.loads((tmp_path / "run/training.json").read_text())["data"] == {"triplets": "train.parquet and 1 more"}
    command = ["train", place, "--triplets", str(tmp_path / "rows"), "--output_dir", str(tmp_path / "none"), *FAST]
    assert main([*command, "--split", "nothing"]) == 2
    assert 'Unknown split "nothing"' in capsys.readouterr().err
