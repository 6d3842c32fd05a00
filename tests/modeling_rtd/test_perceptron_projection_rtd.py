"""SEARLE's and Pic2Word's networks against computations in numpy."""

import numpy as np
import pytest
import torch

from modeling_rtd import RTDProjectionConfig, build_projection


def build(method):
    config = RTDProjectionConfig(projection_type=method, projection_dim=6, text_hidden_size=5, hidden_size=4)
    projection = build_projection(config).eval()
    return projection, {name: tensor.detach().double().numpy() for name, tensor in projection.state_dict().items()}


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


@pytest.mark.parametrize("method", ["searle", "lincir"])
def test_searle_is_three_layers_with_the_exact_gelu(method):
    projection, weights = build(method)
    x = 3 * np.random.default_rng(0).normal(size=(3, 6))
    hidden = x
    for layer in ("layers.0", "layers.3"):
        hidden = linear(hidden, weights, layer)
        hidden = hidden * 0.5 * (1 + torch.erf(torch.from_numpy(hidden / np.sqrt(2))).numpy())
    words, mask = projection.double()(torch.from_numpy(x))
    np.testing.assert_allclose(words[:, 0].detach().numpy(), linear(hidden, weights, "layers.6"), atol=1e-12)
    assert mask is None


def test_pic2word_is_two_narrow_layers_with_relu():
    projection, weights = build("pic2word")
    x = np.random.default_rng(0).normal(size=(3, 6))
    hidden = x
    for layer in ("layers.0.0", "layers.1.0"):
        hidden = np.maximum(linear(hidden, weights, layer), 0)
    words, mask = projection.double()(torch.from_numpy(x))
    np.testing.assert_allclose(words[:, 0].detach().numpy(), linear(hidden, weights, "fc_out"), atol=1e-12)
    assert mask is None


def test_dropout_has_the_published_place_and_share():
    searle = build_projection(RTDProjectionConfig(projection_type="searle")).layers
    assert [type(part).__name__ for part in searle] == ["Linear", "GELU", "Dropout"] * 2 + ["Linear"]
    assert searle[2].p == 0.5
    pic2word = build_projection(RTDProjectionConfig(projection_type="pic2word")).layers[0]
    assert [type(part).__name__ for part in pic2word] == ["Linear", "Dropout", "ReLU"]
    assert pic2word[1].p == 0.1
