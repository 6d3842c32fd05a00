import io
import tarfile

import pytest
import torch
from datasets import Dataset

from modeling_rtd import RTDModel
from tests.factories import FAST, build_triplets
from trainer.cli.main import main
from trainer.data.image_files import list_images


pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:the learning rate warms up"),  # as published, in a few steps
]


@pytest.mark.parametrize("method", ["lincir", "searle", pytest.param("pic2word", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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
    assert "has a new name: the CLIP as first argument" in capsys.readouterr().err


def test_a_missing_clip_and_another_methods_option_are_named(clip_place, capsys):
    assert main(["train-projection", "--captions", "x.txt", "-o", "y"]) == 2
    assert "name the model first: rtd train-projection CLIP" in capsys.readouterr().err
    assert main(["train-projection", clip_place, "--captions", "x.txt", "-o", "y", "--oti_steps", "2"]) == 2
    assert "unknown option '--oti_steps'" in capsys.readouterr().err


@pytest.mark.slow
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


def write_tar(path, **members):
    with tarfile.open(path, "w") as tar:
        for suffix, contents in members.items():
            for i, content in enumerate(contents):
                member = tarfile.TarInfo(f"{i:04}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_captions_of_tars_are_streamed(clip_place, tmp_path):
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", txt=[row["target_caption"].encode() for row in build_triplets(40)])
    command = [
        "train-projection",
        clip_place,
        "--captions",
        f"{tmp_path}/*.tar",
        "--streaming",
        "--keyword_fn",
        "rule",
    ]
    assert main([*command, "-o", str(tmp_path / "run"), *FAST]) == 0


@pytest.mark.slow
def test_pairs_come_from_a_tar_or_a_stream_of_it(clip_place, folder, tmp_path, capsys):
    with tarfile.open(tmp_path / "pairs.tar", "w") as tar:
        for i, path in enumerate(list_images(folder)):
            tar.add(path, f"{i:04}{path.suffix}")
            text = tarfile.TarInfo(f"{i:04}.txt")
            text.size = 24
            tar.addfile(text, io.BytesIO(b"a red dress on the beach"))
    command = ["train-projection", clip_place, "--method", "context_i2w", "--captions", str(tmp_path / "pairs.tar")]
    command += ["--keyword_fn", "rule", "-o", str(tmp_path / "run"), *FAST, "--per_device_train_batch_size", "4"]
    assert main(command) == 0
    streamed = [*command, "--streaming", "-o", str(tmp_path / "streamed")]
    assert main(streamed) == 0
    assert main([*streamed, "--images", str(folder)]) == 2
    assert "leave --images out" in capsys.readouterr().err


def test_images_come_from_a_tar_and_a_folder_has_no_splits(clip_place, folder, tmp_path, capsys):
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for i, path in enumerate(list_images(folder)):
            tar.add(path, f"{i:04}{path.suffix}")
    command = ["train-projection", clip_place, "--method", "pic2word", "-o", str(tmp_path / "run"), *FAST]
    command += ["--per_device_train_batch_size", "4"]
    assert main([*command, "--images", str(folder), "--split", "test"]) == 2
    assert "a folder of images, which has no splits" in capsys.readouterr().err
    assert main([*command, "--images", f"{tmp_path}/*.tar", "--split", "test"]) == 2
    assert "there is no split 'test'" in capsys.readouterr().err
    assert main([*command, "--images", f"{tmp_path}/*.tar"]) == 0
    for number, images in enumerate([f"{tmp_path}/*.tar", str(folder)]):
        place = str(tmp_path / f"streamed{number}")
        assert main([*command, "--images", images, "--streaming", "-o", place]) == 0
