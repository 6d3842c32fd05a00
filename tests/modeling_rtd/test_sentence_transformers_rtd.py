"""SentenceTransformer over a saved model: the model's own embeddings, and what it refuses."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModel

from modeling_rtd import Query, RTDModel, encode_composed
from tests.factories import build_clip, build_images, build_processor, build_tokenizer, shake


sentence_transformers = pytest.importorskip("sentence_transformers")
SentenceTransformer = sentence_transformers.SentenceTransformer
SentenceTransformerTrainer = sentence_transformers.SentenceTransformerTrainer
SentenceTransformerTrainingArguments = sentence_transformers.SentenceTransformerTrainingArguments
IMAGES = build_images(2)
MIXED = [{"image": IMAGES[0], "text": "is red with no sleeves"}, IMAGES[1], "a dog"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tuned model, its processor, and the folder of both."""
    torch.manual_seed(1)
    model = RTDModel.from_clip(build_clip(), "context_i2w", tokenizer=build_tokenizer())
    processor = build_processor().with_template("context_i2w")
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


@pytest.fixture(scope="module")
def place(saved):
    return str(saved[2])


@pytest.fixture(scope="module")
def encoder(place):
    return SentenceTransformer(place, trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def expected(saved):
    """The model's embeddings of MIXED."""
    model, processor, _ = saved
    with torch.no_grad():
        composed = model(**processor(images=IMAGES[:1], conditions=MIXED[0]["text"])).composed_embeds
        image = model.get_image_features(**processor(images=IMAGES[1:])).pooler_output
        text = model.get_text_features(**processor(text="a dog")).pooler_output
    return torch.nn.functional.normalize(torch.cat([composed, image, text]), dim=-1).numpy()


def test_a_mixed_batch_gives_the_model_s_own_embeddings(encoder, expected, tmp_path):
    assert np.abs(encoder.encode(MIXED) - expected).max() < 1e-6
    IMAGES[1].save(tmp_path / "photo.png")
    for image in (str(tmp_path / "photo.png"), {"image": tmp_path / "photo.png"}, {"image": IMAGES[1], "text": " "}):
        assert np.abs(encoder.encode(image) - expected[1]).max() < 1e-6
    assert np.abs(encoder.encode_query(MIXED[0]) - expected[0]).max() < 1e-6
    assert np.abs(encoder.encode_document(MIXED[1:]) - expected[1:]).max() < 1e-6
    assert np.abs(encoder.encode("dog", prompt="a ") - expected[2]).max() < 1e-6
    assert encoder.get_embedding_dimension() == expected.shape[1]
    assert encoder.max_seq_length == 20
    similarities = encoder.similarity(expected, expected).numpy()
    assert np.allclose(similarities, expected @ expected.T, atol=1e-6)


def test_the_algebra_of_a_query_is_read(encoder, saved):
    model, processor, _ = saved
    pixels = processor.prepare_images(IMAGES)
    query = Query("is red", pixels, weights=[1.0, 2.0], strength=0.5, negative="a cat", negative_weight=0.1)
    with torch.no_grad():
        ours = encode_composed(model, processor, [query])[0]
    entries = {"weights": [1.0, 2.0], "strength": 0.5, "negative": "a cat", "negative_weight": 0.1}
    theirs = encoder.encode({"image": IMAGES, "text": "is red", **entries}, convert_to_tensor=True)
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_embeddings_are_cut_and_quantised(encoder, expected, precision):
    cut = encoder.encode(MIXED, truncate_dim=8)
    assert np.abs(cut - expected[:, :8]).max() < 1e-6
    codes = encoder.encode(MIXED, precision=precision, truncate_dim=8)
    assert codes.dtype == np.int8
    assert codes.shape == (3, 8 if precision == "int8" else 1)


def test_half_precision_stays_near(place, expected):
    encoder = SentenceTransformer(place, trust_remote_code=True, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    assert encoder.dtype == torch.bfloat16
    assert (encoder.encode(MIXED) * expected).sum(axis=1).min() > 0.999


def test_a_folder_that_sentence_transformers_saves_is_a_model_again(encoder, expected, tmp_path):
    encoder = copy.copy(encoder)
    encoder.prompts = {"query": "a ", "document": ""}
    encoder.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    assert np.abs(again.encode(MIXED) - expected).max() < 1e-6
    assert np.abs(again.encode_query("dog") - expected[2]).max() < 1e-6
    assert isinstance(AutoModel.from_pretrained(tmp_path / "again"), RTDModel)


def test_settings_of_a_folder_stay_and_its_module_is_ours(saved, tmp_path):
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "a "}}))
    (tmp_path / "modules.json").write_text("[]")
    saved[0].save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config_sentence_transformers.json").read_text()) == {"prompts": {"query": "a "}}
    assert json.loads((tmp_path / "modules.json").read_text())[0]["type"].startswith("sentence_transformers_rtd.")


@pytest.mark.slow
def test_processes_of_a_pool_give_the_same(encoder, expected):
    pool = encoder.start_multi_process_pool(["cpu", "cpu"])
    try:
        assert np.abs(encoder.encode(MIXED * 3, pool=pool, chunk_size=4) - np.tile(expected, (3, 1))).max() < 1e-6
    finally:
        encoder.stop_multi_process_pool(pool)


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ([{"role": "user", "content": "a dog"}], "chat messages"),
        (("a dog", "a cat"), "pairs"),
        ({"image": IMAGES[0], "condition": "is red"}, "did you mean 'text'"),
        ({"image": IMAGES[0], "text": "is red", "exclude": "a.png"}, "exclude"),
        ({"text": " "}, "needs `image`, `text` or both"),
        ("missing.jpg", "is no file"),
        (IMAGES, "pairs"),
    ],
)
def test_what_is_no_query_is_refused(encoder, item, complaint):
    with pytest.raises(ValueError, match=complaint):
        encoder.encode([item])


def test_the_length_of_texts_can_be_lowered(place, encoder):
    short = SentenceTransformer(place, trust_remote_code=True, device="cpu")
    short.max_seq_length = 5
    with pytest.warns(UserWarning, match="longer than the 5 tokens"):
        cut = short.encode("a small red dress with the dog")
    np.testing.assert_allclose(cut, encoder.encode("a small red"), atol=1e-6)
    with pytest.raises(ValueError, match="3 to 20 tokens"):
        short.max_seq_length = 21
    short.max_seq_length = 20
    assert short.max_seq_length == 20


def test_the_trainer_of_sentence_transformers_is_refused(place, tmp_path):
    module = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model = SentenceTransformer(place, trust_remote_code=True, device="cpu")
    rows = Dataset.from_dict({"anchor": ["a red dog"] * 4, "positive": ["a blue cat"] * 4})
    settings = {"max_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    args = SentenceTransformerTrainingArguments(str(tmp_path), **settings)
    trainer = SentenceTransformerTrainer(model, args, rows, loss=module.MultipleNegativesRankingLoss(model))
    with pytest.raises(ValueError, match="not trained by sentence-transformers.*RTDTrainer"):
        trainer.train()


def test_another_backend_and_options_of_processing_are_refused(encoder, place):
    with pytest.raises(ValueError, match="backend 'onnx'"):
        SentenceTransformer(place, trust_remote_code=True, backend="onnx")
    with pytest.raises(ValueError, match="processing_kwargs"):
        encoder.encode("a dog", processing_kwargs={"text": {"max_length": 8}})
