import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from modeling_rtd import Gallery, encode_images
from tests.factories import build_images
from trainer.app.history import SearchHistory


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{i}.png" for i in range(8)]
    for path, image in zip(paths, build_images(8), strict=True):
        image.save(path)
    return [str(path) for path in paths]


@pytest.fixture
def pipe(model, processor, photos):
    gallery = Gallery.from_images(model, processor, photos)
    return pipeline("composed-image-retrieval", model=model, processor=processor, gallery=gallery, device="cpu")


@pytest.fixture
def history(pipe, photos):
    history = SearchHistory(pipe, top_k=4)
    history.ask(image=photos[0], text="is red", strength=0.8)
    history.refine(2, text="is blue", negative="a cat", negative_weight=0.2)
    history.refine([1, 3], turn=1, text="with a dog", weights=[2, 1])
    return history


def names(hits):
    return [hit["id"] for hit in hits]


def test_a_result_is_the_next_reference(pipe, history):
    first, second, third = history.turns
    chosen = first["results"][1]["id"]
    expected = pipe({"image": chosen, "text": "is blue", "negative": "a cat", "negative_weight": 0.2}, top_k=4)
    assert second["results"] == expected
    assert second["query"]["image"] == chosen
    assert second["chosen"] == {"turn": 1, "ranks": [2]}
    assert third["query"]["image"] == [first["results"][0]["id"], first["results"][2]["id"]]
    assert not {chosen} & set(names(second["results"]))


def test_a_saved_history_continues(pipe, history, tmp_path):
    history.save(tmp_path / "history.json")
    again = SearchHistory.load(pipe, tmp_path / "history.json", top_k=4)
    assert again.turns == history.turns
    assert again.refine(1, text="is white") == history.refine(1, text="is white")


def test_ids_may_be_paths_below_a_root(model, processor, photos):
    root = Path(photos[0]).parent
    gallery = Gallery.from_images(model, processor, photos, ids=[Path(photo).name for photo in photos])
    pipe = pipeline("composed-image-retrieval", model=model, processor=processor, gallery=gallery, device="cpu")
    history = SearchHistory(pipe, root=root, top_k=8)
    history.ask(text="a dog")
    chosen = history.turns[0]["results"][2]["id"]
    hits = history.refine(3, text="is red")
    assert hits == pipe({"image": str(root / chosen), "text": "is red", "exclude": [chosen]}, top_k=8)
    assert chosen not in names(hits)


@pytest.mark.parametrize("root", [None, "photos"])
def test_images_may_be_where_the_metadata_says(model, processor, photos, tmp_path, root):
    files = [photo if root is None else Path(photo).name for photo in photos]
    ids, places = [f"image {i}" for i in range(8)], [{"path": file} for file in files]
    gallery = Gallery(encode_images(model, processor, photos), ids, places)
    gallery.verify_embeddings(model, processor, {"image 0": photos[0]})
    pipe = pipeline("composed-image-retrieval", model=model, processor=processor, gallery=gallery, device="cpu")
    history = SearchHistory(pipe, root=root and tmp_path / root, top_k=4)
    chosen = int(history.ask(text="a dog")[1]["id"].split()[1])
    expected = pipe({"image": photos[chosen], "text": "is red", "exclude": [ids[chosen]]}, top_k=4)
    assert history.refine(2, text="is red") == expected
    assert ids[chosen] not in names(expected)


@pytest.mark.parametrize("outside", ["../secret.png", "/etc/passwd", "link.png"])
def test_nothing_outside_the_root_is_read(pipe, photos, tmp_path, outside):
    shutil.copy(photos[0], tmp_path / "secret.png")
    root = Path(photos[0]).parent
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=f"'{outside}' is not in"):
        SearchHistory(pipe, root=root).locate(outside)
    pipe.gallery.add_embeddings([[1.0] * 24], ["named"], [{"path": outside}])
    with pytest.raises(ValueError, match=f"'{outside}' is not in"):
        SearchHistory(pipe, root=root).locate("named")


@pytest.mark.parametrize(
    ("ranks", "options", "message"),
    [
        (0, {}, r"turn 3 has results of the ranks 1 to 4, got \[0\]"),
        (5, {}, r"ranks 1 to 4, got \[5\]"),
        ([], {}, r"ranks 1 to 4, got \[\]"),
        (1, {"turn": 4}, "there is no turn 4: the history has 3"),
        (1, {"image": "a.png"}, "leave `image` out"),
        (1, {"strength": 2, "text": "is red"}, "`strength` must be between"),
        (1, {"negtive": "a dog"}, "unknown entry of a query 'negtive'; did you mean 'negative'"),
        (1, {"exclude": 5}, "`exclude` of a query must be an id or a list of ids, got 5"),
        (1, {"exclude": {"a.png"}}, "kept as JSON, which cannot hold `exclude`={'a.png'}"),
    ],
)
def test_bad_turns_are_refused_and_not_kept(history, ranks, options, message):
    with pytest.raises(ValueError, match=message):
        history.refine(ranks, **options)
    assert len(history.turns) == 3


def test_an_image_without_a_name_cannot_be_asked_again(pipe):
    with pytest.raises(ValueError, match="paths and URLs, .* type Image"):
        SearchHistory(pipe).ask(image=build_images(1)[0])


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", "[" * 100_000])
def test_a_file_that_is_no_history_is_refused(pipe, tmp_path, content):
    path = tmp_path / "history.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match="history.json' is not a history"):
        SearchHistory.load(pipe, path)


@pytest.mark.parametrize(
    "turns",
    [None, 5, "ab", {}, [1], [{}], [{"query": {}, "options": {}, "chosen": None, "results": [{}]}]]
    + [[{"query": {"image": None}, "options": {}, "chosen": {"turn": 1, "ranks": [1]}, "results": []}]],
)
def test_a_file_with_damaged_turns_is_refused(pipe, history, tmp_path, turns):
    path = tmp_path / "history.json"
    history.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"turns": turns}))
    with pytest.raises(ValueError, match="history.json' is not a history"):
        SearchHistory.load(pipe, path)


def test_an_excluded_id_may_stand_alone(history, photos):
    result = history.turns[0]["results"][3]["id"]
    alone = history.refine(1, turn=1, text="is blue", exclude=result)
    assert result not in names(alone)
    assert alone == history.refine(1, turn=1, text="is blue", exclude=[result])


def test_turns_keep_the_options_that_they_had(pipe):
    history = SearchHistory(pipe, top_k=np.int64(3), min_score=np.float32(-1))
    history.ask(text="a dog")
    history.options["top_k"] = 5
    history.ask(text="a cat", negative="a dog", negative_weight=np.float32(0.5))
    assert [turn["options"] for turn in history.turns] == [{"top_k": k, "min_score": -1.0} for k in (3, 5)]
    assert history.turns[1]["query"]["negative_weight"] == 0.5


def test_what_json_cannot_hold_is_refused_and_the_file_stays(history, tmp_path):
    history.save(tmp_path / "history.json")
    before = (tmp_path / "history.json").read_bytes()
    history.options["template"] = {1, 2}
    with pytest.raises(ValueError, match=r"which cannot hold `template`=\{1, 2\}"):
        history.ask(text="a dog")
    history.turns.append({"query": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        history.save(tmp_path / "history.json")
    assert (tmp_path / "history.json").read_bytes() == before


def test_a_history_is_plain_json(history, tmp_path, photos):
    history.save(tmp_path / "history.json")
    turns = json.loads((tmp_path / "history.json").read_text())["turns"]
    assert turns[0]["query"] == {"image": photos[0], "text": "is red", "strength": 0.8}
    assert turns[0]["options"] == {"top_k": 4}
