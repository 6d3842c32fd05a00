from pathlib import Path

import pytest

from tests.factories import build_stand_in
from trainer.release import steps as steps_module
from trainer.release.steps import Ledger, Request, Step, find_benchmarks, plan_steps, take_few


def ask(folder, recipe="rtd-vitl", **options):
    return Request(recipe, f"org/{recipe}", folder, **({"triplets": "t.jsonl", "license": "mit"} | options))


def name_steps(*arguments):
    return [step.name for step in plan_steps(*arguments)]


def test_a_published_projection_needs_no_training(tmp_path):
    assert name_steps(ask(tmp_path), {}) == ["train", "diagnose", "card", "push"]


def test_benchmarks_are_judged_one_by_one_and_a_dry_run_uploads_nothing(tmp_path):
    roots = {"cirr": Path("data/cirr"), "circo": Path("data/circo")}
    assert name_steps(ask(tmp_path, is_dry=True), roots) == ["train", "cirr", "circo", "diagnose", "card"]


def test_a_projection_is_trained_by_its_published_recipe_and_used(tmp_path):
    projection, train, *_ = plan_steps(ask(tmp_path, "rtd-siglip2", captions="c.txt"), {})
    command = projection.write()
    assert command[:4] == ["train-projection", "google/siglip2-base-patch16-224", "--method", "lincir"]
    assert " ".join(command[4:]) == (
        f"--captions c.txt --keyword-fn spacy --mask-on substrings --noise-unit rms --output-dir {tmp_path}/projection"
    )
    assert f"--projection {tmp_path}/projection/model" in " ".join(train.write())


def test_options_go_to_training_behind_the_recipe(tmp_path):
    (train, *_) = plan_steps(ask(tmp_path, train=["--bf16"]), {})
    assert train.write()[:3] == ["train", "--recipe", "rtd-vitl"]
    assert train.write()[-1] == "--bf16"


def test_what_was_not_judged_is_said_on_the_card(tmp_path):
    *_, card, push = plan_steps(ask(tmp_path, private=True), {})
    assert "--without evaluation --private" in " ".join(card.write())
    assert push.write() == [*card.write(), "--push"]


def test_another_license_has_a_name_and_an_address(tmp_path):
    other = {"license": "other", "license_name": "mine", "license_link": "https://example.org"}
    command = " ".join(plan_steps(ask(tmp_path, **other), {})[-1].write())
    assert "--license other --license-name mine --license-link https://example.org" in command.replace(
        f" --card {tmp_path}/card.md", ""
    )
    with pytest.raises(ValueError, match="--license-link"):
        ask(tmp_path, license="other", license_name="mine")
    with pytest.raises(ValueError, match="--license-name is for --license other"):
        ask(tmp_path, license="mit", license_name="mine")


def test_only_benchmarks_whose_data_are_there_are_judged(tmp_path):
    for name in ("cirr", "circo"):
        build_stand_in(name, tmp_path / name)
    next((tmp_path / "circo").rglob("*.jpg")).unlink()
    found, broken, images = find_benchmarks(tmp_path, "lincir")
    assert found == {"cirr": tmp_path / "cirr"}
    assert "images of circo are missing" in broken["circo"]
    assert images == 12 + 8
    assert find_benchmarks(tmp_path / "nowhere", "lincir") == ({}, {}, 0)


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ("nothing", [True, True]),
        ("another command", [False, True]),
        ("no result", [False, True]),
        ("the first begins again", [False, False]),
    ],
)
def test_a_step_is_skipped_where_the_same_command_left_its_result(tmp_path, change, done):
    steps = [Step("a", "", lambda: ["a"], "a.txt"), Step("b", "", lambda: ["b"])]
    (tmp_path / "a.txt").touch()
    ledger = Ledger(tmp_path)
    for step in steps:
        assert not ledger.is_done(step)
        ledger.add(step, 1.0)
    if change == "another command":
        steps[0] = steps[0]._replace(write=lambda: ["a", "--more"])
    elif change == "no result":
        (tmp_path / "a.txt").unlink()
    elif change == "the first begins again":
        ledger.forget(steps[0], steps)
    assert [Ledger(tmp_path).is_done(step) for step in steps] == done


def test_a_try_reads_the_first_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(steps_module, "_FEW_ROWS", 2)
    (tmp_path / "c.txt").write_text("a dog\na cat\na car")
    few = take_few(ask(tmp_path / "release", triplets=None, captions=str(tmp_path / "c.txt")), tmp_path)
    assert (few.folder, few.triplets) == (tmp_path, None)
    assert Path(few.captions).read_text().splitlines() == ['{"text":"a dog"}', '{"text":"a cat"}']
