"""Triplets from plain captions: edits that are what they say, files that resume, and models that cannot write."""

import json
import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.factories import build_clip, build_processor
from trainer.cli.main import main
from trainer.data.captions import read_captions
from trainer.data.triplets import TRIPLET_COLUMNS, load_triplets
from trainer.triplet_making import PROMPT, WORDINGS, make_triplets, parse_output, write_triplets
from trainer.worlds.small_world import build_small_world


TINY = [
    f"a {size} {colour} {thing} {part}".replace("  ", " ").strip()
    for size in ("small", "large")
    for colour in ("red", "green", "blue", "")
    for thing in ("dress", "shirt", "dog", "cat")
    for part in ("with sleeves", "with a tree", "")
]


@pytest.fixture(scope="module")
def captions():
    return build_small_world("toy").captions["text"][:]


@pytest.fixture(scope="module")
def triplets(captions):
    return list(make_triplets(captions, per_caption=4))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    build_clip().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def language_model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    words = ["<unk>", "<eos>", *sorted({word for text in [PROMPT, *TINY] for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    config = GPT2Config(vocab_size=len(words), n_positions=256, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def write_lines(path, lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def texts(triplet):
    return tuple(triplet[name] for name in TRIPLET_COLUMNS)


def words(text):
    return set(re.findall(r"[\w'-]+", text))


def fake_writer(prompts, seed):
    """Swap red and blue in the caption that stands last in the prompt; say nonsense where neither occurs."""
    outputs = []
    for prompt in prompts:
        caption = re.findall("caption: (.*)", prompt)[-1]
        target = caption.replace("red", "blue")
        outputs.append(f" make it blue => target: {target}\n\ncaption: x" if target != caption else " blue blue")
    return outputs


def test_the_same_seed_gives_the_same_triplets(captions, triplets):
    assert list(make_triplets(captions, per_caption=4)) == triplets


def test_another_seed_gives_other_triplets(captions, triplets):
    assert list(make_triplets(captions, per_caption=4, seed=1)) != triplets


@pytest.mark.parametrize("template", WORDINGS)
def test_the_small_world_gives_every_template(triplets, template):
    assert template in {triplet["template"] for triplet in triplets}


def test_no_two_triplets_are_alike_and_no_target_is_its_reference(triplets):
    assert len({texts(triplet) for triplet in triplets}) == len(triplets)
    assert not [t for t in triplets if t["reference_caption"] == t["target_caption"]]


def test_a_reference_is_the_caption_of_its_row(captions, triplets):
    assert all(triplet["reference_caption"] == captions[triplet["row"] - 1] for triplet in triplets)


def test_a_condition_says_only_words_of_its_captions_and_of_the_wordings(triplets):
    fixed = words(re.sub(r"{\w+}", "", " ".join(text for group in WORDINGS.values() for text in group)))
    fixed |= {"a", "an", "the", "one", "is", "are"}
    for triplet in triplets:
        reference, condition, target = map(words, texts(triplet))
        assert condition <= reference | target | fixed, triplet


def test_what_changes_is_one_edit_and_in_the_condition(triplets):
    silent = {"a", "an", "with"}
    for triplet in triplets:
        reference, condition, target = map(words, texts(triplet))
        assert (reference ^ target) - silent <= condition, triplet
        if not triplet["template"].startswith("count"):
            before, after = (texts(triplet)[i].replace("an ", "a ").split() for i in (0, 2))
            longer, shorter = sorted((before, after), key=len, reverse=True)
            same = next((i for i, (x, y) in enumerate(zip(longer, shorter, strict=False)) if x != y), len(shorter))
            size = max(1, len(longer) - len(shorter))
            kept = longer[:same] + longer[same + size :]
            assert kept == (shorter if len(longer) > len(shorter) else shorter[:same] + shorter[same + 1 :]), triplet


def test_articles_agree_with_the_edited_words(triplets):
    assert not [t for t in triplets if re.search(r"\ba [aeio]|\ban [^aeio]", " ".join(texts(t)))]


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


def test_a_run_with_other_settings_does_not_go_on(captions, tmp_path):
    source, output = write_lines(tmp_path / "captions.txt", captions), tmp_path / "triplets.jsonl"
    write_triplets(source, output)
    with pytest.raises(ValueError, match=r"begun with another seed \(0\); repeat those settings"):
        write_triplets(source, output, seed=1)


def test_a_file_of_another_origin_is_left_alone(captions, tmp_path):
    output = write_lines(tmp_path / "triplets.jsonl", ["mine"])
    with pytest.raises(ValueError, match="exists, and not from a run of this command"):
        write_triplets(write_lines(tmp_path / "captions.txt", captions), output)
    assert output.read_text() == "mine"


def test_similarities_lie_in_the_band(clip_folder, tmp_path):
    source = write_lines(tmp_path / "captions.txt", TINY)
    report = write_triplets(source, tmp_path / "t.jsonl", model=clip_folder, similarity_band=(0.6, 0.9))
    similarities = [json.loads(line)["similarity"] for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert 0.6 <= min(similarities) <= max(similarities) <= 0.9
    assert report["dropped"]["outside_similarity_band"] > 0
    assert sum(report["similarity"]["from"].values()) == report["triplets"]


def test_wordings_beyond_the_models_vocabulary_are_not_used(clip_folder):
    made = make_triplets(TINY, model=clip_folder, similarity_band=(-1, 1))
    assert not {"instead", "replace", "not"} & {word for t in made for word in t["conditioning_caption"].split()}


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        (" make it red => target: A Red dog\nmore", ("make it red", "a red dog")),
        ("condition: is red => target: a red dog", ("is red", "a red dog")),
        ("is red", None),
        ("is red => target:", None),
        ("is red => a red dog", None),
        ("is red => target: a dog => target: a cat", None),
        ("\n", None),
        ("word " * 31 + "=> target: a dog", None),
    ],
)
def test_outputs_are_parsed_strictly(output, parsed):
    assert parse_output(output) == parsed


def test_what_a_language_model_writes_becomes_triplets(tmp_path):
    source = write_lines(tmp_path / "captions.txt", TINY)
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


def test_a_random_language_model_is_stopped_with_one_of_its_outputs(language_model_folder):
    with pytest.raises(ValueError, match="could be parsed after 64 captions; .* wrote for example '.+'"):
        list(make_triplets(TINY, "lm", language_model=language_model_folder))


def test_sampling_is_decided_by_the_seed(language_model_folder):
    from trainer.data.language_model import LanguageModel

    write = LanguageModel(language_model_folder)
    prompts = [PROMPT.format(caption=caption) for caption in ("a dog", "a small red dress with sleeves")]
    assert write(prompts, 1) == write(prompts, 1) != write(prompts, 2)


def test_rows_that_are_no_captions_are_skipped_and_named(tmp_path):
    lines = ["a dog", "", "   ", "x" * 2001, b"\xff\xfe\x00", "a\x00b", "a cat\r"]
    captions, skipped = read_captions(write_lines(tmp_path / "captions.txt", lines))
    assert captions == ["a dog", None, None, None, None, None, "a cat\r"]
    assert skipped == {"blank": [2, 3], "too_long": [4], "binary": [5, 6]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.txt", bytes(range(128, 256)) * 9, "looks binary"),
        ("captions.txt", b"\n \n", "no usable caption"),
        ("captions.txt", b"", "no usable caption"),
        ("captions.txt", b"a dog\n", "no triplet could be made of 1 caption"),
        ("captions.csv", b"words\na dog\n", "column 'text' or 'caption', found: words"),
        ("captions.png", b"\x89PNG", "is no .jsonl"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        write_triplets(tmp_path / name, tmp_path / "triplets.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rule"}, r"unknown method 'rule'; did you mean 'rules'\? Known: lm, rules"),
        ({"method": "lm"}, "needs a `language_model`"),
        ({"language_model": "x"}, "'lm', and no other"),
        ({"per_caption": 0}, "per_caption must be 1 or more"),
        ({"similarity_band": (0.9, 0.5)}, "two rising cosines"),
        ({"keyword_fn": "rules"}, "did you mean 'rule'"),
        ({"model": "./nowhere"}, "'./nowhere' cannot be loaded"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        list(make_triplets(TINY, **options))


def test_the_verb_writes_triplets(tmp_path, capsys):
    source, output = write_lines(tmp_path / "captions.txt", TINY), tmp_path / "triplets.jsonl"
    assert main(["triplets", str(source), "-o", str(output), "--per-caption", "2"]) == 0
    assert f"triplets from {len(TINY)} captions: {output}" in capsys.readouterr().out


def test_the_verb_refuses_in_one_line(tmp_path, capsys):
    source = write_lines(tmp_path / "captions.txt", TINY)
    assert main(["triplets", str(source), "-o", str(tmp_path / "t.jsonl"), "--method", "llm"]) == 2
    assert "did you mean 'lm'?" in capsys.readouterr().err.splitlines()[-1]
