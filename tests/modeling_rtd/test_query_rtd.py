"""The algebra in the pipeline: each query equals the formula on what the model's own calls give."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import pipeline

from modeling_rtd import Gallery, RTDModel, RTDProcessor, encode_images
from tests.builders import build_clip, build_image_processor, build_images, build_tokenizer, shake


TEXT, NEGATIVE = "is red with the small dog", "a large black dress"


@pytest.fixture(params=["lincir", "context_i2w"])
def model(request, clip, tokenizer):
    torch.manual_seed(1)
    model = RTDModel.from_clip(clip, request.param, tokenizer=tokenizer)
    model.replace_text_model(shake(RTDModel.from_clip(build_clip(seed=3), "lincir", tokenizer=tokenizer).text_model))
    return model


@pytest.fixture
def processor(model):
    name = model.projection.config.projection_type
    return RTDProcessor(build_image_processor(), build_tokenizer(), default_template=name)


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, image in zip(paths, build_images(6), strict=True):
        image.save(path)
    return [str(path) for path in paths]


@pytest.fixture
def pipe(model, processor, photos):
    gallery = Gallery.from_images(model, processor, photos)
    return pipeline("composed-image-retrieval", model=model, processor=processor, gallery=gallery, device="cpu")


@pytest.fixture
def scores(model, processor, photos, pipe):
    """Scores of the gallery by a query embedding, and by a query of the pipeline."""
    images = encode_images(model, processor, photos)

    def of_embedding(embedding):
        return normalize(embedding, dim=-1) @ images.T

    def of_query(query):
        found = {hit["id"]: hit["score"] for hit in pipe(query, top_k=6, exclude_reference=False)}
        return torch.tensor([found[name] for name in photos])

    return of_embedding, of_query


@torch.no_grad()
def compose(model, processor, image, text):
    return model(**processor(images=image, conditions=text)).composed_embeds[0]


@torch.no_grad()
def read(model, processor, text):
    return normalize(model.get_text_features(**processor(text=text)).pooler_output[0], dim=-1)


@pytest.mark.filterwarnings("ignore:1 of 1 conditions are empty")
@pytest.mark.parametrize("strength", [0, 0.4, 1])
def test_strength(model, processor, photos, scores, strength):
    alone, full = (compose(model, processor, photos[0], text) for text in ("", TEXT))
    of_embedding, of_query = scores
    expected = of_embedding((1 - strength) * alone + strength * full)
    torch.testing.assert_close(of_query({"image": photos[0], "text": TEXT, "strength": strength}), expected)


@pytest.mark.parametrize("query", [{"text": TEXT}, {"image": 0}, {"image": 0, "text": TEXT}], ids=len)
def test_negative_text_is_read_by_the_tower_from_before_rtd(model, processor, photos, scores, query):
    query = dict(query)
    if "image" in query:
        query["image"] = photos[query["image"]]
    if len(query) == 2:
        positive = compose(model, processor, *query.values())
    elif "text" in query:
        positive = read(model, processor, TEXT)
    else:
        positive = encode_images(model, processor, [query["image"]])[0]
    of_embedding, of_query = scores
    expected = of_embedding(positive - 0.7 * read(model, processor, NEGATIVE))
    torch.testing.assert_close(of_query({**query, "negative": NEGATIVE, "negative_weight": 0.7}), expected)


def test_several_references_are_each_composed(model, processor, photos, scores):
    one, other = (compose(model, processor, photo, TEXT) for photo in photos[1:3])
    of_embedding, of_query = scores
    query = {"image": photos[1:3], "text": TEXT}
    torch.testing.assert_close(of_query(query), of_embedding(one + other))
    torch.testing.assert_close(of_query({**query, "weights": [3, 1]}), of_embedding(3 * one + other))


@pytest.mark.filterwarnings("ignore:1 of 1 conditions are empty")
def test_everything_at_once_goes_strength_first_then_references_then_negative(model, processor, photos, scores):
    parts = [
        0.5 * compose(model, processor, photo, "") + 0.5 * compose(model, processor, photo, TEXT)
        for photo in photos[:2]
    ]
    joined = normalize(sum(normalize(part, dim=-1) for part in parts), dim=-1)
    of_embedding, of_query = scores
    query = {"image": photos[:2], "text": TEXT, "strength": 0.5, "negative": NEGATIVE, "negative_weight": 0.3}
    expected = of_embedding(joined - 0.3 * read(model, processor, NEGATIVE))
    torch.testing.assert_close(of_query(query), expected)


def test_queries_of_all_kinds_in_one_batch_equal_themselves_alone(pipe, photos):
    queries = [
        {"image": photos[0], "text": TEXT, "strength": 0.3},
        {"text": "a dog", "negative": NEGATIVE},
        {"image": photos[1:4], "text": TEXT, "weights": [1, 2, 3], "negative": "a cat", "negative_weight": 0.5},
        {"text": "a small car"},
        {"image": photos[2], "negative": "a house"},
        {"image": photos[4], "text": "is blue"},
    ]
    together = pipe(queries, batch_size=6)
    for query, hits in zip(queries, together, strict=True):
        alone = pipe(query)
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in alone]
        assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in alone], abs=1e-5)


def test_all_references_are_left_out(pipe, photos):
    assert not {hit["id"] for hit in pipe({"image": photos[:3]})} & set(photos[:3])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"strength": 1.5}, "`strength` must lie between 0 .* got 1.5"),
        ({"strength": -0.01}, "`strength` must lie between 0"),
        ({"strength": 0.5, "text": None}, "the query needs `image` and `text`"),
        ({"strength": 0.5, "image": None}, "the query needs `image` and `text`"),
        ({"negative": "IS  red with the small dog "}, "is the query's own text, 'is red with the small dog'"),
        ({"negative": 3}, "`negative` of a query must be a string, got int"),
        ({"negative": "a cat", "negative_weight": -1}, "`negative_weight` must be a finite number of at least 0"),
        ({"negative_weight": 0.5}, "`negative_weight` comes without `negative`"),
        ({"weights": [1, 2]}, "`weights` needs one number for each of 1 images"),
        ({"weights": [0]}, "at least one reference must count"),
        ({"weights": 1}, "`weights` needs one number"),
        ({"image": []}, None),
        ({"image": [], "text": ""}, "needs `image`, `text` or both"),
    ],
)
def test_bad_entries_are_refused_with_a_sentence(pipe, photos, entries, message):
    query = {"image": photos[0], "text": TEXT} | entries
    if message is None:
        assert pipe(query) == pipe({"text": TEXT})
    else:
        with pytest.raises(ValueError, match=message):
            pipe(query)
