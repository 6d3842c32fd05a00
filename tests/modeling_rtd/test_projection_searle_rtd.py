"""SEARLE's and LinCIR's network against a computation in numpy."""

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


def test_dropout_has_the_published_place_and_share():
    searle = build_projection(RTDProjectionConfig(projection_type="searle")).layers
    assert [type(part).__name__ for part in searle] == ["Linear", "GELU", "Dropout"] * 2 + ["Linear"]
    assert searle[2].p == 0.5
