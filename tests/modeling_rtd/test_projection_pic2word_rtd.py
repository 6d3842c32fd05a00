"""Pic2Word's network against computations in numpy."""

import numpy as np
import torch

from modeling_rtd import RTDProjectionConfig, build_projection


def build(method):
    config = RTDProjectionConfig(projection_type=method, projection_dim=6, text_hidden_size=5, hidden_size=4)
    projection = build_projection(config).eval()
    return projection, {name: tensor.detach().double().numpy() for name, tensor in projection.state_dict().items()}


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


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
    pic2word = build_projection(RTDProjectionConfig(projection_type="pic2word")).layers[0]
    assert [type(part).__name__ for part in pic2word] == ["Linear", "Dropout", "ReLU"]
    assert pic2word[1].p == 0.1
