"""A saved model is complete: it loads where transformers and torch are installed and this package is not."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.builders import build_images


SCRIPT = """
import importlib.util, sys
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

assert importlib.util.find_spec("modeling_rtd") is None and importlib.util.find_spec("trainer") is None
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__name__ == "RTDModel" and type(processor).__name__ == "RTDProcessor"
inputs = processor(images=[folder + "/query.png"], conditions=["is red with no sleeves"])
with torch.no_grad():
    text = model.get_text_features(**processor(text="a dog")).pooler_output
    outputs = {"composed": model(**inputs).composed_embeds, "text": text}
torch.save(outputs, folder + "/outputs.pt")
model.save_pretrained(folder + "/again")
processor.save_pretrained(folder + "/again")
"""


# The checkout is on the path of an editable install, by a path or by a finder.
HIDE = f"""
import sys
sys.path[:] = [p for p in sys.path if p not in ("", {str(Path.cwd())!r})]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
"""


def load_elsewhere(folder, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", HIDE + SCRIPT, str(folder)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(folder / "outputs.pt")


@torch.no_grad()
def test_a_saved_model_loads_without_this_package_with_equal_embeddings(model, processor, tmp_path):
    folder = tmp_path / "model"
    tuned = copy.deepcopy(model.text_model)
    tuned.text_projection.weight.mul_(2.0)
    model.replace_text_model(tuned)  # so that the original text tower has to travel too
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    build_images(1)[0].save(folder / "query.png")
    inputs = processor(images=[folder / "query.png"], conditions=["is red with no sleeves"])
    expected = {
        "composed": model(**inputs).composed_embeds,
        "text": model.get_text_features(**processor(text="a dog")).pooler_output,
    }
    outputs = load_elsewhere(folder, tmp_path)
    for name, embeds in expected.items():
        torch.testing.assert_close(outputs[name], embeds, atol=1e-6, rtol=0)
    # What was loaded by remote code and saved again is as complete as the first.
    build_images(1)[0].save(folder / "again/query.png")
    again = load_elsewhere(folder / "again", tmp_path)
    assert torch.equal(again["composed"], outputs["composed"])
