import torch

from modeling_rtd import RTDConfig, build_projection


def test_the_projection_at_vit_l_size_has_the_published_parameter_count():
    with torch.device("meta"):
        projection = build_projection(RTDConfig().projection_config)
    assert sum(p.numel() for p in projection.parameters()) == 14_162_688
