"""One model and one gallery in many threads: every answer is that of one thread alone."""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig

from modeling_rtd import Gallery, RTDModel, gallery_rows_rtd, has_adapters
from modeling_rtd.pipeline_rtd import ComposedImageRetrievalPipeline
from tests.factories import build_images, build_processor, shake


THREADS = 8
CONDITIONS = ["is red", "with the dog", "is blue and large", "no more sleeves"]


@pytest.fixture(autouse=True)
def _switch_often():
    """Let threads change places as often as possible, so that a race shows at once."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(params=[3, pytest.param(12, marks=pytest.mark.slow)], ids="{} rounds".format)
def rounds(request):
    return request.param


@pytest.fixture
def images():
    return build_images(6)


@pytest.fixture
def gallery(model, processor, images):
    return Gallery.from_images(model, processor, images, [f"{i}" for i in range(6)])


def add_adapters(model, *names):
    """Put adapters on the text tower as if they had been trained; the last is active."""
    for seed, name in enumerate(names):
        model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "fc1"]), name)
        shake(torch.nn.ParameterList([p for n, p in model.named_parameters() if f".{name}." in n]), seed)
    return model.eval()


def run_in_threads(jobs):
    """Start all threads at once, and give what each job returned; an error of any is raised."""
    start = threading.Barrier(len(jobs))

    def run(job):
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, job) for job in jobs]]


def ask_alone_and_in_threads(pipe, queries, rounds):
    """Answer queries in one thread, then in many, each in an order of its own."""
    expected = [pipe(query, top_k=6) for query in queries]

    def answer(shift):
        wrong = 0
        for i in range(rounds):
            place = (i + shift) % len(queries)
            wrong += [hit["id"] for hit in pipe(queries[place], top_k=6)] != [hit["id"] for hit in expected[place]]
        return wrong

    wrong = run_in_threads([lambda shift=shift: answer(shift) for shift in range(THREADS)])
    assert wrong == [0] * THREADS
    assert [pipe(query, top_k=6) for query in queries] == expected  # no state is left behind


def build_queries(images, **entries):
    queries = [{"image": images[i], "text": text, **entries} for i, text in enumerate(CONDITIONS)]
    return [*queries, {"text": "a small dog"}, {"image": images[5]}, {"text": "a red dress", "negative": "the cat"}]


def test_threads_share_a_model_without_adapters(model, gallery, images, rounds):
    # A processor of its own, whose tokenizer no call has set up yet.
    pipe = ComposedImageRetrievalPipeline(model=model, processor=build_processor(), gallery=gallery)
    ask_alone_and_in_threads(pipe, build_queries(images), rounds)


def test_threads_share_a_model_whose_adapter_is_off_for_plain_text(model, processor, gallery, images, rounds):
    pipe = ComposedImageRetrievalPipeline(model=add_adapters(model, "a"), processor=processor, gallery=gallery)
    ask_alone_and_in_threads(pipe, build_queries(images), rounds)
    assert not any(getattr(module, "_disable_adapters", False) for module in model.text_model.modules())


def test_threads_choose_adapters_by_query(model, processor, gallery, images, rounds):
    pipe = ComposedImageRetrievalPipeline(model=add_adapters(model, "a", "b"), processor=processor, gallery=gallery)
    queries = [query for name in ("a", "b", "__base__") for query in build_queries(images, adapter=name)]
    ask_alone_and_in_threads(pipe, queries, rounds)
    assert model.active_adapters() == ["b"]
    assert not any(module._forward_pre_hooks for module in model.text_model.modules())


def test_a_tokenizer_is_set_up_by_one_thread(images):
    expected = build_processor()(text=CONDITIONS)["input_ids"]
    for _ in range(5):
        processor = build_processor()
        batches = run_in_threads([lambda p=processor: p(text=CONDITIONS)["input_ids"] for _ in range(THREADS)])
        assert all(torch.equal(batch, expected) for batch in batches)


def test_the_tower_from_before_rtd_is_loaded_by_one_thread(model, processor, tmp_path):
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    model.save_pretrained(tmp_path)
    inputs = processor(text=CONDITIONS)
    expected = model.get_text_features(**inputs).pooler_output
    for dtype in (torch.float32, torch.float64):
        loaded = RTDModel.from_pretrained(tmp_path, dtype=dtype)
        towers = run_in_threads([lambda model=loaded: model.original_text_model for _ in range(THREADS)])
        assert len({id(tower) for tower in towers}) == 1
        torch.testing.assert_close(loaded.get_text_features(**inputs).pooler_output.float(), expected)


@pytest.mark.parametrize("kind", ["memory", "exact", "float16", "faiss"])
def test_a_search_sees_whole_batches_while_another_thread_adds_and_removes(kind, tmp_path):
    rows = torch.eye(64)
    options = {} if kind == "memory" else {"folder": tmp_path / "index"}
    options |= {"dtype": "float16"} if kind == "float16" else {"engine": "faiss"} if kind == "faiss" else {}
    gallery = Gallery(rows[:8], [f"first {i}" for i in range(8)], **options)
    done = threading.Event()

    def write():
        try:
            for start in range(8, 64, 8):
                names = [f"{start} {i}" for i in range(8)]
                gallery.add_embeddings(rows[start : start + 8], names)
                if start % 16 == 0:
                    gallery.remove(names)
        finally:
            done.set()

    def search(seed):
        count = 0
        while not done.is_set() or count < 3:
            hits = gallery.search(rows[seed : seed + 1], top_k=64)[0]
            assert hits[0]["id"] == f"first {seed}"
            assert abs(hits[0]["score"] - 1) < 1e-6
            assert len({hit["id"] for hit in hits}) == len(hits)
            assert len(hits) % 8 == 0
            assert f"first {seed}" in gallery
            assert len(gallery.ids) % 8 == 0
            count += 1
        return count

    run_in_threads([write, *(lambda seed=seed: search(seed) for seed in range(THREADS - 1))])
    assert len(gallery) == 8 + 8 * 4
    assert gallery.search(rows[63:], top_k=1)[0][0]["id"] == "56 7"


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_new_filter_is_read_while_others_search_and_add(kind, tmp_path, monkeypatch):
    begun, may_end, is_match = threading.Event(), threading.Event(), gallery_rows_rtd._is_match

    def wait(row, where):
        begun.set()
        assert may_end.wait(60)
        return is_match(row, where)

    folder = None if kind == "memory" else tmp_path / "index"
    gallery = Gallery(torch.eye(8), list("abcdefgh"), [{"n": i % 2} for i in range(8)], folder=folder)
    monkeypatch.setattr(gallery_rows_rtd, "_is_match", wait)
    with ThreadPoolExecutor(1) as pool:
        filtered = pool.submit(gallery.search, torch.eye(8)[:1], 8, None, {"n": 1})
        assert begun.wait(60)
        assert gallery.search(torch.eye(8)[:1], top_k=1)[0][0]["id"] == "a"
        gallery.add_embeddings(torch.eye(8)[:2], ["x", "y"], [{"n": 1}, {"n": 0}])
        may_end.set()
        assert [hit["id"] for hit in filtered.result(60)[0]] == ["x", "b", "d", "f", "h"]


@pytest.mark.slow
def test_images_are_added_while_others_search_with_adapters(model, processor, gallery, images):
    model = add_adapters(model, "a", "b")
    pipe = ComposedImageRetrievalPipeline(model=model, processor=processor, gallery=gallery)
    queries = [{"image": images[i], "text": text, "adapter": "ab"[i % 2]} for i, text in enumerate(CONDITIONS)]
    expected = [{hit["id"]: hit["score"] for hit in pipe(query, top_k=6)} for query in queries]
    more = build_images(32, seed=5)

    def write():
        for start in range(0, 32, 8):
            gallery.add(
                model, processor, more[start : start + 8], [f"more {start + i}" for i in range(8)], batch_size=2
            )

    def search(shift):
        for i in range(12):
            place = (i + shift) % len(queries)
            hits = {hit["id"]: hit["score"] for hit in pipe(queries[place], top_k=40)}
            for name, score in expected[place].items():
                assert abs(hits[name] - score) < 1e-6

    run_in_threads([write, *(lambda shift=shift: search(shift) for shift in range(THREADS - 1))])
    assert len(gallery) == 38
    assert has_adapters(model.text_model)
