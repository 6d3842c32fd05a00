"""Conditions, captions and triplets in any script, on a MetaCLIP 2 with a tokenizer of its kind."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import MetaClip2Config, MetaClip2Model, XLMRobertaTokenizer

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import FEW_STEPS, build_image_processor, build_images
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.projections.lincir import LinCIRTrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer
from trainer.training.rtd_trainer import RTDTrainer


# Caption, condition and caption of the target.
TRIPLETS = {
    "arabic": ("فستان أحمر على الشاطئ", "بأكمام طويلة", "فستان أحمر بأكمام طويلة على الشاطئ"),
    "hebrew": ("שמלה אדומה על החוף", "עם שרוולים ארוכים", "שמלה אדומה עם שרוולים ארוכים על החוף"),
    "chinese": ("海滩上的红色裙子", "有长袖，没有扣子", "海滩上有长袖的红色裙子"),
    "japanese": ("赤いドレスを着た女性", "袖が長い", "袖の長い赤いドレスを着た女性"),
    "korean": ("해변의 빨간 드레스", "소매가 길다", "해변의 소매가 긴 빨간 드레스"),
    "hindi": ("समुद्र तट पर लाल पोशाक", "लंबी आस्तीन के साथ", "लंबी आस्तीन वाली लाल पोशाक"),
    "mixed": ("a red dress ב-Tel Aviv", "with 长袖 and בלי כפתורים", "a red dress with 长袖 ב-Tel Aviv"),
}
TEMPLATE = "a photo of $ that {condition}"


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer of MetaCLIP 2's kind that was trained on these texts."""
    texts = [TEMPLATE.replace("$", "").format(condition=text) for texts in TRIPLETS.values() for text in texts]
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator(texts * 3, trainers.UnigramTrainer(vocab_size=600, unk_token="<unk>", show_progress=False))
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(raw.id_to_token(i), -float(i)) for i in range(raw.get_vocab_size()) if raw.id_to_token(i) != "<unk>"]
    return XLMRobertaTokenizer(vocab=[*specials, *pieces, ("dress", -1.0), ("▁dress", -1.0), ("<mask>", 0.0)])


@pytest.fixture
def processor(tokenizer):
    return RTDProcessor(build_image_processor(), tokenizer, max_length=64, family="metaclip_2")


scripts = pytest.mark.parametrize("script", TRIPLETS)


@scripts
def test_a_plain_text_has_the_ids_of_the_tokenizer_itself(processor, tokenizer, script):
    texts = list(TRIPLETS[script])
    assert processor.tokenize_texts(texts) == tokenizer(texts)["input_ids"]
    assert tokenizer.unk_token_id not in {i for ids in tokenizer(texts)["input_ids"] for i in ids}


@scripts
@pytest.mark.parametrize("template", [TEMPLATE, "{condition} $"])
def test_a_condition_is_read_as_in_the_whole_prompt(processor, tokenizer, script, template):
    condition = TRIPLETS[script][1]
    (row,), _ = processor.build_prompts([condition], template)
    (word,) = tokenizer("dress", add_special_tokens=False)["input_ids"]
    whole = template.replace("$", "dress").format(condition=condition)
    assert [word if i == -1 else i for i in row] == tokenizer(whole)["input_ids"]


@scripts
def test_a_long_condition_is_cut_and_the_placeholder_stays(processor, script):
    (row,), (head,) = processor.build_prompts([TRIPLETS[script][1] * 40])
    assert len(row) == 64
    assert row.index(-1) < head
    assert row[-1] == processor.tokenizer.eos_token_id


def test_lincir_and_rtd_train_on_captions_and_triplets_of_all_scripts(processor, tokenizer, tmp_path):
    tower = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "max_position_embeddings": 64}
    text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    vision = {"hidden_size": 24, "image_size": 32, "patch_size": 8}
    config = MetaClip2Config(text_config=tower | text, vision_config=tower | vision, projection_dim=24)
    model = RTDModel.from_clip(MetaClip2Model(config).eval(), "lincir", tokenizer=tokenizer)
    arguments = FEW_STEPS | {"noise_unit": "rms", "logging_steps": 1}
    captions = Dataset.from_dict({"text": [texts[0] for texts in TRIPLETS.values()]})
    lincir = ProjectionTrainer(
        model,
        LinCIRTrainingArguments(output_dir=str(tmp_path / "lincir"), keyword_fn="rule", **arguments),
        train_dataset=captions,
        processing_class=processor,
    )
    assert len(lincir.train_dataset) == len(TRIPLETS)
    lincir.train()
    names = ("reference_caption", "conditioning_caption", "target_caption")
    rows = [dict(zip(names, texts, strict=True)) for texts in TRIPLETS.values()]
    rtd = RTDTrainer(
        lincir.rtd_model,
        RTDTrainingArguments(output_dir=str(tmp_path / "rtd"), **arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    rtd.train()
    assert len(rtd.train_dataset) == len(TRIPLETS)
    batch = processor(images=build_images(7), conditions=[texts[1] for texts in TRIPLETS.values()])
    with torch.no_grad():
        queries = rtd.rtd_model.eval()(**batch).composed_embeds
    assert len({tuple(query.tolist()) for query in queries}) == len(TRIPLETS)
