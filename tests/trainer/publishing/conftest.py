import copy
import shutil
from pathlib import Path

import pytest
import torch

from modeling_rtd import RTDModel
from tests.factories import build_clip, build_processor, save_with_stages, shake
from trainer.training.lora import add_lora


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Places of a model that RTD has changed, of an adapter, and of the CLIP underneath; to be copied."""
    place, clip, processor = tmp_path_factory.mktemp("saved"), build_clip(), build_processor()
    for part in (clip, processor.tokenizer, processor.image_processor):
        part.save_pretrained(place / "clip")
    torch.manual_seed(1)
    model = RTDModel.from_clip(clip, "lincir", tokenizer=processor.tokenizer)
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    save_with_stages(model.save_pretrained, processor, place / "model")
    adapted = RTDModel.from_clip(str(place / "clip"), "lincir")
    for name, parameter in add_lora(adapted.text_model, r=2).named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter)
    save_with_stages(adapted.save_adapter, processor, place / "adapter")
    return place


@pytest.fixture
def folder(saved, tmp_path):
    """Directory of such a model."""
    return Path(shutil.copytree(saved / "model", tmp_path / "model"))


@pytest.fixture
def adapter_folder(saved, tmp_path):
    """Directory of an adapter, and that of the CLIP underneath."""
    return Path(shutil.copytree(saved / "adapter", tmp_path / "adapter")), saved / "clip"


@pytest.fixture
def clip_on_hub(saved, hub):
    """The CLIP underneath, as `org/clip` on the Hub."""
    hub.repos["org/clip"] = {path.name: path.read_bytes() for path in (saved / "clip").iterdir()}
    return hub
