"""`rtd evaluate` and `rtd submit` on stand-in directories, end to end."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories import BUILDERS, TASKS
from trainer.evaluation.benchmarks import load_benchmark


EXPECTED = {
    "cirr-val": ("subset_recall@3", {"exclude_reference": True, "template": "a photo of $ that {condition}"}),
    "circo-val": ("semantic_map@10/negation", {"exclude_reference": False}),
    "fashioniq-val": ("average", {"caption_order": "both", "gallery": "original"}),
    "genecis-v0": ("recall@3", {"ties": "last"}),
    "coco-val2017": ("median_rank", {"template": "a photo of $ and {condition}"}),
    "imagenet_r-val": ("set_recall@200", {"template": "a {condition} of $"}),
    "small_world-toy-validation": ("map@5", {"crop": "transformers"}),
}


def test_all_benchmarks_are_judged_at_once_and_say_how(data, place, tmp_path, capsys, run_evaluate):
    names = [*BUILDERS, "small_world/toy"]
    records = run_evaluate(place, "--benchmark", ",".join(names), "--root", data, out=tmp_path)
    assert set(records) == set(EXPECTED)
    for name, (metric, switches) in EXPECTED.items():
        record = records[name]
        lowest, highest = (1, 12) if metric == "median_rank" else (0, 1)
        assert lowest <= record["metrics"][metric] <= highest
        assert switches.items() <= record["protocol"].items()
        assert {"padding", "crop", "similarity", "turned_by_exif"} <= set(record["protocol"])
        assert len(record["system"]["sha256"]["text_model"]) == 64
        assert record["system"]["precision"] == "float32"
        assert record["comparable"] == (name == "small_world-toy-validation")
        assert all(len(digest) == 64 for digest in record["data"]["files"].values())
    assert list(records["fashioniq-val"]["parts"]) == ["shirt", "dress", "toptee"]
    assert set(records["genecis-v0"]["parts"]) == set(TASKS)
    assert "Not comparable with published numbers: cirr val: 8 queries, officially 4181" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_judge_as_one_through_the_command_line(data, place, tmp_path):
    records = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = ["-m", "trainer.cli.main", "evaluate", place, "--benchmark", "cirr,imagenet_r,genecis"]
        options = ["--root", str(data), "--output-dir", str(out), "--batch-size", "5"]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [sys.executable, *launcher, *command, *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.count("record: ") == 3
        records.append({path.name: json.loads(path.read_text()) for path in out.glob("*.json")})
    for name, record in records[0].items():
        assert {**record, "seconds": 0} == {**records[1][name], "seconds": 0}


def test_folders_of_several_benchmarks_are_found_by_any_usual_name(data, place, tmp_path, run_evaluate):
    root = tmp_path / "data"
    root.mkdir()
    for name, folder in (("fashioniq", "fashion-iq"), ("imagenet_r", "ImageNet-R")):
        (root / folder).symlink_to(data / name)
    names = "fashioniq/dress, imagenet_r/toy"
    assert len(run_evaluate(place, "--benchmark", names, "--root", root, out=tmp_path / "out")) == 2


def test_a_model_is_compared_with_another_one(data, place, tmp_path, capsys, run_evaluate):
    run_evaluate(place, "--against", place, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path)
    shown = capsys.readouterr().out
    assert f"{place}: 8 queries, 12 images" in shown
    assert re.search(r"recall@10 +\+0\.00 +\+0\.00 to \+0\.00 +0 +0 +1\n", shown)


def test_one_benchmark_with_a_root_needs_no_folder_of_its_name(data, place, tmp_path, run_evaluate):
    names = "cirr,cirr,small_world/toy"
    assert len(run_evaluate(place, "--benchmark", names, "--root", data / "cirr", out=tmp_path)) == 2


def test_the_docs_say_how_queries_and_images_are_called(data):
    page = Path("docs/judging.md").read_text(encoding="utf-8")
    forms = {
        "fashioniq/dress": "dress-0",
        "genecis/focus_attribute": "focus_attribute-0",
        "cirr": "12060",
        "circo": "0",
    }
    for name, query in forms.items():
        assert load_benchmark(name, root=data / name.partition("/")[0]).queries["id"][0] == query
        assert f"`{query}` |" in page
    toy = load_benchmark("imagenet_r/toy", root=data / "imagenet_r").queries["id"][0]
    assert re.fullmatch(r"toy:imgnet/real/n\d+/ILSVRC2012_val_\d+\.JPEG", toy)
    box = load_benchmark("genecis/focus_attribute", root=data / "genecis").gallery["id"][0]
    assert re.fullmatch(r"\d+:\d+,\d+,\d+,\d+", box)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a MODEL, or --embeddings FILE, or --rankings FILE"),
        (["PLACE", "--rankings", "r.json"], "one of the three"),
        (["PLACE", "--precision", "int8"], "unknown precision 'int8'"),
        (["PLACE", "--alpha", "0.5"], "rtd interpolate"),
        (["PLACE", "--batch-size", "0"], "`batch_size` must be at least 1, got 0"),
        (["PLACE", "--mode", "audio"], "unknown mode 'audio'"),
        (["PLACE", "--split", "test1"], "the targets of cirr test1 are not public"),
        (["PLACE", "--split", "nowhere"], "split of cirr"),
        (["PLACE", "--template", "$ $ {condition}"], "has 2 '$', but 'lincir' has 1"),
        (["PLACE", "--template", "a photo of $"], "has no '{condition}', the place of the condition"),
        (["--rankings", "r.json", "--ties", "last"], "--ties is for a model"),
        (["--embeddings", "e.json", "--mode", "composed"], "--mode is for a model"),
        (["--embeddings", "e.json", "--caption-order", "both"], "--caption-order is for a model"),
        (["PLACE", "--ties", "coin"], "gallery, last"),
        (["--rankings", "nowhere.json"], "'nowhere.json' cannot be read"),
        (["--rankings", "nowhere.txt"], "must end in .npz, .parquet or .json"),
    ],
)
def test_options_that_do_not_fit_are_refused(data, place, tmp_path, capsys, arguments, message, run_evaluate):
    arguments = [place if argument == "PLACE" else argument for argument in arguments]
    run_evaluate(*arguments, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path, code=2)
    assert message in capsys.readouterr().err


def test_one_root_of_many_needs_a_folder_for_each(data, place, tmp_path, capsys, run_evaluate):
    run_evaluate(place, "--benchmark", "cirr,circo", "--root", data / "cirr", out=tmp_path, code=2)
    assert "has no folder 'circo'" in capsys.readouterr().err
