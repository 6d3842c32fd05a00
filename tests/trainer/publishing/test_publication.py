import copy
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from modeling_rtd import Gallery, RTDModel, RTDProcessor
from tests.factories import STAGES, build_images, save_with_stages, shake
from tests.hub_metadata import write_snippets
from trainer.cli.main import main
from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.diagnosis import run_diagnosis
from trainer.evaluation.evaluate import evaluate, write_record
from trainer.evaluation.systems import ModelSystem
from trainer.loading import load_model_and_processor
from trainer.publishing.provenance import read_stages
from trainer.publishing.saving import save_rtd_model
from trainer.training.lora import merge_adapter


pytestmark = pytest.mark.usefixtures("undrawn")
REPO = "someone/rtd-tiny"
ADAPTER_WAYS = ["--license", "mit", "--without", "evaluation", "alignment", "--base-model", "org/clip"]
WAYS = ["--license", "apache-2.0", "--base-model", "none", "--without", "evaluation", "alignment"]


def publish(folder, *more):
    return main(["publish", str(folder), REPO, *more])


def put_text(folder, name, text):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_dry_run_lists_every_file_and_uploads_none(folder, hub, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert publish(folder, *WAYS) == 0
    shown = capsys.readouterr().out
    for name in ("README.md", "pipeline_rtd.py", "model.safetensors", "original_text/model.safetensors"):
        assert f"  {name}" in shown
    assert "Nothing was uploaded" in shown
    assert not [call for call in hub.calls if not call.startswith(("GET", "HEAD"))]
    assert hub.repos == {}
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_on_the_hub_equals_what_is_here(folder, hub):
    assert publish(folder, *WAYS, "--push") == 0
    stored = hub.repos[REPO]
    config = json.loads(stored.pop("config.json"))
    assert set(config.pop("custom_pipelines")) == {"composed-image-retrieval"}  # what publishing adds
    assert config == json.loads((folder / "config.json").read_text())
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names <= {*stored, "config.json"}
    for name, content in stored.items():
        if name in names - {"README.md", "publication.json"}:
            assert content == (folder / name).read_bytes(), name


def test_publishing_again_updates_and_never_orphans_the_pipeline(folder, hub, capsys):
    assert publish(folder, *WAYS, "--push") == 0
    theirs = {"notes.txt": b"mine", "x.safetensors": b"mine", "my_rtd.py": b"mine", "special_tokens_map.json": b"mine"}
    old = {"old_rtd.py": b"", "model-00001-of-00002.safetensors": b"", "evaluation/old.json": b""}
    hub.repos[REPO] |= old | theirs
    record = json.loads(hub.repos[REPO]["publication.json"])
    assert set(record["files"]) | old.keys() | theirs.keys() == hub.repos[REPO].keys()
    hub.repos[REPO]["publication.json"] = json.dumps({"files": [*record["files"], *old, "gone_rtd.py"]}).encode()
    assert publish(folder, *WAYS, "--push", "--license", "mit") == 0
    stored = hub.repos[REPO]
    config = json.loads(stored["config.json"])
    for place in (*config["auto_map"].values(), config["custom_pipelines"]["composed-image-retrieval"]["impl"]):
        assert f"{place.partition('.')[0]}.py" in stored
    assert ModelCard(stored["README.md"].decode()).data.license == "mit"
    assert {name: stored[name] for name in theirs} == theirs
    assert not old.keys() & stored.keys()
    assert "removed from the Hub: old_rtd.py" in capsys.readouterr().out


def test_what_rtd_has_not_written_is_overwritten_only_when_asked_for(folder, hub, capsys):
    theirs = {"vocab.json": b"mine", "adapter_model.safetensors": b"mine", "README.md": b"mine"}
    hub.repos[REPO] = dict(theirs)
    for way in ([], ["--push"]):
        assert publish(folder, *WAYS, *way) == 2
        assert "README.md. Publish to another repository" in capsys.readouterr().err
    assert hub.repos[REPO] == theirs
    assert publish(folder, *WAYS, "--push", "--overwrite-foreign") == 0
    assert hub.repos[REPO]["README.md"] != b"mine"
    assert [hub.repos[REPO][name] for name in ("vocab.json", "adapter_model.safetensors")] == [b"mine", b"mine"]


def test_a_damaged_record_of_a_publication_is_named(folder, hub, capsys):
    hub.repos[REPO] = {"publication.json": b"["}
    assert publish(folder, *WAYS, "--push") == 2
    assert "publication.json' is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["merges.txt", "original_text/vocab.json", "evaluation"])
def test_a_link_is_refused_by_name(folder, tmp_path, hub, capsys, name):
    (tmp_path / "private").mkdir()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "private")
    assert publish(folder, *WAYS, "--push") == 2
    assert f"symbolic links, which are not followed: {name};" in capsys.readouterr().err
    assert hub.repos == {}


@pytest.mark.slow
def test_a_model_and_an_adapter_can_follow_each_other(folder, adapter_folder, clip_on_hub, capsys):
    assert publish(folder, *WAYS, "--push") == 0
    alone = set(clip_on_hub.repos[REPO])
    assert publish(adapter_folder[0], *ADAPTER_WAYS) == 0
    assert "would be removed from the Hub: config.json" in capsys.readouterr().out
    assert publish(adapter_folder[0], *ADAPTER_WAYS, "--push") == 0
    assert not {"config.json", "modeling_rtd.py", "original_text/model.safetensors"} & clip_on_hub.repos[REPO].keys()
    assert load_model_and_processor(REPO)[0].text_model.active_adapters() == ["default"]
    assert publish(folder, *WAYS, "--push") == 0
    assert set(clip_on_hub.repos[REPO]) == alone


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nonsense"])
def test_a_hub_that_is_not_there_is_no_matter_until_pushing(folder, capsys, endpoint):
    assert publish(folder, *WAYS, "--endpoint", endpoint) == 0
    assert publish(folder, *WAYS, "--endpoint", endpoint, "--push") == 2
    shown = capsys.readouterr().err
    assert f"the Hub at '{endpoint}' cannot be reached, or refuses (" in shown
    assert shown.endswith("nothing was uploaded. Check HF_ENDPOINT or --endpoint.\n")


def test_results_of_this_model_stand_in_the_metadata(folder, hub, tmp_path):
    model, processor = RTDModel.from_pretrained(folder), RTDProcessor.from_pretrained(folder)
    system = ModelSystem(str(folder), cache_dir=tmp_path / "cache")
    record = evaluate(system, "small_world/toy", "test")
    results = [str(write_record(record, tmp_path)), str(tmp_path / "diagnosis/diagnosis.json")]
    run_diagnosis(model, processor, load_benchmark("small_world/toy"), tmp_path / "diagnosis")
    ways = ["--license", "mit", "--base-model", "none", "--results", *results]
    ways += ["--benchmark-data", f"{record['benchmark']}=org/drawn:recall"]
    assert publish(folder, *ways, "--push", "--endpoint", hub.url) == 0
    stored = hub.repos[REPO]
    card = ModelCard(stored["README.md"].decode())
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["recall@10"].metric_value == pytest.approx(100 * record["metrics"]["recall@10"], abs=0.005)
    assert card.text.count("exclude_reference: True") == 1
    assert found["recall@10"].dataset_split == "test"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-feature-extraction")
    assert card.data.datasets == ["org/captions"]
    assert {"composed-image-retrieval", "rtd", "lincir"} <= set(card.data.tags)
    alignment = json.loads((tmp_path / "diagnosis/diagnosis.json").read_text())["alignment"]["target_captions"]
    assert f"from {alignment['before']['own']:.3f} to {alignment['after']['own']:.3f}" in card.text
    assert "unfilled" not in card.text
    assert json.loads(stored[f"evaluation/{Path(results[0]).name}"])["system"]["name_or_path"] == REPO
    (name,) = (name for name in stored if name.startswith(".eval_results/"))
    (entry,) = parse_eval_result_entries(yaml.safe_load(stored[name]))
    assert (entry.dataset_id, entry.task_id) == ("org/drawn", "recall")


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [("--license", "license: the license of the weights"), ("--without", "evaluation: results; --results FILE")],
)
def test_missing_facts_are_refused_with_what_brings_them(folder, capsys, left_out, missing):
    start = WAYS.index(left_out)
    end = next((i for i in range(start + 1, len(WAYS)) if WAYS[i].startswith("--")), len(WAYS))
    assert publish(folder, *WAYS[:start], *WAYS[end:]) == 2
    assert missing in capsys.readouterr().err


def test_a_model_whose_making_is_not_recorded_is_refused(folder, capsys):
    (folder / "provenance.json").unlink()
    assert publish(folder, *WAYS) == 2
    assert "stages: how it was made" in capsys.readouterr().err


def test_models_made_of_others_tell_how_they_were_made(folder, adapter_folder, processor, tmp_path):
    half, merged, (adapter, base) = tmp_path / "half", tmp_path / "merged", adapter_folder
    assert main(["interpolate", str(folder), "--alpha", "0.5", "-o", str(half)]) == 0
    assert [stage["stage"] for stage in read_stages(half)] == ["lincir", "rtd", "interpolation"]
    save_rtd_model(merge_adapter(str(adapter), str(base)), processor, merged)
    assert read_stages(merged) == STAGES
    for place in (half, merged):
        assert publish(place, *WAYS) == 0


@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", "training_args.bin", "notes.md", "README.md.bak", "original_text/log.txt", "a/config.json"],
)
def test_what_is_no_part_of_a_model_is_refused_by_name(folder, hub, capsys, name):
    put_text(folder, name, "x")
    assert publish(folder, *WAYS, "--push") == 2
    assert f"do not belong to a model: {name};" in capsys.readouterr().err
    assert hub.repos == {}


def test_what_is_hidden_stays_here(folder, capsys):
    for name in (".env", ".git/config", ".ipynb_checkpoints/a.md", "__pycache__/a.pyc"):
        put_text(folder, name, "hf_" + 34 * "a")
    assert publish(folder, *WAYS) == 0
    shown = capsys.readouterr().out
    assert not [name for name in (".env", ".git", ".ipynb", "__pycache__") if name in shown]


def test_a_leak_is_refused_by_the_command(folder, hub, capsys):
    edit_json(folder / "tokenizer_config.json", name_or_path="/data/models/clip")
    assert publish(folder, *WAYS, "--push") == 2
    assert "tokenizer_config.json: it holds a path of a machine, /data/models/clip" in capsys.readouterr().err
    assert hub.repos == {}


def test_no_byte_that_goes_up_holds_a_place_of_this_machine(folder, hub, tmp_path):
    edit_json(folder / "config.json", base_model=str(tmp_path / "clip"))
    assert publish(folder, *WAYS, "--push") == 0
    assert json.loads(hub.repos[REPO]["config.json"])["base_model"] is None
    for name, content in hub.repos[REPO].items():
        assert str(tmp_path).encode() not in content, name
        assert b"hf_loopback" not in content, name


def test_all_that_a_card_lacks_is_named_at_once_with_the_option_that_gives_it(folder, capsys):
    edit_json(folder / "config.json", base_model="/data/clip")
    assert publish(folder) == 2
    lines = re.findall(r"^  (\w+): .*?(--[a-z-]+ \w+)", capsys.readouterr().err, re.MULTILINE)
    assert lines == [
        ("license", "--license ID"),
        ("base_model", "--base-model ID"),
        ("evaluation", "--results FILE"),
        ("alignment", "--results diagnosis"),
    ]


def test_an_adapter_goes_up_with_the_base_that_it_was_trained_on(adapter_folder, hub, capsys):
    folder, base = adapter_folder
    ways = ["--license", "mit", "--without", "evaluation", "alignment"]
    assert publish(folder, *ways, "--push") == 2
    assert "which nobody else has" in capsys.readouterr().err
    hub.repos["org/clip"] = {path.name: path.read_bytes() for path in base.iterdir()}
    assert publish(folder, *ways, "--base-model", "org/clip", "--push") == 0
    stored = hub.repos[REPO]
    assert json.loads(stored["adapter_config.json"])["base_model_name_or_path"] == "org/clip"
    assert json.loads(stored["rtd_adapter.json"])["base_model"] == "org/clip"
    data = ModelCard(stored["README.md"].decode()).data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("org/clip", "adapter", "transformers")
    assert {"peft", "lora"} <= set(data.tags)
    loaded = RTDModel.from_adapter(REPO)
    local = RTDModel.from_adapter(str(folder), base=str(base))
    for name, tensor in local.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_an_adapter_with_another_base_is_refused(adapter_folder, clip, clip_on_hub, capsys, tmp_path):
    shake(clip, seed=5).save_pretrained(tmp_path / "other")
    weights = {"model.safetensors": (tmp_path / "other/model.safetensors").read_bytes()}
    clip_on_hub.repos["org/other"] = clip_on_hub.repos["org/clip"] | weights
    assert publish(adapter_folder[0], *ADAPTER_WAYS, "--base-model", "org/other") == 2
    assert "is not the base of this model" in capsys.readouterr().err


def test_a_base_that_cannot_be_had_is_noted_in_a_dry_run_and_refused_on_pushing(adapter_folder, hub, capsys):
    folder, _ = adapter_folder
    ways = ["--license", "mit", "--without", "evaluation", "alignment", "--base-model", "org/away"]
    assert publish(folder, *ways) == 0
    assert "is checked on pushing" in capsys.readouterr().out
    assert publish(folder, *ways, "--push") == 2


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ("clip", "made of 'clip' on this machine"),
        ("../x/y", "made of '../x/y' on this machine"),
        ("org/clip name", "Repo id must use alphanumeric chars"),
        ("runs/clip", "the base 'runs/clip' could not be loaded from the Hub"),
        ("org/small", "'org/small' is not the base of this model: it is not a CLIP of these sizes"),
    ],
)
def test_a_base_that_is_none_is_refused(folder, clip_on_hub, capsys, base, complaint):
    small = json.dumps(json.loads(clip_on_hub.repos["org/clip"]["config.json"]) | {"projection_dim": 8})
    clip_on_hub.repos["org/small"] = {"config.json": small.encode()}
    assert publish(folder, *WAYS, "--base-model", base, "--push") == 2
    assert complaint in capsys.readouterr().err
    edit_json(folder / "config.json", base_model=base)  # as it may have been recorded
    assert publish(folder, *WAYS[:2], *WAYS[4:], "--push") == 2
    assert complaint in capsys.readouterr().err
    assert REPO not in clip_on_hub.repos


def test_the_place_of_a_base_is_recorded_from_the_root_on(saved, processor, monkeypatch):
    monkeypatch.chdir(saved)
    model = RTDModel.from_clip("clip", "lincir")
    model.replace_text_model(copy.deepcopy(model.text_model), "clip")
    assert model.config.base_model == model.config.original_text_model["repo"] == str(saved / "clip")


def test_a_tower_of_another_place_needs_its_base(saved, processor, clip_on_hub, tmp_path, capsys):
    model = RTDModel.from_clip(str(saved / "clip"), "lincir")
    model.replace_text_model(shake(copy.deepcopy(model.text_model)), str(saved / "clip"))
    folder = save_with_stages(model.save_pretrained, processor, tmp_path / "model")
    assert publish(folder, *WAYS) == 2
    assert "the text tower from before RTD is in" in capsys.readouterr().err
    assert publish(folder, *ADAPTER_WAYS, "--push") == 0
    assert json.loads(clip_on_hub.repos[REPO]["config.json"])["original_text_model"]["repo"] == "org/clip"


@pytest.mark.parametrize(("ways", "repo"), [(WAYS, None), (ADAPTER_WAYS, "org/clip")])
def test_a_model_of_one_tower_is_published_without_the_place_of_the_other(
    saved, processor, clip_on_hub, tmp_path, ways, repo
):
    model = RTDModel.from_clip(str(saved / "clip"), "lincir")
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    folder = save_with_stages(model.without_original_text_model({}).save_pretrained, processor, tmp_path / "model")
    assert publish(folder, *ways, "--push") == 0
    assert json.loads(clip_on_hub.repos[REPO]["config.json"])["original_text_model"]["repo"] == repo
    assert not any(name.startswith("original_text") for name in clip_on_hub.repos[REPO])


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ("a run", "it is a run: name"),
        ("no folder", "there is no directory"),
        ("no processor", "processor_config.json is missing"),
        ("no original tower", "original_text/model.safetensors is missing"),
        ("no organisation", "write org/name"),
        ("no RTD model", "is not an RTD model, its config.json says 'clip'"),
        ("no JSON", "config.json' is damaged"),
        ("both kinds", "holds a model and an adapter"),
    ],
)
def test_incomplete_directories_are_refused(folder, capsys, mistake, complaint):
    place, repo = folder, REPO
    if mistake == "a run":
        place = folder.parent
    elif mistake == "no folder":
        place = folder / "nowhere"
    elif mistake == "no processor":
        (folder / "processor_config.json").unlink()
    elif mistake == "no original tower":
        (folder / "original_text/model.safetensors").unlink()
    elif mistake == "no RTD model":
        edit_json(folder / "config.json", model_type="clip")
    elif mistake == "no JSON":
        (folder / "config.json").write_text("{")
    elif mistake == "both kinds":
        (folder / "rtd_adapter.json").write_text("{}")
    else:
        repo = "tiny"
    assert main(["publish", str(place), repo, *WAYS]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
def test_what_the_card_shows_runs(folder, hub, tmp_path, monkeypatch):
    assert publish(folder, *WAYS, "--push") == 0
    blocks = re.findall(r"```python\n(.*?)```", hub.repos[REPO]["README.md"].decode(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("a", "b", "c", "reference"), build_images(4), strict=True):
        image.save(f"{name}.jpg")
    ranks = run_last(blocks[0])[0].tolist()
    assert sorted(ranks) == [0, 1, 2]
    model, processor = load_model_and_processor(REPO)
    Gallery.from_images(model, processor, ["a.jpg", "b.jpg", "c.jpg"]).save("index")
    assert [hit["id"] for hit in run_last(blocks[2])] == [f"{'abc'[rank]}.jpg" for rank in ranks[:2]]
    pytest.importorskip("sentence_transformers")
    assert run_last(blocks[1]).tolist() == ranks


def test_what_the_hub_shows_first_for_the_tags_runs(folder, hub, tmp_path, monkeypatch):
    assert publish(folder, *WAYS, "--push") == 0
    snippets = write_snippets(REPO, {name: data for name, data in hub.repos[REPO].items() if name[-5:] != "nsors"})
    assert list(snippets) == ["pipeline", "AutoModel", "sentence-transformers"]
    monkeypatch.chdir(tmp_path)
    build_images(1)[0].save("photo.jpg")
    names = {}
    exec(snippets["pipeline"], names)
    assert len(names["pipe"]("photo.jpg")[0]) == RTDModel.from_pretrained(folder).config.projection_dim
    exec(snippets["AutoModel"], names)
    assert type(names["model"]).__name__ == "RTDModel"
    pytest.importorskip("sentence_transformers")
    exec(snippets["sentence-transformers"], names)
    assert names["similarities"].shape == (4, 4)


def test_a_license_that_the_hub_does_not_list_has_a_name_and_an_address(folder, hub, capsys):
    ways = ["--license", "other", *WAYS[2:], "--push"]
    assert publish(folder, *ways) == 2
    assert "--license-name NAME and --license-link URL" in capsys.readouterr().err
    assert publish(folder, *ways, "--license-name", "house", "--license-link", "https://example.org/l") == 0
    card = ModelCard(hub.repos[REPO]["README.md"].decode())
    assert card.data.license_name == "house"
    assert "under [house](https://example.org/l)" in card.text


def test_a_picture_is_on_the_card_and_its_thumbnail(folder, hub, tmp_path):
    build_images(1)[0].save(tmp_path / "results.png")
    assert publish(folder, *WAYS, "--push", "--picture", str(tmp_path / "results.png")) == 0
    card = ModelCard(hub.repos[REPO]["README.md"].decode())
    assert "](results.png)" in card.text
    assert card.data.thumbnail.endswith(f"{REPO}/resolve/main/results.png")
    assert hub.repos[REPO]["results.png"] == (tmp_path / "results.png").read_bytes()


def test_what_the_card_of_an_adapter_shows_runs(adapter_folder, clip_on_hub, tmp_path, monkeypatch):
    assert publish(adapter_folder[0], *ADAPTER_WAYS, "--push") == 0
    block = re.search(r"```python\n(.*?)```", clip_on_hub.repos[REPO]["README.md"].decode(), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("a", "b", "c", "reference"), build_images(4), strict=True):
        image.save(f"{name}.jpg")
    assert {hit["id"] for hit in run_last(block)} < {"a.jpg", "b.jpg", "c.jpg"}


def run_last(block):
    """Run a block and give the value of its last line."""
    lines, names = block.strip().splitlines(), {}
    exec("\n".join(lines[:-1]), names)
    return eval(lines[-1], names)
