"""What the page answers, without a page."""

import copy
import json
import shutil

import pytest
import torch
from PIL import Image

from modeling_rtd import Gallery, encode_images
from tests.factories import build_images, build_processor, write_photos
from tests.trainer.app import desks
from trainer.app import SearchDesk, find_root, list_voices, new_state
from trainer.app.service import MAX_TURNS, PROJECTION_ALONE
from trainer.training.lora import build_lora_config


@pytest.fixture(scope="module")
def shared_desk(tmp_path_factory):
    """A desk that is asked and not changed."""
    photos = write_photos(tmp_path_factory.mktemp("shared") / "photos")
    return desks.build_desk(desks.build_tuned(), build_processor(), photos)


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "upload.jpg"
    build_images(1, seed=9)[0].save(path)
    return str(path)


def names(hits):
    return [hit["id"] for hit in hits]


def test_a_search_is_that_of_the_pipeline(desk, upload):
    state = desk.search(desk.take_upload(new_state(), upload), "is red", 0.7, "a dog", 0.4)
    query = {"image": upload, "text": "is red", "strength": 0.7, "negative": "a dog", "negative_weight": 0.4}
    assert state["results"] == desk.voices["RTD"].pipeline(query, top_k=5)
    assert state["turns"][0]["query"] == query


def test_a_visit_from_upload_to_a_refined_result(desk, upload):
    state = desk.search(desk.take_upload(new_state(), upload), "is red")
    first = names(state["results"])
    state = desk.use_chosen(desk.choose(state, 2))
    assert state["reference"] == {"id": first[2], "turn": 1, "rank": 3}
    state = desk.search(state, "is blue", strength=0.5)
    assert state["turns"][1]["chosen"] == {"turn": 1, "ranks": [3]}
    assert first[2] not in names(state["results"])
    assert desk.describe_turns(state) == [
        ("1. upload.jpg, “is red”, by RTD", 1),
        ("2. result 3 of turn 1, “is blue”, strength 0.5, by RTD", 2),
    ]
    assert names(desk.show_turn(state, 1)["results"]) == first
    assert json.loads(json.dumps(state)) == state


def test_a_condition_that_moves_the_query_little_is_told(desk, upload):
    state = desk.take_upload(new_state(), upload)
    assert desk.hint(state) == ""
    asked = desk.search(state, "is red")
    assert asked["turns"][0]["edit_magnitude"] > 0
    for moved, hint in ((0.01, "This condition changed little"), (0.5, ""), (None, "")):
        asked["turns"][0]["edit_magnitude"] = moved
        assert desk.hint(asked).startswith(hint)
        assert bool(desk.hint(asked)) == bool(hint)


def test_strength_without_a_reference_is_no_mistake_of_the_visitor(shared_desk):
    state = shared_desk.search(new_state(), "a small dog", strength=0.5)
    assert "strength" not in state["turns"][0]["query"]


def test_rtd_is_compared_with_the_projection_alone(desk, upload):
    state = desk.take_upload(new_state(), upload)
    both = desk.search(state, "is red", voice="RTD", other=PROJECTION_ALONE)
    assert both["others"] == desk.search(state, "is red", voice=PROJECTION_ALONE)["results"]
    assert both["others"] != both["results"]
    assert len(both["turns"]) == 1
    assert desk.search(state, "is red", voice="RTD", other="RTD")["others"] == []
    picked = desk.use_chosen(desk.choose(both, 0, "others"))
    later = desk.search(picked, "is blue")
    assert both["others"][0]["id"] not in names(later["results"])


def test_adapters_are_voices(model, processor, photos, upload):
    paths = sorted(str(path) for path in photos.iterdir())
    gallery = Gallery.from_images(model, processor, paths)
    for seed, name in enumerate(("fashion", "scenes")):
        torch.manual_seed(seed)
        model.text_model.add_adapter(build_lora_config(), adapter_name=name)
    for name, parameter in model.text_model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    desk = SearchDesk(list_voices(model, processor, gallery), photos)
    assert list(desk.voices) == ["RTD (scenes)", "RTD (fashion)", PROJECTION_ALONE]
    state = desk.take_upload(new_state(), upload)
    found = {voice: desk.search(state, "is red", voice=voice)["results"] for voice in desk.voices}
    assert len({str(hits) for hits in found.values()}) == 3
    query = {"image": upload, "text": "is red"}
    for name in ("fashion", "scenes"):
        assert found[f"RTD ({name})"] == desk.voices["RTD (scenes)"].pipeline(query, top_k=12, adapter=name)


def test_a_model_without_rtd_has_one_voice(model, processor, photos):
    gallery = Gallery.from_images(model, processor, [str(photos / "00.png")])
    assert list(list_voices(model, processor, gallery)) == [PROJECTION_ALONE]


def test_a_model_of_one_tower_has_one_voice(model, processor, photos):
    gallery = Gallery.from_images(model, processor, [str(photos / "00.png")])
    model.replace_text_model(copy.deepcopy(model.text_model))
    assert list(list_voices(model.without_original_text_model({}), processor, gallery)) == ["RTD"]


def test_the_gallery_is_paged_through_and_picked_from(desk, photos):
    state, pages = new_state(), []
    for _ in range(4):
        state = desk.browse(state)
        pages.append(names(state["results"]))
    assert sum(pages[:3], []) == desk.gallery.ids
    assert pages[3] == pages[0]
    state = desk.search(desk.use_chosen(desk.choose(state, 1)), "is red")
    expected = desk.voices["RTD"].pipeline({"image": str(photos / "01.png"), "text": "is red"}, top_k=5)
    assert state["results"] == expected


def test_an_example_gives_its_reference(desk, upload):
    desk.examples = [(upload, "is red")]
    state = desk.search(desk.take_example(new_state(), 0), "is red")
    assert state["results"] == desk.voices["RTD"].pipeline({"image": upload, "text": "is red"}, top_k=5)
    assert [text for _, text in desk.draw_examples()] == ["is red"]
    with pytest.raises(ValueError, match="no example 1"):
        desk.take_example(new_state(), 1)


def test_images_may_be_where_the_metadata_says(model, processor, photos, upload):
    paths = sorted(str(path) for path in photos.iterdir())
    ids, places = [f"image {i}" for i in range(15)], [{"path": path} for path in paths]
    gallery = Gallery(encode_images(model, processor, paths), ids, places)
    gallery.verify_embeddings(model, processor, {"image 0": paths[0]})
    desk = SearchDesk(list_voices(model, processor, gallery), find_root(gallery.locate()), top_k=5)
    state = desk.search(desk.take_upload(new_state(), upload), "is red")
    assert all(len(picture.getcolors(10**6)) > 1 for picture, _ in desk.draw(state["results"]))
    state = desk.use_chosen(desk.choose(state, 1))
    chosen = paths[ids.index(state["reference"]["id"])]
    assert desk.search(state, "is blue")["results"] == desk.voices[PROJECTION_ALONE].pipeline(
        {"image": chosen, "text": "is blue"}, top_k=5
    )


def test_pictures_are_small_and_labelled(desk, photos, upload):
    Image.new("RGB", (2000, 900), "red").save(photos / "00.png")
    pictures = desk.draw([{"id": str(photos / "00.png"), "score": 0.5}, {"id": str(photos / "01.png")}])
    assert [label for _, label in pictures] == ["1 · 0.500", "01.png"]
    assert [max(picture.size) for picture, _ in pictures] == [256, 240]
    assert desk.draw_reference(new_state()) is None
    assert desk.draw_reference(desk.take_upload(new_state(), upload)).mode == "RGB"


def test_nothing_outside_the_root_is_drawn_or_read(desk, photos, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), "red").save(secret)
    (photos / "link.png").symlink_to(secret)
    for name in (str(secret), "../secret.png", "link.png", str(photos / "none.png")):
        picture, _ = desk.draw([{"id": name}])[0]
        assert picture.getcolors() == [(256 * 256, (211, 211, 211))]
        state = new_state() | {"reference": {"id": name, "turn": None, "rank": 1}}
        with pytest.raises(ValueError, match="is not in|cannot be read"):
            desk.search(state, "is red")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "'bad.png' is not an image that can be read"),
        (b"", "'bad.png' is not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n", "'bad.png' is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "'bad.png' is not an image that can be read"),
        ("half", "'bad.png' is not a whole image: it may have been cut off"),
        ("many", "'bad.png' is not an image that can be read: it has 60,000,000 pixels, and 50,000,000 are"),
        ("bomb", "'bad.png' is not an image that can be read: Image size"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_uploads_are_refused_with_a_sentence(shared_desk, tmp_path, content, message):
    path = tmp_path / "bad.png"
    if content == "half":
        build_images(1)[0].save(path)
        path.write_bytes(path.read_bytes()[:1000])
    elif isinstance(content, str):
        Image.new("1", (10_000, 6_000 if content == "many" else 20_000)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        shared_desk.take_upload(new_state(), str(path))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda desk, state: desk.search(state), "a query needs `image`, `text` or both"),
        (lambda desk, state: desk.search(state, "is red", negative="Is red "), "is the query's own text"),
        (
            lambda desk, state: desk.search(state, "is red", voice="RDT"),
            "unknown way to answer 'RDT'; did you mean 'RTD'",
        ),
        (lambda desk, state: desk.choose(state, 0), "no such image is shown"),
        (lambda desk, state: desk.choose(state, 0, "turns"), "no such image is shown"),
        (lambda desk, state: desk.use_chosen(state), "choose an image first"),
        (lambda desk, state: desk.show_turn(state, 1), "there is no turn 1"),
        (lambda desk, state: desk.show_turn(state, None), "there is no turn None"),
        (lambda desk, state: desk.search(state, "a" * 1001), "a text may have 1,000 letters, got 1,001"),
        (lambda desk, state: desk.search(state, "a dog", negative="a" * 1001), "1,000 letters, got 1,001"),
    ],
)
def test_bad_steps_are_refused_with_a_sentence(shared_desk, step, message):
    state = new_state()
    with pytest.raises(ValueError, match=message):
        step(shared_desk, state)
    assert state == new_state()


def test_a_strength_outside_is_refused(shared_desk, upload):
    with pytest.raises(ValueError, match="`strength` must be between 0"):
        shared_desk.search(shared_desk.take_upload(new_state(), upload), "is red", strength=1.2)


def test_a_visit_has_an_end(shared_desk):
    state = new_state() | {"turns": [{}] * MAX_TURNS}
    with pytest.raises(ValueError, match=f"this search has {MAX_TURNS} turns"):
        shared_desk.search(state, "a dog")


def test_an_upload_that_is_gone_is_named(desk, upload, tmp_path):
    state = desk.take_upload(new_state(), shutil.copy(upload, tmp_path / "gone.jpg"))
    (tmp_path / "gone.jpg").unlink()
    with pytest.raises(ValueError, match=r"gone.jpg' cannot be read"):
        desk.search(state, "is red")


@pytest.mark.parametrize("ids", [[], ["a.png"], ["/a/b.png", "c.png"], ["/a.png", "/b/c.png"]])
def test_a_gallery_without_a_folder_of_its_own_asks_for_one(ids):
    with pytest.raises(ValueError, match="with --images"):
        find_root(ids)


def test_the_root_is_the_lowest_folder_above_all(tmp_path):
    assert find_root([str(tmp_path / "x/a.png"), str(tmp_path / "x/y/b.png")]) == tmp_path / "x"
    assert find_root([str(tmp_path / "x/a.png")]) == tmp_path / "x"
