"""Benchmarks against the real annotation files and the values recorded beside them."""

import gzip
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from modeling_rtd import RTDProcessor
from speed.build_clip import build_clip_tokenizer
from tests.builders import build_image_processor, split_prompt
from tests.stand_ins import DOMAINS, TASKS, build_stand_in, write_json
from trainer.cli.main import main
from trainer.encoding.preprocessing import pad_to_target
from trainer.evaluation.benchmarks import BENCHMARKS, DataFolder, Protocol, find_benchmark, load_benchmark, load_parts
from trainer.evaluation.benchmarks.checking import compare_with_official
from trainer.evaluation.benchmarks.fashioniq import write_conditions
from trainer.evaluation.benchmarks.genecis import crop_box
from trainer.evaluation.scoring import Rankings, average_parts, score_rankings
from trainer.evaluation.server_files import check_submission


RTD, PIC2WORD = "a photo of $ that {condition}", "a photo of $ , {condition}"
ROOTS = {"coco": "coco_object_composition"}


@pytest.fixture(scope="module")
def oracle(shared):
    return lambda name: json.loads(shared.joinpath("oracle", f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def circo_root(shared, tmp_path_factory):
    """CIRCO's annotations beside a gallery list of all ids that they and the example submissions name."""
    root, place = tmp_path_factory.mktemp("circo"), shared / "data/circo"
    root.joinpath("annotations").symlink_to(place / "annotations")
    ids = set()
    for split in ("val", "test"):
        for row in json.loads((place / f"annotations/{split}.json").read_text()):
            ids |= {row["reference_img_id"], *row.get("gt_img_ids", [])}
        for row in json.loads((place / f"submission_examples/submission_{split}.json").read_text()).values():
            ids |= set(row)
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in sorted(ids)]
    write_json(root / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": images})
    return root


@pytest.fixture(scope="module")
def load(shared, circo_root):
    """Load parts from the real annotations, each once."""
    cache = {}

    def load(name, split=None, protocol=None):
        key = name, split, protocol
        if key not in cache:
            info = find_benchmark(name)
            root = circo_root if info.name == "circo" else shared / "data" / ROOTS.get(info.name, info.name)
            folder = DataFolder(root, info.steps, needs_images=False)
            cache[key] = load_parts(name, split, folder, protocol), folder
        return cache[key]

    return load


def splits(*names):
    return [(name, split) for name in names for split in find_benchmark(name).counts]


@pytest.mark.parametrize(("name", "split"), splits("cirr", "circo", "fashioniq", "genecis", "coco", "imagenet_r"))
def test_official_files_have_the_official_numbers_and_digests(load, oracle, name, split):
    parts, folder = load(name, split)
    info, recorded = find_benchmark(name), oracle("dataset_sizes")["files"]
    deviations = [text for part in parts for text in compare_with_official(info, part)]
    assert [text for text in deviations if "gallery" not in text or name != "circo"] == []
    known = {file.rpartition("/")[2].removesuffix(".gz"): facts for file, facts in recorded.items()}
    assert folder.files
    for file, digest in folder.files.items():
        facts = known.get(file.rpartition("/")[2], {})
        if name != "circo" or "image_info" not in file:
            assert digest == facts.get("decompressed_sha256", facts["sha256"])
            assert info.digests.get(file.rpartition("/")[2], digest) == digest


def test_numbers_inside_the_annotations(load, oracle):
    sizes = oracle("dataset_sizes")
    val, test1 = (load("cirr", split)[0][0] for split in ("val", "test1"))
    assert len(set(val.queries["reference_id"])) == sizes["cirr"]["val_unique_references"]
    blank = [row["id"] for row in test1.queries if not row["condition"].strip()]
    assert [int(name) for name in blank] == sizes["cirr"]["test1_blank_caption_pairids"]
    circo = load("circo")[0][0].queries
    assert sum(map(len, circo["target_ids"])) == sizes["circo"]["val_ground_truths"]
    for aspect, count in sizes["circo"]["val_semantic_aspect_counts"].items():
        assert sum(aspect in row for row in circo["aspects"]) == count
    for part in load("genecis")[0]:
        facts = sizes["genecis"][part.part]
        columns = (part.queries[name][:] for name in ("id", "candidate_ids", "target_ids"))
        rows = [name for name, ids, targets in zip(*columns, strict=True) if ids.count(targets[0]) > 1]
        assert rows == [f"{part.part}-{i}" for i in facts["rows_target_also_in_gallery"]]
        assert len(set(part.queries["condition"][:])) == facts["distinct_conditions"]
    for part in load("imagenet_r")[0]:
        empty = sum(not ids for ids in part.queries["target_ids"])
        assert empty == sizes["imagenet_r"]["queries_without_relevant_image"][part.part]


def test_the_gallery_of_val_is_smaller(load, oracle):
    parts, _ = load("fashioniq", protocol=Protocol(gallery="val"))
    assert [text for part in parts for text in compare_with_official(find_benchmark("fashioniq"), part)] == []
    for part in parts:
        facts = oracle("dataset_sizes")["fashioniq"]["per_category"][f"{part.part}.val"]
        assert len(part.gallery) == facts["val_protocol_gallery"]


def digest(template, conditions, sign="$"):
    prompts = [sign.join(split_prompt(template, condition)) for condition in conditions]
    return {"count": len(prompts), "sha256_of_newline_joined": hashlib.sha256("\n".join(prompts).encode()).hexdigest()}


@pytest.mark.parametrize("split", ["val", "test1"])
def test_prompts_of_cirr(load, oracle, split):
    conditions, recorded = load("cirr", split)[0][0].queries["condition"], oracle("prompts")["cirr_all"][split]
    assert digest(RTD, conditions) == recorded["searle_lincir_rtd"]
    assert digest(PIC2WORD, conditions, "*") == recorded["pic2word"]


def test_prompts_of_circo_and_genecis(load, oracle):
    recorded = oracle("prompts")
    for split in ("val", "test"):
        assert digest(RTD, load("circo", split)[0][0].queries["condition"]) == recorded["circo"][f"{split}_all"]
    for part in load("genecis")[0]:
        own = recorded["genecis"]["all_lincir_style"][part.part]
        assert digest(RTD, part.queries["condition"]) == own


def test_prompts_of_fashioniq(load, oracle):
    recorded = oracle("prompts")
    averaged = load("fashioniq")[0]
    reversed_ = load("fashioniq", protocol=Protocol(caption_order="reversed"))[0]
    for part, other in zip(averaged, reversed_, strict=True):
        own = recorded["fashioniq_val_all"][part.part]
        for i, name in enumerate(("forward", "reversed")):
            texts = [wordings[i] for wordings in part.queries["wordings"]]
            assert digest(RTD, texts) == own[f"searle_lincir_rtd_{name}"]
        assert digest(PIC2WORD, other.queries["condition"], "*") == own["pic2word"]
    for row in recorded["fashioniq"]:
        assert f"a photo of $ that {write_conditions(row['captions'])[0]}" == row["searle_lincir_rtd_forward"]


def test_prompts_of_pic2words_benchmarks(load, oracle):
    recorded = oracle("prompts")
    coco = find_benchmark("coco").protocol.template
    own = recorded["coco_object_composition_all"]["composed_with_query_class"]
    assert digest(coco, load("coco")[0][0].queries["condition"], "*") == own
    for part in load("imagenet_r")[0]:
        prompts = {"*".join(split_prompt(part.protocol.template, text)) for text in part.queries["condition"]}
        texts = {part.text_template.replace("{condition}", text) for text in part.queries["condition"]}
        assert (prompts, texts) == tuple({recorded["imagenet_r"][part.part][key]} for key in ("composed", "text_only"))


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


def test_the_longest_prompts_are_not_cut(clip_processor, load, oracle):
    recorded = oracle("prompts")["longest_prompt_in_tokens"]
    for name in ("cirr val", "cirr test1", "circo val", "circo test", "fashioniq val"):
        for part in load(*name.split())[0]:
            texts = part.queries["wordings" if part.part else "condition"]
            pieces = [split_prompt(RTD, text) for texts in texts for text in (texts if part.part else [texts])]
            longest = max(map(len, clip_processor.tokenize_pieces(pieces)))
            assert longest == recorded["_".join(filter(None, (part.name, part.part, part.split)))]


def test_circos_example_submission_scores_as_recorded(shared, circo_root, oracle, tmp_path, capsys):
    example = str(shared / "data/circo/submission_examples/submission_val.json")
    command = ["evaluate", "--rankings", example, "--benchmark", "circo", "--root", str(circo_root)]
    assert main([*command, "--output-dir", str(tmp_path)]) == 0
    record, recorded = (
        json.loads(next(tmp_path.glob("circo-val-*.json")).read_text()),
        oracle("circo_val_example_submission"),
    )
    expected = {f"map@{k}": value for k, value in recorded["mAP"].items()}
    expected |= {f"target_recall@{k}": value for k, value in recorded["recall"].items()}
    expected |= {f"semantic_map@10/{aspect}": value for aspect, value in recorded["semantic_mAP@10"].items()}
    assert {name: 100 * value for name, value in record["metrics"].items()} == pytest.approx(expected, abs=1e-6)
    assert "map@5                                             0.49" in capsys.readouterr().out


def test_example_submissions_are_in_order(shared, circo_root):
    examples = shared / "data/circo/submission_examples"
    assert check_submission(examples / "submission_test.json", circo_root) == ("circo test", [])
    for root in (shared / "data/circo", None):  # neither has the list of the gallery
        kind, problems = check_submission(examples / "submission_test.json", root)
        assert (kind, problems) == ("circo test (ids of images not compared with the gallery)", [])
    problems = check_submission(examples / "submission_val.json", circo_root)[1]
    assert problems[0].startswith("these are 220 queries, as many as the split val has")
    for metric in ("recall", "recall_subset"):
        demo = shared / f"data/cirr/demo_files/test1_pred_ranks_{metric}.json"
        assert check_submission(demo, shared / "data/cirr") == (f"cirr test1 {metric}", [])


def test_an_indented_file_exceeds_cirrs_limit(shared, tmp_path, oracle):
    demo = json.loads((shared / "data/cirr/demo_files/test1_pred_ranks_recall.json").read_text())
    path = tmp_path / "indented.json"
    path.write_text(json.dumps(demo, indent=4))
    assert path.stat().st_size == oracle("cirr_demo_files")["recall"]["bytes_if_indented_by_4"]
    problems = check_submission(path, shared / "data/cirr")[1]
    assert problems == ["the file has 5,893,103 bytes, and the server takes 5,000,000: write it without indentation."]


def test_crop_boxes_of_genecis(oracle):
    for case in oracle("genecis_crop_boxes")["cases"]:
        box = crop_box(tuple(case["image_size"]), case["instance_bbox_xywh"])
        assert box == pytest.approx(tuple(case["reference_code_crop_ltrb"]))


def test_target_padding(oracle):
    for case in oracle("toy_metric_cases")["target_pad_1.25"]:
        padded = pad_to_target(Image.new("RGB", tuple(case["image_wh"]), "white"))
        left, top, right, bottom = case["pad_left_top_right_bottom"]
        assert padded.size == tuple(case["padded_wh"])
        assert padded.getbbox() == (left, top, padded.width - right, padded.height - bottom)


def test_fashioniqs_average_is_not_weighted(oracle):
    case = oracle("toy_metric_cases")["fashioniq_average"]
    parts = {
        name: {"recall@10": case["R@10"][name], "recall@50": case["R@50"][name]}
        for name in ("dress", "shirt", "toptee")
    }
    means = average_parts(find_benchmark("fashioniq"), parts)
    assert "average" not in average_parts(find_benchmark("fashioniq"), {"dress": parts["dress"]})
    expected = {"recall@10": case["average_R@10"], "recall@50": case["average_R@50"], "average": case["overall"]}
    assert means == pytest.approx(expected)


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


def test_every_benchmark_is_declared_in_full():
    for name in BENCHMARKS:
        info = find_benchmark(name)
        assert info.name == name
        assert info.licence
        assert info.citation
        assert info.default_split in ("val", "validation", "v0", "val2017")
        assert not info.needs_root or info.steps
        assert set(info.average_of) <= set(info.metrics)


def test_methods_have_their_own_published_protocols():
    cirr, fashioniq = find_benchmark("cirr"), find_benchmark("fashioniq")
    assert cirr.find_protocol("rtd") == cirr.protocol == Protocol(exclude_reference=True, crop="published")
    assert cirr.find_protocol("searle").padding == "target"
    assert fashioniq.find_protocol("pic2word").caption_order == "reversed"
    assert fashioniq.find_protocol("pic2word", caption_order="both").caption_order == "both"
    assert not fashioniq.find_protocol("lincir").exclude_reference


@pytest.mark.parametrize("name", ["fashioniq", "genecis", "imagenet_r"])
def test_a_benchmark_of_parts_gives_one_by_its_name(name, tmp_path):
    root = build_stand_in(name, tmp_path)
    with pytest.raises(ValueError, match=f"name one of {name}/"):
        load_benchmark(name, root=root)
    part = next(iter(find_benchmark(name).counts[find_benchmark(name).default_split]))
    assert load_benchmark(f"{name}/{part}", root=root).part == part


def test_only_the_attribute_tasks_of_genecis_cut(tmp_path):
    root = build_stand_in("genecis", tmp_path)
    assert [load_benchmark(f"genecis/{task}", root=root).cut is not None for task in TASKS] == [
        True,
        True,
        False,
        False,
    ]


def edit(root, file, change):
    path = root / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


CAPTIONS, SPLIT = "cirr/captions/cap.rc2.val.json", "cirr/image_splits/split.rc2.val.json"
VAL, IMAGES = "annotations/val.json", "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
TASK, COCO = f"genecis/{TASKS[0]}.json", "id,query_regions,query_class,classes\n"


def replace_by(path, content):
    """Put a gzipped file in the place of a plain one."""
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(content)


def set_side(rows, side):
    rows[0]["target"]["instance_bbox"][2] = side


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("cirr", lambda r: (r / CAPTIONS).unlink(), "holds no cirr/captions.*clone the branch `cirr_dataset`"),
        ("cirr", lambda r: (r / CAPTIONS).write_text("{"), "is no JSON"),
        ("cirr", lambda r: (r / CAPTIONS).write_text("{}"), "must hold a list"),
        ("cirr", lambda r: (r / CAPTIONS).write_bytes(b"\xff\xfe"), "no text in UTF-8"),
        (
            "cirr",
            lambda r: edit(r, CAPTIONS, lambda c: c[2].pop("caption")),
            "`caption` .str. in every row, but row 2",
        ),
        ("cirr", lambda r: edit(r, CAPTIONS, lambda c: c.append(7)), "must hold objects, but row 8 is '7'"),
        ("cirr", lambda r: edit(r, CAPTIONS, lambda c: c[0].update(pairid=True)), "`pairid` .int."),
        ("cirr", lambda r: edit(r, CAPTIONS, lambda c: c[0].update(reference="x")), "1 references .* such as 'x'"),
        ("cirr", lambda r: edit(r, CAPTIONS, lambda c: c[0].update(target_hard="x")), "names 'x' .target_ids."),
        ("cirr", lambda r: edit(r, CAPTIONS, lambda c: c[0].update(pairid=c[1]["pairid"])), "ids of queries repeat"),
        ("cirr", lambda r: edit(r, CAPTIONS, lambda c: c[0]["img_set"]["members"].append(1)), "nothing but str"),
        ("cirr", lambda r: edit(r, SPLIT, lambda c: c.update(where=3)), "must hold nothing but str, but holds '3'"),
        (
            "circo",
            lambda r: edit(r, "annotations/val.json", lambda c: c[1]["gt_img_ids"].append("7")),
            "nothing but int",
        ),
        ("fashioniq", lambda r: edit(r, "image_splits/split.shirt.val.json", lambda c: c.append(None)), "but str"),
        (
            "genecis",
            lambda r: edit(r, f"genecis/{TASKS[0]}.json", lambda c: c[0]["target"]["instance_bbox"].__setitem__(2, 0)),
            "x, y, width and height",
        ),
        ("cirr", lambda r: edit(r, SPLIT, lambda c: c.update(x="../../../etc/passwd")), "leads out of"),
        ("cirr", lambda r: edit(r, SPLIT, lambda c: c.update(x="/etc/passwd")), "leads out of"),
        ("cirr", lambda r: (r / "dev").rename(r / "elsewhere"), "holds no dev .*raw images of NLVR2"),
        ("circo", lambda r: edit(r, "annotations/val.json", lambda c: c[1]["gt_img_ids"].reverse()), "first in"),
        ("circo", lambda r: edit(r, "annotations/val.json", lambda c: c[0].update(reference_img_id=1)), "image 1"),
        ("fashioniq", lambda r: edit(r, "captions/cap.shirt.val.json", lambda c: c[0]["captions"].pop()), "two capt"),
        ("fashioniq", lambda r: (r / "images").rename(r / "img"), "holds no images/shirt"),
        (
            "genecis",
            lambda r: edit(r, f"genecis/{TASKS[0]}.json", lambda c: c[0]["target"].pop("image_id")),
            "image_id",
        ),
        ("genecis", lambda r: (r / "VG_100K_all").rename(r / "VG"), "both image parts of Visual Genome"),
        ("coco", lambda r: (r / "coco_eval.csv").write_text("a,b\n"), "must have the columns id, query_regions"),
        ("coco", lambda r: (r / "val2017_masked").rename(r / "m"), "run data/coco/prepare_data.py"),
        ("imagenet_r", lambda r: (r / "imgnet/imgnet_targets.txt").write_text("a b c\n"), "but line 1 is 'a b c'"),
        ("imagenet_r", lambda r: (r / "imgnet/real").rename(r / "real"), "valprep.sh"),
        ("cirr", lambda r: (r / CAPTIONS).write_text("[" * 100_000), "cap.rc2.val.json' is no JSON"),
        ("cirr", lambda r: replace_by(r / CAPTIONS, b"no gzip"), "cap.rc2.val.json.gz' cannot be read: Not a gzipped"),
        ("cirr", lambda r: replace_by(r / CAPTIONS, gzip.compress(b"[{}]")[:-6]), "val.json.gz' cannot be read"),
        ("cirr", lambda r: replace_by(r / CAPTIONS, gzip.compress(b"[]")[:10] + b"\xff" * 9), "gz' cannot be read"),
        ("cirr", lambda r: [(r / CAPTIONS).unlink(), (r / CAPTIONS).mkdir()], "cap.rc2.val.json' cannot be read"),
        (
            "cirr",
            lambda r: edit(r, CAPTIONS, lambda c: c[0]["img_set"]["members"].remove(c[0]["target_hard"])),
            "query 12060 has its target .* outside of its subset",
        ),
        ("coco", lambda r: (r / "coco_eval.csv").write_text(COCO + "a.jpg,inf;3;9;9 ,dog,\n"), "no region .* a.jpg"),
        ("coco", lambda r: (r / "coco_eval.csv").write_text(COCO + "a" * 200_000), "coco_eval.csv' is no CSV"),
        ("circo", lambda r: edit(r, IMAGES, lambda c: c.update(images=5)), "must hold a list of objects, got '5'"),
        ("circo", lambda r: edit(r, VAL, lambda c: c[0].update(semantic_aspects="x")), "nothing but list, but .* 'x'"),
        ("circo", lambda r: edit(r, VAL, lambda c: c[0].update(semantic_aspects=[1])), "nothing but str, but holds"),
        ("genecis", lambda r: edit(r, TASK, lambda c: set_side(c, float("inf"))), "x, y, width and height"),
        ("genecis", lambda r: edit(r, TASK, lambda c: set_side(c, float("nan"))), "x, y, width and height"),
    ],
)
def test_annotations_that_are_not_what_they_claim_are_refused(tmp_path, name, spoil, message):
    root = build_stand_in(name, tmp_path)
    spoil(root)
    with pytest.raises(ValueError, match=message):
        load_parts(name, folder=DataFolder(root, find_benchmark(name).steps))


def test_the_published_prompt_of_geneciss_object_tasks_may_be_asked_for():
    protocol = find_benchmark("genecis").find_protocol("lincir", template="a photo of $ that 0")
    assert split_prompt(protocol.template, "car") == ["a photo of ", " that 0"]


def test_a_prompt_without_a_condition_is_that_of_the_reference_alone():
    assert split_prompt("a photo of $ $ that {condition}", None) == ["a photo of ", " ", ""]
    assert split_prompt("a {condition} of $", None) == ["a  of ", ""]  # no `$` before the condition: blank


@pytest.mark.parametrize("root", [".", ".."])
def test_a_root_may_be_named_from_where_one_is_and_nothing_leads_out_of_it(tmp_path, monkeypatch, root):
    place = build_stand_in("cirr", tmp_path / "data")
    (place / "sub").mkdir()
    monkeypatch.chdir(place if root == "." else place / "sub")
    benchmark = load_benchmark("cirr", root=root)
    assert benchmark.gallery["image"][:] == load_benchmark("cirr", root=place).gallery["image"][:]
    edit(place, SPLIT, lambda c: c.update(x="../secret.png"))
    with pytest.raises(ValueError, match=r"'../secret.png' leads out of"):
        load_benchmark("cirr", root=root)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_benchmark("cir"), "cirr"),
        (lambda: load_benchmark("cirr"), "its root, which was not named"),
        (lambda: load_benchmark("cirr", root="/nowhere"), "'/nowhere' is no directory"),
        (lambda: load_benchmark("cirr", "test"), "test1"),
        (lambda: load_benchmark("fashioniq/skirt", root="."), "shirt"),
        (lambda: Protocol(padding="yes"), "`padding` must be one of none, target, got 'yes'"),
        (lambda: Protocol(template="a photo that {condition}"), "has no '\\$'"),
        (lambda: Protocol(template="a photo of $"), "has no '{condition}'"),
    ],
)
def test_names_that_are_unknown_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
