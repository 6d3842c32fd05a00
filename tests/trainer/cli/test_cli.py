import json

import pytest
import torch
from datasets import Dataset
from PIL import Image

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import build_images, build_stand_in, build_triplets
from trainer.cli.main import main
from trainer.cli.options import find_value, parse_options
from trainer.cli.train_projection import TrainProjectionCommand
from trainer.data.image_files import list_images
from trainer.methods import find_method
from trainer.worlds.small_world import build_small_world, train_clip


@pytest.fixture
def place(model, processor, tmp_path):
    """Directory of an RTD model."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def clip_place(clip, processor, tmp_path):
    """Directory of a CLIP."""
    for part in (clip, processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


@pytest.fixture
def triplets(tmp_path):
    path = tmp_path / "triplets.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in build_triplets(48)))
    return str(path)


FAST = "--max_steps 4 --per_device_train_batch_size 16 --use_cpu True --disable_tqdm True --anchor_cache never".split()


def test_help_names_every_verb(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for verb in ("demo", "evaluate", "submit", "train", "train-projection", "search"):
        assert f"\n  {verb} " in shown


@pytest.mark.parametrize("verb", ["demo", "evaluate", "submit", "search", "train", "train-projection", "triplets"])
def test_every_verb_explains_its_options(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_an_unknown_verb_is_named_with_the_nearest(capsys):
    assert main(["serach"]) == 2
    assert "unknown verb 'serach'; did you mean 'search'?" in capsys.readouterr().err


def search(place, folder, tmp_path, *more):
    reference = str(tmp_path / "reference.png")
    build_images(1, seed=7)[0].save(reference)
    return main(
        [
            "search",
            place,
            "--gallery",
            str(folder),
            "--image",
            reference,
            "--sheet",
            str(tmp_path / "sheet.png"),
            *more,
        ]
    )


@pytest.fixture
def folder(tmp_path):
    """Folder of six images, one of them in a sub-folder."""
    folder = tmp_path / "gallery"
    (folder / "more").mkdir(parents=True)
    for i, image in enumerate(build_images(6)):
        image.save(folder / ("more" if i == 5 else "") / f"{i}.png")
    return folder


def test_search_prints_a_table_and_draws_a_sheet(place, folder, tmp_path, capsys):
    assert search(place, folder, tmp_path, "--text", "is red", "--top-k", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rank  score   image"
    scores = [float(line.split()[1]) for line in lines[1:5]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 96


def test_search_names_unreadable_images_and_goes_on(place, folder, tmp_path, capsys):
    (folder / "0.png").write_bytes(b"no image")
    assert search(place, folder, tmp_path, "--text", "is red") == 0
    captured = capsys.readouterr()
    assert "1 of 6 images were skipped" in captured.err
    assert "0.png" in captured.err
    assert len([line for line in captured.out.splitlines() if ".png" in line and "sheet" not in line]) == 5


def test_search_leaves_the_reference_out(place, folder, tmp_path, capsys):
    arguments = ["search", place, "--gallery", str(folder), "--image", str(folder / "2.png"), "--text", "is red"]
    assert main([*arguments, "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "2.png" not in capsys.readouterr().out


@pytest.mark.parametrize("mistake", ["no images", "no reference"])
def test_search_refuses_what_it_cannot_read(place, folder, tmp_path, capsys, mistake):
    if mistake == "no images":
        assert search(place, tmp_path / "nowhere", tmp_path) == 2
        assert "is no folder" in capsys.readouterr().err
    else:
        assert main(["search", place, "--gallery", str(folder), "--image", str(tmp_path / "none.png")]) == 2
        assert "none.png' cannot be read: there is no such file" in capsys.readouterr().err


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
    assert "of another run: triplets differ(s)" in capsys.readouterr().err


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


@pytest.mark.parametrize("method", ["lincir", "pic2word", "searle"])
def test_train_projection_leaves_a_model(clip_place, folder, tmp_path, method):
    captions, names = tmp_path / "captions.txt", tmp_path / "names.txt"
    captions.write_text("\n".join(row["target_caption"] for row in build_triplets(40)))
    names.write_text("dress\nshirt\ndog")
    source = {
        "lincir": ["--captions", str(captions), "--keyword_fn", "rule"],
        "pic2word": ["--images", str(folder)],
        "searle": ["--images", str(folder), "--concepts", str(names), "--phrases", "templates", "--oti_steps", "2"],
    }[method]
    out, batch = str(tmp_path / "run"), ["--per_device_train_batch_size", "4"]
    command = ["train-projection", clip_place, "--method", method, *source, "--output_dir", out]
    assert main([*command, *FAST, *batch]) == 0
    assert RTDModel.from_pretrained(f"{out}/model").projection.config.projection_type == method


def test_a_projection_of_image_tokens_is_trained_from_pairs_and_lifted_for_rtd(
    clip_place, folder, triplets, tmp_path, capsys
):
    captions = tmp_path / "captions.jsonl"
    Dataset.from_list(
        [{"image": str(p.relative_to(folder)), "text": "a red dress on a beach"} for p in list_images(folder)]
    ).to_json(captions)
    command = ["train-projection", clip_place, "--method", "context_i2w", "--keyword_fn", "rule"]
    command += ["--images", str(folder), "--output_dir", str(tmp_path / "phi"), *FAST]
    assert main(command) == 2
    assert "trained from images with captions: give --captions" in capsys.readouterr().err
    assert main([*command, "--captions", str(captions), "--per_device_train_batch_size", "4"]) == 0
    command = ["train", str(tmp_path / "phi/model"), "--triplets", triplets]
    command += ["--output_dir", str(tmp_path / "rtd"), *FAST]
    assert main(command) == 2
    assert "--images DIR" in capsys.readouterr().err
    assert main([*command, "--images", str(folder), "--lift_steps", "2"]) == 0
    assert RTDModel.from_pretrained(tmp_path / "rtd/model").config.original_text_model is not None


def test_the_recipe_is_that_of_the_method_and_the_users_own_is_above_it(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 0.5\n")
    arguments = ["x", "--method=fti4cir", "-o", "out", "--recipe", str(recipe)]
    classes = TrainProjectionCommand, find_method(find_value(arguments, "method", "lincir")).arguments
    command, args = parse_options(arguments, *classes, positional="model")
    assert (command.model, args.output_dir) == ("x", "out")
    assert (args.learning_rate, args.caption_weight, args.num_train_epochs) == (0.5, 1.4, 60)


def test_the_help_of_a_method_lists_its_own_options(capsys):
    with pytest.raises(SystemExit):
        main(["train-projection", "--method", "lincir", "--help"])
    shown = capsys.readouterr().out
    assert "--noise-scale" in shown
    assert "-o" in shown
    assert "--oti-steps" not in shown


@pytest.mark.parametrize("arguments", [["--clip", "x"], ["--model", "x"], ["--clip=x"]])
def test_an_old_name_of_the_clip_is_refused_with_the_new_form(arguments, capsys):
    assert main(["train-projection", *arguments, "--captions", "x.txt", "-o", "y"]) == 2
    assert "rtd train-projection CLIP" in capsys.readouterr().err


def test_a_missing_clip_and_another_methods_option_are_named(clip_place, capsys):
    assert main(["train-projection", "--captions", "x.txt", "-o", "y"]) == 2
    assert "name the model first: rtd train-projection CLIP" in capsys.readouterr().err
    assert main(["train-projection", clip_place, "--captions", "x.txt", "-o", "y", "--oti_steps", "2"]) == 2
    assert "unknown option '--oti_steps'" in capsys.readouterr().err


def test_two_runs_of_one_command_give_equal_weights(clip_place, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join(row["target_caption"] for row in build_triplets(40)))
    command = ["train-projection", clip_place, "--captions", str(captions), "--keyword_fn", "rule", *FAST]
    weights = []
    for name in ("a", "b"):
        torch.manual_seed(len(weights))
        assert main([*command, "-o", str(tmp_path / name)]) == 0
        weights.append((tmp_path / name / "model/model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_data_that_a_method_does_not_read_are_refused(clip_place, folder, tmp_path, capsys):
    command = ["train-projection", clip_place, "--captions", "x.txt", "--images", str(folder)]
    assert main([*command, "--output_dir", str(tmp_path / "run"), *FAST]) == 2
    assert "lincir is trained from captions: leave --images out" in capsys.readouterr().err


def test_train_projection_asks_for_its_data(clip_place, tmp_path, capsys):
    assert main(["train-projection", clip_place, "--output_dir", str(tmp_path), *FAST]) == 2
    assert "lincir is trained from captions: give --captions" in capsys.readouterr().err


def test_a_recipe_gives_values_that_flags_override(place, triplets, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 9\nlearning_rate: 1.0e-3\n")
    command = ["train", place, "--triplets", triplets, "--recipe", str(recipe)]
    assert main([*command, "--output_dir", str(tmp_path / "run"), *FAST]) == 0
    facts = json.loads((tmp_path / "run/training.json").read_text())
    assert (facts["steps"], facts["learning_rate"]) == (4, 1e-3)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "unknown recipe"), ("- a", "must be a mapping"), ("a: [", "is not YAML")]
)
def test_a_broken_recipe_is_refused(place, triplets, tmp_path, capsys, content, message):
    recipe = tmp_path / "recipe.yaml"
    if content is not None:
        recipe.write_text(content)
    assert main(["train", place, "--triplets", triplets, "--recipe", str(recipe)]) == 2
    assert message in capsys.readouterr().err


def test_a_mistyped_recipe_is_named_with_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--recipe", "rtd-vitL"]) == 2
    assert "unknown recipe 'rtd-vitL'; did you mean 'rtd-vitl'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["learningrate", "learnin_rate"])
def test_a_mistyped_option_is_named_with_the_nearest_also_in_a_recipe(tmp_path, capsys, name):
    (tmp_path / "recipe.yaml").write_text(f"{name}: 1")
    needed = ["M", "--output_dir", str(tmp_path / "run")]
    for way in ([f"--{name}", "1"], ["--recipe", str(tmp_path / "recipe.yaml")]):
        assert main(["train", *needed, *way]) == 2
        assert f"unknown option '--{name}'; did you mean '--learning-rate'?" in capsys.readouterr().err


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


def test_a_folder_with_something_else_is_never_written_over(place, triplets, tmp_path, capsys):
    out = str(tmp_path)  # the folder that the model itself lies in
    assert main(["train", place, "--triplets", triplets, "--output_dir", out, *FAST]) == 2
    assert "holds something that is no run" in capsys.readouterr().err


def test_the_same_command_with_another_recipe_is_refused(place, triplets, tmp_path, capsys):
    command = ["train", place, "--triplets", triplets, "--output_dir", str(tmp_path / "run"), *FAST]
    assert main([*command, "--save_strategy", "no"]) == 0
    facts = (tmp_path / "run/training.json").read_text()
    assert main([*command, "--noise_scale", "3"]) == 2
    assert "noise_scale differ(s)" in capsys.readouterr().err
    assert (tmp_path / "run/training.json").read_text() == facts


def test_a_tuned_model_is_not_tuned_again(place, triplets, tmp_path, capsys):
    command = ["--triplets", triplets, *FAST]
    assert main(["train", place, *command, "--output_dir", str(tmp_path / "one")]) == 0
    assert main(["train", str(tmp_path / "one/model"), *command, "--output_dir", str(tmp_path / "two")]) == 2
    assert "is trained with RTD already" in capsys.readouterr().err


def test_a_wrong_place_of_the_original_is_found_before_training(place, triplets, tmp_path, capsys):
    command = ["train", place, "--triplets", triplets, "--output_dir", str(tmp_path / "run"), *FAST]
    assert main([*command, "--original_text_model", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "run").exists()


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


def test_search_takes_an_adapter_repository(clip_place, place, triplets, folder, tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = [clip_place, "--projection", place, "--triplets", triplets, "--lora_r", "4"]
    assert main(["train", *arguments, "--output_dir", out, *FAST]) == 0
    assert search(f"{out}/adapter", folder, tmp_path, "--text", "is red") == 0
    assert "rank  score" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_named(triplets, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "nowhere"), "--triplets", triplets, "--output_dir", out, *FAST]) == 2
    assert f"there is no directory '{tmp_path}/nowhere'." in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["search", "evaluate", "train", "diagnose", "interpolate", "index", "app", "convert"])
def test_every_verb_names_the_model_of_a_run(triplets, folder, monkeypatch, capsys, verb):
    (folder.parent / "runs/rtd/model").mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    name = "runs/rtd"
    options = {
        "search": [name, "--gallery", "gallery", "--text", "x"],
        "evaluate": [name, "--benchmark", "small_world/mini"],
        "train": [name, "--triplets", triplets, "--output_dir", "out", *FAST],
        "diagnose": [name, "--benchmark", "small_world/mini", "-o", "out"],
        "interpolate": [name, "--alpha", "0.5", "-o", "out"],
        "index": [name, "--images", "gallery", "-o", "index"],
        "app": [name, "--gallery", "gallery"],
        "convert": ["file.pt", "--from", "lincir", "--clip", name, "-o", "out"],
    }
    assert main([verb, *options[verb]]) == 2
    message = "'runs/rtd' holds no model; it is a run: name 'runs/rtd/model'."
    assert capsys.readouterr().err == f"rtd {verb}: {message}\n"


@pytest.mark.parametrize(("flag", "is_shown"), [("--help", False), ("--help-all", True)])
def test_the_help_of_training_leaves_out_what_nearly_nobody_sets(flag, is_shown, capsys):
    with pytest.raises(SystemExit):
        main(["train", flag])
    shown = capsys.readouterr().out
    assert ("--adam-beta2" in shown) == is_shown
    assert all(option in shown for option in ("--triplets", "--max-steps", "--noise-scale"))
    assert "_steps" not in shown.partition("--max-steps")[2][:200]
