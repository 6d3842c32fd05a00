import pytest
import torch

from tests.factories import WORDS
from trainer.training.rtd_collator import HardNegativeTripletCollator


ROWS = [
    {
        "reference_caption": "a red dog",
        "conditioning_caption": "is black",
        "target_caption": "a black dog",
        "row": 5,
    },
    {
        "reference_caption": "a black dog",
        "conditioning_caption": "is white with no tree",
        "target_caption": "a white dog",
        "row": 9,
    },
]


def spell(ids):
    return " ".join(WORDS[i] for i in ids)


def test_both_prompts_of_a_triplet_are_one_sequence(processor):
    batch = HardNegativeTripletCollator(processor)(ROWS)
    assert [spell(ids) for ids in batch["input_ids"].tolist()] == [
        "<bos> a photo of $ <eos> that is black <eos> <pad> <pad> <pad>",
        "<bos> a photo of $ <eos> that is white with no <unk> <eos>".replace("<unk>", "tree"),
    ]
    assert batch["branch_index"].tolist() == [5, 5]
    assert batch["placeholder_mask"].nonzero().tolist() == [[0, 4], [1, 4]]
    assert batch["row"] == [5, 9]


def test_each_distinct_caption_is_tokenised_once(processor):
    batch = HardNegativeTripletCollator(processor)(ROWS)
    texts = [spell(ids) for ids in batch["caption_input_ids"].tolist()]
    assert texts == ["<bos> a red dog <eos>", "<bos> a black dog <eos>", "<bos> a white dog <eos>"]
    assert batch["reference_index"].tolist() == [0, 1]
    assert batch["target_index"].tolist() == [1, 2]


def test_without_refined_batch_there_is_no_branch(processor):
    batch = HardNegativeTripletCollator(processor, refined_batch=False)(ROWS)
    assert "branch_index" not in batch
    assert spell(batch["input_ids"][0].tolist()).startswith("<bos> a photo of $ that is black")


def test_without_refined_concatenation_the_reference_caption_is_written(processor):
    batch = HardNegativeTripletCollator(processor, refined_concatenation=False)(ROWS)
    assert (
        spell(batch["input_ids"][1].tolist()) == "<bos> a photo of a black dog <eos> that is white with no tree <eos>"
    )
    assert batch["branch_index"].tolist() == [7, 7]
    assert "placeholder_mask" not in batch


def test_without_composition_only_the_reference_prompt_is_left(processor):
    batch = HardNegativeTripletCollator(processor, composition=False)(ROWS)
    assert [spell(ids) for ids in batch["input_ids"].tolist()] == ["<bos> a photo of $ <eos>"] * 2


def test_known_embeddings_spare_the_tokens(processor):
    batch = HardNegativeTripletCollator(processor, caption_embeddings=lambda c: torch.tensor([[len(t)] for t in c]))(
        ROWS
    )
    assert "caption_input_ids" not in batch
    assert batch["reference_embeds"].tolist() == [[9], [11]]
    assert batch["target_embeds"].tolist() == [[11], [11]]


def test_a_batch_of_one_is_refused(processor):
    with pytest.raises(ValueError, match="no negatives"):
        HardNegativeTripletCollator(processor)(ROWS[:1])


def test_long_conditions_keep_both_ends(processor):
    rows = [ROWS[0], ROWS[1] | {"conditioning_caption": "is red and " * 30}]
    batch = HardNegativeTripletCollator(processor)(rows)
    assert batch["input_ids"].shape[1] == 21  # 20 positions and the inserted end of text
    assert batch["input_ids"][1, -1] == 3
    assert batch["placeholder_mask"][1, 4]


def test_plain_captions_are_those_of_every_so_many_th_row_whatever_their_length(processor):
    batch = HardNegativeTripletCollator(processor, caption_interval=2)(ROWS[::-1])  # the longer prompt comes first
    plain = batch["plain"]
    assert batch["row"] == [5, 9]
    assert plain["rows"].tolist() == [1]
    texts = [spell(ids) for ids in plain["caption_input_ids"].tolist()]
    assert texts == ["<bos> a black dog <eos>", "<bos> a white dog <eos>"]
    assert (plain["reference_index"].tolist(), plain["target_index"].tolist()) == ([0], [1])


def test_no_plain_captions_are_read_unless_asked(processor):
    assert "plain" not in HardNegativeTripletCollator(processor)(ROWS)
