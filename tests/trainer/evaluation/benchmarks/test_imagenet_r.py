"""ImageNet-R against its real lists and recorded prompts."""

import numpy as np
import pytest

from tests.factories import DOMAINS, split_prompt
from trainer.evaluation.scoring import Rankings, score_rankings


# benchmarks.md 6.3, counted there: percent at 1, 5, 10, 50, 100.
CEILINGS = {
    "cartoon": (6.99, 25.47, 41.36, 75.49, 76.50),
    "origami": (25.23, 45.50, 50.13, 53.00, 53.00),
    "toy": (17.87, 47.93, 60.48, 72.00, 72.00),
    "sculpture": (19.57, 51.98, 63.75, 70.95, 71.00),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_perfect_ranking_of_imagenet_r_reaches_the_counted_ceiling(load, domain):
    part = next(part for part in load("imagenet_r")[0] if part.part == domain)
    ids = part.gallery["id"][:]
    position = {name: i for i, name in enumerate(ids)}
    ranking = np.full((len(part.queries), 200), -1)
    for row, targets in enumerate(part.queries["target_ids"]):
        ranking[row, : len(targets)] = [position[name] for name in targets]
    metrics = score_rankings(part, Rankings(ids, ranking))
    for k, expected in zip((1, 5, 10, 50, 100), CEILINGS[domain], strict=True):
        assert round(100 * metrics[f"set_recall@{k}"], 2) == pytest.approx(expected, abs=0.0051)


def test_queries_without_a_target_are_as_many_as_counted(load, oracle):
    for part in load("imagenet_r")[0]:
        empty = sum(not ids for ids in part.queries["target_ids"])
        assert empty == oracle("dataset_sizes")["imagenet_r"]["queries_without_relevant_image"][part.part]


def test_prompts_of_imagenet_r(load, oracle):
    recorded = oracle("prompts")["imagenet_r"]
    for part in load("imagenet_r")[0]:
        prompts = {"*".join(split_prompt(part.protocol.template, text)) for text in part.queries["condition"]}
        texts = {part.text_template.replace("{condition}", text) for text in part.queries["condition"]}
        assert (prompts, texts) == tuple({recorded[part.part][key]} for key in ("composed", "text_only"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "imgnet/imgnet_targets.txt").write_text("a b c\n"), "but line 1 is 'a b c'"),
        (lambda r: (r / "imgnet/real").rename(r / "real"), "valprep.sh"),
    ],
)
def test_annotations_that_are_not_what_they_claim_are_refused(refuse, spoil, message):
    refuse("imagenet_r", spoil, message)
