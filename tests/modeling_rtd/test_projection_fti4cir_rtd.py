"""FTI4CIR's network against a computation in numpy written from the paper's description."""

import numpy as np
import pytest
import torch

from modeling_rtd import RTDProjectionConfig, build_projection


SIZE, DIM = 24, 16


@pytest.fixture
def projection():
    torch.manual_seed(0)
    config = RTDProjectionConfig(
        projection_type="fti4cir", projection_dim=DIM, text_hidden_size=DIM, vision_hidden_size=SIZE, hidden_size=20
    )
    projection = build_projection(config).eval()
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return projection


def linear(x, weights, name):
    out = x @ weights[f"{name}.weight"].T
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x):
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def phi(x, weights, name):
    for place in (0, 3):
        x = linear(x, weights, f"{name}.layers.{place}")
        x = x * 0.5 * (1 + torch.erf(torch.from_numpy(x / np.sqrt(2))).numpy())
    return linear(x, weights, f"{name}.layers.6")


def compute_features(pooled, tokens, weights):
    """One image: its ordered local features, and how many of them become words."""
    x = np.concatenate([weights["templates"][0], tokens])
    for i in range(3):
        name = f"transformer.layers.{i}"
        normed = norm(x, weights, f"{name}.norm1")
        keys_values = linear(normed, weights, f"{name}.attn.to_keys_values")
        keys, values = keys_values[:, :SIZE], keys_values[:, SIZE:]
        scores = linear(normed, weights, f"{name}.attn.to_queries") @ keys.T * SIZE**-0.5
        x = x + linear(softmax(scores) @ values, weights, f"{name}.attn.project")
        hidden = np.maximum(linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"), 0)
        x = x + linear(hidden, weights, f"{name}.mlp.fc2")
    local = 1 / (1 + np.exp(-linear(x[:24], weights, "local_atte_fc.0")))
    shares = softmax(local @ pooled)
    count = min(max(int((shares > 0.05).sum()), 1), 12)
    best = np.argsort(-shares, kind="stable")[:12].tolist()
    features = local[sorted(best[:count]) + best[count:]]
    return features / np.linalg.norm(features, axis=-1, keepdims=True), count


@torch.no_grad()
def test_words_and_their_number_equal_an_independent_computation(projection):
    rng = np.random.default_rng(0)
    # From nearly equal shares, which exceed 0.05 nowhere, to one template that takes all.
    pooled = rng.normal(size=(40, DIM)) * np.geomspace(0.05, 30, 40)[:, None]
    tokens = rng.normal(size=(40, 10, SIZE))
    weights = {name: tensor.double().numpy() for name, tensor in projection.state_dict().items()}
    words, mask, features = projection.double()(
        torch.from_numpy(pooled), torch.from_numpy(tokens), return_features=True
    )
    counts = []
    for row in range(40):
        expected, count = compute_features(pooled[row], tokens[row], weights)
        counts.append(count)
        np.testing.assert_allclose(features[row].numpy(), expected, atol=1e-9)
        assert mask[row].tolist() == [True] * (1 + count) + [False] * (12 - count)
        np.testing.assert_allclose(words[row, 0].numpy(), phi(pooled[row], weights, "phi_s"), atol=1e-9)
        np.testing.assert_allclose(words[row, 1:].numpy(), phi(expected, weights, "phi_a"), atol=1e-9)
    assert len(set(counts)) > 4  # the rule was tried at many numbers of words


def test_unequal_sizes_are_refused():
    config = RTDProjectionConfig(projection_type="fti4cir", projection_dim=16, text_hidden_size=32)
    with pytest.raises(ValueError, match="the two sizes must be equal"):
        build_projection(config)
