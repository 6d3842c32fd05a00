"""What is saved is complete: it works where transformers and torch are installed and nothing else of ours is."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from modeling_rtd import Gallery, RTDModel
from tests.factories import build_clip, build_images, build_processor, build_tokenizer, save_backbone, shake
from tests.hub_stand_in import HubStandIn
from trainer.cli.main import main
from trainer.loading import load_model_and_processor
from trainer.publishing.provenance import write_stages


SCRIPT = """
import importlib.util, sys
import huggingface_hub
import torch
from transformers import AutoModel, AutoProcessor, pipeline

for name in ("modeling_rtd", "trainer", "faiss", "pymilvus"):
    assert importlib.util.find_spec(name) is None, name
folder, photo, index, out, repo = sys.argv[1:]
alone = folder + "/alone"
queries = [{"image": photo, "text": "is red with no sleeves"}, {"text": "a dog"}]
outputs = {}
for place in (alone, out + "/alone", folder + "/whole", repo, out + "/whole"):
    if place == alone:
        AutoProcessor.from_pretrained(place, trust_remote_code=True).save_pretrained(out + "/processor")
        processor = AutoProcessor.from_pretrained(out + "/processor", trust_remote_code=True)
    model = AutoModel.from_pretrained(place, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(place, trust_remote_code=True)
    assert type(model).__name__ == "RTDModel" and type(processor).__name__ == "RTDProcessor"
    inputs = processor(images=[photo], conditions=["is red with no sleeves"])
    with torch.no_grad():
        text = model.get_text_features(**processor(text="a dog")).pooler_output
        composed = model(**inputs).composed_embeds
    outputs[place] = {"composed": composed, "text": text}
    if place.endswith("alone"):
        ours = [name for name in sys.modules if name.startswith("transformers_modules")]
        assert ours and not [name for name in ours if "pipeline" in name or "gallery" in name]
        model.save_pretrained(out + "/alone")
        processor.save_pretrained(out + "/alone")
        continue
    pipe = pipeline(model=place, gallery=index, trust_remote_code=True, device="cpu")  # its task is its own
    assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
    outputs[place]["hits"] = pipe(queries, batch_size=2)
    if place == repo:
        pipe.save_pretrained(out + "/whole")
    else:
        pipe.save_pretrained(out + "/pushed")
        huggingface_hub.create_repo(repo, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=repo, folder_path=out + "/pushed")
torch.save(outputs, out + "/outputs.pt")
"""


LOAD = """
import importlib.util
import sys
import torch
from transformers import AutoModel, AutoProcessor, pipeline

photo, index, out, repo = sys.argv[1:]
model = AutoModel.from_pretrained(repo, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
pipe = pipeline(model=repo, gallery=index, trust_remote_code=True, device="cpu")  # the task is the repository's own
assert type(pipe).__name__ == "ComposedImageRetrievalPipeline"
with torch.no_grad():
    inputs = processor(images=[photo], conditions=["is red with no sleeves"])
    composed = model(**inputs).composed_embeds
    text = model.get_text_features(**processor(text="a dog")).pooler_output
    image = model(inputs["pixel_values"]).image_embeds
extract = pipeline("image-feature-extraction", model=repo, trust_remote_code=True, device="cpu")  # the Hub's snippet
torch.testing.assert_close(torch.tensor(extract(photo)), image, atol=1e-6, rtol=0)
hits = pipe([{"image": photo, "text": "is red with no sleeves"}, {"text": "a dog"}], batch_size=2)
torch.save({"composed": composed, "text": text, "hits": hits}, out)
if importlib.util.find_spec("sentence_transformers"):
    sys.meta_path.pop(0)  # what hides `datasets`, which it knows by its metadata
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(repo, trust_remote_code=True, device="cpu")
    assert type(encoder[0]).__module__.startswith("transformers_modules.")
    embeds = encoder.encode([{"image": photo, "text": "is red with no sleeves"}, "a dog"], convert_to_tensor=True)
    torch.testing.assert_close(embeds[:1], composed, atol=1e-6, rtol=0)
    torch.testing.assert_close(embeds[1:], torch.nn.functional.normalize(text), atol=1e-6, rtol=0)
"""


FAMILIES = """
import sys
import torch
from transformers import AutoModel, AutoProcessor

photo, out, *places = sys.argv[1:]
outputs = {}
for place in places:
    model = AutoModel.from_pretrained(place, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(place, trust_remote_code=True)
    with torch.no_grad():
        composed = model(**processor(images=[photo], conditions=["is Red with no sleeves"])).composed_embeds
        text = model.get_text_features(**processor(text="a Dog")).pooler_output
    outputs[place] = [type(model.text_model).__module__.split(".")[0], composed, text]
torch.save(outputs, out)
"""


# The checkout is on the path of an editable install, by a path or by a finder.
HIDE = f"""
import sys
sys.path[:] = [p for p in sys.path if p not in ("", {str(Path.cwd())!r})]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
class Hidden:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("faiss", "pymilvus", "milvus_lite", "datasets", "peft"):
            raise ModuleNotFoundError(name)
import importlib.util
find = importlib.util.find_spec
def find_visible(name, *rest):
    try:
        return find(name, *rest)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_visible
sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder with a tuned model, a photograph and a gallery, and what the model answers."""
    root = tmp_path_factory.mktemp("saved")
    torch.manual_seed(1)
    # The projection that needs most: image tokens, and the prompt by the text tower from before RTD.
    model = RTDModel.from_clip(build_clip(), "context_i2w", tokenizer=build_tokenizer())
    processor = build_processor().with_template("context_i2w")
    tuned = copy.deepcopy(model.text_model)
    with torch.no_grad():
        tuned.text_projection.weight.mul_(2.0)
    model.replace_text_model(tuned)  # so that the original text tower has to travel too
    model.save_pretrained(root / "model/alone")
    processor.save_pretrained(root / "model/alone")
    whole = pipeline("composed-image-retrieval", model=model, processor=processor, device="cpu")
    whole.save_pretrained(root / "model/whole")
    images = build_images(5)
    images[0].save(root / "photo.png")
    gallery = Gallery(folder=root / "index")
    gallery.add(model, processor, images, [f"{i}" for i in range(5)])
    inputs = processor(images=[root / "photo.png"], conditions=["is red with no sleeves"])
    with torch.no_grad():
        composed = model(**inputs).composed_embeds
        text = model.get_text_features(**processor(text="a dog")).pooler_output
    hits = gallery.search(torch.cat([composed, text]))
    return root, {"composed": composed, "text": text, "hits": hits}


def test_a_model_travels_alone_and_a_pipeline_whole(saved):
    root, _ = saved
    alone, whole = ({path.name for path in (root / "model" / name).glob("*.py")} for name in ("alone", "whole"))
    assert {"modeling_rtd.py", "configuration_rtd.py", "processing_rtd.py"} <= alone < whole
    assert not {name for name in alone if name.startswith(("pipeline", "gallery", "conversion"))}
    assert {"pipeline_rtd.py", "gallery_rtd.py"} <= whole
    assert {"sentence_transformers_rtd.py", "query_rtd.py"} <= alone  # which is read by another library alone
    assert (len(alone), len(whole)) == (19, 27)
    configs = [json.loads((root / "model" / name / "config.json").read_text()) for name in ("alone", "whole")]
    assert ["custom_pipelines" in config for config in configs] == [False, True]


@torch.no_grad()
def test_a_model_works_by_the_code_that_it_brings(saved):
    root, expected = saved
    place = str(root / "model/alone")
    names = json.loads((root / "model/alone/config.json").read_text())["auto_map"]
    names |= json.loads((root / "model/alone/processor_config.json").read_text())["auto_map"]
    classes = [get_class_from_dynamic_module(names[name], place) for name in ("AutoModel", "AutoProcessor")]
    assert {one.__module__.partition(".")[0] for one in classes} == {"transformers_modules"}
    model, processor = (one.from_pretrained(place) for one in classes)
    inputs = processor(images=[root / "photo.png"], conditions=["is red with no sleeves"])
    composed, text = model(**inputs).composed_embeds, model.get_text_features(**processor(text="a dog")).pooler_output
    for name, ours in (("composed", composed), ("text", text)):
        torch.testing.assert_close(ours, expected[name], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_model_works_without_this_package_from_a_folder_from_the_hub_and_saved_again(saved, tmp_path):
    root, expected = saved
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    arguments = [str(place) for place in (root / "model", root / "photo.png", root / "index", tmp_path, "someone/rtd")]
    with HubStandIn() as hub:
        environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_loopback"}
        environment |= {"HF_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-P", "-c", HIDE + SCRIPT, *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        pushed = hub.repos["someone/rtd"]
    assert {"pipeline_rtd.py", "modeling_rtd.py", "processing_rtd.py", "processor_config.json"} <= set(pushed)
    assert "original_text/model.safetensors" in pushed
    assert any(call.startswith("GET") and call.endswith("/model.safetensors") for call in hub.calls)
    for place, outputs in torch.load(tmp_path / "outputs.pt").items():
        for name in ("composed", "text"):
            torch.testing.assert_close(outputs[name], expected[name], atol=1e-6, rtol=0, msg=place)
        hits = zip(outputs["hits"], expected["hits"], strict=True) if "hits" in outputs else ()
        for ours, theirs in hits:
            assert [hit["id"] for hit in ours] == [hit["id"] for hit in theirs], place


@pytest.mark.slow
def test_what_rtd_publish_puts_up_works_in_another_process_without_this_package(saved, hub, tmp_path):
    root, expected = saved
    write_stages([{"stage": "rtd", "data": {"triplets": "org/triplets"}}], root / "model/alone")
    ways = ["--license", "mit", "--base-model", "none", "--without", "evaluation", "alignment", "--push"]
    assert main(["publish", str(root / "model/alone"), "someone/published", *ways]) == 0
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache")}
    arguments = [str(root / "photo.png"), str(root / "index"), str(tmp_path / "outputs.pt"), "someone/published"]
    command = [sys.executable, "-P", "-c", HIDE + LOAD, *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "You are using a model of type" not in result.stderr
    outputs = torch.load(tmp_path / "outputs.pt")
    for name in ("composed", "text"):
        torch.testing.assert_close(outputs[name], expected[name], atol=1e-6, rtol=0)
    for ours, theirs in zip(outputs["hits"], expected["hits"], strict=True):
        assert [hit["id"] for hit in ours] == [hit["id"] for hit in theirs]


@pytest.mark.slow
def test_other_families_work_without_this_package(tmp_path):
    expected = {}
    build_images(1)[0].save(tmp_path / "photo.png")
    for family in ("metaclip_2", "siglip"):
        model, processor = load_model_and_processor(save_backbone(tmp_path / family, family), "lincir")
        model.replace_text_model(shake(copy.deepcopy(model.text_model)), str(tmp_path / family))
        place = str(tmp_path / f"rtd-{family}")
        model.save_pretrained(place)
        processor.save_pretrained(place)
        with torch.no_grad():
            inputs = processor(images=[tmp_path / "photo.png"], conditions=["is Red with no sleeves"])
            expected[place] = [
                model(**inputs).composed_embeds,
                model.get_text_features(**processor(text="a Dog")).pooler_output,
            ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [str(place) for place in (tmp_path / "photo.png", tmp_path / "outputs.pt", *expected)]
    command = [sys.executable, "-P", "-c", HIDE + FAMILIES, *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for place, (module, *outputs) in torch.load(tmp_path / "outputs.pt").items():
        assert module == "transformers_modules"
        for ours, theirs in zip(outputs, expected[place], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
