import json
import os
import re

import pytest

from tests.factories import TINY_CAPTIONS, hold_in_another_process, write_lines
from trainer.data.triplets import load_triplets
from trainer.triplet_making import write_triplets


def fake_writer(prompts, seed):
    """Swap red and blue in the caption that stands last in the prompt; say nonsense where neither occurs."""
    outputs = []
    for prompt in prompts:
        caption = re.findall("caption: (.*)", prompt)[-1]
        target = caption.replace("red", "blue")
        outputs.append(f" make it blue => target: {target}\n\ncaption: x" if target != caption else " blue blue")
    return outputs


def test_a_file_of_triplets_can_be_trained_on(captions, tmp_path):
    source, output = write_lines(tmp_path / "captions.txt", captions), tmp_path / "triplets.jsonl"
    report = write_triplets(source, output)
    assert len(load_triplets(output)) == report["triplets"] == sum(report["templates"].values())
    assert report["similarity"] == "no model given"
    assert len(report["sample"]) == 20
    assert json.loads((tmp_path / "triplets.jsonl.report.json").read_text()) == report


def test_an_interrupted_run_ends_with_the_same_bytes(captions, tmp_path):
    source = write_lines(tmp_path / "captions.txt", captions * 3)  # several blocks
    straight, broken = tmp_path / "straight.jsonl", tmp_path / "broken.jsonl"
    report = write_triplets(source, straight, per_caption=2)
    write_triplets(source, broken, per_caption=2)
    broken.write_bytes(straight.read_bytes()[: 2 * straight.stat().st_size // 3])
    progress = tmp_path / "broken.jsonl.progress.jsonl"
    progress.write_text(progress.read_text()[:-5])
    assert not broken.read_bytes().endswith(b"\n")
    assert write_triplets(source, broken, per_caption=2) == report
    assert broken.read_bytes() == straight.read_bytes()


def read_shards(folder):
    return [path.read_bytes() for path in sorted(folder.glob("triplets-*-of-00003.jsonl"))]


def test_shards_hold_the_lines_of_one_file_in_their_order(captions, tmp_path):
    source = write_lines(tmp_path / "captions.txt", captions * 3)
    report = write_triplets(source, tmp_path / "one.jsonl")
    made = write_triplets(source, tmp_path / "triplets.jsonl", num_shards=3)
    shards = read_shards(tmp_path)
    assert list(map(bool, shards)) == [True] * 3
    assert b"".join(shards) == (tmp_path / "one.jsonl").read_bytes()
    assert made == report | {"settings": report["settings"] | {"num_shards": 3}}
    assert len(load_triplets(str(tmp_path / "triplets-*.jsonl"))) == report["triplets"]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 50)])
def test_a_shard_that_is_missing_or_cut_off_is_made_again(captions, tmp_path, damage):
    source = write_lines(tmp_path / "captions.txt", captions * 3)
    report = write_triplets(source, tmp_path / "triplets.jsonl", num_shards=3)
    shards = read_shards(tmp_path)
    damage(tmp_path / "triplets-00001-of-00003.jsonl")
    assert write_triplets(source, tmp_path / "triplets.jsonl", num_shards=3) == report
    assert read_shards(tmp_path) == shards


def test_a_run_with_another_number_of_shards_does_not_go_on(captions, tmp_path):
    source = write_lines(tmp_path / "captions.txt", captions * 3)
    write_triplets(source, tmp_path / "triplets.jsonl", num_shards=2)
    for number in (1, 3):
        with pytest.raises(ValueError, match=r"num_shards \(2\)"):
            write_triplets(source, tmp_path / "triplets.jsonl", num_shards=number)
    with pytest.raises(ValueError, match="num_shards must be from 1 to"):
        write_triplets(source, tmp_path / "other.jsonl", num_shards=99)


def test_two_at_once_are_refused(captions, tmp_path):
    source, output = write_lines(tmp_path / "captions.txt", captions), tmp_path / "triplets.jsonl"
    refusal = pytest.raises(ValueError, match="another process is making '.*triplets.jsonl'")
    with hold_in_another_process(tmp_path / "triplets.jsonl.lock"), refusal:
        write_triplets(source, output)
    write_triplets(source, output)


def test_a_run_with_other_settings_does_not_go_on(captions, tmp_path):
    source, output = write_lines(tmp_path / "captions.txt", captions), tmp_path / "triplets.jsonl"
    write_triplets(source, output)
    with pytest.raises(ValueError, match=r"another seed \(0\)"):
        write_triplets(source, output, seed=1)


def test_a_file_of_another_origin_is_left_alone(captions, tmp_path):
    output = write_lines(tmp_path / "triplets.jsonl", ["mine"])
    with pytest.raises(ValueError, match="triplets.jsonl' exists"):
        write_triplets(write_lines(tmp_path / "captions.txt", captions), output)
    assert output.read_text() == "mine"


def test_similarities_lie_in_the_band(clip_place, tmp_path):
    source = write_lines(tmp_path / "captions.txt", TINY_CAPTIONS)
    report = write_triplets(source, tmp_path / "t.jsonl", model=clip_place, similarity_band=(0.6, 0.9))
    similarities = [json.loads(line)["similarity"] for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert 0.6 <= min(similarities) <= max(similarities) <= 0.9
    assert report["dropped"]["outside_similarity_band"] > 0
    assert sum(report["similarity"]["from"].values()) == report["triplets"]


def test_what_a_language_model_writes_becomes_triplets(tmp_path):
    source = write_lines(tmp_path / "captions.txt", TINY_CAPTIONS)
    report = write_triplets(source, tmp_path / "t.jsonl", "lm", language_model=fake_writer)
    assert report["templates"] == {"lm": 24}
    assert report["dropped"]["unparsable_output"] == 72
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0]) == {
        "reference_caption": "a small red dress with sleeves",
        "conditioning_caption": "make it blue",
        "target_caption": "a small blue dress with sleeves",
        "template": "lm",
        "row": 1,
    }


def test_what_a_language_model_repeats_is_dropped(tmp_path):
    source = write_lines(tmp_path / "captions.txt", ["a dog", "a dog", "a cat"])
    report = write_triplets(
        source,
        tmp_path / "t.jsonl",
        "lm",
        language_model=lambda prompts, seed: [" is a cat => target: a cat" for _ in prompts],
    )
    assert report["triplets"] == report["dropped"]["duplicate"] == report["dropped"]["target_equal_to_reference"] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.txt", bytes(range(128, 256)) * 9, "looks binary"),
        ("captions.txt", b"\n \n", "no usable caption"),
        ("captions.txt", b"", "no usable caption"),
        ("captions.txt", b"a dog\n", "no triplet could be made of 1 caption"),
        ("captions.csv", b"words\na dog\n", "column 'text' or 'caption', found: words"),
        ("captions.png", b"\x89PNG", "is not a .jsonl"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        write_triplets(tmp_path / name, tmp_path / "triplets.jsonl")
