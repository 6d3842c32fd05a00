"""Repositories as open_clip writes them, of a tiny CLIP."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from tests.factories import WORDS, shake


BIN, SAFE = "open_clip_pytorch_model.bin", "open_clip_model.safetensors"


def build_cfg():
    """Settings that are not the defaults."""
    return {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 48,
            "head_width": 16,
            "patch_size": 8,
            "mlp_ratio": 1.5,
        },
        "text_cfg": {"context_length": 20, "vocab_size": len(WORDS), "width": 32, "heads": 4, "layers": 2},
    }


def _build_tokenizer():
    """A tokenizer whose end of text is the largest id, as CLIP's is."""
    ids = {word: i for i, word in enumerate([word for word in WORDS if word != "<eos>"] + ["<eos>"])}
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, ids[word]) for word in ("<bos>", "<eos>")]
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=20, **names)


def build_plain_clip(act="gelu"):
    """The CLIP of these settings, whose end of text is the largest id."""
    tower = {"hidden_act": act, "num_hidden_layers": 2, "projection_dim": 24}
    text = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 4, "max_position_embeddings": 20}
    text |= {"vocab_size": len(WORDS), "eos_token_id": len(WORDS) - 1, "bos_token_id": 1, "pad_token_id": 0}
    vision = {"hidden_size": 48, "intermediate_size": 72, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=24))
    return shake(clip).eval()


def _write_tensors(clip):
    """Name the tensors of a CLIP as open_clip does, tensor by tensor."""
    state = {"logit_scale": clip.logit_scale, "text_projection": clip.text_projection.weight.T}
    text, vision = clip.text_model, clip.vision_model
    state["token_embedding.weight"] = text.embeddings.token_embedding.weight
    state["positional_embedding"] = text.embeddings.position_embedding.weight
    state["visual.positional_embedding"] = vision.embeddings.position_embedding.weight
    state["visual.class_embedding"] = vision.embeddings.class_embedding
    state["visual.conv1.weight"] = vision.embeddings.patch_embedding.weight
    state["visual.proj"] = clip.visual_projection.weight.T
    modules = {"ln_final": text.final_layer_norm, "visual.ln_pre": vision.pre_layrnorm}
    modules["visual.ln_post"] = vision.post_layernorm
    for prefix, tower in (("", text), ("visual.", vision)):
        for i, layer in enumerate(tower.encoder.layers):
            block, attention = f"{prefix}transformer.resblocks.{i}", layer.self_attn
            modules |= {f"{block}.ln_1": layer.layer_norm1, f"{block}.ln_2": layer.layer_norm2}
            modules |= {f"{block}.mlp.c_fc": layer.mlp.fc1, f"{block}.mlp.c_proj": layer.mlp.fc2}
            modules[f"{block}.attn.out_proj"] = attention.out_proj
            inner = attention.q_proj, attention.k_proj, attention.v_proj
            state[f"{block}.attn.in_proj_weight"] = torch.cat([part.weight for part in inner])
            state[f"{block}.attn.in_proj_bias"] = torch.cat([part.bias for part in inner])
    for name, module in modules.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def write_repository(folder, clip, file=BIN, cfg=None, wrap=None, **preprocess):
    """Write a repository, and name its folder."""
    folder.mkdir(exist_ok=True)
    state = _write_tensors(clip)
    if file == SAFE:
        save_file(state, folder / file)
    else:
        torch.save(state if wrap is None else wrap(state), folder / file)
    settings = {"model_cfg": cfg or build_cfg(), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    _build_tokenizer().save_pretrained(folder)
    return folder
