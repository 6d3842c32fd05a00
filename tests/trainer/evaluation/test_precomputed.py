"""Embeddings and rankings that other systems computed."""

import hashlib
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.factories import write_embeddings


NAMES = ("gallery_ids", "gallery_embeds", "query_ids", "query_embeds")


def make_rankings(evaluator, embeds, column=None):
    ids = np.array(evaluator.gallery_ids, dtype=object)
    ranking = evaluator.rank(embeds, among=column)
    return {q: ids[row[row >= 0]].tolist() for q, row in zip(evaluator.benchmark.queries["id"], ranking, strict=True)}


@pytest.mark.parametrize("suffix", ["npz", "parquet", "json"])
@pytest.mark.parametrize("name", ["cirr", "fashioniq", "genecis"])
def test_embeddings_of_another_system_score_as_the_model_that_made_them(
    data, place, computed, tmp_path, name, suffix, run_evaluate
):
    parts = {part: pair for part, pair in computed.items() if part.partition("/")[0] == name}
    file = write_embeddings(tmp_path / f"e.{suffix}", parts.values())
    command = ("--embeddings", file, "--benchmark", name, "--root", data / name)
    record = next(iter(run_evaluate(*command, out=tmp_path / "out").values()))
    for part, (evaluator, embeds) in parts.items():
        scores = record["parts"].get(part.partition("/")[2], record["metrics"])
        assert {k: v for k, v in scores.items() if k != "average"} == pytest.approx(evaluator.score(embeds))
    assert record["protocol"]["template"] is None
    assert record["system"] == {"embeddings": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    unknown = "template, caption_order, padding, crop of what was computed elsewhere are not known"
    assert unknown in record["deviations"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update(query_embeds=a["query_embeds"][:, :-1]),
            "gallery embeddings have 24 numbers, query .* 23",
        ),
        (lambda a: a["gallery_embeds"].__setitem__((3, 1), np.nan), "1 gallery embeddings are not finite"),
        (lambda a: a["gallery_embeds"].__setitem__(3, 0), "1 gallery embeddings are not finite or all zero"),
        (lambda a: a.update(query_ids=a["query_ids"][1:]), "got 7 query ids, but 8 query embeddings"),
        (lambda a: a.pop("gallery_ids"), "has no gallery_ids: .* their order cannot be checked"),
        (lambda a: a.update(gallery_ids=np.arange(12)), "12 of 12 gallery ids of the benchmark have no embedding"),
        (lambda a: a.update(gallery_ids=np.array(["x"] * 12)), "gallery ids repeat"),
        (lambda a: a.update(query_embeds=np.array(["x"] * 8)), "must be rows of numbers"),
        (lambda a: a.update(query_embeds=a["query_embeds"] * 1j), "must be rows of numbers .* got complex"),
        (
            lambda a: a.update(query_embeds=a["query_embeds"].astype(float) * 1e300),
            "8 query embeddings are not finite",
        ),
        (
            lambda a: a.update(query_embeds=a["query_embeds"].astype(float) * 1e-300),
            "8 query .* not finite or all zero",
        ),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(data, computed, tmp_path, capsys, change, message, run_evaluate):
    file = write_embeddings(tmp_path / "e.npz", [computed["cirr"]], change)
    run_evaluate("--embeddings", file, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path, code=2)
    error = capsys.readouterr().err
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 100), "cannot be read"),
        (lambda path: np.save(path.open("wb"), np.ones((3, 3))), "it holds one array"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: np.savez(path, **dict.fromkeys(NAMES, "a")), "must be rows of numbers"),
        (lambda path: path.with_suffix(".json").write_text("[" * 100_000), "cannot be read"),
        (lambda path: path.with_suffix(".parquet").write_bytes(b"PAR1xx"), "cannot be read"),
    ],
)
def test_files_that_are_broken_are_named(data, tmp_path, capsys, write, message, run_evaluate):
    write(tmp_path / "e.npz")
    file = next(tmp_path.iterdir())
    for kind in ("--embeddings", "--rankings"):
        run_evaluate(kind, file, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path / "out", code=2)
        error = capsys.readouterr().err
        assert f"'{file}'" in error
        assert kind == "--rankings" or message in error


@pytest.mark.parametrize("suffix", ["npz", "parquet", "json"])
def test_rankings_of_another_system_score_as_the_model_that_made_them(data, computed, tmp_path, suffix, run_evaluate):
    evaluator, embeds = computed["cirr"]
    whole, subset = make_rankings(evaluator, embeds), make_rankings(evaluator, embeds, "subset_ids")
    files = [tmp_path / f"r.{suffix}"]
    if suffix == "json":
        files.append(tmp_path / "s.json")
        files[0].write_text(json.dumps({"version": "rc2", "metric": "recall", **whole}))
        files[1].write_text(json.dumps({"version": "rc2", "metric": "recall_subset", **subset}))
    else:
        ids = list(whole)[::-1]
        columns = {"ranking": [whole[q] for q in ids], "subset_ranking": [subset[q] for q in ids]}
        if suffix == "npz":
            np.savez(files[0], query_ids=ids, **columns)
        else:
            pyarrow.parquet.write_table(pyarrow.table({"query_id": ids, **columns}), files[0])
    command = ("--rankings", *files, "--benchmark", "cirr", "--root", data / "cirr")
    metrics = run_evaluate(*command, out=tmp_path / "out")["cirr-val"]["metrics"]
    assert {k: v for k, v in metrics.items() if k != "average"} == pytest.approx(evaluator.score(embeds))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop(next(iter(r))), "1 of 8 queries of cirr val have no ranking, such as '12060'"),
        (lambda r: r["12060"].append(r["12060"][0]), "the ranking of query '12060' repeats ids"),
        (lambda r: r["12060"].__setitem__(0, "x"), "names 'x', which is none of the 12 images"),
        (lambda r: r["12060"].__delitem__(slice(2, None)), "must have 11 ids beside an excluded reference, but has"),
        (lambda r: r.update({"12060": "dev"}), "must have a list of ids for each query; '12060' has 'dev'"),
        (lambda r: r.update(metric="recall_subset"), "none of the gallery; give both files"),
    ],
)
def test_rankings_that_do_not_fit_are_refused(data, computed, tmp_path, capsys, change, message, run_evaluate):
    rankings = make_rankings(*computed["cirr"])
    change(rankings)
    file = tmp_path / "r.json"
    file.write_text(json.dumps(rankings))
    run_evaluate("--rankings", file, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path, code=2)
    assert message in capsys.readouterr().err
