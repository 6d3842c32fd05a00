import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from datasets import Dataset, Features, Image, List, Value
from torch.nn.functional import normalize

from modeling_rtd import RTDModel, RTDProcessor
from speed.build_clip import build_clip_tokenizer
from tests.factories import (
    build_clip,
    build_image_processor,
    build_images,
    build_triplets,
    load_place,
    split_prompt,
)
from tests.forks import run_in_two
from trainer.evaluation.benchmark_images import ImageEmbeddings
from trainer.evaluation.benchmarks import Benchmark, Protocol, load_benchmark
from trainer.evaluation.evaluator import EmbeddingRanker, RetrievalEvaluator
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.rtd_trainer import RTDTrainer
from trainer.worlds.small_world import build_benchmark, build_tokenizer


@pytest.fixture
def benchmark():
    images = build_images(12)
    gallery = Dataset.from_dict({"id": [f"g{i}" for i in range(10)], "image": images[:10]})
    queries = Dataset.from_dict(
        {
            "id": ["q0", "q1", "q2"],
            "reference_id": ["g0", "g1", "elsewhere"],
            "reference_image": [images[0], images[1], images[11]],
            "condition": ["is red", "is blue with the dog", "has no sleeves"],
            "target_ids": [["g3"], ["g1", "g7"], ["g2", "g4", "g5"]],
            "subset_ids": [["g3", "g4"], ["g7", "g8", "g9"], ["g2", "g6"]],
        },
        features=Features(
            {
                "id": Value("string"),
                "reference_id": Value("string"),
                "reference_image": Image(),
                "condition": Value("string"),
                "target_ids": List(Value("string")),
                "subset_ids": List(Value("string")),
            }
        ),
    )
    return Benchmark("tiny", "test", gallery, queries, Protocol(exclude_reference=True))


def test_composed_queries_in_batches_equal_the_model_one_by_one(model, processor, benchmark):
    queries = RetrievalEvaluator(model, processor, benchmark, batch_size=2).encode_queries(model)
    for row, query in zip(queries, benchmark.queries, strict=True):
        with torch.no_grad():
            inputs = processor(images=[query["reference_image"]], conditions=[query["condition"]])
            torch.testing.assert_close(row, model(**inputs).composed_embeds[0], atol=2e-6, rtol=0)


def test_baselines_read_one_side_or_add_both(model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    text, image, both = (evaluator.encode_queries(model, mode) for mode in ("text", "image", "sum"))
    assert torch.allclose(both, torch.nn.functional.normalize(text + image, dim=-1), atol=1e-6)
    assert torch.allclose(image[0], evaluator.gallery_embeds[0], atol=1e-6)  # reference g0 is gallery image g0


def test_scores_equal_a_count_by_hand(model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    queries = evaluator.encode_queries(model)
    metrics = evaluator.score(queries)
    hits = {1: [], 5: [], 10: []}
    precisions, subset = [], []
    for query, row in zip(queries, benchmark.queries, strict=True):
        scores = {
            name: float(query @ embeds)
            for name, embeds in zip(evaluator.gallery_ids, evaluator.gallery_embeds, strict=True)
        }
        best_of_subset = max(row["subset_ids"], key=scores.get)
        scores[row["reference_id"]] = -9.0
        order = sorted((name for name in scores if name != "elsewhere"), key=scores.get, reverse=True)
        for k in hits:
            hits[k].append(any(name in row["target_ids"] for name in order[:k]))
        found = [name in row["target_ids"] for name in order[:5]]
        total = sum(sum(found[: i + 1]) / (i + 1) for i in range(5) if found[i])
        precisions.append(total / min(5, len(row["target_ids"])))
        subset.append(best_of_subset in row["target_ids"])
    for k, values in hits.items():
        assert metrics[f"recall@{k}"] == np.mean(values)
    assert metrics["map@5"] == pytest.approx(np.mean(precisions))
    assert metrics["subset_recall@1"] == np.mean(subset)


def test_the_reference_comes_last_where_it_is_excluded(model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    ranking = evaluator.rank(evaluator.encode_queries(model, "image"))
    assert ranking[0, -1] == 0
    assert ranking[1, -1] == 1


@pytest.mark.parametrize("times", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_rankings_equal_a_loop_with_equal_images_and_candidates_of_their_own(times):
    rng = np.random.default_rng(0)
    for _ in range(times):
        size, count = int(rng.integers(1, 40)), int(rng.integers(1, 5))
        gallery = torch.from_numpy(rng.normal(size=(size, 24))).float()
        gallery = gallery[torch.from_numpy(rng.integers(0, size, size))]  # the same image at several places
        queries = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(count, 24))).float(), dim=-1)
        ids = [f"g{i}" for i in range(size)]
        rows = {
            "id": [f"q{i}" for i in range(count)],
            "reference_id": rng.choice(ids, count).tolist(),
            "target_ids": [[name] for name in rng.choice(ids, count)],
            "candidate_ids": [rng.choice(ids, 6).tolist() for _ in range(count)],
            "subset_ids": [[]] * count,
        }
        protocol = Protocol(exclude_reference=bool(rng.integers(2)), ties=("gallery", "last")[rng.integers(2)])
        tables = Dataset.from_dict({"id": ids}), Dataset.from_dict(rows)
        ranker = EmbeddingRanker(Benchmark("tiny", "test", *tables, protocol), gallery)
        whole = EmbeddingRanker(
            Benchmark("tiny", "test", tables[0], tables[1].remove_columns("candidate_ids"), protocol), gallery
        )
        depth = int(rng.integers(1, 45))
        found = {one: one.rank(queries, depth).tolist() for one in (ranker, whole)}
        for row in range(count):
            # Equal images are equal; any others differ by far more than rounding.
            scores = (normalize(gallery, dim=-1) @ queries[row]).double().round(decimals=5).tolist()
            for one, names in ((ranker, rows["candidate_ids"][row]), (whole, ids)):
                left = [
                    name for name in names if not (protocol.exclude_reference and name == rows["reference_id"][row])
                ]
                is_last = [protocol.ties == "last" and name in rows["target_ids"][row] for name in left]
                keys = [(-scores[ids.index(name)], late) for name, late in zip(left, is_last, strict=True)]
                expected = [ids.index(left[i]) for i in sorted(range(len(left)), key=keys.__getitem__)][:depth]
                assert found[one][row] == expected + [-1] * (depth - len(expected))


def test_an_unknown_mode_is_refused(model, processor, benchmark):
    with pytest.raises(ValueError, match="'audio'"):
        RetrievalEvaluator(model, processor, benchmark).encode_queries(model, "audio")


@pytest.fixture
def train(model, processor, benchmark, tmp_path):
    """Train with evaluation every second step."""

    def train(eval_dataset, **arguments):
        args = RTDTrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=8,
            per_device_train_batch_size=16,
            learning_rate=3e-2,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            use_cpu=True,
            disable_tqdm=True,
            **arguments,
        )
        trainer = RTDTrainer(
            copy.deepcopy(model.text_model),
            args,
            projection=model.projection,
            train_dataset=Dataset.from_list(build_triplets(48)),
            eval_dataset=eval_dataset,
            processing_class=processor,
        )
        trainer.train()
        return trainer

    return train


def test_a_benchmark_is_judged_while_training_and_the_best_tower_kept(train, model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    trainer = train(evaluator, load_best_model_at_end=True, metric_for_best_model="map@5", greater_is_better=True)
    values = [log["eval_map@5"] for log in trainer.state.log_history if "eval_map@5" in log]
    assert len(values) == 4
    assert trainer.evaluate()["eval_map@5"] == max(values) == trainer.state.best_metric
    whole = copy.deepcopy(model)
    whole.replace_text_model(trainer.model)
    assert evaluator(whole)["map@5"] == max(values)


def test_a_condition_that_is_missing_changes_no_other_of_its_batch(model, processor, benchmark):
    queries = benchmark.queries.select(range(3)).remove_columns("condition")
    benchmark = dataclasses.replace(benchmark, queries=queries.add_column("condition", [None, " ", "is red"]))
    one, all_three = (
        RetrievalEvaluator(model, processor, benchmark, batch_size=size).encode_queries(model) for size in (1, 3)
    )
    torch.testing.assert_close(all_three, one, atol=1e-6, rtol=0)


def test_judging_leaves_the_evaluators_own_model_alone(train, model, processor, benchmark):
    evaluator = RetrievalEvaluator(model, processor, benchmark)
    before = evaluator(model)
    train(evaluator)
    assert evaluator(model) == before


def test_triplets_give_text_side_recall_under_its_own_name(train):
    rows = build_triplets(20, seed=9)
    trainer = train({"own": Dataset.from_list(rows)})
    names = {name for log in trainer.state.log_history for name in log if "recall" in name}
    assert names == {"eval_own_text_recall@1", "eval_own_text_recall@10"}


def test_text_side_recall_equals_a_count_by_hand(train, model, processor):
    rows = build_triplets(20, seed=9)
    trainer = train({"own": Dataset.from_list(rows)})
    hits = []
    with torch.no_grad():
        encode = lambda texts: model.text_model(**processor(text=texts)).text_embeds  # noqa: E731
        targets = torch.nn.functional.normalize(encode([row["target_caption"] for row in rows]), dim=-1)
        for i, row in enumerate(rows):
            words = model.projection.layers(encode([row["reference_caption"]]))[:, None]
            query = trainer.model(**processor(conditions=row["conditioning_caption"]), pseudo_token_embeds=words)
            hits.append(bool((targets @ query.text_embeds[0]).argmax() == i))
    assert trainer.evaluate()["eval_own_text_recall@1"] == np.mean(hits)


PROCESSES = """
import json, sys
from modeling_rtd import RTDModel
from tests.factories import build_clip, build_processor
from trainer.evaluation.evaluator import EmbeddingRanker, RetrievalEvaluator
from trainer.worlds.small_world import build_benchmark, build_tokenizer
from modeling_rtd import RTDProcessor
from accelerate import PartialState
import torch, torch.distributed as dist
torch.set_num_threads(1)
state = PartialState(cpu=True)
processor = RTDProcessor(build_processor().image_processor, build_tokenizer("toy"))
clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40)
torch.manual_seed(0)
model = RTDModel.from_clip(clip, tokenizer=processor.tokenizer)
metrics = RetrievalEvaluator(model, processor, build_benchmark("toy", "test"), batch_size=7)(model)
if state.is_main_process:
    open(sys.argv[1], "w").write(json.dumps(metrics))
if dist.is_initialized():
    dist.barrier(); dist.destroy_process_group()
"""


def judge(model, processor, path):
    """Judge on the toy world, in whatever processes there are, and leave the metrics."""
    state = PartialState(cpu=True)
    metrics = RetrievalEvaluator(model, processor, build_benchmark("toy", "test"), batch_size=7)(model)
    path.with_name(f"{path.name}{state.process_index}of{state.num_processes}").write_text(json.dumps(metrics))


def test_two_processes_judge_as_one(tmp_path):
    processor = RTDProcessor(build_image_processor(), build_tokenizer("toy"))
    clip = build_clip(vocab_size=len(processor.tokenizer), max_position_embeddings=40)
    model = RTDModel.from_clip(clip, tokenizer=processor.tokenizer)
    judge(model, processor, tmp_path / "alone")
    run_in_two(judge, model, processor, tmp_path / "process")
    results = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(results) == {"alone0of1", "process0of2", "process1of2"}
    assert len(set(results.values())) == 1


@pytest.mark.slow
def test_two_processes_that_torchrun_starts_judge_as_one(tmp_path):
    script, results = tmp_path / "judge.py", []
    script.write_text(PROCESSES)
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [
            sys.executable,
            *(launcher if processes > 1 else []),
            str(script),
            str(tmp_path / f"{processes}.json"),
        ]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, run.stderr[-3000:]
        results.append(json.loads((tmp_path / f"{processes}.json").read_text()))
    assert results[0] == results[1]


RTD, PIC2WORD = "a photo of $ that {condition}", "a photo of $ , {condition}"


@pytest.fixture(scope="module")
def clip_processor(shared):
    tokenizer = build_clip_tokenizer(shared / "data/clip_bpe/bpe_simple_vocab_16e6.txt.gz")
    return RTDProcessor(build_image_processor(), tokenizer)


def test_token_ids_of_prompts(clip_processor, oracle):
    for prompt, ids in oracle("prompts")["token_ids"].items():
        if prompt.startswith("a photo of $"):
            pieces = split_prompt(RTD if "that" in prompt else "a photo of $", prompt.partition("that ")[2])
            inputs = clip_processor.pad(clip_processor.tokenize_pieces([pieces]))
            assert inputs["input_ids"][0].tolist() == ids


@pytest.mark.parametrize(
    "name",
    [
        "circo val",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("cirr val", "cirr test1", "circo test", "fashioniq val")
        ),
    ],
)
def test_the_longest_prompts_are_not_cut(clip_processor, load, oracle, name):
    recorded = oracle("prompts")["longest_prompt_in_tokens"]
    for part in load(*name.split())[0]:
        texts = part.queries["wordings" if part.part else "condition"]
        pieces = [split_prompt(RTD, text) for texts in texts for text in (texts if part.part else [texts])]
        longest = max(map(len, clip_processor.tokenize_pieces(pieces)))
        assert longest == recorded["_".join(filter(None, (part.name, part.part, part.split)))]


def test_a_prompt_without_a_condition_is_that_of_the_reference_alone():
    assert split_prompt("a photo of $ $ that {condition}", None) == ["a photo of ", " ", ""]
    assert split_prompt("a {condition} of $", None) == ["a  of ", ""]  # no `$` before the condition: blank


def test_fashioniq_averages_both_orders_of_the_captions(data, place):
    (model, processor), benchmark = load_place(place), load_benchmark("fashioniq/dress", root=data / "fashioniq")
    queries = RetrievalEvaluator(model, processor, benchmark, batch_size=2).encode_queries(model)
    images = ImageEmbeddings(model, processor, benchmark)
    rows = json.loads((data / "fashioniq/captions/cap.dress.val.json").read_text())
    for query, row, kept in zip(queries, rows, benchmark.queries, strict=True):
        c1, c2 = (text.strip(".?, ") for text in row["captions"])
        with torch.no_grad():
            features = images.get_features([(kept["reference_image"], ())])
            inputs = processor(conditions=[f"{c1} and {c2}", f"{c2} and {c1}"])
            features = type(features)(pooler_output=features.pooler_output.expand(2, -1))
            both = model.get_composed_features(**inputs, image_features=features).pooler_output
        expected = normalize(normalize(both, dim=-1).mean(dim=0), dim=-1)
        torch.testing.assert_close(query, expected, atol=2e-6, rtol=0)


def test_a_blank_caption_is_written_verbatim(data, place):
    (model, processor), benchmark = load_place(place), load_benchmark("cirr", "test1", data / "cirr")
    assert benchmark.queries["condition"][0] == " "
    query = RetrievalEvaluator(model, processor, benchmark).encode_queries(model)[0]
    with torch.no_grad():
        rows = processor.tokenize_pieces([["a photo of ", " that "]])
        references = ImageEmbeddings(model, processor, benchmark).references
        features = model.get_image_features(torch.zeros(1, 3, 32, 32))
        features = type(features)(pooler_output=references[:1])
        expected = model.get_composed_features(**processor.pad(rows), image_features=features).pooler_output
    torch.testing.assert_close(query, normalize(expected, dim=-1)[0], atol=2e-6, rtol=0)


def test_targets_that_are_not_in_the_gallery_are_counted_and_said():
    tables = [Dataset.from_dict({"id": ["a", "b"]})]
    queries = {"id": ["q", "p"], "reference_id": ["r", "r"], "target_ids": [["b"], ["c"]], "subset_ids": [[], []]}
    ranker = EmbeddingRanker(Benchmark("tiny", "test", *tables, Dataset.from_dict(queries)), torch.eye(2))
    with pytest.warns(UserWarning, match="of 1 of 2 queries of tiny test no target is in the gallery"):
        assert ranker.score(torch.eye(2)[[1, 1]])["recall@1"] == 0.5


def test_an_evaluation_without_images_says_which_column_is_missing(model, processor):
    tables = [Dataset.from_dict({"id": ["a"]}), Dataset.from_dict({"id": ["q"], "reference_id": ["r"]})]
    tables[1] = tables[1].add_column("target_ids", [["a"]]).add_column("subset_ids", [["a"]])
    with pytest.raises(ValueError, match=r"lack the column\(s\) image"):
        RetrievalEvaluator(model, processor, Benchmark("tiny", "test", *tables))
