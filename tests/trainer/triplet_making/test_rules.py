import re

import pytest

from trainer.data.triplets import TRIPLET_COLUMNS
from trainer.triplet_making import WORDINGS, make_triplets


def texts(triplet):
    return tuple(triplet[name] for name in TRIPLET_COLUMNS)


def words(text):
    return set(re.findall(r"[\w'-]+", text))


@pytest.mark.parametrize("template", WORDINGS)
def test_the_small_world_gives_every_template(triplets, template):
    assert template in {triplet["template"] for triplet in triplets}


def test_a_condition_says_only_words_of_its_captions_and_of_the_wordings(triplets):
    fixed = words(re.sub(r"{\w+}", "", " ".join(text for group in WORDINGS.values() for text in group)))
    fixed |= {"a", "an", "the", "one", "is", "are"}
    for triplet in triplets:
        reference, condition, target = map(words, texts(triplet))
        assert condition <= reference | target | fixed, triplet


def test_what_changes_is_one_edit_and_in_the_condition(triplets):
    silent = {"a", "an", "with"}
    for triplet in triplets:
        reference, condition, target = map(words, texts(triplet))
        # "more dogs" does not say how many.
        changed = {triplet["template"]} if triplet["template"] in ("more", "fewer") else reference ^ target
        assert changed - silent <= condition, triplet
        if triplet["template"] not in ("count", "more", "fewer"):
            before, after = (texts(triplet)[i].replace("an ", "a ").split() for i in (0, 2))
            longer, shorter = sorted((before, after), key=len, reverse=True)
            same = next((i for i, (x, y) in enumerate(zip(longer, shorter, strict=False)) if x != y), len(shorter))
            size = max(1, len(longer) - len(shorter))
            kept = longer[:same] + longer[same + size :]
            assert kept == (shorter if len(longer) > len(shorter) else shorter[:same] + shorter[same + 1 :]), triplet


def test_articles_agree_with_the_edited_words(triplets):
    assert not [t for t in triplets if re.search(r"\ba [aeio]|\ban [^aeio]", " ".join(texts(t)))]


def test_what_a_caption_denies_is_not_edited():
    sleeves, colours, garments = ("no", "long", "short"), ("red", "blue", "green"), ("dress", "coat", "shirt")
    captions = [
        f"a {colour} {garment} with {kind} sleeves" for colour in colours for garment in garments for kind in sleeves
    ]
    made = list(make_triplets(captions, per_caption=8))
    denied = [triplet for triplet in made if " no " in triplet["reference_caption"]]
    assert denied
    assert not [t for t in denied if "sleeves" in t["conditioning_caption"]]
    assert not [t for t in made if re.search(r"\bno no\b|without no|sleeves (is|are) no\b", t["conditioning_caption"])]
