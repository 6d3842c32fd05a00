import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from trainer.training.projections.searle import SEARLETrainingArguments
from trainer.training.projections.searle_inversion import TextualInversion
from trainer.training.projections.searle_phrases import PhraseBank, fill_templates


NAMES = ["red dress", "dog", "small cat", "car"]
TEMPLATES = ["a photo of {} that is large", "the {} and the tree", "a {} with a {}"]
CONCEPTS = [np.array(row) for row in ([0, 1], [2], [3, 1, 0], [1, 2], [0])]


@pytest.fixture
def build(model, processor, tmp_path):
    def build(**arguments):
        defaults = {"output_dir": str(tmp_path), "use_cpu": True, "oti_steps": 4, "oti_batch_size": 2}
        args = SEARLETrainingArguments(**(defaults | arguments))
        return TextualInversion(
            model.text_model, processor, PhraseBank(processor, fill_templates(NAMES, TEMPLATES)), args
        )

    return build


@pytest.fixture
def image_embeds():
    return torch.randn(5, 24, generator=torch.Generator().manual_seed(0))


def invert_as_published(inversion, processor, image_embeds, rows):
    """The published loop: texts of full length, phrases encoded in each step, weight gradients, an average by hand."""
    tower, args = inversion.text_model.requires_grad_(True), inversion.args
    draws = [inversion._draw(row, CONCEPTS[row]) for row in rows]
    start, templates, concepts, phrases = (np.stack(parts) for parts in zip(*draws, strict=True))
    words = torch.nn.Parameter(torch.from_numpy(start))
    optimizer = torch.optim.AdamW([words], lr=2e-2, weight_decay=0.01)
    average = start.astype("float64")

    def encode(texts, words=None):
        tokens = [processor.tokenizer(text)["input_ids"] for text in texts]
        ids = torch.tensor([row + [0] * (20 - len(row)) for row in tokens])
        first = (ids == 4) & ((ids == 4).cumsum(1) == 1)
        if words is None:
            return tower(ids).text_embeds
        return tower(ids, placeholder_mask=first, pseudo_token_embeds=words[:, None]).text_embeds

    def compare(a, b):
        return (1 - (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).mean()

    for step in range(args.oti_steps):
        shown = [("A photo of a $", "A $", "$", "$ photo")[k] for k in templates[:, step]]
        texts = [
            TEMPLATES[k].replace("{}", NAMES[c]) for c, k in zip(concepts[:, step], phrases[:, step], strict=True)
        ]
        spliced = [text.replace(NAMES[c], " $ ", 1) for c, text in zip(concepts[:, step], texts, strict=True)]
        cosine = compare(encode(shown, words), image_embeds[rows.start : rows.stop])
        loss = (1.0 * cosine + 0.5 * compare(encode(spliced, words), encode(texts))) / 1.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average = 0.99 * average + 0.01 * words.detach().double().numpy()
    return average, words.detach()


@pytest.mark.parametrize("cached", [True, False])
def test_the_result_is_the_average_of_the_published_loop(build, processor, image_embeds, tmp_path, cached):
    inversion, rows = build(), range(0, 3)
    if cached:
        inversion.bank.embed(inversion.text_model, "key", str(tmp_path))
    found = inversion.invert(image_embeds[:3], CONCEPTS[:3], rows)
    average, last = invert_as_published(inversion, processor, image_embeds, rows)
    np.testing.assert_allclose(found.numpy(), average, atol=2e-6)
    assert (found - last).abs().max() > 0.02  # the average is not the last step


def test_first_vectors_are_small_and_normal(build):
    starts = np.concatenate([build()._draw(row, CONCEPTS[0])[0] for row in range(200)])
    assert abs(starts.mean()) < 1e-3
    assert starts.std() == pytest.approx(0.02, rel=0.05)


def test_phrases_are_about_the_images_own_concepts(build):
    _, _, drawn, phrases = build(oti_steps=60)._draw(7, CONCEPTS[2])
    assert set(drawn) == {3, 1, 0}
    assert set(phrases) == {0, 1, 2}


def test_weights_of_the_frozen_tower_get_no_gradient(build, image_embeds):
    inversion = build()
    inversion.invert(image_embeds[:2], CONCEPTS[:2], range(2))
    assert all(parameter.grad is None for parameter in inversion.text_model.parameters())


def test_an_image_is_inverted_alike_in_any_batch(build, image_embeds, tmp_path):
    apart = build(oti_batch_size=2).invert_all(image_embeds, CONCEPTS, tmp_path / "two")
    joined = build(oti_batch_size=5).invert_all(image_embeds, CONCEPTS, tmp_path / "five")
    np.testing.assert_allclose(apart, joined, atol=1e-5)


def test_an_interrupted_inversion_goes_on_with_the_images_that_are_left(build, image_embeds, tmp_path):
    inversion = build()
    whole = np.array(inversion.invert_all(image_embeds, CONCEPTS, tmp_path / "whole"))
    path = tmp_path / "cut"
    path.write_bytes((tmp_path / "whole").read_bytes()[: 3 * 32 * 4 + 5])  # one batch of two, and a part of the next
    done, invert = [], inversion.invert
    inversion.invert = lambda images, concepts, rows: done.append(rows) or invert(images, concepts, rows)
    np.testing.assert_array_equal(inversion.invert_all(image_embeds, CONCEPTS, path), whole)
    assert done == [range(2, 4), range(4, 5)]
    inversion.invert_all(image_embeds, CONCEPTS, path)
    assert len(done) == 2  # what is there is read


def test_mixed_precision_inverts_nearly_the_same(build, image_embeds):
    full, mixed = (build(bf16=bf16).invert(image_embeds[:3], CONCEPTS[:3], range(3)) for bf16 in (False, True))
    assert 0 < (full - mixed).abs().max() < 0.01


def test_vectors_that_run_away_are_refused(build, image_embeds):
    with pytest.raises(FloatingPointError, match="images 0 to 1 .*oti_learning_rate"):
        build().invert(image_embeds[:2] * float("nan"), CONCEPTS[:2], range(2))


def test_inversion_draws_every_word_towards_its_image(build, image_embeds):
    inversion = build(oti_steps=60, oti_ema_decay=0.9)
    first = torch.from_numpy(np.stack([inversion._draw(row, CONCEPTS[row])[0] for row in range(5)]))
    found = inversion.invert(image_embeds, CONCEPTS, range(5))

    def compare(words):
        shown = {name: tensor.repeat_interleave(5, 0) for name, tensor in inversion.templates.items()}
        with torch.no_grad():
            text = inversion.text_model(**shown, pseudo_token_embeds=words.repeat(4, 1)[:, None]).text_embeds
        return cosine_similarity(text.view(4, 5, -1), image_embeds, dim=-1).mean(0)

    assert (compare(found) > compare(first) + 0.1).all()
