import torch

from trainer.encoding.noise import draw_noise


def test_noise_depends_on_seed_epoch_and_row_alone():
    rows = [7, 2, 9, 4]
    whole = draw_noise(rows, 16, seed=1, epoch=3)
    assert torch.equal(whole, torch.cat([draw_noise([row], 16, seed=1, epoch=3) for row in rows]))
    for other in (draw_noise(rows, 16, seed=2, epoch=3), draw_noise(rows, 16, seed=1, epoch=2)):
        assert not torch.isclose(whole, other).any()


def test_noise_is_a_uniform_times_a_normal():
    noise = draw_noise(range(4000), 64, seed=0, epoch=0).double()
    scale = noise.std(dim=1)  # one uniform draw a row
    assert abs(scale.mean() - 0.5) < 0.02
    assert 0.99 < scale.max() < 1.25
    assert scale.min() < 0.01
    unit = noise / noise.square().mean(1, keepdim=True).sqrt()
    assert abs(unit.mean()) < 0.01
    assert abs((unit**4).mean() - 3) < 0.15
