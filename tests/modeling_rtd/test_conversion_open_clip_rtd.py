"""Repositories that open_clip wrote become the CLIP of transformers with the same features, or are refused by name."""

import json

import pytest
import torch

from modeling_rtd import RTDModel, RTDProcessor, convert_open_clip
from tests.factories import build_images
from tests.open_clip_repositories import BIN, SAFE, build_cfg, build_plain_clip, write_repository


def in_a_training(state):
    return {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}


@pytest.mark.parametrize(
    ("file", "act", "wrap"), [(BIN, "gelu", None), (SAFE, "quick_gelu", None), (BIN, "quick_gelu", in_a_training)]
)
@torch.no_grad()
def test_features_are_those_of_the_clip_that_was_written(tmp_path, file, act, wrap):
    clip = build_plain_clip(act)
    cfg = build_cfg() | ({"quick_gelu": True} if act == "quick_gelu" else {})
    model, tokenizer, image_processor = convert_open_clip(write_repository(tmp_path, clip, file, cfg, wrap))
    batch = tokenizer(["a red dress", "two dogs and a cat"], padding=True, return_tensors="pt")
    pixels = image_processor(build_images(2), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 32, 32)
    for name, given in (("get_text_features", dict(batch)), ("get_image_features", {"pixel_values": pixels})):
        expected = getattr(clip, name)(**given).pooler_output
        torch.testing.assert_close(getattr(model, name)(**given).pooler_output, expected, atol=0, rtol=0)
    assert torch.equal(model.logit_scale, clip.logit_scale)


def test_what_is_converted_is_a_backbone_like_any_other(tmp_path):
    for part in convert_open_clip(write_repository(tmp_path / "open_clip", build_plain_clip())):
        part.save_pretrained(tmp_path / "clip")
    model, processor = RTDModel.from_clip(str(tmp_path / "clip")), RTDProcessor.from_clip(str(tmp_path / "clip"))
    assert model(**processor(images=build_images(1), conditions=["is red"])).composed_embeds.shape == (1, 24)


def test_half_precision_stays(tmp_path):
    assert convert_open_clip(write_repository(tmp_path, build_plain_clip().half()))[0].dtype == torch.float16


def test_images_are_prepared_as_the_repository_says(tmp_path):
    facts = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "interpolation": "bilinear", "resize_mode": "squash"}
    processor = convert_open_clip(write_repository(tmp_path, build_plain_clip(), **facts))[2]
    image = build_images(1, size=(64, 32))[0]
    squashed = torch.tensor(list(image.resize((32, 32), 2).tobytes())).view(32, 32, 3).permute(2, 0, 1) / 255
    expected = (squashed - torch.tensor(facts["mean"]).view(3, 1, 1)) / torch.tensor(facts["std"]).view(3, 1, 1)
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"][0], expected)


OTHERS = {
    "vision_cfg.timm_model_name = 'vit_base_patch16_siglip_224'": {
        "vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224", "image_size": 224}
    },
    "multimodal_cfg = ": {"multimodal_cfg": {"width": 32}},
    "custom_text = 'True'": {"custom_text": True},
    "text_cfg.hf_model_name = 'xlm-roberta-base'": {"text_cfg": {"hf_model_name": "xlm-roberta-base"}},
    "text_cfg.no_causal_mask = 'True'": {"text_cfg": {"no_causal_mask": True, "pool_type": "last"}},
    "text_cfg.pool_type = 'last'": {"text_cfg": {"pool_type": "last"}},
    r"vision_cfg.layers = \[3, 4, 6, 3\]": {"vision_cfg": {"layers": [3, 4, 6, 3], "width": 64}},
    "init_logit_bias = '-10'": {"init_logit_bias": -10},
    "text_cfg.width = 'wide'": {"text_cfg": {"width": "wide"}},
    "`vision_cfg` is 3": {"vision_cfg": 3},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_network_is_refused_by_name_before_its_weights_are_read(tmp_path, name):
    settings = {"model_cfg": build_cfg() | OTHERS[name]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=name):
        convert_open_clip(tmp_path)


def test_settings_that_are_off_or_usual_are_no_other_network(tmp_path):
    cfg = build_cfg()
    cfg["vision_cfg"] |= {"timm_model_name": None, "pool_type": "tok", "attentional_pool": False, "patch_dropout": 0.5}
    cfg["text_cfg"] |= {"pool_type": "argmax", "no_causal_mask": False}
    assert convert_open_clip(write_repository(tmp_path, build_plain_clip(), cfg=cfg))[0].projection_dim == 24


def test_weights_that_do_not_fit_are_named(tmp_path):
    for name, value, message in (
        ("layers", 1, "says 1 layers of text: they have 2"),
        ("width", 64, r"text_model\S+ \(20, 32\); .*in all"),
    ):
        cfg = build_cfg()
        cfg["text_cfg"][name] = value
        with pytest.raises(ValueError, match=message):
            convert_open_clip(write_repository(tmp_path, build_plain_clip(), cfg=cfg))


def test_a_tokenizer_with_larger_ids_than_its_end_of_text_is_refused(tmp_path):
    cfg = build_cfg()
    cfg["text_cfg"]["vocab_size"] += 1
    with pytest.raises(ValueError, match="largest of 36 ids, but its tokenizer ends a text with 34"):
        convert_open_clip(write_repository(tmp_path, build_plain_clip(), cfg=cfg))


class Runs:
    def __reduce__(self):
        return print, ("code of the file ran",)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / BIN).unlink(), f"neither {SAFE} nor {BIN}"),
        (lambda folder: (folder / BIN).write_bytes((folder / BIN).read_bytes()[:-99]), "may be cut short"),
        (lambda folder: (folder / BIN).write_bytes(b"nothing"), r"more than tensors \(it is not a plain pickle"),
        (lambda folder: (folder / SAFE).write_bytes(b"nothing"), "is damaged"),
        (lambda folder: torch.save({"visual.proj": Runs()}, folder / BIN), "holds more than tensors"),
        (lambda folder: torch.save([1], folder / BIN), "they have 0"),
        (lambda folder: torch.save({"visual.proj": 3}, folder / BIN), "they have 0"),
        (lambda folder: (folder / "open_clip_config.json").unlink(), "holds no open_clip_config.json"),
        (lambda folder: (folder / "open_clip_config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "open_clip_config.json").write_text("{}"), "`model_cfg` is nothing"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "brings no tokenizer"),
    ],
)
def test_damaged_repositories_are_named_and_run_nothing(tmp_path, capsys, break_it, message):
    folder = write_repository(tmp_path / "repo", build_plain_clip())
    break_it(folder)
    with pytest.raises(ValueError, match=message):
        convert_open_clip(folder)
    assert "ran" not in capsys.readouterr().out


def test_a_repository_comes_from_the_hub_and_its_weights_last(tmp_path, hub):
    folder = write_repository(tmp_path / "repo", build_plain_clip(), SAFE)
    hub.repos["org/clip"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, _, _ = convert_open_clip("org/clip", cache_dir=tmp_path / "cache")
    assert torch.equal(model.logit_scale, build_plain_clip().logit_scale)
    wanted = [call.rpartition("/")[2] for call in hub.calls]
    assert wanted.index("open_clip_config.json") < wanted.index("tokenizer_config.json") < wanted.index(SAFE)
    assert BIN not in wanted
