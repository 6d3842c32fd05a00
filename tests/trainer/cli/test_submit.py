"""`rtd submit` on stand-in directories: what it writes is in order, and every broken rule is found."""

import json

import pytest
import torch

from modeling_rtd import RTDModel
from tests.factories import build_circo, build_cirr, build_clip, build_processor
from trainer.cli.main import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build_cirr(root / "cirr", num_sets=10)
    build_circo(root / "circo")
    return root


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    """The files that a model's submissions consist of."""
    place, out, processor = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("out"), build_processor()
    torch.manual_seed(1)
    RTDModel.from_clip(build_clip(), tokenizer=processor.tokenizer).save_pretrained(place)
    processor.save_pretrained(place)
    for name in ("cirr", "circo"):
        command = ["submit", str(place), "--benchmark", name, "--root", str(data / name), "--output-dir", str(out)]
        assert main(command) == 0
    return out


def read(path):
    return json.loads(path.read_text())


def test_cirrs_files_are_as_its_server_takes_them(data, written):
    rows = read(data / "cirr/cirr/captions/cap.rc2.test1.json")
    recall, subset = (read(written / f"cirr_test1_{metric}.json") for metric in ("recall", "recall_subset"))
    assert (recall.pop("version"), recall.pop("metric")) == ("rc2", "recall")
    assert (subset.pop("version"), subset.pop("metric")) == ("rc2", "recall_subset")
    for row in rows:
        ranking, some = recall.pop(str(row["pairid"])), subset.pop(str(row["pairid"]))
        assert (len(ranking), len(set(ranking)), len(some), len(set(some))) == (50, 50, 3, 3)
        assert row["reference"] not in ranking + some
        assert set(some) <= set(row["img_set"]["members"])
        # The subset is the same ranking with all others struck out.
        order = [name for name in ranking if name in row["img_set"]["members"]]
        assert some[: len(order)] == order[:3]
    assert recall == subset == {}


def test_circos_file_is_as_its_server_takes_it(data, written):
    content = read(written / "circo_test.json")
    assert list(content) == [str(row["id"]) for row in read(data / "circo/annotations/test.json")]
    assert all(len(set(row)) == 50 and all(type(item) is int for item in row) for row in content.values())


CIRR, CIRCO = "12063", "0"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("recall", lambda c: c.update(version="rc1"), "`version` must be 'rc2', but is 'rc1'"),
        ("recall", lambda c: c.update(metric="subset"), "`metric` must be 'recall' or 'recall_subset'"),
        ("recall", lambda c: c.pop(CIRR), "1 of 40 queries are missing, such as '12063'"),
        ("recall", lambda c: c.update(metric=[]), "`metric` must be 'recall' or 'recall_subset', but is []"),
        ("recall", lambda c: (c.pop("version"), c.pop("metric")), "`version` must be 'rc2', but is None"),
        ("recall", lambda c: c.update(x=[]), "1 keys are not queries of the test split, such as 'x'"),
        ("recall", lambda c: c[CIRR].pop(), "query 12063: it must list 50 images, but lists 49"),
        ("recall", lambda c: c[CIRR].__setitem__(0, c[CIRR][1]), "twice"),
        ("recall", lambda c: c[CIRR].__setitem__(0, c[CIRR][0] + ".png"), "names have neither path nor ending"),
        ("recall", lambda c: c[CIRR].__setitem__(0, 7), "must be a list of names"),
        ("recall", lambda c: c.update({CIRR: None}), "query 12063: its images must be a list of names, but are None"),
        ("recall_subset", lambda c: c[CIRR].append("x"), "it must list 3 images, but lists 4"),
        ("recall_subset", lambda c: c[CIRR].__setitem__(0, "test1-9-0-img0"), "which it may not rank"),
        ("circo", lambda c: c.pop(CIRCO), "1 of 7 queries are missing, such as '0'"),
        ("circo", lambda c: c.update({"7": []}), "1 keys are not queries of the test split, such as '7'"),
        ("circo", lambda c: c[CIRCO].__setitem__(0, c[CIRCO][1]), "twice"),
        ("circo", lambda c: c[CIRCO].__setitem__(0, 1.0), "must be a list of whole numbers"),
        ("circo", lambda c: c[CIRCO].__setitem__(0, "000000057413.jpg"), "must be a list of whole numbers"),
        ("circo", lambda c: c[CIRCO].__setitem__(0, 999999), "it lists 999999, which it may not rank"),
        ("circo", lambda c: c[CIRCO].clear(), "it must list 50 images, but lists 0"),
    ],
)
def test_every_broken_rule_is_found(data, written, tmp_path, capsys, file, change, message):
    name = "circo" if file == "circo" else "cirr"
    content = read(written / ("circo_test.json" if file == "circo" else f"cirr_test1_{file}.json"))
    change(content)
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(content))
    assert main(["submit", "--check", str(path), "--root", str(data / name)]) == 2
    shown = capsys.readouterr()
    assert message in shown.out
    assert "the server would refuse, or score wrongly" in shown.err


def test_a_listed_reference_is_found(data, written, tmp_path, capsys):
    content = read(written / "cirr_test1_recall.json")
    row = read(data / "cirr/cirr/captions/cap.rc2.test1.json")[3]
    content[str(row["pairid"])][7] = row["reference"]
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(content))
    assert main(["submit", "--check", str(path), "--root", str(data / "cirr")]) == 2
    assert f"query {row['pairid']}: it lists its own reference '{row['reference']}'" in capsys.readouterr().out


def test_a_file_for_the_wrong_split_is_said_to_be_one(data, written, tmp_path, capsys):
    content = read(written / "cirr_test1_recall.json")
    rows = read(data / "cirr/cirr/captions/cap.rc2.val.json")
    wrong = {"version": "rc2", "metric": "recall"} | {str(row["pairid"]): content[CIRR] for row in rows}
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(wrong))
    assert main(["submit", "--check", str(path), "--root", str(data / "cirr")]) == 2
    assert "none of its queries is of test1, but such as '12060': is it for val?" in capsys.readouterr().out


def test_digit_strings_are_numbers_to_circos_server(data, written, tmp_path):
    content = {name: [f"{item:012d}" for item in row] for name, row in read(written / "circo_test.json").items()}
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(content))
    assert main(["submit", "--check", str(path), "--root", str(data / "circo")]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged, it holds a list"),
        ('{"0": [], "0": []}', "the key '0' repeats"),
        ('{"version": "rc2"}', "name their directory with --root"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, capsys, content, message):
    path = tmp_path / "submission.json"
    path.write_text(content)
    assert main(["submit", "--check", str(path)]) == 2
    assert message in capsys.readouterr().err


def check(content, path, *options):
    path.write_text(json.dumps(content))
    return main(["submit", "--check", str(path), *map(str, options)])


def test_the_benchmark_that_is_named_is_the_one_that_is_checked(data, written, tmp_path, capsys):
    content = {"12063": [1]}
    assert check(content, tmp_path / "s.json", "--benchmark", "cirr", "--root", data / "cirr") == 2
    assert "`version` must be 'rc2', but is None" in capsys.readouterr().out
    assert check(content, tmp_path / "s.json", "--benchmark", "genecis") == 2
    assert "'genecis'" in capsys.readouterr().err


def test_without_the_list_of_the_gallery_ids_are_not_compared_and_that_is_said(data, written, tmp_path, capsys):
    root, content = tmp_path / "circo", read(written / "circo_test.json")
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/test.json").write_bytes((data / "circo/annotations/test.json").read_bytes())
    assert check(content, tmp_path / "s.json", "--root", root) == 0
    assert "circo test (ids of images not compared with the gallery), in order" in capsys.readouterr().out
    for wrong in (-5, 10**12):
        content[CIRCO][0] = wrong
        assert check(content, tmp_path / "s.json", "--root", root) == 2
        assert f"it lists {wrong}, which it may not rank" in capsys.readouterr().out
    assert check({str(i): list(range(50)) for i in range(800)}, tmp_path / "s.json") == 0


def test_a_record_lies_beside_the_files(data, written):
    for name, split, count in (("cirr", "test1", 2), ("circo", "test", 1)):
        record = read(next(written.glob(f"{name}-{split}-*.json")))
        assert (record["benchmark"], record["split"], len(record["submission"])) == (name, split, count)
        assert record["protocol"]["template"] == "a photo of $ that {condition}"
        assert len(record["system"]["sha256"]["text_model"]) == 64
        assert record["comparable"] is False


def test_rankings_without_subsets_are_no_submission(data, written, tmp_path, capsys):
    command = ["submit", "--rankings", str(written / "cirr_test1_recall.json"), "--benchmark", "cirr"]
    assert main([*command, "--root", str(data / "cirr"), "--output-dir", str(tmp_path / "out")]) == 2
    assert "CIRR's server takes rankings of the subsets too" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_benchmarks_with_servers_are_submitted(capsys):
    assert main(["submit", "model", "--benchmark", "genecis", "--root", "."]) == 2
    assert "'genecis'" in (error := capsys.readouterr().err)
    assert "Known: circo, cirr" in error
