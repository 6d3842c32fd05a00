"""Queries: one door that composes, the algebra, and each query equal to the formula on the model's own calls."""

import copy
import functools

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from torch.nn.functional import normalize
from transformers import pipeline

from modeling_rtd import (
    Gallery,
    Query,
    RTDModel,
    RTDProcessor,
    encode_composed,
    encode_images,
    exclude_text,
    join_references,
    weigh_condition,
)
from modeling_rtd.query_rtd import read_query
from tests.factories import build_clip, build_image_processor, build_images, build_tokenizer, shake, split_prompt
from trainer.evaluation.benchmarks import Benchmark, Protocol
from trainer.evaluation.evaluator import RetrievalEvaluator


TEXT, NEGATIVE = "is red with the small dog", "a large black dress"


@functools.cache
def build_model(method):
    clip, tokenizer = build_clip(), build_tokenizer()
    torch.manual_seed(1)
    model = RTDModel.from_clip(clip, method, tokenizer=tokenizer)
    model.replace_text_model(shake(RTDModel.from_clip(build_clip(seed=3), "lincir", tokenizer=tokenizer).text_model))
    return model


@pytest.fixture(params=["lincir", "context_i2w"])
def model(request):
    return copy.deepcopy(build_model(request.param))


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
        ({"strength": 1.5}, "`strength` must be between 0 .* got 1.5"),
        ({"strength": -0.01}, "`strength` must be between 0"),
        ({"strength": 0.5, "text": None}, "the query needs `image` and `text`"),
        ({"strength": 0.5, "image": None}, "the query needs `image` and `text`"),
        ({"negative": "IS  red with the small dog "}, "is the query's own text, 'is red with the small dog'"),
        ({"negative": 3}, "`negative` of a query must be a string, got int"),
        ({"negative": "a cat", "negative_weight": -1}, "`negative_weight` must be a finite number of at least 0"),
        ({"negative_weight": 0.5}, "`negative_weight` comes without `negative`"),
        ({"weights": [1, 2]}, "`weights` needs one number for each of 1 images"),
        ({"weights": [0]}, "at least one reference must count"),
        ({"weights": 1}, "`weights` needs one number"),
        ({"weights": [10**400]}, "must be a finite number"),
        ({"image": 3}, "cannot be read: an image has"),
        ({"adapter": []}, "adapter"),
        ({"adapter": ""}, "unknown adapter ''"),
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


@pytest.mark.parametrize(
    ("entry", "hint"),
    [("condition", "did you mean 'text'"), ("wieghts", "did you mean 'weights'"), ("zzz", "Known: ")],
)
def test_unknown_entries_are_refused(pipe, photos, entry, hint):
    with pytest.raises(ValueError, match=f"'{entry}'.*{hint}"):
        pipe({"image": photos[0], entry: "is red"})


def test_a_reference_or_condition_under_another_name_is_not_passed_over(pipe, photos):
    with pytest.raises(ValueError, match="'reference_image'.*did you mean 'image'"):
        pipe({"reference_image": photos[0], "text": "is red"})
    with pytest.raises(ValueError, match="'condition'.*did you mean 'text'"):
        pipe({"image": photos[0], "condition": ["is red"]})
    assert pipe({"reference": None, "text": "a dog"}) == pipe({"text": "a dog"})


@pytest.fixture
def three_doors(tokenizer, photos):
    """What the pipeline, the evaluator and `encode_composed` make of one query, by projection, blank and entries."""

    def build(projection, condition, blank):
        torch.manual_seed(1)
        model = RTDModel.from_clip(build_clip(projection_dim=32), projection, tokenizer=tokenizer)
        processor = RTDProcessor(build_image_processor(), tokenizer, default_template=projection)
        pixels = processor.prepare_images([photos[0]])
        ours = encode_composed(model, processor, [Query(condition, pixels)], blank=blank)[0]
        values = {"id": "string", "reference_id": "string", "reference_image": Image(), "condition": "string"}
        features = {name: Value(kind) if isinstance(kind, str) else kind for name, kind in values.items()}
        features |= {"target_ids": List(Value("string")), "subset_ids": List(Value("string"))}
        row = {"id": "q", "reference_id": photos[0], "reference_image": photos[0], "condition": condition}
        queries = Dataset.from_list([row | {"target_ids": [photos[1]], "subset_ids": []}], features=Features(features))
        gallery = Dataset.from_dict({"id": photos, "image": photos}).cast_column("image", Image())
        evaluator = RetrievalEvaluator(model, processor, Benchmark("t", "test", gallery, queries, Protocol()))
        pipe = pipeline("composed-image-retrieval", model=model, processor=processor, device="cpu")
        pipe.gallery = Gallery.from_images(model, processor, photos)
        return model, processor, pipe, ours, evaluator.encode_queries(model)[0]

    return build


@torch.no_grad()
@pytest.mark.parametrize("projection", ["lincir", "context_i2w", "fti4cir"])
def test_pipeline_evaluator_and_encode_composed_agree(three_doors, photos, projection):
    model, processor, pipe, ours, evaluated = three_doors(projection, TEXT, "reference")
    torch.testing.assert_close(ours, compose(model, processor, photos[0], TEXT), atol=2e-6, rtol=0)
    torch.testing.assert_close(evaluated, ours, atol=2e-6, rtol=0)
    images = encode_images(model, processor, photos)
    found = {hit["id"]: hit["score"] for hit in pipe({"image": photos[0], "text": TEXT}, exclude_reference=False)}
    torch.testing.assert_close(torch.tensor([found[name] for name in photos]), images @ ours, atol=2e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("projection", ["lincir", "context_i2w", "fti4cir"])
def test_the_evaluator_writes_a_blank_condition_verbatim_and_the_model_takes_the_reference(three_doors, projection):
    model, processor, _, verbatim, evaluated = three_doors(projection, " ", "verbatim")
    torch.testing.assert_close(evaluated, verbatim, atol=2e-6, rtol=0)
    *_, alone, _ = three_doors(projection, " ", "reference")
    assert not torch.allclose(alone, verbatim, atol=1e-3)
    template = processor.prompt_templates[projection]
    assert processor.build_prompts([" "], blank="verbatim")[0] == processor.tokenize_pieces(
        [split_prompt(template, " ")]
    )
    assert processor.build_prompts([" "])[0] == processor.tokenize_pieces([split_prompt(template, None)])
    with pytest.raises(ValueError, match="'verbatm'; did you mean 'verbatim'"):
        processor.build_prompts([""], blank="verbatm")


@torch.no_grad()
def test_features_pseudo_words_and_pixels_of_several_references_give_one_embedding(model, processor, photos):
    pixels = processor.prepare_images(photos[:2])
    features = model.get_image_features(pixels)
    prompts = processor.pad(processor.build_prompts([TEXT] * 2)[0])
    words = model.get_pseudo_tokens(image_features=features, **prompts)
    ways = ({"pixel_values": pixels}, {"features": features}, {"pseudo_tokens": words})
    whole, *others = (encode_composed(model, processor, [Query(TEXT, weights=[3, 1], **way)]) for way in ways)
    parts = torch.stack([compose(model, processor, photo, TEXT) for photo in photos[:2]])
    torch.testing.assert_close(whole[0], join_references(parts, [3, 1]), atol=2e-6, rtol=0)
    for other in others:
        torch.testing.assert_close(other, whole, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"condition": 3},
        {"negative": 3},
        {"adapter": []},
        {"pixel_values": torch.zeros(3, 32, 32)},
        {"features": 3},
        {"pseudo_tokens": 3},
        {"strength": "a"},
    ],
    ids=str,
)
def test_fields_of_another_type_are_refused_by_name(fields):
    with pytest.raises(ValueError, match=f"`{next(iter(fields))}`"):
        Query(**fields)


@pytest.mark.parametrize("queries", [3, None, [], [3], Query("a")])
def test_what_is_encoded_is_a_list_of_queries(model, processor, queries):
    with pytest.raises(ValueError, match="list of Query"):
        encode_composed(model, processor, queries)


def draw(seed, rows=5, dim=7):
    return np.random.default_rng(seed).normal(size=(rows, dim)) * 3


def norm(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, [0.0, 0.2, 0.5, 0.9, 1.0]])
def test_strength_is_its_formula(strength):
    reference, composed = draw(0), draw(1)
    share = np.array(strength).reshape(-1, 1)
    expected = norm((1 - share) * norm(reference) + share * norm(composed))
    ours = weigh_condition(torch.tensor(reference), torch.tensor(composed), strength)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.4, 2, [0.0, 0.1, 0.5, 1.0, 3.0]])
def test_the_negative_text_is_its_formula(weight):
    query, negative = draw(0), draw(1)
    expected = norm(norm(query) - np.array(weight).reshape(-1, 1) * norm(negative))
    ours = exclude_text(torch.tensor(query), torch.tensor(negative), weight)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1, 1], [0.5, 0, 2, 0.25, 1]])
def test_several_references_are_their_weighted_mean(weights):
    embeds = draw(0)
    expected = norm(np.average(norm(embeds), axis=0, weights=weights))
    np.testing.assert_allclose(join_references(torch.tensor(embeds), weights).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("strength", [-0.1, 1.001, float("nan"), "0.5", True, None])
def test_a_strength_outside_is_refused(strength):
    with pytest.raises(ValueError, match="`strength` must be between 0"):
        weigh_condition(torch.eye(2), torch.eye(2), strength)


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan"), [0.1, -1]])
def test_a_negative_weight_below_zero_is_refused(weight):
    with pytest.raises(ValueError, match="`weight` .*at least 0"):
        exclude_text(torch.eye(2), torch.eye(2), weight)


def test_a_query_that_cancels_out_is_refused():
    with pytest.raises(ValueError, match="nothing is left of a query"):
        exclude_text(torch.eye(2), 3 * torch.eye(2), 1.0)
    with pytest.raises(ValueError, match="nothing is left of a query"):
        join_references(torch.tensor([[1.0, 0], [-1, 0]]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], "got 1 for 2"), ([0, 0], "at least one reference"), ([1, -1], "at least 0, got -1")],
)
def test_weights_of_references_are_checked(weights, message):
    with pytest.raises(ValueError, match=message):
        join_references(torch.eye(2), weights)


def test_embeddings_of_two_clips_are_not_mixed():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 3\)"):
        weigh_condition(torch.eye(2), torch.eye(3)[:2], 0.5)


def test_a_column_of_a_data_set_is_not_an_entry(processor, photos):
    query = read_query({"image": photos[0], "label": 3, "row": None}, processor)
    assert (query.condition, query.num_references) == (None, 1)
