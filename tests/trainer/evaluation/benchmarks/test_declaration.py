"""Protocols as each method publishes them."""

import pandas as pd
import pytest
from datasets import Dataset

from modeling_rtd import PROJECTIONS
from trainer.evaluation.benchmarks import Benchmark, Protocol, find_benchmark


GALLERY = {"id": ["a", "b"], "image": ["a.png", "b.png"]}
QUERIES = {"id": ["q"], "reference_id": ["r"], "target_ids": [["b"]], "subset_ids": [[]]}


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": pd.DataFrame(GALLERY)}, "gallery .* must be a datasets.Dataset.* got a DataFrame"),
        ({"gallery": Dataset.from_dict(GALLERY).to_iterable_dataset()}, "got a IterableDataset"),
        ({"gallery": Dataset.from_dict(GALLERY).with_transform(lambda rows: rows)}, "without a transform"),
        ({"gallery": Dataset.from_dict(GALLERY | {"id": [1, 2]})}, "`id` of the gallery must hold strings"),
        ({"queries": Dataset.from_dict(QUERIES | {"target_ids": ["b"]})}, "`target_ids` .* lists of strings"),
        ({"queries": Dataset.from_dict(QUERIES).remove_columns("subset_ids")}, "lack the column.* subset_ids"),
        ({"metrics": ("recal@1",)}, "unknown metric 'recal@1'; did you mean 'recall@10'"),
        ({"metrics": ("recall",)}, "unknown metric 'recall'"),
    ],
)
def test_a_benchmark_that_would_give_no_numbers_or_wrong_ones_is_refused(change, message):
    tables = {"gallery": Dataset.from_dict(GALLERY), "queries": Dataset.from_dict(QUERIES)}
    Benchmark("mine", "test", **tables)
    with pytest.raises(ValueError, match=message):
        Benchmark("mine", "test", **tables | change)
