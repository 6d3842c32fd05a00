import json

import numpy as np
import pytest

from trainer.evaluation.metrics import (
    average_precision_at_k,
    map_at_k,
    precision_at_k,
    recall_at_k,
    relevance,
    semantic_map_at_k,
    set_recall_at_k,
    subset_recall_at_k,
    target_ranks,
)
from trainer.evaluation.ranking import index_rankings, membership, rank_gallery


class Oracle:
    """The definitions, written with lists and loops."""

    def __init__(self, similarities, targets, left_out):
        self.rankings = []
        for row, banned in zip(similarities, left_out, strict=True):
            order = []
            candidates = list(range(len(row)))
            while candidates:  # the first of the most similar ones, allowed ones before the others
                best = candidates[0]
                for item in candidates:
                    if (item not in banned, row[item]) > (best not in banned, row[best]):
                        best = item
                order.append(best)
                candidates.remove(best)
            self.rankings.append(order)
        self.targets = targets

    def recall(self, k):
        hits = 0
        for order, targets in zip(self.rankings, self.targets, strict=True):
            hits += any(item in targets for item in order[:k])
        return hits / len(self.targets)

    def mean_average_precision(self, k):
        total = 0.0
        for order, targets in zip(self.rankings, self.targets, strict=True):
            found, score = 0, 0.0
            for rank, item in enumerate(order[:k], start=1):
                if item in targets:
                    found += 1
                    score += found / rank
            total += score / min(k, len(targets))
        return total / len(self.targets)


def draw_case(rng):
    """Few distinct similarities, so that most are tied; galleries from one item on; images that repeat."""
    num_queries, num_gallery = int(rng.integers(1, 6)), int(rng.integers(1, 13))
    levels = int(rng.integers(1, 6))
    similarities = rng.integers(0, levels, (num_queries, num_gallery)) / 4 - 0.5
    if num_gallery > 1 and rng.random() < 0.5:  # the same image twice
        similarities[:, -1] = similarities[:, 0]
    targets = [
        set(rng.choice(num_gallery, size=rng.integers(1, num_gallery + 1), replace=False).tolist())
        for _ in range(num_queries)
    ]
    dtype = (np.float32, np.float64)[rng.integers(2)]
    return similarities.astype(dtype), targets


def as_ids(items):
    return [f"img{item}" for item in items]


def test_recall_and_map_equal_the_oracle():
    rng = np.random.default_rng(0)
    for _ in range(1500):
        similarities, targets = draw_case(rng)
        num_queries, num_gallery = similarities.shape
        left_out = [set()] * num_queries
        allowed = None
        if rng.random() < 0.5:
            left_out = [{int(rng.integers(num_gallery))} for _ in targets]
            allowed = ~membership([as_ids(items) for items in left_out], as_ids(range(num_gallery)))
        missing = int(rng.integers(3))  # targets that the gallery lacks
        absent = [f"absent{i}" for i in range(missing)]
        oracle = Oracle(similarities.tolist(), [t | set(absent) for t in targets], left_out)

        ranking = rank_gallery(similarities, allowed)
        assert ranking.tolist() == oracle.rankings
        repeated = [as_ids(t) * 2 + absent for t in targets]
        relevant = relevance(ranking, as_ids(range(num_gallery)), repeated)
        num_targets = [len(t) + missing for t in targets]
        for k in range(1, num_gallery + 1):
            assert recall_at_k(relevant, k) == pytest.approx(oracle.recall(k), abs=1e-15)
            assert map_at_k(relevant, num_targets, k) == pytest.approx(oracle.mean_average_precision(k), abs=1e-12)
        beyond = num_gallery + 3
        assert map_at_k(relevant, num_targets, beyond) == pytest.approx(oracle.mean_average_precision(beyond))
        assert np.array_equal(relevance(ranking[:, :2], as_ids(range(num_gallery)), repeated), relevant[:, :2])


def test_subset_recall_equals_the_oracle_on_the_subset_alone():
    rng = np.random.default_rng(1)
    for _ in range(800):
        similarities, targets = draw_case(rng)
        num_gallery = similarities.shape[1]
        references = [int(rng.integers(num_gallery)) for _ in targets]
        targets = [{next(iter(t))} if rng.random() < 0.5 else t for t in targets]
        if any(not t - {r} for t, r in zip(targets, references, strict=True)):
            continue
        extra = [set(rng.choice(num_gallery, size=rng.integers(0, num_gallery + 1)).tolist()) for _ in targets]
        subsets = [t | e | {r} for t, e, r in zip(targets, extra, references, strict=True)]
        hits_at = []  # rank of the first hit within each subset
        for row, t, subset, reference in zip(similarities, targets, subsets, references, strict=True):
            items = sorted(subset - {reference})
            order = sorted(items, key=lambda item, row=row: -row[item])  # stable
            hits_at.append(1 + [item in t for item in order].index(True))
        smallest = min(len(s - {r}) for s, r in zip(subsets, references, strict=True))
        for k in range(1, smallest + 1):
            score = subset_recall_at_k(
                rank_gallery(similarities),
                as_ids(range(num_gallery)),
                [as_ids(t) for t in targets],
                [as_ids(s) for s in subsets],
                k,
                reference_ids=as_ids(references),
            )
            assert score == pytest.approx(sum(hit <= k for hit in hits_at) / len(targets))


def test_counts_of_hits_equal_the_oracle():
    rng = np.random.default_rng(2)
    for _ in range(1000):
        similarities, targets = draw_case(rng)
        num_queries, num_gallery = similarities.shape
        targets = [t if rng.random() < 0.8 else set() for t in targets]
        rankings = Oracle(similarities.tolist(), targets, [set()] * num_queries).rankings
        relevant = relevance(rank_gallery(similarities), as_ids(range(num_gallery)), [as_ids(t) for t in targets])
        k = int(rng.integers(1, num_gallery + 1))
        hits = [sum(item in t for item in order[:k]) for order, t in zip(rankings, targets, strict=True)]
        shares = [hit / (len(t) + 1e-5) for hit, t in zip(hits, targets, strict=True)]
        assert precision_at_k(relevant, k) == pytest.approx(sum(hits) / k / num_queries)
        assert set_recall_at_k(relevant, [len(t) for t in targets], k) == pytest.approx(sum(shares) / num_queries)
        first = [
            next((i for i, item in enumerate(order, start=1) if item in t), num_gallery + 1)
            for order, t in zip(rankings, targets, strict=True)
        ]
        assert target_ranks(relevant).tolist() == first


def test_semantic_map_is_the_map_of_the_queries_with_the_aspect():
    rng = np.random.default_rng(3)
    for _ in range(300):
        relevant = rng.random((6, 5)) < 0.3
        num_targets = relevant.sum(axis=1) + rng.integers(1, 3, 6)
        aspects = [[name for name in "abc" if rng.random() < 0.5] for _ in range(6)]
        for name, score in semantic_map_at_k(relevant, num_targets, aspects, 4).items():
            rows = [i for i in range(6) if name in aspects[i]]
            assert score == pytest.approx(map_at_k(relevant[rows], num_targets[rows], 4))


def test_targets_put_last_miss_exactly_where_a_rival_is_as_similar():
    rng = np.random.default_rng(4)
    for _ in range(1000):
        similarities, targets = draw_case(rng)
        num_gallery = similarities.shape[1]
        mask = membership([as_ids(t) for t in targets], as_ids(range(num_gallery)))
        ranking = rank_gallery(similarities, last=mask)
        assert np.array_equal(np.sort(ranking, axis=1), np.tile(np.arange(num_gallery), (len(targets), 1)))
        hits = np.take_along_axis(mask, ranking, axis=1)
        for row, target, hit in zip(similarities, targets, hits, strict=True):
            best = max(row[item] for item in target)
            assert hit.argmax() == sum(row[item] >= best for item in range(num_gallery) if item not in target)


def test_rankings_of_ids_are_those_of_positions_and_what_is_not_listed_is_no_hit():
    ids = ["a", "b", "c"]
    ranking = index_rankings([["c", "a"], ["b"], []], ids, depth=3)
    assert ranking.tolist() == [[2, 0, -1], [1, -1, -1], [-1, -1, -1]]
    assert relevance(ranking, ids, [["a"], ["c"], ["c"]]).tolist() == [[False, True, False], *[[False] * 3] * 2]
    assert subset_recall_at_k(ranking, ids, [["a"], ["b"], ["c"]], [["a", "b"], ["b"], ["c"]], 1) == 2 / 3


def test_toy_set_recall(toy_cases):
    case, relevant = toy_cases["imagenet_r"], np.array([[True, False, True, False, False]])
    assert set_recall_at_k(relevant, [case["n_relevant"]], 5) == pytest.approx(case["R@5"], abs=1e-12)
    assert precision_at_k(relevant, 5) == case["P@5"]


@pytest.fixture(scope="module")
def toy_cases(shared):
    path = shared / "oracle" / "toy_metric_cases.json"
    if not path.is_file():
        pytest.skip("no toy_metric_cases.json in ../shared/oracle")
    return json.loads(path.read_text(encoding="utf-8"))


def test_toy_average_precision(toy_cases):
    for case in toy_cases["average_precision"]:
        hits = np.array([case["hits_in_rank_order"]], dtype=bool)
        assert average_precision_at_k(hits, [case["n_ground_truths"]], case["K"]) == pytest.approx(case["AP"])


def test_toy_cirr(toy_cases):
    case = toy_cases["cirr"]
    gallery, reference, members = case["gallery"], case["reference"], case["members"]
    allowed = ~membership([[reference]], gallery)
    ranking = rank_gallery([case["scores"]], allowed)
    assert [gallery[i] for i in ranking[0, :-1]] == case["ranking_without_reference"]
    relevant = relevance(ranking, gallery, [[case["target"]]])
    assert relevant[0].tolist().index(True) + 1 == case["rank_1based"]
    assert [recall_at_k(relevant, k) for k in (1, 5)] == [case["R@1"], case["R@5"]]
    inside = allowed & membership([members], gallery)
    subset_ranking = rank_gallery([case["scores"]], inside)[0, : inside.sum()]
    assert [gallery[i] for i in subset_ranking] == case["subset_ranking"]
    arguments = (rank_gallery([case["scores"]]), gallery, [[case["target"]]], [members])
    scores = [subset_recall_at_k(*arguments, k, reference_ids=[reference]) for k in (1, 2)]
    assert scores == [case["Rsubset@1"], case["Rsubset@2"]]
    assert subset_recall_at_k(*arguments, k=2) == 0  # the reference, kept, comes first


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relevance([[0]], ["a"], [["a"], ["a"]]), r"each of 2 queries, got \(1, 1\)"),
        (lambda: precision_at_k([[True]], 2), r"depth of the ranking \(1\), got 2"),
        (lambda: set_recall_at_k([[True]], [1], 0), "got 0"),
        (lambda: recall_at_k([[True]], 0), r"between 1 and the depth of the ranking \(1\), got 0"),
        (lambda: recall_at_k([[True]], 2), "got 2"),
        (lambda: recall_at_k(np.zeros((0, 3)), 1), r"none of them 0, got \(0, 3\)"),
        (lambda: map_at_k([[True]], [1], 0), "at least 1, got 0"),
        (lambda: map_at_k([[True]], [1, 1], 1), r"shape \(1,\), got \(2,\)"),
        (lambda: map_at_k([[True], [False]], [1, 0], 1), "row 1 has no target"),
        (lambda: map_at_k([[True, True]], [1], 1), "more hits than targets"),
        (lambda: subset_recall_at_k([[0, 1]], ["a", "b"], [["a"]], [["b"]], 1), "no target in their subset"),
        (lambda: subset_recall_at_k([[0, 1]], ["a", "b"], [["a"]], [["a"]], 2), r"smallest subset \(1\), got 2"),
        (lambda: subset_recall_at_k([[0]], ["a"], [["a"]], [["a"]], 1, reference_ids=[]), "each of 1 queries"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
