import pickle

import pytest

from tests.factories import TINY_CAPTIONS
from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.triplet_making import make_triplets
from trainer.triplet_making.maker import TripletMaker


def test_the_same_seed_gives_the_same_triplets(captions, triplets):
    assert list(make_triplets(captions, per_caption=4)) == triplets


def test_another_seed_gives_other_triplets(captions, triplets):
    assert list(make_triplets(captions, per_caption=4, seed=1)) != triplets


def test_no_two_triplets_are_alike_and_no_target_is_its_reference(triplets):
    assert len({tuple(triplet[name] for name in TRIPLET_COLUMNS) for triplet in triplets}) == len(triplets)
    assert not [t for t in triplets if t["reference_caption"] == t["target_caption"]]


def test_a_reference_is_the_caption_of_its_row(captions, triplets):
    assert all(triplet["reference_caption"] == captions[triplet["row"] - 1] for triplet in triplets)


def test_wordings_beyond_the_models_vocabulary_are_not_used(clip_place):
    made = make_triplets(TINY_CAPTIONS, model=clip_place, similarity_band=(-1, 1))
    assert not {"instead", "replace", "not"} & {word for t in made for word in t["conditioning_caption"].split()}


def test_a_random_language_model_is_stopped_with_one_of_its_outputs(language_model_folder):
    with pytest.raises(ValueError, match="after 64 captions.* '.+'"):
        list(make_triplets(TINY_CAPTIONS, "lm", language_model=language_model_folder))


OTHER_SCRIPTS = ["红色的裙子", "赤いドレス", "빨간 드레스", "فستان أحمر", "שמלה אדומה", "красное платье", "लाल पोशाक"]


def test_captions_of_other_scripts_are_left_out_by_their_rows():
    maker = TripletMaker([*OTHER_SCRIPTS, *TINY_CAPTIONS])
    assert maker.other_script == [1, 2, 3, 4, 5, 6, 7]
    assert list(maker.rows) == TINY_CAPTIONS


def test_rules_without_a_caption_in_latin_letters_name_the_other_method():
    with pytest.raises(ValueError, match="rules know English only, and 7 are in another script; take method 'lm'"):
        make_triplets(OTHER_SCRIPTS)


@pytest.mark.parametrize("text", OTHER_SCRIPTS)
def test_a_language_model_may_write_triplets_in_any_script(text):
    def write(prompts, seed):
        assert all(text in prompt for prompt in prompts)
        return [f"{text[::-1]} => target: {text} {text}"] * len(prompts)

    (triplet,) = make_triplets([text], "lm", language_model=write)
    assert [triplet[name] for name in TRIPLET_COLUMNS] == [text, text[::-1], f"{text} {text}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rule"}, r"unknown method 'rule'; did you mean 'rules'\? Known: lm, rules"),
        ({"method": "lm"}, "needs a `language_model`"),
        ({"language_model": "x"}, "'lm', and no other"),
        ({"per_caption": 0}, "per_caption must be 1 or more"),
        ({"similarity_band": (0.9, 0.5)}, "two rising cosines"),
        ({"keyword_fn": "rules"}, "did you mean 'rule'"),
        ({"model": "./nowhere"}, "'./nowhere' cannot be loaded"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        list(make_triplets(TINY_CAPTIONS, **options))


def test_any_number_of_processes_gives_the_same(captions, triplets):
    assert list(make_triplets(captions, per_caption=4, num_proc=2)) == triplets
    with pytest.raises(ValueError, match="num_proc must be 1 or, for the method 'rules', more, got 0"):
        list(make_triplets(captions, num_proc=0))


def test_a_lexicon_goes_to_another_process(captions):
    lexicon = TripletMaker(captions).lexicon
    copied = pickle.loads(pickle.dumps(lexicon))
    assert copied.find_adjectives("a", "dog") == lexicon.find_adjectives("a", "dog")
    assert copied.adjectives == lexicon.adjectives
