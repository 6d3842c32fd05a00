from __future__ import annotations

import pytest

from trainer.worlds.clip import build_tokenizer
from trainer.worlds.concepts import list_phrases
from trainer.worlds.small_world.declaration import WORLD


@pytest.mark.parametrize("preset", ["toy", "mini", "demo"])
def test_concepts_and_phrases_are_in_the_words_of_the_world(preset):
    concepts, phrases = WORLD.list_concepts(WORLD.find_preset(preset)), list_phrases(WORLD, preset)
    tokenizer = build_tokenizer(WORLD, preset)
    assert len(set(concepts)) == len(concepts)
    assert len(set(phrases)) == len(phrases) == 64
    for text in [*concepts, *(phrase.replace("{}", "star") for phrase in phrases)]:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
