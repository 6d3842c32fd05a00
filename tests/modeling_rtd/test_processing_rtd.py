import copy
import json
import logging
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoProcessor,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipTokenizer,
    XLMRobertaTokenizer,
)

from modeling_rtd import RTDProcessor, processing_rtd
from speed.build_clip import build_clip_tokenizer
from tests.factories import build_image_processor, build_images, build_tokenizer, save_backbone
from trainer.encoding.captions import describe_reading


def test_a_condition_is_put_after_the_placeholder(processor):
    batch = processor(conditions=["is red"])
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 4, 8, 13, 19, 3]]
    assert batch["placeholder_mask"].nonzero().tolist() == [[0, 4]]


def test_batches_are_as_long_as_their_longest_row(processor):
    batch = processor(text=["a red dress", "a dress"])
    assert batch["input_ids"].tolist() == [[1, 5, 19, 24, 3], [1, 5, 24, 3, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]


@pytest.mark.parametrize("condition", ["$ is red", "[$] $", "<eos> is red <bos>"])
def test_marks_in_a_users_text_are_ordinary_text(processor, condition):
    batch = processor(conditions=[condition])
    assert batch["placeholder_mask"].sum() == 1
    assert (batch["input_ids"] == 3).sum() == 1
    assert batch["input_ids"][0, -1] == 3


def test_a_long_condition_is_cut_and_the_placeholder_stays(processor):
    with pytest.warns(UserWarning, match="1 of 2 texts .* 20 tokens") as caught:
        batch = processor(conditions=["is red and " * 20, "is red"])
    assert len(caught) == 1
    assert batch["input_ids"].shape == (2, 20)
    assert batch["input_ids"][0, -1] == 3
    assert batch["placeholder_mask"][:, 4].all()


def test_an_empty_condition_asks_for_the_reference_with_a_warning(processor):
    with pytest.warns(UserWarning, match="1 of 1 conditions are empty"):
        batch = processor(conditions=" ")
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 4, 3]]


def test_a_reference_caption_can_stand_in_the_pseudo_words_place(processor):
    prompts, heads = processor.build_prompts(["is red"], references=["the dog"])
    assert prompts == [[1, 5, 6, 7, 16, 26, 8, 13, 19, 3]]
    assert heads == [6]


def test_an_unknown_template_is_named_with_the_nearest(processor):
    with pytest.raises(ValueError, match="'searl'; did you mean 'searle'"):
        processor(conditions="is red", template="searl")


@pytest.mark.parametrize("template", ["a photo that {condition}", "a photo of $", "{condition} {condition} of $"])
def test_a_template_without_its_parts_is_refused(template):
    with pytest.raises(ValueError, match="must hold"):
        RTDProcessor(build_image_processor(), build_tokenizer(), {"lincir": template})


def test_saving_keeps_templates_and_ids(processor, tmp_path):
    own = RTDProcessor(
        processor.image_processor, processor.tokenizer, {"comma": "a photo of $ , {condition}"}, "comma"
    )
    own.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is RTDProcessor
    assert loaded.prompt_templates == own.prompt_templates
    assert torch.equal(loaded(conditions="is red")["input_ids"], own(conditions="is red")["input_ids"])


@pytest.mark.parametrize(
    "change",
    [
        {"audio_tokenizer": {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": "other"}},
        {"image_processor": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 10**6}}},
        {"image_processor": {"image_processor_type": "CLIPImageProcessor", "crop_size": 10**6}},
    ],
    ids=["another repository", "larger than memory", "cropped larger than memory"],
)
def test_a_processor_that_asks_for_too_much_is_refused(processor, tmp_path, change):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"names an audio tokenizer|1000000 pixels a side"):
        RTDProcessor.from_pretrained(tmp_path)


def test_an_image_turned_by_its_exif_tag_is_set_upright(processor, tmp_path):
    image = Image.new("RGB", (64, 32), "white")
    image.paste("black", (0, 0, 32, 32))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert processor.load_image(tmp_path / "turned.png").size == (32, 64)


def test_a_truncated_image_is_named(processor, tmp_path):
    path = tmp_path / "cut.png"
    build_images(1)[0].save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.png' cannot be read"):
        processor(images=str(path))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "nothing to process"),
        ({"text": "a dog", "conditions": "is red"}, "not both"),
        ({"conditions": ["is red", 3]}, "`conditions` must hold strings, got int at position 1"),
        ({"conditions": 3}, "`conditions` must be a string or a list of strings, got a int"),
        ({"text": b"a dog"}, "`text` must be a string or a list of strings, got a bytes"),
        ({"text": {"a": "dog"}}, "`text` must be .* got a dict"),
        ({"text": {"a", "b"}}, "`text` must be .* got a set"),
        ({"conditions": "is red", "template": 3}, "a template is a text or the name of one, got a int"),
        ({"images": build_images(2), "conditions": ["is red"]}, "got 2 images and 1 conditions"),
        ({"text": "a dog", "return_tensors": "np"}, 'only return_tensors="pt"'),
    ],
)
def test_wrong_calls_say_what_to_do(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


def test_prompts_have_the_published_token_ids(shared: Path):
    tokenizer = build_clip_tokenizer(shared / "data/clip_bpe/bpe_simple_vocab_16e6.txt.gz")
    processor = RTDProcessor(build_image_processor(), tokenizer)
    published = json.loads((shared / "oracle/prompts.json").read_text())["token_ids"]
    assert processor.placeholder_token_id == published["$"]
    for text, condition in {
        "a photo of $ that show three bottles of soft drink": "show three bottles of soft drink",
        "a photo of $": "",
    }.items():
        ids = processor.build_prompts([condition])[0][0]
        assert [processor.placeholder_token_id if i == -1 else i for i in ids] == published[text]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.uint16([0, 200, 300, 65535]), [0, 0, 1, 255]),
        (np.int32([-5, 257, 65535, 70000]), [0, 1, 255, 255]),
        (np.float32([-1, 0.5, 1, np.nan]), [0, 127, 255, 0]),
        (np.uint8([0, 200, 255, 3]), [0, 200, 255, 3]),
    ],
)
def test_the_mode_of_an_image_says_how_it_is_scaled(processor, tmp_path, values, expected):
    Image.fromarray(values[None].repeat(2, 0)).save(tmp_path / "image.tif")
    loaded = processor.load_image(tmp_path / "image.tif")
    assert np.asarray(loaded)[0, :, 0].tolist() == expected


def test_a_strip_that_preprocessing_would_blow_up_is_refused(processor, tmp_path):
    Image.new("RGB", (1, 6000)).save(tmp_path / "strip.png")
    Image.new("RGB", (3, 300)).save(tmp_path / "tall.png")
    with pytest.raises(ValueError, match=r"strip.png' .* 1 by 6000 .* 100"):
        processor.prepare_images([tmp_path / "strip.png"])
    assert processor.prepare_images([tmp_path / "tall.png"]).shape == (1, 3, 32, 32)


def test_words_that_the_tokenizer_does_not_know_are_named(processor):
    with pytest.warns(UserWarning, match=r"2 of 4 words .*'crimson', 'zebra'"):
        processor(text="a Crimson zebra dog".lower())


def test_a_tokenizer_whose_unknown_token_ends_texts_knows_every_word(processor, recwarn):
    processor = copy.deepcopy(processor)
    processor.tokenizer.unk_token = processor.tokenizer.eos_token
    processor(text="a photo")
    assert not [warning for warning in recwarn if "unknown" in str(warning.message)]


WAYS = {
    "longest": ({"padding": True, "truncation": True}, 5),
    "max_length": ({"padding": "max_length"}, 20),
    "a length": ({"padding": "max_length", "max_length": 12, "truncation": "longest_first"}, 12),
    "a group": (
        {"text_kwargs": {"padding": "max_length", "max_length": 7}, "common_kwargs": {"return_tensors": "pt"}},
        7,
    ),
    "groups of others": (
        {"audio_kwargs": {"padding": True}, "videos_kwargs": {}, "text_kwargs": {"verbose": False}},
        5,
    ),
    "nothing new": ({"add_special_tokens": True, "return_attention_mask": True, "padding_side": "right"}, 5),
}


@pytest.mark.parametrize("with_images", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_texts_are_padded_as_clips_processor_pads_them(processor, way, with_images):
    arguments, length = WAYS[way]
    images = {"images": build_images(2)} if with_images else {}
    batch = processor(text=["a red dress", "a dog"], return_tensors="pt", **images, **arguments)
    clip = CLIPProcessor(processor.image_processor, processor.tokenizer)
    expected = clip(
        text=["a red dress", "a dog"], padding="max_length", max_length=length, return_tensors="pt", **images
    )
    for name in batch:
        assert torch.equal(batch[name], expected[name]), name


def test_a_condition_is_padded_and_cut_to_a_length_and_keeps_its_placeholder(processor):
    batch = processor(conditions="is red", padding="max_length", max_length=18)
    assert batch["input_ids"][0].tolist() == [1, 5, 6, 7, 4, 8, 13, 19, 3] + 9 * [0]
    assert batch["attention_mask"].sum() == 9
    with pytest.warns(UserWarning, match="longer than the 8 tokens"):
        batch = processor(conditions="is red", max_length=8)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 4, 8, 13, 3]]
    with pytest.raises(ValueError, match="placeholders do not fit into 5 tokens"):
        processor(conditions="is red", max_length=5)
    assert processor.max_length == 20


@pytest.mark.parametrize("with_images", [False, True])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tempalte": "searle"}, "unknown argument of the processor 'tempalte'; did you mean 'template'"),
        ({"text_kwargs": {"paddin": True}}, "did you mean 'padding'"),
        ({"images_kwargs": {"do_resise": True}}, "did you mean 'do_resize'"),
        ({"padding": "sideways"}, "`padding` must be"),
        ({"padding": False}, "make no tensor without padding"),
        ({"max_length": 21}, "3 to 20 tokens"),
        ({"truncation": "half"}, "`truncation` must be"),
        ({"truncation": False, "max_length": 4}, "1 of 2 texts are longer than the 4 tokens"),
        ({"add_special_tokens": False}, "does not follow `add_special_tokens`"),
        ({"padding_side": "left"}, "does not follow `padding_side`"),
        ({"return_offsets_mapping": True}, "does not follow `return_offsets_mapping`"),
        ({"text_kwargs": {"return_tensors": "np"}}, "only return_tensors"),
    ],
)
def test_arguments_that_nothing_follows_are_refused_with_images_and_without(
    processor, arguments, message, with_images
):
    images = {"images": build_images(2)} if with_images else {}
    with pytest.raises(ValueError, match=message):
        processor(text=["a red dress", "a dog"], **images, **arguments)


def test_an_argument_of_the_images_is_checked_by_their_processor(processor):
    image = build_images(1)[0]
    with pytest.raises(ValueError, match="image processor refuses.*'size'"):
        processor(images=image, size="big")
    small = processor(images=image, images_kwargs={"size": {"shortest_edge": 16}, "do_center_crop": False})
    assert min(small["pixel_values"].shape[2:]) == 16


def as_bytes(image):
    stream = BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


ARRAYS = {
    "height, width, channels": np.asarray,
    "channels first": lambda image: np.asarray(image).transpose(2, 0, 1),
    "tensor": lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1),
    "batch of one": lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None],
    "numbers": lambda image: np.asarray(image).tolist(),
    "nested": lambda image: [[image]],
    "bytes": as_bytes,
    "a row of datasets": lambda image: {"path": None, "bytes": as_bytes(image)},
    "four channels": lambda image: np.asarray(image.convert("RGBA")),
    "16 bits": lambda image: np.asarray(image).astype(np.uint16) * 257,
    "a column of pandas": lambda image: pd.Series([image], index=[7]),
    "an array of objects": lambda image: pd.Series([image]).to_numpy(),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_images_come_as_arrays_tensors_bytes_and_lists(processor, kind):
    image = build_images(1)[0]
    assert torch.equal(processor.prepare_images(ARRAYS[kind](image)), processor.prepare_images(image))


def test_arrays_are_read_as_clips_processor_reads_them(processor):
    clip = CLIPProcessor(processor.image_processor, processor.tokenizer)
    batch = np.stack([np.asarray(image) for image in build_images(3)])
    floats = batch.astype(np.float32) / 255
    expected = clip(images=batch, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(images=batch)["pixel_values"], expected)
    assert torch.equal(processor(images=list(batch))["pixel_values"], expected)
    # CLIP's own takes floats for black images where `do_rescale` is left out.
    expected = clip(images=floats, do_rescale=False, return_tensors="pt")["pixel_values"]
    for arguments in ({}, {"do_rescale": False}):
        pixels = processor(images=floats, **arguments)["pixel_values"]
        torch.testing.assert_close(pixels, expected, atol=0.02, rtol=0)  # a step of 8 bits
    first = batch.transpose(0, 3, 1, 2)
    pixels = processor(images=first, input_data_format="channels_first")["pixel_values"]
    assert torch.equal(pixels, processor(images=batch)["pixel_values"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "`images` is empty"),
        (torch.randn(3, 32, 32), "from 0 to 255"),
        (np.zeros((3, 0, 4), np.uint8), "from 0 to 255"),
        (np.zeros((7, 8, 9), np.uint8), "channel dimension"),
        ([[[1, 2], [3]]], "form no array"),
        ([3], r"the shape \(1,\)"),
        (Image.new("RGB", (0, 0)), "0 by 0 pixels"),
        (b"no image", "cannot be read"),
        (BytesIO(b"no image"), "BytesIO cannot be read: it is not an image, a path"),
        ([float("nan")], r"the array the shape \(1,\)"),
    ],
)
def test_what_is_no_image_is_refused(processor, images, message):
    with pytest.raises(ValueError, match=message):
        processor(images=images)


def test_texts_are_repaired_where_ftfy_is_installed(processor, monkeypatch):
    monkeypatch.setattr(processing_rtd, "ftfy", SimpleNamespace(fix_text=lambda text: text.replace("\uff44og", "dog")))
    expected = processor(text="a dog $ dog")["input_ids"]
    assert torch.equal(processor(text="a \uff44og &amp;#36; dog")["input_ids"], expected)


@pytest.mark.parametrize("family", ["metaclip_2", "siglip"])
def test_texts_for_other_families_are_not_repaired(processor, monkeypatch, family):
    monkeypatch.setattr(processing_rtd, "ftfy", SimpleNamespace(fix_text=lambda text: "cat"))
    own = RTDProcessor(processor.image_processor, processor.tokenizer, family=family)
    assert own.tokenize_texts(["a dog"]) == [processor.tokenizer("a dog")["input_ids"]]


def test_transformers_announces_no_indexing_errors_beside_our_own_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    processor = RTDProcessor(build_image_processor(), build_tokenizer())
    with pytest.warns(UserWarning, match="longer than the 20 tokens"):
        processor(text="a dog " * 20)
    assert "indexing errors" not in caplog.text


SENTENCES = ["a photo of a small dress", "that is red", "is dog", "costs $ 5 , no more"]


def build_xlm_roberta():
    """Build a tokenizer as MetaCLIP 2 has it: a Unigram vocabulary, which holds its special tokens as pieces too."""
    words = [f"▁{word}" for sentence in SENTENCES for word in sentence.split() if word != "$"]
    pieces = [(piece, -1.0) for piece in dict.fromkeys([*words, "▁"])]
    letters = [(letter, -9.0) for letter in sorted({*"".join(SENTENCES)} - {" "} | {*"<>/"})]
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return XLMRobertaTokenizer(vocab=[*specials, *pieces, *letters, ("<mask>", 0.0)])


def build_gemma():
    """Build a tokenizer as SigLIP 2 has it: spaces belong to the word behind them, no start of text, no lower case."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    words = [" " + word for sentence in SENTENCES for word in sentence.split()] + ["a", "$"]
    raw.normalizer = normalizers.Replace(" ", "▁")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    raw.train_from_iterator(words, trainers.BpeTrainer(special_tokens=specials))
    raw.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous")
    raw.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


foreign = pytest.mark.parametrize("build", [build_xlm_roberta, build_gemma], ids=["xlm_roberta", "gemma"])


@foreign
def test_plain_texts_have_the_ids_of_the_tokenizer_itself(build):
    tokenizer = build()
    texts = ["a photo of a small dress", "is red"]
    assert RTDProcessor(build_image_processor(), tokenizer).tokenize_texts(texts) == tokenizer(texts)["input_ids"]


@foreign
@pytest.mark.parametrize("template", ["a photo of $ that {condition}", "a {condition} photo of $"])
def test_pieces_around_a_placeholder_are_read_as_in_the_whole_text(build, template):
    tokenizer = build()
    processor = RTDProcessor(build_image_processor(), tokenizer)
    (row,), (head,) = processor.build_prompts([" is red "], template)
    word = "dress"  # one piece wherever it stands
    (piece,) = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    whole = template.replace("$", word).replace("{condition}", "is red")
    assert [piece if token == -1 else token for token in row] == tokenizer(whole)["input_ids"]
    if template.startswith("a photo"):
        assert row[:head] == processor.build_prompts([""], template)[0][0][:head]


@foreign
def test_special_tokens_that_a_user_types_do_not_end_the_query(build):
    tokenizer = build()
    processor = RTDProcessor(build_image_processor(), tokenizer)
    (row,) = processor.tokenize_texts([f"is {tokenizer.eos_token} {tokenizer.mask_token} {tokenizer.pad_token} red"])
    own = tokenizer("is red")["input_ids"]
    assert row[-2:] == own[-2:]
    assert not {tokenizer.eos_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id} & {*row[1:-1]}


def test_a_tokenizer_without_a_word_for_the_placeholder_lends_its_mask():
    tokenizer = build_xlm_roberta()
    assert RTDProcessor(build_image_processor(), tokenizer).placeholder_token_id == tokenizer.mask_token_id


def test_texts_for_siglip_2_are_lower_cased_also_after_saving(tmp_path):
    processor = RTDProcessor.from_clip(save_backbone(tmp_path / "backbone", "siglip"))
    processor.save_pretrained(tmp_path / "processor")
    for one in (processor, RTDProcessor.from_pretrained(tmp_path / "processor"), processor.with_template("rtd")):
        assert one.tokenize_texts(["A Red DRESS"]) == one.tokenize_texts(["a red dress"])
        assert one.build_prompts(["Is RED"]) == one.build_prompts(["is red"])
        assert (one.max_length, one.image_size_px) == (20, (32, 32))


def test_siglips_own_preprocessing_is_kept(tmp_path):
    processor = RTDProcessor.from_clip(save_backbone(tmp_path, "siglip"))
    image = build_images(1, size=(64, 32))[0]
    own = SiglipImageProcessorPil.from_pretrained(tmp_path)(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(processor.prepare_images([image]), own)


def test_a_tokenizer_that_does_not_end_a_text_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(ValueError, match=r"puts the ids \[\] behind a text, and its end of text, 3"):
        RTDProcessor(build_image_processor(), tokenizer)


def test_the_slow_tokenizer_of_siglip_works(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES * 9))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        user_defined_symbols=["<x>"],
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(str(tmp_path / "spiece.model"))
    processor = RTDProcessor(build_image_processor(), tokenizer)
    assert not tokenizer.is_fast
    assert processor.max_length == 64
    assert processor.tokenize_texts(["is red"]) == [tokenizer("is red")["input_ids"]]
    (row,), _ = processor.build_prompts(["is red"], "a photo of $ that {condition}")
    assert [token for token in row if token != -1] == tokenizer("a photo of that is red")["input_ids"]
    assert describe_reading(processor)


@pytest.mark.parametrize("asked", [None, "pil", "torchvision"])
def test_pillow_preprocesses_images_unless_another_is_asked_for(processor, tmp_path, monkeypatch, asked):
    from transformers.models.auto import image_processing_auto

    resolved, resolve = [], image_processing_auto._resolve_backend
    monkeypatch.setattr(
        image_processing_auto, "_resolve_backend", lambda *given: resolved.append(resolve(*given)) or resolved[-1]
    )
    processor.save_pretrained(tmp_path)
    loaded = RTDProcessor.from_pretrained(tmp_path, **({} if asked is None else {"backend": asked}))
    assert resolved == [asked or "pil"]
    assert loaded.tokenizer.init_kwargs["backend"] == "tokenizers"


def test_torchvisions_pixels_are_nearly_pillows(processor, model, tmp_path):
    pytest.importorskip("torchvision")
    processor.save_pretrained(tmp_path)
    fast = RTDProcessor.from_pretrained(tmp_path, backend="torchvision")
    assert not type(fast.image_processor).__name__.endswith("Pil")
    images = [image.resize((97, 61)) for image in build_images(8)]
    ours, theirs = processor.prepare_images(images), fast.prepare_images(images)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().mean()) < 0.02  # about one step of 255
    embeds = [model.get_image_features(pixels).pooler_output for pixels in (ours, theirs)]
    assert float(torch.nn.functional.cosine_similarity(*embeds).min()) > 0.999
    as_tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    assert torch.equal(fast.prepare_images(as_tensors), theirs)


@pytest.mark.parametrize("text", [{"a": "dog"}, float("nan"), b"a dog", 3])
def test_what_is_no_text_is_refused(processor, text):
    with pytest.raises(ValueError, match=f"must be a string or a list of strings, got a {type(text).__name__}"):
        processor(text=text)


def test_an_array_of_paths_is_a_list_of_images(processor, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for image, path in zip(build_images(2), paths, strict=True):
        image.save(path)
    assert torch.equal(processor.prepare_images(np.array(list(map(str, paths)))), processor.prepare_images(paths))
