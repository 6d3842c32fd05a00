"""Protocols as each method publishes them."""

import pytest

from modeling_rtd import PROJECTIONS
from trainer.evaluation.benchmarks import Protocol, find_benchmark


def test_methods_have_their_own_published_protocols():
    cirr, fashioniq = find_benchmark("cirr"), find_benchmark("fashioniq")
    assert cirr.find_protocol("rtd") == cirr.protocol == Protocol(exclude_reference=True)
    assert cirr.find_protocol("searle").padding == "target"
    assert fashioniq.find_protocol("pic2word").caption_order == "reversed"
    assert fashioniq.find_protocol("pic2word", caption_order="both").caption_order == "both"
    assert not fashioniq.find_protocol("lincir").exclude_reference


@pytest.mark.parametrize("name", ["cirr", "circo", "fashioniq", "genecis"])
def test_lincir_and_rtd_crop_as_transformers_and_all_others_as_torchvision(name):
    crops = {method: find_benchmark(name).find_protocol(method).crop for method in ("rtd", *PROJECTIONS)}
    assert {method for method, crop in crops.items() if crop == "transformers"} == {"rtd", "lincir"}
