from __future__ import annotations

import pytest

from trainer.worlds.small_world import (
    build_tokenizer,
    list_concepts,
    list_phrases,
)


@pytest.mark.parametrize("preset", ["toy", "mini", "demo"])
def test_concepts_and_phrases_are_in_the_words_of_the_world(preset):
    tokenizer, concepts, phrases = build_tokenizer(preset), list_concepts(preset), list_phrases(preset)
    assert len(set(concepts)) == len(concepts)
    assert len(set(phrases)) == len(phrases) == 64
    for text in [*concepts, *(phrase.replace("{}", "star") for phrase in phrases)]:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
