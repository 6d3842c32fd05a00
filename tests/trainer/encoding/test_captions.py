import numpy as np
import pytest
import torch
from datasets import Dataset

from trainer.data.tables import iterate_columns
from trainer.encoding.captions import CaptionEmbeddings, encode_captions


TEXTS = ["a red dress", "a cat", "a dog on a beach", "é", "a cat", "\U0001f600 a", "\uffff a", "z"]


@pytest.fixture
def embed(model, processor, tmp_path):
    def embed(captions, key="key", **options):
        return CaptionEmbeddings(model.text_model, processor, captions, key, str(tmp_path), **options)

    return embed


def test_embeddings_equal_those_of_a_sorted_set_to_the_digit(embed, model, processor):
    unique = sorted(set(TEXTS))
    table = encode_captions(model.text_model, processor, unique)
    expected = table[[unique.index(text) for text in TEXTS]]
    columns = Dataset.from_dict({"one": TEXTS, "two": TEXTS[::-1]})
    for captions in (iter(TEXTS), iterate_columns(columns, ["one", "two"])):
        assert torch.equal(embed(captions)(TEXTS), expected)
    torch.testing.assert_close(embed(TEXTS, block_size=3)(TEXTS), expected, atol=1e-6, rtol=0)


def test_a_stopped_run_goes_on_with_the_next_block(embed, monkeypatch):
    whole = embed(TEXTS, block_size=2)(TEXTS)
    blocks = sorted(embed(TEXTS, block_size=2).path.iterdir())
    assert len(blocks) == 4
    blocks[2].unlink()
    encoded = []

    def encode(*args, **options):
        encoded.append(args[2])
        return encode_captions(*args, **options)

    monkeypatch.setattr("trainer.encoding.captions.encode_captions", encode)
    assert torch.equal(embed(TEXTS, block_size=2)(TEXTS), whole)
    assert encoded == [sorted(set(TEXTS))[4:6]]


def test_other_towers_captions_and_lengths_have_files_of_their_own(embed, processor):
    paths = [embed(TEXTS).path, embed(TEXTS, "other").path, embed(TEXTS[:3]).path, embed(TEXTS, block_size=2).path]
    assert len(set(paths)) == 4


def test_a_caption_that_is_not_of_the_data_set_is_refused(embed):
    embeddings = embed(TEXTS)
    assert len(embeddings) == len(set(TEXTS))
    assert isinstance(embeddings._blocks[0], np.memmap)
    with pytest.raises(KeyError, match="zebra"):
        embeddings(["a cat", "zebra"])
