from itertools import islice

import pytest
import torch
from datasets import Dataset

from trainer.encoding.noise import draw_noise


def test_the_loss_is_lincirs_formula(build, model, processor):
    trainer = build(captions=["a red dress with the dog", "the small cat"], per_device_train_batch_size=2)
    model.projection.eval()
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.objective.compute_loss(model.projection, batch, epoch=4)
    with torch.no_grad():
        embeds = model.text_model(**processor(text=["a red dress with the dog", "the small cat"])).text_embeds
        noise = draw_noise([0, 1], 24, trainer.args.seed, epoch=4)
        words = model.projection.layers(embeds + noise)
        # "[a red dress] with [the dog]" and "[the small cat]", the same word at every mask
        first = model.text_model(torch.tensor([[1, 4, 12, 4, 3]]), pseudo_token_embeds=words[:1, None]).text_embeds
        second = model.text_model(torch.tensor([[1, 4, 3]]), pseudo_token_embeds=words[1:, None]).text_embeds
    expected = ((torch.cat([first, second]) - embeds) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_caption_without_words_to_mask_falls_back_to_the_prompt(build, processor):
    trainer = build(captions=["...", "a dog"], per_device_train_batch_size=2)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert batch["row"] == [1, 0]  # by rising length
    assert batch["input_ids"][1].tolist() == [1, 5, 6, 7, 4, 3]


def test_the_keyword_function_is_recorded(build):
    facts = build(keyword_fn="lexicon", mask_on="substrings").run_facts
    assert facts["keyword_fn"] == "lexicon"
    assert facts["mask_on"] == "substrings"


def test_a_stream_gives_the_batches_of_the_table(build, processor):
    captions = ["a red dress with the dog", "the small cat"]
    table = build(captions=captions, per_device_train_batch_size=2)
    stream = build(
        captions=Dataset.from_dict({"text": captions}).to_iterable_dataset(), name="b", per_device_train_batch_size=2
    )
    ours, theirs = (
        stream.data_collator(list(islice(stream.train_dataset, 2))),
        table.data_collator(list(table.train_dataset)),
    )
    assert ours["row"] == theirs["row"]
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    stream.train()
    assert stream.run_facts["noise_size"] == table.run_facts["noise_size"]


def test_captions_without_text_are_left_out_by_option(build):
    with pytest.warns(UserWarning, match="1 of 3 rows .* first of them row 2"):
        trainer = build(captions=["a dog", None, "a cat"], bad_rows="skip", per_device_train_batch_size=2)
    assert trainer.train_dataset["text"][:] == ["a dog", "a cat"]


@pytest.mark.parametrize("caption", ["", " $ ", None])
def test_an_empty_caption_is_refused_with_its_row(build, caption):
    with pytest.raises(ValueError, match="row 3: `text`"):
        build(captions=["a dog", "a cat", caption])
