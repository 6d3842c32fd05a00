import numpy as np
import pytest
import torch

from tests.factories import build_language_model
from trainer.data.language_model import LanguageModel
from trainer.training.projections import searle_phrases as phrases_module
from trainer.training.projections.searle_phrases import (
    PHRASE_TEMPLATES,
    PhraseBank,
    compute_phrase_loss,
    fill_templates,
    read_templates,
    write_phrases,
)


PHRASES = {
    "red dress": ["a photo of red dress that is large", "a red dress and a red dress with a cat"],
    "dog": ["a photo of dog that has the small tree", "the dog"],
    "cat": ["a photo of cat that is small", "the large car"],
}


@pytest.fixture
def bank(processor):
    return PhraseBank(processor, PHRASES)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """Directory of a random GPT-2 of bytes."""
    return build_language_model(tmp_path_factory.mktemp("lm"))


def test_templates_are_filled_with_each_name(tmp_path):
    (tmp_path / "templates.txt").write_text("a photo of {} that is {1}\n{} and {}\n")
    assert fill_templates(["dog", "cat"], read_templates(tmp_path / "templates.txt")) == {
        "dog": ["a photo of dog that is {1}", "dog and dog"],
        "cat": ["a photo of cat that is {1}", "cat and cat"],
    }


def test_packaged_templates_are_those_of_a_file():
    assert read_templates("templates") == list(PHRASE_TEMPLATES)
    assert all("{}" in template for template in PHRASE_TEMPLATES)


def test_a_template_without_a_place_for_the_name_is_refused(tmp_path):
    (tmp_path / "templates.txt").write_text("{} is red\na dog is red\n")
    with pytest.raises(ValueError, match="1 .*'a dog is red'"):
        read_templates(tmp_path / "templates.txt")


def test_a_concept_that_a_phrase_does_not_hold_is_a_problem_concept(bank):
    assert bank.usable.tolist() == [True, True, False]


def test_the_first_occurrence_alone_takes_the_pseudo_word(bank, processor):
    batch = bank.collate([0], [1])
    words = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert words == "<bos> a $ and a red dress with a cat <eos>".split()
    assert batch["placeholder_mask"][0].nonzero().flatten().tolist() == [2]


def test_further_occurrences_become_clips_own_placeholder_word(bank, processor):
    batch = bank.collate([0], [1], every_occurrence=True)
    words = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert words == "<bos> a $ and a $ with a cat <eos>".split()
    assert batch["placeholder_mask"][0].nonzero().flatten().tolist() == [2]


def test_the_loss_is_one_minus_the_cosine_to_the_phrase_itself(bank, model, processor):
    words = torch.randn(2, 1, 32)
    with torch.no_grad():
        loss = compute_phrase_loss(model.text_model, words, bank.collate([0, 1], [0, 0]))
        plain = [model.text_model(**processor(text=PHRASES[name][0])).text_embeds[0] for name in ("red dress", "dog")]
        texts = ["a photo of $ that is large", "a photo of $ that has the small tree"]
        ids = processor.tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]
        spliced = model.text_model(ids, pseudo_token_embeds=words).text_embeds
    a, b = torch.stack(plain).double().numpy(), spliced.double().numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert loss.item() == pytest.approx(1 - cosines.mean(), abs=1e-6)


def test_phrases_embedded_once_give_the_loss_of_phrases_embedded_anew(bank, model, tmp_path):
    words = torch.randn(3, 1, 32)
    anew = compute_phrase_loss(model.text_model, words, bank.collate([0, 1, 0], [0, 1, 1]))
    bank.embed(model.text_model, "key", str(tmp_path))
    batch = bank.collate([0, 1, 0], [0, 1, 1])
    assert "caption_input_ids" not in batch
    assert compute_phrase_loss(model.text_model, words, batch).item() == pytest.approx(anew.item(), abs=1e-6)


def test_a_language_model_writes_as_published(language_model, tmp_path, monkeypatch):
    drawn, sample = [], LanguageModel._sample

    def spy(*args, **options):
        drawn.append(sample(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(LanguageModel, "_sample", spy)
    written = write_phrases(["dog", "cat"], language_model, tmp_path, count=8)
    for (name, texts), rows in zip(written.items(), drawn, strict=True):
        prompt = f"a photo of {name} that"
        assert len(set(texts)) == len(texts) == 8
        assert all(text.startswith(prompt) for text in texts)
        assert rows.shape[1] <= 35
        for row in rows.tolist():
            ids = row[: row.index(0)] if 0 in row else row  # up to the end of the text; a token is a byte
            pairs = list(zip(ids, ids[1:], strict=False))
            assert not [k for k in range(len(prompt) - 1, len(pairs)) if pairs[k] in pairs[:k]]  # none twice


def test_newlines_and_runs_of_dots_become_one_dot(tmp_path, monkeypatch):
    class Writer:
        def continue_prompt(self, prompt, count, seed, max_tokens, **sampling):
            assert (count, max_tokens) == (256, 35)
            assert sampling == {"temperature": 0.5, "no_repeat_ngram_size": 2}
            return [f"{prompt} runs...\n\nA cat"] * count

    monkeypatch.setattr(phrases_module, "_load_language_model", lambda name: Writer())
    assert write_phrases(["dog"], "x", tmp_path)["dog"][255] == "a photo of dog that runs. A cat"


def test_an_interrupted_writer_goes_on_and_ends_with_the_same(language_model, tmp_path, monkeypatch):
    names = ["dog", "cat", "car"]
    whole = write_phrases(names, language_model, tmp_path / "whole", count=2)
    write_phrases(names[:2], language_model, tmp_path / "cut", count=2)
    (path,) = (tmp_path / "cut").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-9])  # the second concept was not written to its end
    assert write_phrases(names, language_model, tmp_path / "cut", count=2) == whole
    monkeypatch.setattr(phrases_module, "LanguageModel", None)  # what is kept needs no model
    assert write_phrases(names, language_model, tmp_path / "cut", count=2) == whole


def test_what_is_no_language_model_is_refused_in_one_line(clip, processor, tmp_path):
    clip.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match=f"'{place}' cannot be loaded") as error:
            write_phrases(["dog"], str(place), tmp_path / "phrases")
        assert len(str(error.value)) < 400
        assert "\n" not in str(error.value)
