"""`rtd evaluate` and `rtd submit` on stand-in directories, end to end."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from modeling_rtd import PROJECTIONS, RTDModel, RTDProcessor
from tests.builders import build_clip, build_image_processor, build_processor, build_tokenizer
from tests.stand_ins import BUILDERS, CATEGORIES, TASKS, build_stand_in
from trainer.cli.main import main
from trainer.evaluation.benchmark_images import ImageEmbeddings
from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.evaluator import RetrievalEvaluator


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a directory of each benchmark; not to be written to."""
    root = tmp_path_factory.mktemp("data")
    for name in BUILDERS:
        build_stand_in(name, root / name)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directory of a model."""
    return save_model(tmp_path_factory.mktemp("model"), "lincir", build_clip(), build_processor())


def save_model(place, projection, clip, processor):
    torch.manual_seed(1)
    RTDModel.from_clip(clip, projection, tokenizer=processor.tokenizer).save_pretrained(place)
    processor.with_template(projection).save_pretrained(place)
    return str(place)


def evaluate(*arguments, out, code=0):
    assert main(["evaluate", *map(str, arguments), "--output-dir", str(out)]) == code
    return {path.stem[:-9]: json.loads(path.read_text()) for path in Path(out).glob("*.json")} if not code else None


EXPECTED = {
    "cirr-val": ("subset_recall@3", {"exclude_reference": True, "template": "a photo of $ that {condition}"}),
    "circo-val": ("semantic_map@10/negation", {"exclude_reference": False}),
    "fashioniq-val": ("average", {"caption_order": "both", "gallery": "original"}),
    "genecis-v0": ("recall@3", {"ties": "last"}),
    "coco-val2017": ("median_rank", {"template": "a photo of $ and {condition}"}),
    "imagenet_r-val": ("set_recall@200", {"template": "a {condition} of $"}),
    "small_world-toy-validation": ("map@5", {"crop": "transformers"}),
}


def test_all_benchmarks_are_judged_at_once_and_say_how(data, place, tmp_path, capsys):
    names = [*BUILDERS, "small_world/toy"]
    records = evaluate(place, "--benchmark", ",".join(names), "--root", data, out=tmp_path)
    assert set(records) == set(EXPECTED)
    for name, (metric, switches) in EXPECTED.items():
        record = records[name]
        lowest, highest = (1, 12) if metric == "median_rank" else (0, 1)
        assert lowest <= record["metrics"][metric] <= highest
        assert switches.items() <= record["protocol"].items()
        assert {"padding", "crop", "similarity", "turned_by_exif"} <= set(record["protocol"])
        assert len(record["system"]["sha256"]["text_model"]) == 64
        assert record["system"]["precision"] == "float32"
        assert record["comparable"] == (name == "small_world-toy-validation")
        assert all(len(digest) == 64 for digest in record["data"]["files"].values())
    assert list(records["fashioniq-val"]["parts"]) == ["shirt", "dress", "toptee"]
    assert set(records["genecis-v0"]["parts"]) == set(TASKS)
    assert "Not comparable with published numbers: cirr val: 8 queries, officially 4181" in capsys.readouterr().out


@pytest.mark.parametrize("projection", sorted(PROJECTIONS))
def test_every_projection_is_judged_in_its_own_protocol(data, tmp_path, projection):
    processor = RTDProcessor(build_image_processor(), build_tokenizer(40))
    model = save_model(
        tmp_path / "model", projection, build_clip(projection_dim=32, max_position_embeddings=40), processor
    )
    names = "cirr,fashioniq,imagenet_r"
    records = evaluate(model, "--benchmark", names, "--root", data, out=tmp_path / "out")
    protocol = records["cirr-val"]["protocol"]
    assert protocol["template"] == processor.prompt_templates[projection]
    assert protocol["padding"] == ("target" if projection in ("searle", "fti4cir") else "none")
    assert protocol["crop"] == ("transformers" if projection == "lincir" else "published")
    order = "reversed" if projection in ("pic2word", "context_i2w") else "both"
    assert records["fashioniq-val"]["protocol"]["caption_order"] == order
    template = records["imagenet_r-val"]["protocol"]["template"]
    assert template.count("$") == PROJECTIONS[projection].max_pseudo_tokens
    assert template.startswith("a {condition} of $")


def load_place(place):
    return RTDModel.from_pretrained(place), RTDProcessor.from_pretrained(place)


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


def test_images_are_read_as_published(data, place, tmp_path):
    """By hand: no turning by EXIF, boxes cut, padded to squares, resized, cropped with rounding to even."""
    (model, processor), root = load_place(place), build_stand_in("genecis", tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    for path in (root / "VG_100K_all").glob("*.jpg"):
        Image.open(path).save(path, exif=exif, quality=95)
    benchmark = load_benchmark("genecis/focus_attribute", root=root)
    images = ImageEmbeddings(model, processor, benchmark)
    for row in (0, 3, 9):
        item = benchmark.gallery[row]
        x, y, w, h = item["box"]
        with Image.open(item["image"]) as image:
            left, top = max(0, x - 0.7 * w), max(0, y - 0.7 * h)
            crop = image.crop((left, top, min(50, left + 1.7 * w), min(40, top + 1.7 * h)))
        square = Image.new("RGB", (max(crop.size),) * 2)
        square.paste(crop, ((square.width - crop.width) // 2, (square.height - crop.height) // 2))
        pixels = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        pixels = (pixels - processor.image_processor.image_mean) / processor.image_processor.image_std
        with torch.no_grad():
            batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
            expected = model.get_image_features(batch).pooler_output[0]
        torch.testing.assert_close(images.gallery[row], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("long", "published", "stock"), [(35, 2, 1), (37, 2, 2), (39, 4, 3), (40, 4, 4)])
def test_the_published_crop_rounds_half_to_even(long, published, stock):
    from trainer.encoding.preprocessing import PublishedCropImageProcessor

    columns = np.broadcast_to(np.arange(long, dtype=np.uint8)[None, :, None], (32, long, 3))
    options = {"do_resize": False, "do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    image = Image.fromarray(np.ascontiguousarray(columns))
    first = [
        kind.from_dict(build_image_processor().to_dict())(images=image, **options)["pixel_values"][0, 0, 0, 0]
        for kind in (PublishedCropImageProcessor, type(build_image_processor()))
    ]
    assert first == [published, stock]


def test_switches_change_what_is_done_and_are_recorded(data, place, tmp_path):
    base = (place, "--benchmark", "cirr", "--root", data / "cirr")
    kept = evaluate(*base, "--keep-reference", "--mode", "image", out=tmp_path / "a")["cirr-val"]
    assert kept["metrics"]["recall@1"] == 0  # the nearest image is the reference itself
    assert "exclude_reference is False, published True" in kept["deviations"]
    assert "mode is image, a baseline" in kept["deviations"]
    other = evaluate(
        *base, "--template", "$ {condition}", "--padding", "target", "--crop", "published", out=tmp_path / "b"
    )
    protocol = other["cirr-val"]["protocol"]
    assert (protocol["template"], protocol["padding"], protocol["crop"]) == ("$ {condition}", "target", "published")
    fashioniq = (place, "--benchmark", "fashioniq", "--root", data / "fashioniq", "--gallery", "val")
    record = evaluate(*fashioniq, "--caption-order", "forward", "--precision", "bfloat16", out=tmp_path)[
        "fashioniq-val"
    ]
    assert record["numbers"]["fashioniq/dress val"]["gallery"] < 14
    assert (record["protocol"]["caption_order"], record["system"]["precision"]) == ("forward", "bfloat16")


def test_only_the_same_evaluation_replaces_a_record(data, place, tmp_path):
    base = ["evaluate", place, "--benchmark", "cirr", "--root", str(data / "cirr"), "--output-dir", str(tmp_path)]
    for options in ([], [], ["--mode", "image"], ["--keep-reference"]):
        assert main([*base, *options]) == 0
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    ways = {(record["system"]["mode"], record["protocol"]["exclude_reference"]) for record in records}
    assert (len(records), ways) == (3, {("composed", True), ("image", True), ("composed", False)})


def test_a_template_written_out_is_no_deviation(data, place, tmp_path):
    base = (place, "--benchmark", "cirr", "--root", data / "cirr")
    own = evaluate(*base, "--template", "a photo of $ that {condition}", out=tmp_path / "own")["cirr-val"]
    assert not [text for text in own["deviations"] if "template" in text]
    other = evaluate(*base, "--template", "$ , {condition}", out=tmp_path / "other")["cirr-val"]
    expected = "template is '$ , {condition}', published 'a photo of $ that {condition}'"
    assert [text for text in other["deviations"] if "template" in text] == [expected]


@pytest.mark.parametrize("options", [["--mode", "audio"], ["--template", "$ $ {condition}"]])
def test_options_are_refused_before_an_image_is_encoded(data, place, tmp_path, monkeypatch, options):
    def encode(self, sources):
        raise AssertionError("an image is encoded")

    monkeypatch.setattr(ImageEmbeddings, "get_features", encode)
    evaluate(place, "--benchmark", "cirr", "--root", data / "cirr", *options, out=tmp_path, code=2)


def test_embeddings_of_images_are_kept_and_a_stopped_run_goes_on(data, place, tmp_path, monkeypatch):
    (model, processor), benchmark = load_place(place), load_benchmark("circo", root=data / "circo")
    expected = RetrievalEvaluator(model, processor, benchmark, 7)(model)
    encode, seen = ImageEmbeddings.get_features, []

    def count(self, sources, limit=None):
        if limit and len(seen) >= limit:
            raise KeyboardInterrupt
        seen.extend(sources)
        return encode(self, sources)

    monkeypatch.setattr(ImageEmbeddings, "get_features", lambda self, sources: count(self, sources, 28))
    with pytest.raises(KeyboardInterrupt):
        RetrievalEvaluator(model, processor, benchmark, 7, tmp_path)
    assert len(seen) == 28
    next(tmp_path.rglob("7-7.npy")).write_bytes(b"cut off")
    monkeypatch.setattr(ImageEmbeddings, "get_features", count)
    assert RetrievalEvaluator(model, processor, benchmark, 7, tmp_path)(model) == expected
    assert len(seen) == 28 + 7 + 60 - 28
    assert RetrievalEvaluator(model, processor, benchmark, 64, tmp_path)(model) == expected
    assert len(seen) == 67
    assert [path.suffix for path in tmp_path.rglob("*")] == [".npy"]
    torch.nn.init.ones_(model.visual_projection.weight)
    RetrievalEvaluator(model, processor, benchmark, 64, tmp_path)
    assert len(seen) == 127


@pytest.mark.slow
def test_two_processes_judge_as_one_through_the_command_line(data, place, tmp_path):
    records = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = ["-m", "trainer.cli.main", "evaluate", place, "--benchmark", "cirr,imagenet_r,genecis"]
        options = ["--root", str(data), "--output-dir", str(out), "--batch-size", "5"]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [sys.executable, *launcher, *command, *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.count("record: ") == 3
        records.append({path.name: json.loads(path.read_text()) for path in out.glob("*.json")})
    for name, record in records[0].items():
        assert {**record, "seconds": 0} == {**records[1][name], "seconds": 0}


def test_missing_images_are_named_and_counted_and_scored_only_when_allowed(place, tmp_path, capsys):
    root = build_stand_in("cirr", tmp_path / "cirr")
    rows = json.loads((root / "cirr/captions/cap.rc2.val.json").read_text())
    reference, target = rows[0]["reference"], rows[1]["target_hard"]
    for name in (reference, target):
        (root / f"dev/{name}.png").unlink()
    command = (place, "--benchmark", "cirr", "--root", root)
    evaluate(*command, out=tmp_path, code=2)
    message = capsys.readouterr().err
    assert "2 images of cirr are missing" in message
    assert f"{reference}.png" in message
    record = evaluate(*command, "--allow-missing", out=tmp_path / "out")["cirr-val"]
    left = sum(row["reference"] not in (reference, target) for row in rows)
    assert record["numbers"]["cirr val"] == {"queries": left, "gallery": 10}
    assert record["comparable"] is False
    assert record["deviations"][0] == "2 images are missing"
    assert {Path(path).stem for path in record["missing_images"]} == {reference, target}


def test_a_directory_is_checked_before_any_model_runs(data, place, tmp_path, capsys):
    root = build_stand_in("fashioniq", tmp_path)
    (root / "images/B00DRE003.jpg").unlink()
    (root / "images/B00SHI001.png").write_bytes((root / "images/B00SHI001.png").read_bytes()[:200])
    (root / "images/unknown.jpg").write_bytes(b"")
    check = ["evaluate", "--check", "--benchmark", "fashioniq", "--root", str(root)]
    assert main(check) == 2
    shown = capsys.readouterr()
    assert "missing  1 images are not there, such as images/B00DRE003.jpg" in shown.out
    assert "corrupt  1 images cannot be read, such as images/B00SHI001.png" in shown.out
    assert "such as images/unknown.jpg" in shown.out
    assert "fashioniq/dress val: 5 queries, officially 2017" in shown.out
    assert "cap.dress.val.json is not the official file" in shown.out
    assert "not in order: fashioniq" in shown.err
    (root / "captions/cap.toptee.val.json").unlink()
    assert main(check) == 2
    shown = capsys.readouterr()
    assert "missing  val toptee:" in shown.out
    assert "clone https://github.com/XiaoxiaoGuo/fashion-iq" in shown.out
    assert "extra" not in shown.out
    evaluate(place, "--benchmark", "fashioniq/shirt", "--root", root, out=tmp_path / "out", code=2)
    assert "B00SHI001.png' cannot be read" in capsys.readouterr().err


def test_a_directory_in_order_is_said_to_be(data, monkeypatch, capsys):
    from trainer.evaluation.benchmarks import cirr

    counts = {split: {"": {"queries": 8, "gallery": 12}} for split in ("val", "test1")}
    monkeypatch.setattr(cirr, "INFO", replace(cirr.INFO, counts=counts, digests={}))
    assert main(["evaluate", "--check", "--benchmark", "cirr,small_world", "--root", str(data / "cirr")]) == 0
    shown = capsys.readouterr().out
    assert "cirr val: 8 queries, 12 gallery images, the official numbers" in shown
    assert "all 24 images are there" in shown
    assert "small_world is drawn" in shown


def test_a_check_tells_all_that_is_missing_and_counts_what_is_there(tmp_path, capsys):
    root = build_stand_in("cirr", tmp_path)
    for name in ("dev", "test1"):
        (root / name).rename(root / f"{name}-elsewhere")
    assert main(["evaluate", "--check", "--benchmark", "cirr", "--root", str(root)]) == 2
    shown = capsys.readouterr().out
    assert "holds no dev" in shown
    assert "holds no test1" in shown
    assert "differs  cirr val: 8 queries, officially 4181" in shown
    assert "missing  24 images are not there" in shown


def test_a_check_refuses_what_judging_refuses(tmp_path, capsys):
    root = build_stand_in("cirr", tmp_path)
    path = root / "cirr/captions/cap.rc2.val.json"
    rows = json.loads(path.read_text())
    rows[0]["target_hard"] = "x"
    path.write_text(json.dumps(rows))
    assert main(["evaluate", "--check", "--benchmark", "cirr", "--root", str(root)]) == 2
    assert "corrupt  val: cirr val: query 12060 names 'x' (target_ids)" in capsys.readouterr().out


def test_a_part_is_checked_alone(data, capsys):
    check = ["evaluate", "--check", "--root", str(data / "fashioniq"), "--benchmark"]
    assert main([*check, "fashioniq/shirt"]) == 2
    shown = capsys.readouterr().out
    assert "all 14 images are there" in shown
    assert "dress" not in shown.partition("should hold")[2].partition("\n\n")[2]
    assert main([*check, "fashioniq/skirt"]) == 2
    assert "did you mean 'shirt'" in capsys.readouterr().err


def test_a_box_without_a_pixel_is_refused(place, tmp_path, capsys):
    root = build_stand_in("genecis", tmp_path / "data")
    path = root / "genecis/focus_attribute.json"
    rows = json.loads(path.read_text())
    rows[0]["target"]["instance_bbox"] = [10, 10, 0.01, 0.01]
    path.write_text(json.dumps(rows))
    evaluate(place, "--benchmark", "genecis/focus_attribute", "--root", root, out=tmp_path / "out", code=2)
    assert "has no [10.0, 10.0, 0.01, 0.01] to be cut: 0 x 0 pixels" in capsys.readouterr().err


def test_folders_of_several_benchmarks_are_found_by_any_usual_name(data, place, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for name, folder in (("fashioniq", "fashion-iq"), ("imagenet_r", "ImageNet-R")):
        (root / folder).symlink_to(data / name)
    names = "fashioniq/dress, imagenet_r/toy"
    assert len(evaluate(place, "--benchmark", names, "--root", root, out=tmp_path / "out")) == 2


def test_one_benchmark_with_a_root_needs_no_folder_of_its_name(data, place, tmp_path):
    names = "cirr,cirr,small_world/toy"
    assert len(evaluate(place, "--benchmark", names, "--root", data / "cirr", out=tmp_path)) == 2


@pytest.fixture(scope="module")
def computed(data, place):
    """What a system computed: the embeddings of each part, and the model's own metrics."""
    (model, processor), parts = load_place(place), {}
    for name in ("cirr", *(f"fashioniq/{category}" for category in CATEGORIES), *(f"genecis/{t}" for t in TASKS)):
        benchmark = load_benchmark(name, root=data / name.partition("/")[0])
        evaluator = RetrievalEvaluator(model, processor, benchmark)
        parts[name] = evaluator, evaluator.encode_queries(model)
    return parts


def write_embeddings(path, parts, change=lambda arrays: None):
    gallery, query = {}, {}
    for evaluator, embeds in parts:
        gallery |= dict(zip(evaluator.gallery_ids, 3 * evaluator.gallery_embeds.numpy(), strict=True))
        query |= dict(zip(evaluator.benchmark.queries["id"], embeds.numpy(), strict=True))
    # In another order than that of the benchmark.
    arrays = {
        f"{name}_{what}": np.array(list(values)[::-1])
        for name, rows in (("gallery", gallery), ("query", query))
        for what, values in (("ids", rows), ("embeds", rows.values()))
    }
    change(arrays)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    rows = [
        (name, item, embed.tolist())
        for name in ("gallery", "query")
        for item, embed in zip(arrays[f"{name}_ids"].tolist(), arrays[f"{name}_embeds"], strict=True)
    ]
    if path.suffix == ".parquet":
        kinds, ids, embeds = zip(*rows, strict=True)
        table = pyarrow.table({"kind": list(kinds), "id": list(ids), "embedding": list(embeds)})
        pyarrow.parquet.write_table(table, path)
    else:
        named = {name: {item: embed for kind, item, embed in rows if kind == name} for name in ("gallery", "query")}
        path.write_text(json.dumps(named))
    return path


NAMES = ("gallery_ids", "gallery_embeds", "query_ids", "query_embeds")


@pytest.mark.parametrize("suffix", ["npz", "parquet", "json"])
@pytest.mark.parametrize("name", ["cirr", "fashioniq", "genecis"])
def test_embeddings_of_another_system_score_as_the_model_that_made_them(data, place, computed, tmp_path, name, suffix):
    parts = {part: pair for part, pair in computed.items() if part.partition("/")[0] == name}
    file = write_embeddings(tmp_path / f"e.{suffix}", parts.values())
    command = ("--embeddings", file, "--benchmark", name, "--root", data / name)
    record = next(iter(evaluate(*command, out=tmp_path / "out").values()))
    for part, (evaluator, embeds) in parts.items():
        scores = record["parts"].get(part.partition("/")[2], record["metrics"])
        assert {k: v for k, v in scores.items() if k != "average"} == pytest.approx(evaluator.score(embeds))
    assert record["protocol"]["template"] is None
    assert record["system"] == {"embeddings": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    unknown = "template, caption_order, padding, crop of what was computed elsewhere are not known"
    assert unknown in record["deviations"]


def test_the_docs_say_how_queries_and_images_are_called(data):
    page = Path("docs/judging.md").read_text(encoding="utf-8")
    forms = {
        "fashioniq/dress": "dress-0",
        "genecis/focus_attribute": "focus_attribute-0",
        "cirr": "12060",
        "circo": "0",
    }
    for name, query in forms.items():
        assert load_benchmark(name, root=data / name.partition("/")[0]).queries["id"][0] == query
        assert f"`{query}` |" in page
    toy = load_benchmark("imagenet_r/toy", root=data / "imagenet_r").queries["id"][0]
    assert re.fullmatch(r"toy:imgnet/real/n\d+/ILSVRC2012_val_\d+\.JPEG", toy)
    box = load_benchmark("genecis/focus_attribute", root=data / "genecis").gallery["id"][0]
    assert re.fullmatch(r"\d+:\d+,\d+,\d+,\d+", box)


def test_candidates_that_are_all_alike_are_never_right_by_their_order(data, computed, tmp_path):
    parts = [pair for name, pair in computed.items() if name.startswith("genecis")]
    file = write_embeddings(
        tmp_path / "e.npz", parts, lambda arrays: arrays.update(gallery_embeds=np.ones_like(arrays["gallery_embeds"]))
    )
    command = ("--embeddings", file, "--benchmark", "genecis", "--root", data / "genecis")
    assert evaluate(*command, out=tmp_path / "a")["genecis-v0"]["metrics"]["recall@3"] == 0
    by_order = evaluate(*command, "--ties", "gallery", out=tmp_path / "b")["genecis-v0"]
    assert by_order["metrics"]["recall@1"] == 1  # the published code's way


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
    ],
)
def test_embeddings_that_do_not_fit_are_refused(data, computed, tmp_path, capsys, change, message):
    file = write_embeddings(tmp_path / "e.npz", [computed["cirr"]], change)
    evaluate("--embeddings", file, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path, code=2)
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
def test_files_that_are_broken_are_named(data, tmp_path, capsys, write, message):
    write(tmp_path / "e.npz")
    file = next(tmp_path.iterdir())
    for kind in ("--embeddings", "--rankings"):
        evaluate(kind, file, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path / "out", code=2)
        error = capsys.readouterr().err
        assert f"'{file}'" in error
        assert kind == "--rankings" or message in error


def make_rankings(evaluator, embeds, column=None):
    ids = np.array(evaluator.gallery_ids, dtype=object)
    ranking = evaluator.rank(embeds, among=column)
    return {q: ids[row[row >= 0]].tolist() for q, row in zip(evaluator.benchmark.queries["id"], ranking, strict=True)}


@pytest.mark.parametrize("suffix", ["npz", "parquet", "json"])
def test_rankings_of_another_system_score_as_the_model_that_made_them(data, computed, tmp_path, suffix):
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
    metrics = evaluate(*command, out=tmp_path / "out")["cirr-val"]["metrics"]
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
def test_rankings_that_do_not_fit_are_refused(data, computed, tmp_path, capsys, change, message):
    rankings = make_rankings(*computed["cirr"])
    change(rankings)
    file = tmp_path / "r.json"
    file.write_text(json.dumps(rankings))
    evaluate("--rankings", file, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path, code=2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a MODEL, or --embeddings FILE, or --rankings FILE"),
        (["PLACE", "--rankings", "r.json"], "one of the three"),
        (["PLACE", "--precision", "int8"], "unknown precision 'int8'"),
        (["PLACE", "--alpha", "0.5"], "rtd interpolate"),
        (["PLACE", "--batch-size", "0"], "`batch_size` must be at least 1, got 0"),
        (["PLACE", "--mode", "audio"], "unknown mode 'audio'"),
        (["PLACE", "--split", "test1"], "the targets of cirr test1 are not public"),
        (["PLACE", "--split", "nowhere"], "split of cirr"),
        (["PLACE", "--template", "$ $ {condition}"], "has 2 '$', but 'lincir' has 1"),
        (["PLACE", "--template", "a photo of $"], "has no '{condition}', the place of the condition"),
        (["--rankings", "r.json", "--ties", "last"], "--ties is for a model"),
        (["--embeddings", "e.json", "--mode", "composed"], "--mode is for a model"),
        (["--embeddings", "e.json", "--caption-order", "both"], "--caption-order is for a model"),
        (["PLACE", "--ties", "coin"], "gallery, last"),
        (["--rankings", "nowhere.json"], "'nowhere.json' cannot be read"),
        (["--rankings", "nowhere.txt"], "must end in .npz, .parquet or .json"),
    ],
)
def test_options_that_do_not_fit_are_refused(data, place, tmp_path, capsys, arguments, message):
    arguments = [place if argument == "PLACE" else argument for argument in arguments]
    evaluate(*arguments, "--benchmark", "cirr", "--root", data / "cirr", out=tmp_path, code=2)
    assert message in capsys.readouterr().err


def test_one_root_of_many_needs_a_folder_for_each(data, place, tmp_path, capsys):
    evaluate(place, "--benchmark", "cirr,circo", "--root", data / "cirr", out=tmp_path, code=2)
    assert "has no folder 'circo'" in capsys.readouterr().err
