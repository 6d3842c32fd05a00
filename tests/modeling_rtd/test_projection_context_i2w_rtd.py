"""Context-I2W's network against a computation in numpy written from the paper's description."""

import numpy as np
import pytest
import torch

from modeling_rtd import RTDProjectionConfig, build_projection


SIZE, DIM = 48, 24


@pytest.fixture
def projection():
    torch.manual_seed(0)
    config = RTDProjectionConfig(
        projection_type="context_i2w",
        projection_dim=DIM,
        text_hidden_size=32,
        vision_hidden_size=SIZE,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=3,
    )
    projection = build_projection(config).eval()
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        projection.local_gate.fill_(0.7)
    return projection


def erf(x):
    return torch.erf(torch.from_numpy(x)).numpy()


def norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(tokens, latents, weights, name, heads=3, head_size=64):
    """One row: all queries of all heads, one after the other."""
    media, latents = norm(tokens, weights, f"{name}.norm_media"), norm(latents, weights, f"{name}.norm_latents")
    queries = latents @ weights[f"{name}.to_q.weight"].T
    keys_values = np.concatenate([media, latents]) @ weights[f"{name}.to_kv.weight"].T
    keys, values = keys_values[:, : heads * head_size], keys_values[:, heads * head_size :]
    joined = []
    for head in range(heads):
        part = slice(head * head_size, (head + 1) * head_size)
        scores = queries[:, part] @ keys[:, part].T * head_size**-0.5
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        joined.append(shares / shares.sum(-1, keepdims=True) @ values[:, part])
    return np.concatenate(joined, axis=-1) @ weights[f"{name}.to_out.weight"].T


def narrow(x, weights, layers, last):
    for i in range(2):
        x = np.maximum(x @ weights[f"{layers}.{i}.0.weight"].T + weights[f"{layers}.{i}.0.bias"], 0)
    return x @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]


def compute_word(tokens, context, weights):
    direction = weights["view_selector.direction"]
    selector = weights["view_selector.scale"] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    tokens = (tokens @ selector.T) * (weights["to_c.weight"] @ context)
    whole = norm(tokens[0], weights, "ln_post") @ weights["proj"]
    latents = weights["extractor.latents"]
    for i in range(2):
        latents = latents + attend(tokens[1:], latents, weights, f"extractor.layers.{i}.0")
        hidden = norm(latents, weights, f"extractor.layers.{i}.1.0") @ weights[f"extractor.layers.{i}.1.1.weight"].T
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        latents = latents + hidden @ weights[f"extractor.layers.{i}.1.3.weight"].T
    gathered = norm(latents, weights, "extractor.norm").mean(0)
    local = norm(gathered, weights, "ln_post_local") @ weights["proj_local"]
    gate = np.tanh(weights["local_gate"])
    return narrow(whole, weights, "layers", "fc_out") + gate * narrow(local, weights, "layers_local", "fc_out_local")


@torch.no_grad()
def test_the_word_equals_an_independent_computation(projection):
    rng = np.random.default_rng(0)
    tokens, context = rng.normal(size=(3, 17, SIZE)), rng.normal(size=(3, DIM))
    weights = {name: tensor.double().numpy() for name, tensor in projection.state_dict().items()}
    words, mask = projection.double()(image_tokens=torch.from_numpy(tokens), context_embeds=torch.from_numpy(context))
    expected = np.stack([compute_word(*row, weights) for row in zip(tokens, context, strict=True)])
    assert mask is None
    np.testing.assert_allclose(words[:, 0].numpy(), expected, atol=1e-9)


def test_a_fresh_network_has_the_published_initial_values():
    config = RTDProjectionConfig(
        projection_type="context_i2w", projection_dim=256, text_hidden_size=256, vision_hidden_size=512
    )
    projection = build_projection(config)
    assert projection.local_gate.item() == 0  # the local path begins closed
    torch.testing.assert_close(projection.view_selector.scale[:, 0], projection.view_selector.direction.norm(dim=1))
    assert projection.proj.std().item() == pytest.approx(512**-0.5, rel=0.02)
    assert projection.extractor.latents.std().item() == pytest.approx(1, rel=0.1)


def test_dropout_stands_before_the_relu(projection):
    for block in projection.layers:
        assert [type(module).__name__ for module in block] == ["Linear", "Dropout", "ReLU"]
