"""Systems that are judged, each in its own protocol."""

import json

import pytest

from modeling_rtd import PROJECTIONS, RTDProcessor
from tests.factories import build_clip, build_image_processor, build_tokenizer, save_model
from trainer.cli.main import main


@pytest.mark.parametrize(
    "projection",
    [
        name if name in ("lincir", "context_i2w") else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(PROJECTIONS)
    ],
)
def test_every_projection_is_judged_in_its_own_protocol(data, tmp_path, projection, run_evaluate):
    processor = RTDProcessor(build_image_processor(), build_tokenizer(40))
    model = save_model(
        tmp_path / "model", projection, build_clip(projection_dim=32, max_position_embeddings=40), processor
    )
    names = "cirr,fashioniq,imagenet_r"
    records = run_evaluate(model, "--benchmark", names, "--root", data, out=tmp_path / "out")
    protocol = records["cirr-val"]["protocol"]
    assert protocol["template"] == processor.prompt_templates[projection]
    assert protocol["padding"] == ("target" if projection in ("searle", "fti4cir") else "none")
    assert protocol["crop"] == ("transformers" if projection == "lincir" else "published")
    order = "reversed" if projection in ("pic2word", "context_i2w") else "both"
    assert records["fashioniq-val"]["protocol"]["caption_order"] == order
    template = records["imagenet_r-val"]["protocol"]["template"]
    assert template.count("$") == PROJECTIONS[projection].max_pseudo_tokens
    assert template.startswith("a {condition} of $")


def test_switches_change_what_is_done_and_are_recorded(data, place, tmp_path, run_evaluate):
    base = (place, "--benchmark", "cirr", "--root", data / "cirr")
    kept = run_evaluate(*base, "--keep-reference", "--mode", "image", out=tmp_path / "a")["cirr-val"]
    assert kept["metrics"]["recall@1"] == 0  # the nearest image is the reference itself
    assert "exclude_reference is False, published True" in kept["deviations"]
    assert "mode is image, a baseline" in kept["deviations"]
    other = run_evaluate(
        *base, "--template", "$ {condition}", "--padding", "target", "--crop", "published", out=tmp_path / "b"
    )
    protocol = other["cirr-val"]["protocol"]
    assert (protocol["template"], protocol["padding"], protocol["crop"]) == ("$ {condition}", "target", "published")
    fashioniq = (place, "--benchmark", "fashioniq", "--root", data / "fashioniq", "--gallery", "val")
    record = run_evaluate(*fashioniq, "--caption-order", "forward", "--precision", "bfloat16", out=tmp_path)[
        "fashioniq-val"
    ]
    assert record["numbers"]["fashioniq/dress val"]["gallery"] < 14
    assert (record["protocol"]["caption_order"], record["system"]["precision"]) == ("forward", "bfloat16")


def test_a_template_written_out_is_no_deviation(data, place, tmp_path, run_evaluate):
    base = (place, "--benchmark", "cirr", "--root", data / "cirr")
    own = run_evaluate(*base, "--template", "a photo of $ that {condition}", out=tmp_path / "own")["cirr-val"]
    assert not [text for text in own["deviations"] if "template" in text]
    other = run_evaluate(*base, "--template", "$ , {condition}", out=tmp_path / "other")["cirr-val"]
    expected = "template is '$ , {condition}', published 'a photo of $ that {condition}'"
    assert [text for text in other["deviations"] if "template" in text] == [expected]


def test_only_the_same_evaluation_replaces_a_record(data, place, tmp_path):
    base = ["evaluate", place, "--benchmark", "cirr", "--root", str(data / "cirr"), "--output-dir", str(tmp_path)]
    for options in ([], [], ["--mode", "image"], ["--keep-reference"]):
        assert main([*base, *options]) == 0
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    ways = {(record["system"]["mode"], record["protocol"]["exclude_reference"]) for record in records}
    assert (len(records), ways) == (3, {("composed", True), ("image", True), ("composed", False)})
