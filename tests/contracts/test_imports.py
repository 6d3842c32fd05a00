import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_rtd import CHECKPOINT_FORMATS, RTDModel
from tests.factories import build_clip, build_images, save_model


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("before", "module", "unwanted"),
    [
        # transformers itself imports accelerate where it finds it.
        pytest.param(
            "from transformers import CLIPModel",
            "modeling_rtd",
            "peft datasets accelerate faiss matplotlib sentence_transformers trainer",
            marks=pytest.mark.slow,
        ),
        ("", "trainer.cli.main", "torch transformers datasets matplotlib"),
    ],
)
def test_import_stays_light(before, module, unwanted):
    code = f"import json, sys\n{before}\nbefore = set(sys.modules)\nimport {module}\n"
    code += "print(json.dumps([*(set(sys.modules) - before)]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    assert module in imported
    assert not set(unwanted.split()) & set(imported)


REFUSED = """
search nothing x
search nothing --gallery /nope --text a
index nothing --images /nope -o x
serve nothing --gallery /nope
app nothing --gallery /nope
train --bad
train-projection --bad
release a b --bad
publish --bad
demo --bad
"""


def test_torch_is_not_waited_for_where_a_verb_refuses():
    code = "import sys\nfrom trainer.cli.main import main\n"
    code += f"assert all(main(line.split()) == 2 for line in {REFUSED.strip().splitlines()})\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


TRAINING = ["datasets", "transformers.trainer", "matplotlib", "pandas", "evaluate", "sklearn", "trainer.training"]
RUN_VERBS = """
import json, sys
from trainer.cli.main import main

training, verbs = json.load(sys.stdin)
for verb, arguments in verbs:
    if verb == "serve":
        import socket, uvicorn
        from trainer.cli import serve
        serve._listen = lambda host, port: socket.socket()
        uvicorn.Server.run = lambda self, sockets: None
    if verb == "app":  # last, since gradio imports pandas itself
        from trainer.app import page
        training.remove("pandas")
        page.serve_page = lambda desk, *_: (page.build_page(desk), "nowhere")
        page.import_gradio().Blocks.block_thread = lambda self: None
    status = main([verb, *arguments])
    found = [name for name in training if name in sys.modules]
    assert status == 0 and not found, f"{verb} gave {status} and imported {found}"
"""


@pytest.mark.slow
def test_verbs_that_use_a_model_import_nothing_that_trains_one(tmp_path, processor):
    clip, photos = tmp_path / "clip", tmp_path / "photos"
    build_clip(projection_dim=32).save_pretrained(clip)
    processor.tokenizer.save_pretrained(clip)
    processor.image_processor.save_pretrained(clip)
    projection = RTDModel.from_clip(str(clip), "lincir").projection
    torch.save({CHECKPOINT_FORMATS["lincir"]: projection.state_dict()}, tmp_path / "file.pt")
    photos.mkdir()
    for i, image in enumerate(build_images(3)):
        image.save(photos / f"{i}.png")
    verbs = [
        ("convert", ["file.pt", "--from", "lincir", "--clip", "clip", "-o", "model"]),
        ("index", ["model", "--images", "photos", "-o", "index"]),
        ("search", ["model", "--gallery", "photos", "--image", "photos/0.png", "--text", "is red"]),
        ("serve", ["model", "--gallery", "index", "--no-page"]),  # the page is that of `app`
        ("app", ["model", "--gallery", "index"]),
    ]
    run_verbs(verbs, tmp_path)


@pytest.mark.slow
def test_exporting_imports_nothing_that_trains(tmp_path, clip, processor):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    save_model(tmp_path / "model", "lincir", clip, processor)
    run_verbs([("export", ["model", "-o", "onnx"])], tmp_path)


def run_verbs(verbs, folder):
    command = [sys.executable, "-c", RUN_VERBS]  # one process for all: most of the time goes into imports
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    sent = json.dumps([TRAINING, verbs])
    done = subprocess.run(
        command, input=sent, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
