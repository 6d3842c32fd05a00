from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.training.projections.searle_concepts import (
    CONCEPT_TEMPLATES,
    embed_concepts,
    find_concepts,
    find_templates,
    read_concepts,
)


def test_the_templates_are_the_24_published_ones():
    assert len(set(CONCEPT_TEMPLATES)) == len(CONCEPT_TEMPLATES) == 24
    assert all(template.count("{}") == 1 for template in CONCEPT_TEMPLATES)
    assert {"This is an illustration of a {}", "An illustrations of a {}", "We see a {} photo"} <= set(
        CONCEPT_TEMPLATES
    )


def test_a_tokenizer_that_has_all_words_gets_all_templates(processor):
    assert find_templates(processor) == ["A photo of a {}", "A {}", "{}", "{} photo"]
    byte_pairs = SimpleNamespace(tokenizer=SimpleNamespace(unk_token_id=3, eos_token_id=3))  # as in CLIP's own
    assert find_templates(byte_pairs) == list(CONCEPT_TEMPLATES)


def test_a_concept_is_the_normalised_mean_over_its_templates(model, processor):
    names = ["red dress", "dog", "the small house"]
    embeds = embed_concepts(model.text_model, processor, names, chunk_size=2)
    for name, embed in zip(names, embeds, strict=True):
        texts = [f"a photo of a {name}", f"a {name}", name, f"{name} photo"]
        with torch.no_grad():
            rows = np.stack([model.text_model(**processor(text=text)).text_embeds[0].numpy() for text in texts])
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
        np.testing.assert_allclose(embed.numpy(), mean / np.linalg.norm(mean), atol=1e-6)


def test_the_nearest_concepts_come_first():
    rng = np.random.default_rng(0)
    images, concepts = rng.normal(size=(7, 5)), rng.normal(size=(9, 5))
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    found = find_concepts(torch.from_numpy(images), torch.from_numpy(concepts), 4, chunk_size=3)
    np.testing.assert_array_equal(found, np.argsort(-images @ concepts.T, axis=1)[:, :4])
    assert find_concepts(torch.from_numpy(images), torch.from_numpy(concepts), 20).shape == (7, 9)


def test_names_are_stripped_and_come_once(tmp_path):
    (tmp_path / "names.csv").write_text("LabelName,DisplayName\n/m/1, Dog \n/m/2,Cat\n/m/3,Dog\n")
    (tmp_path / "names.txt").write_text("Dog\n\n  Cat\nDog\n")
    assert read_concepts(tmp_path / "names.csv") == read_concepts(tmp_path / "names.txt") == ["Dog", "Cat"]


def test_rows_that_are_no_names_are_named(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"Dog\nCat\n\xff\xfe\x00\nCar\n")
    with pytest.warns(UserWarning, match="1 rows of '.*names.txt' .*: 3"):
        assert read_concepts(tmp_path / "names.txt") == ["Dog", "Cat", "Car"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", b"\n  \n", "holds no concept; give a text file with one a line"),
        ("names.txt", bytes(range(128, 256)) * 9, "looks binary"),
        ("names.csv", b"words\na\n", "needs a column 'DisplayName' or 'concept' or 'text', found: words"),
        ("names.txt", None, "is neither a file nor"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_concepts(tmp_path / name)
