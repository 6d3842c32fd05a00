"""ONNX files: near torch in each precision, queried without torch, and refused where they are not near."""

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rtd import RTDModel
from tests.factories import build_clip, build_images, build_processor, build_tokenizer, save_backbone, shake
from trainer.cli.main import main
from trainer.loading import load_model_and_processor
from trainer.publishing import onnx_export
from trainer.publishing.onnx_export import ONNX_PRECISIONS, export_onnx
from trainer.training.lora import add_lora


SCRIPT = Path(__file__).parents[3] / "docs/query_onnx.py"
PARTS = ("visual", "textual", "projection", "reader", "composed")
CONDITION = "is red with no sleeves $ <eos>"
ABSENT = """
import runpy, sys

class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "transformers", "modeling_rtd", "trainer"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def require_onnx():
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tuned model, its processor, and a folder with its export in all precisions and an index of six photographs."""
    require_onnx()
    place = tmp_path_factory.mktemp("exported")
    torch.manual_seed(1)
    model, processor = RTDModel.from_clip(build_clip(), "lincir", tokenizer=build_tokenizer()), build_processor()
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    assert main(["export", str(place / "model"), "-o", str(place / "onnx"), "--precision", *ONNX_PRECISIONS]) == 0
    for i, image in enumerate(build_images(6, size=(45, 37))):
        image.save(place / f"{i}.png")
    with torch.no_grad():
        images = processor(images=[place / f"{i}.png" for i in range(6)])
        features = model.get_image_features(**images).pooler_output
    np.save(place / "index.npy", torch.nn.functional.normalize(features).numpy())
    (place / "ids.txt").write_text("\n".join("012345"))
    return model, processor, place


@pytest.mark.slow
def test_every_file_is_near_torch_and_named_as_others_name_it(exported):
    model, _, place = exported
    differences = json.loads((place / "onnx/rtd.json").read_text())["differences"]
    names = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
    assert differences.keys() == {f"{part}/{name}" for part in PARTS for name in names.values()}
    assert all(differences[f"{part}/model.onnx"] < 2e-6 for part in PARTS)
    assert all((place / "onnx" / name).is_file() for name in differences)
    for name in (
        "config.json",
        "visual/preprocess_cfg.json",
        "textual/tokenizer.json",
        "textual/tokenizer_config.json",
    ):
        assert json.loads((place / "onnx" / name).read_text())
    # What Immich hands over: a padded text as int32 under the name `text`.
    from onnxruntime import InferenceSession

    session = InferenceSession(place / "onnx/textual/model.onnx")
    ids = np.array([[1, 5, 32, 3, *[0] * 16]], np.int32)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.get_text_features(torch.tensor(ids)).pooler_output)
    np.testing.assert_allclose(session.run(None, {"text": ids})[0], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reference", [["--image", "0.png"], ["--id", "0"]])
def test_a_query_without_torch_ranks_as_the_model_does(exported, reference):
    model, processor, place = exported
    command = [sys.executable, "-c", ABSENT, str(SCRIPT), "onnx", "--index", "index.npy", "--ids", "ids.txt"]
    command += [*reference, "--text", CONDITION, "--top-k", "5"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    with torch.no_grad():
        query = model(**processor(images=place / "0.png", conditions=CONDITION)).composed_embeds
    scores = (np.load(place / "index.npy") @ query.numpy()[0]).tolist()
    is_exact = reference[0] == "--image"  # a stored row has lost its length
    for score, name in found:
        assert float(score) == pytest.approx(scores[int(name)], abs=2e-6 if is_exact else 0.05)
    if is_exact:
        assert [int(name) for _, name in found] == sorted(range(6), key=lambda i: -scores[i])[:5]
    else:
        assert "0" not in [name for _, name in found]


@pytest.mark.slow
def test_a_file_that_differs_too_much_is_refused_and_nothing_is_left(exported, tmp_path, monkeypatch):
    model, processor, _ = exported
    monkeypatch.setitem(onnx_export.ONNX_PRECISIONS, "fp32", 1e-12)
    with pytest.raises(ValueError, match="visual/model.onnx differs from torch by"):
        export_onnx(model, processor, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("projection", "adapted", "precision", "complaint"),
    [
        ("context_i2w", False, "fp32", "'context_i2w' projection reads image_tokens"),
        ("lincir", True, "fp32", "rtd interpolate"),
        ("lincir", False, "fp8", "did you mean 'fp16'|Known: fp16"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(
    clip, processor, tmp_path, projection, adapted, precision, complaint
):
    model = RTDModel.from_clip(clip, projection, tokenizer=processor.tokenizer)
    if adapted:
        add_lora(model.text_model, r=2)
    with pytest.raises(ValueError, match=complaint):
        export_onnx(model, processor, tmp_path / "onnx", [precision])
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("family", ["siglip", "metaclip_2"])
def test_another_family_is_refused_by_name(tmp_path, family):
    model, processor = load_model_and_processor(save_backbone(tmp_path / family, family), "lincir")
    with pytest.raises(ValueError, match=f"only CLIP is exported: a '{family}_text_model'"):
        export_onnx(model, processor, tmp_path / "onnx")


def test_another_preprocessing_is_refused(model, processor, tmp_path):
    require_onnx()
    processor = copy.deepcopy(processor)
    processor.image_processor.size = {"height": 32, "width": 32}
    with pytest.raises(ValueError, match="not CLIP's"):
        export_onnx(model, processor, tmp_path / "onnx")


def test_missing_packages_are_named(model, processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnx onnxruntime onnxscript"):
        export_onnx(model, processor, tmp_path / "onnx")


@pytest.fixture
def script():
    """The script as a module."""
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("query_onnx", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:.*(unknown to the tokenizer|cut off)")
@pytest.mark.parametrize("condition", [CONDITION, "", " ", "red " * 40, "<bos> a"])
@pytest.mark.parametrize("template", ["lincir", "fti4cir", "{condition} of $"])
def test_the_script_writes_prompts_as_the_processor_does(script, processor, condition, template):
    settings = onnx_export._describe_prompt(processor)
    settings["template"] = processor.prompt_templates.get(template, template)
    ids, mask = script.build_prompt(condition, settings, copy.deepcopy(processor.tokenizer.backend_tokenizer))
    expected = processor.pad(processor.build_prompts([condition], template)[0])
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["placeholder_mask"])


def test_the_script_prepares_pictures_as_the_processor_does(script, processor, tmp_path):
    images = processor.image_processor
    settings = {"size": [32, 32], "mean": images.image_mean, "std": images.image_std, "interpolation": "bicubic"}
    for i, size in enumerate([(40, 61), (61, 40), (33, 32), (200, 77)]):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{i}.png")
        ours = script.prepare_image(tmp_path / f"{i}.png", settings)
        np.testing.assert_allclose(ours, processor.prepare_images(tmp_path / f"{i}.png"), atol=1e-6)


@pytest.mark.parametrize("damage", ["cut short", "of a later opset", "not there"])
def test_the_script_names_a_file_that_cannot_be_loaded(script, tmp_path, damage):
    onnx = pytest.importorskip("onnx")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "reader", values[:1], values[1:])
    opset = onnx.helper.make_opsetid("", 999 if damage == "of a later opset" else 18)
    content = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    (tmp_path / "reader").mkdir()
    if damage != "not there":
        (tmp_path / "reader/model.onnx").write_bytes(content[:-10] if damage == "cut short" else content)
    with pytest.raises(SystemExit, match=r"reader/model.onnx cannot be loaded: .*`rtd export`"):
        script.load(tmp_path, "reader")


@pytest.mark.parametrize(("name", "complaint"), [("9", "has no id '9'"), ("0", "has 1 ids, and .* has 2 rows")])
def test_the_script_names_an_id_or_a_row_that_is_missing(script, tmp_path, monkeypatch, capsys, name, complaint):
    np.save(tmp_path / "index.npy", np.eye(1 + (name == "0"), 4))
    (tmp_path / "ids.txt").write_text("0")
    places = [str(tmp_path / part) for part in ("", "index.npy", "ids.txt")]
    command = ["query_onnx.py", places[0], "--index", places[1], "--ids", places[2], "--id", name, "--text", "is red"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        script.main()
    assert re.search(complaint, capsys.readouterr().err)
