import copy
import pickle
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from peft import get_peft_model
from PIL import Image
from transformers import pipeline

from modeling_rtd import ComposedImageRetrievalPipeline, Gallery, RTDModel
from tests.factories import build_clip, build_images, build_tokenizer
from trainer.training.lora import build_lora_config


TASK = "composed-image-retrieval"
TEXTS = ["is red", "with the small dog and no more sleeves", "is a blue car"]


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for path, image in zip(paths, build_images(8), strict=True):
        image.save(path)
    return [str(path) for path in paths]


@pytest.fixture
def gallery(model, processor, photos):
    return Gallery.from_images(model, processor, photos)


@pytest.fixture
def pipe(model, processor, gallery):
    return pipeline(TASK, model=model, processor=processor, gallery=gallery, device="cpu")


@pytest.fixture
def embed(model, processor):
    """Encode one query by the model's own calls."""

    @torch.no_grad()
    def embed(image=None, text=None):
        if text is None:
            return model.get_image_features(**processor(images=[image])).pooler_output
        if image is None:
            return model.get_text_features(**processor(text=[text])).pooler_output
        return model(**processor(images=[image], conditions=[text])).composed_embeds

    return embed


def names(hits):
    return [hit["id"] for hit in hits]


def test_every_kind_of_query_is_that_of_the_model(pipe, gallery, embed, photos):
    for query in ({"image": photos[0], "text": TEXTS[0]}, {"image": photos[0]}, {"text": "the small dog"}):
        hits = pipe(query, top_k=8, exclude_reference=False)
        expected = gallery.search(embed(**query), 8)[0]
        assert names(hits) == names(expected)
        torch.testing.assert_close(
            torch.tensor([hit["score"] for hit in hits]), torch.tensor([hit["score"] for hit in expected])
        )
        assert all(type(hit) is dict and type(hit["score"]) is float for hit in hits)


def test_a_blank_text_asks_for_similar_images(pipe, photos):
    assert pipe(image=photos[2], text="  ", exclude_reference=False)[0]["id"] == photos[2]


def test_text_goes_to_the_tower_from_before_rtd(model, pipe, embed):
    before = pipe(text="the small dog")
    tuned = RTDModel.from_clip(build_clip(seed=3), "lincir", tokenizer=build_tokenizer()).text_model
    model.replace_text_model(tuned)
    assert pipe(text="the small dog") == before


def test_batches_of_several_kinds_equal_single_queries(pipe, photos):
    queries = [{"image": photos[i], "text": text} for i, text in enumerate(TEXTS)]
    queries += [{"text": "a dog"}, {"image": build_images(1, seed=9)[0]}, {"image": photos[5], "text": "is black"}]
    alone = [pipe(query) for query in queries]
    for batch_size in (2, 4, 6):
        together = pipe(queries, batch_size=batch_size)
        assert [names(hits) for hits in together] == [names(hits) for hits in alone]


def test_measures_come_with_the_hits_on_request(pipe, model, processor, photos):
    queries = [{"image": photos[0], "text": TEXTS[0]}, {"image": photos[:2], "text": TEXTS[1]}, {"text": TEXTS[2]}]
    plain, measured = (pipe(queries, batch_size=3, with_measures=wants) for wants in (False, True))
    assert [result["hits"] for result in measured] == plain
    assert pipe(queries[1], with_measures=True)["edit_magnitude"] == pytest.approx(measured[1]["edit_magnitude"])
    for hits, result in zip(plain, measured, strict=True):
        assert result["margin"] == hits[0]["score"] - hits[1]["score"]
    with torch.no_grad(), pytest.warns(UserWarning, match="empty"):
        asked, alone = (model(**processor(images=photos[:1], conditions=[text])) for text in (TEXTS[0], ""))
    cosine = (asked.composed_embeds @ alone.composed_embeds.T).item()
    assert measured[0]["edit_magnitude"] == pytest.approx(1 - cosine, abs=1e-5)
    assert measured[2]["edit_magnitude"] is None


def test_nothing_is_measured_where_there_is_nothing_to_compare(pipe, photos):
    assert pipe(image=photos[0], with_measures=True, top_k=1) | {"hits": []} == {
        "hits": [],
        "edit_magnitude": None,
        "margin": None,
    }
    still = pipe({"image": photos[0], "text": TEXTS[0], "strength": 0}, with_measures=True)
    assert still["edit_magnitude"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("form", ["generator", "datasets", "undecoded paths", "undecoded images"])
def test_many_queries_stream(pipe, photos, form):
    queries = [{"image": photos[i], "text": text} for i, text in enumerate(TEXTS)]
    expected = [names(pipe(query)) for query in queries]
    inputs = (query for query in queries)
    if form != "generator":
        rows = {"image": photos[:3], "text": TEXTS, "label": [1, 2, 3]}
        inputs = Dataset.from_dict(rows)
        if form == "datasets":
            inputs = inputs.cast_column("image", ImageFeature())
        if form == "undecoded images":
            inputs = inputs.cast_column("image", ImageFeature(decode=False))
    results = pipe(inputs, batch_size=2)
    assert not isinstance(results, list)
    assert [names(hits) for hits in results] == expected


def test_the_reference_is_left_out_unless_asked_for(pipe, photos):
    assert photos[3] not in names(pipe(image=photos[3]))
    assert names(pipe(image=photos[3], exclude_reference=False))[0] == photos[3]
    assert photos[4] not in names(pipe({"image": photos[3], "exclude": [photos[4]]}))
    assert photos[4] not in names(pipe({"image": photos[3], "exclude": photos[4]}))


def test_the_reference_is_known_by_any_name_of_its_file(
    pipe, model, processor, gallery, photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    files = [f"{i}.png" for i in range(8)]
    pipe.gallery = Gallery.from_images(model, processor, files)
    for reference in ("3.png", "./3.png", photos[3]):
        assert names(pipe(image=reference, top_k=8)) == names(pipe(image=photos[3], top_k=8))
        assert sorted(names(pipe(image=reference, top_k=8))) == [name for name in files if name != "3.png"]
    other = Gallery()
    other.add(model, processor, files, [f"image {i}" for i in range(8)], [{"path": path} for path in photos])
    pipe.gallery = other
    assert sorted(names(pipe(image="3.png", top_k=7))) == [f"image {i}" for i in range(8) if i != 3]
    assert names(pipe(image="3.png", exclude_reference=False))[0] == "image 3"
    pipe.gallery = several = Gallery()
    several.add(model, processor, files, [f"image {i}" for i in range(8)], [{"path": photos[3]}] * 5 + [None] * 3)
    for top_k in (1, 2, 8):  # five images of one path, more than are found at once
        assert set(names(pipe(image="3.png", top_k=top_k))) <= {"image 5", "image 6", "image 7"}


def test_an_image_behind_a_url_is_taken(pipe, photos):
    data = Path(photos[1]).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/1.png"
    hits = pipe(image=url)
    server.shutdown()
    server.server_close()
    assert names(hits)[0] == photos[1]


def test_a_url_that_does_not_answer_is_named_in_time(pipe, monkeypatch):
    monkeypatch.setattr("modeling_rtd.images_rtd._URL_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.png"
        with pytest.raises(ValueError, match=f"'{url}' cannot be read: timed out"):
            pipe(image=url)


def test_options_are_defaults_of_the_pipeline_and_of_a_call(model, processor, gallery, photos):
    pipe = pipeline(TASK, model=model, processor=processor, gallery=gallery, top_k=2, device="cpu")
    assert len(pipe(text="a dog")) == 2
    assert len(pipe(text="a dog", top_k=5)) == 5
    scores = [hit["score"] for hit in pipe(text="a dog", top_k=5)]
    assert len(pipe(text="a dog", top_k=5, min_score=scores[2])) == 3


def test_a_model_in_half_precision_answers_alike(pipe, photos):
    queries = [{"image": photos[0], "text": TEXTS[0]}, {"image": photos[2]}, {"text": "a small dog"}]
    expected = pipe(queries)
    pipe.model.to(torch.bfloat16)
    for ours, theirs in zip(pipe(queries, batch_size=3), expected, strict=True):
        scores = {hit["id"]: hit["score"] for hit in theirs}
        assert all(hit["score"] == pytest.approx(scores[hit["id"]], abs=0.05) for hit in ours)


def test_a_gallery_of_another_tower_is_refused(processor, gallery, tmp_path, model, photos):
    other = RTDModel.from_clip(build_clip(seed=5), "lincir", tokenizer=build_tokenizer())
    Gallery(folder=tmp_path / "index").add(model, processor, photos)
    for one in (gallery, tmp_path / "index"):
        with pytest.raises(ValueError, match="made by another image tower"):
            pipeline(TASK, model=other, processor=processor, gallery=one, device="cpu")


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ({"text": "a dog", "negtive": "a cat"}, {}, r"unknown entry of a query 'negtive'; did you mean 'negative'"),
        ({"image": "a.png", "condition": "is red"}, {}, "unknown entry of a query 'condition'"),
        ({"img": "a.png"}, {}, r"unknown entry of a query 'img'; did you mean 'image'"),
        ({"text": " "}, {}, "needs `image`, `text` or both"),
        ("a.png", {}, "a query is a dictionary such as .* got str"),
        ({"text": 3}, {}, "`text` of a query must be a string, got int"),
        ({"image": "none.png", "text": "x"}, {}, "'none.png' cannot be read: there is no such file"),
        ({"text": "x"}, {"topk": 3}, "the pipeline takes no `topk`; it takes top_k"),
        ({"text": "x"}, {"top_k": 0}, "`top_k` must be a whole number of at least 1"),
        ({"text": "x"}, {"text": "y"}, "give either `inputs`, or `image` and `text`"),
    ],
)
def test_bad_queries_are_refused_with_a_sentence(pipe, query, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(query, **options)


def test_no_queries_have_no_answers(pipe):
    assert pipe([]) == []


def test_a_clip_is_not_taken_for_a_model_that_composes(clip, processor, gallery):
    with pytest.raises(ValueError, match=r"CLIPModel composes nothing.*from_clip.*from_adapter"):
        pipeline(TASK, model=clip, processor=processor, gallery=gallery, device="cpu")


def test_a_pipeline_without_a_processor_says_so(model, gallery):
    with pytest.raises(ValueError, match="needs the model's processor: pass processor="):
        ComposedImageRetrievalPipeline(model=model, gallery=gallery, device="cpu")


def test_a_pipeline_without_a_gallery_says_so(model, processor):
    with pytest.raises(ValueError, match="must be a Gallery .*got a list"):
        pipeline(TASK, model=model, processor=processor, gallery=["a"], device="cpu")
    with pytest.raises(ValueError, match="nothing to search: pass gallery="):
        pipeline(TASK, model=model, processor=processor, device="cpu")(text="a dog")


@pytest.fixture
def adapted(model, processor, photos, tmp_path):
    """A pipeline over a kept gallery, and two adapters on its model."""
    gallery = Gallery(folder=tmp_path / "index")
    gallery.add(model, processor, photos)
    for seed, name in enumerate(("fashion", "scenes")):
        torch.manual_seed(seed)
        model.text_model.add_adapter(build_lora_config(), adapter_name=name)
    for name, parameter in model.text_model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return pipeline(TASK, model=model, processor=processor, gallery=gallery, device="cpu")


def test_adapters_are_chosen_per_query_and_mixed_in_one_batch(adapted, photos, tmp_path):
    index = tmp_path / "index"
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    query = {"image": photos[0], "text": "is a red dress"}
    alone = {}
    for name in ("fashion", "scenes"):
        adapted.model.set_adapter(name)
        alone[name] = adapted(query)
    adapted.model.text_model.disable_adapters()
    alone["__base__"] = adapted(query)
    adapted.model.text_model.enable_adapters()
    assert len({str(hits) for hits in alone.values()}) == 3
    order = ["scenes", "__base__", "fashion", "scenes", None, "fashion"]
    batch = [{**query, "adapter": name} for name in order]
    mixed = adapted([*batch, {"text": "a dog", "adapter": "fashion"}], batch_size=7)
    for name, hits in zip(order, mixed, strict=False):
        expected = alone[name or "scenes"]  # the active one where none is named
        assert names(hits) == names(expected)
        assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in expected], abs=1e-5)
    assert names(adapted(query, adapter="fashion")) == names(alone["fashion"])
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before


def test_an_unknown_adapter_is_named_with_the_nearest(adapted, photos):
    with pytest.raises(ValueError, match="unknown adapter 'fashon'; did you mean 'fashion'"):
        adapted({"image": photos[0], "text": "is red", "adapter": "fashon"})
    with pytest.raises(ValueError, match="unknown adapter 'fashon'"):
        adapted({"text": "a dog", "adapter": "fashon"})


def test_an_adapter_that_cannot_be_had_is_refused(adapted, photos):
    query = {"image": photos[0], "text": "is red"}
    tower = adapted.model.text_model
    tower.set_adapter(["fashion", "scenes"])
    with pytest.raises(ValueError, match=r"\(fashion, scenes\): name one"):
        adapted([query, {**query, "adapter": "fashion"}], batch_size=2)
    tower.disable_adapters()
    with pytest.raises(ValueError, match="'fashion' .*disabled"):
        adapted(query, adapter="fashion")


def test_adapters_of_a_peft_model_are_chosen_per_query(model, processor, gallery, photos):
    query = {"image": photos[0], "text": "is red"}
    base = pipeline(TASK, model=model, processor=processor, gallery=gallery, device="cpu")(query)
    model.text_model = get_peft_model(model.text_model, build_lora_config(), adapter_name="fashion")
    for name, parameter in model.text_model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    pipe = pipeline(TASK, model=model, processor=processor, gallery=gallery, device="cpu")
    tuned = pipe(query)
    assert tuned != base
    mixed = pipe([{**query, "adapter": name} for name in ("__base__", "fashion", None)], batch_size=3)
    for hits, expected in zip(mixed, (base, tuned, tuned), strict=True):
        assert names(hits) == names(expected)
        assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in expected], abs=1e-5)


@pytest.mark.parametrize("place", ["memory", "folder"])
@pytest.mark.parametrize("engine", ["exact", "faiss"])
@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copied", "pickled"]
)
def test_a_pipeline_is_copied_for_another_process(pipe, gallery, photos, tmp_path, place, engine, way):
    if place == "folder" or engine == "faiss":
        other = Gallery(engine=engine, folder=tmp_path / "index" if place == "folder" else None)
        other.add(pipe.model, pipe.processor, photos)
        pipe.gallery = other
    query = {"image": photos[0], "text": TEXTS[0]}
    expected = pipe(query)
    twin = way(pipe)
    assert twin(query) == expected
    if place == "folder":  # the same rows, seen by both
        twin.gallery.remove(photos[3])
        with pipe.gallery._store.writing():
            assert photos[3] not in pipe.gallery
    else:
        twin.gallery.remove(photos[3])
        assert photos[3] in pipe.gallery


def test_the_reference_may_come_first_and_its_condition_second(pipe, photos):
    expected = pipe({"image": photos[0], "text": TEXTS[0]})
    assert pipe(photos[0], TEXTS[0]) == expected
    assert pipe(Path(photos[0]), text=TEXTS[0]) == expected
    names_only = [names(pipe(image, TEXTS[0], top_k=3)) for image in map(as_image, photos[:1])]
    assert names_only == [names(pipe({"image": as_image(photos[0]), "text": TEXTS[0]}, top_k=3))]


def as_image(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def test_a_pipeline_without_a_model_says_that_there_is_no_default():
    with pytest.raises(ValueError, match="no default model: pass model="):
        pipeline(TASK)


def test_the_hubs_own_snippet_gives_image_embeddings(model, processor, photos, embed, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    features = pipeline("image-feature-extraction", model=str(tmp_path / "model"))(photos[0])
    expected = torch.nn.functional.normalize(embed(photos[0]), dim=-1)
    torch.testing.assert_close(torch.tensor(features), expected, atol=1e-6, rtol=0)


def test_a_folder_with_code_runs_the_installed_one_by_its_class(pipe, gallery, photos, tmp_path):
    pipe.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline(TASK, model=str(tmp_path / "whole"), gallery=gallery)
    ours = pipeline(
        TASK, model=str(tmp_path / "whole"), gallery=gallery, pipeline_class=ComposedImageRetrievalPipeline
    )
    assert names(ours(image=photos[0])) == names(pipe(image=photos[0]))


def test_a_pipeline_is_not_uploaded_unchecked(pipe, tmp_path):
    for upload in (lambda: pipe.push_to_hub("org/x"), lambda: pipe.save_pretrained(tmp_path / "x", push_to_hub=True)):
        with pytest.raises(ValueError, match="rtd publish"):
            upload()
    assert not (tmp_path / "x").exists()
