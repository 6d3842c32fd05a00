"""Every stage of the work, from a backbone to a published model, on the families beside CLIP."""

import copy
import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, CLIPModel, MetaClip2Model, SiglipModel, pipeline

from modeling_rtd import Gallery, RTDModel, RTDProcessor, load_projection
from tests.factories import (
    FAMILIES,
    build_backbone,
    build_images,
    build_stand_in,
    build_triplets,
    save_backbone,
    shake,
)
from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.diagnosis import run_diagnosis
from trainer.evaluation.evaluate import evaluate
from trainer.loading import load_model_and_processor
from trainer.publishing.onnx_export import export_onnx
from trainer.publishing.provenance import read_stages
from trainer.publishing.publication import prepare_publication
from trainer.training.arguments import RTDTrainingArguments
from trainer.training.lora import build_lora_config, merge_adapter
from trainer.training.projections.lincir import LinCIRTrainingArguments
from trainer.training.projections.pic2word import Pic2WordTrainingArguments
from trainer.training.projections.searle import SEARLETrainingArguments
from trainer.training.projections.trainer import ProjectionTrainer
from trainer.training.rtd_trainer import RTDTrainer


pytestmark = pytest.mark.usefixtures("undrawn")
CLASSES = dict(zip(FAMILIES, (CLIPModel, MetaClip2Model, SiglipModel), strict=True))
ROWS = build_triplets(24)
FAST = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}
beside_clip = pytest.mark.parametrize("family", FAMILIES[1:])
siglip_first = pytest.mark.parametrize("family", ["siglip", pytest.param("metaclip_2", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Repositories of tiny backbones by family."""
    root = tmp_path_factory.mktemp("backbones")
    return {family: save_backbone(root / family, family) for family in FAMILIES}


def get_losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@siglip_first
def test_lincir_and_rtd_train_and_their_model_loads_as_its_family(places, family, tmp_path):
    arguments = {"noise_unit": "rms", **FAST}
    lincir = ProjectionTrainer(
        places[family],
        LinCIRTrainingArguments(output_dir=str(tmp_path / "lincir"), keyword_fn="rule", **arguments),
        train_dataset=Dataset.from_dict({"text": [row["target_caption"] for row in ROWS]}),
        method="lincir",
    )
    lincir.train()
    trainer = RTDTrainer(
        str(lincir.save_model()),
        RTDTrainingArguments(output_dir=str(tmp_path / "rtd"), anchor_cache_dir=str(tmp_path), **arguments),
        train_dataset=Dataset.from_list(ROWS),
        original_text_model=places[family],
    )
    trainer.train()
    place = trainer.save_model()
    for stage in read_stages(place):
        assert stage["noise_unit"] == "rms"
        assert 0.01 < stage["noise_size"] < 10
    model, processor = AutoModel.from_pretrained(place), RTDProcessor.from_pretrained(place)
    assert_features_are_the_familys(model, processor, CLASSES[family].from_pretrained(place), model.text_model)
    before = CLASSES[family].from_pretrained(places[family])
    assert_features_are_the_familys(model, processor, before, model.original_text_model)


@torch.no_grad()
def assert_features_are_the_familys(model, processor, plain, tower):
    batch = processor(images=build_images(2), text=["a Red dress", "the dog"])
    image = model.get_image_features(batch["pixel_values"]).pooler_output
    torch.testing.assert_close(plain.get_image_features(batch["pixel_values"]).pooler_output, image)
    ids = batch["input_ids"]
    # As SigLIP was trained.
    filled = torch.nn.functional.pad(ids, (0, 20 - ids.shape[1]), value=processor.tokenizer.pad_token_id)
    text = tower(input_ids=ids, attention_mask=batch["attention_mask"]).text_embeds
    torch.testing.assert_close(plain.get_text_features(input_ids=filled).pooler_output, text, atol=3e-6, rtol=0)


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("pic2word", "metaclip_2"),
        ("searle", "siglip"),
        pytest.param("pic2word", "siglip", marks=pytest.mark.slow),
        pytest.param("searle", "metaclip_2", marks=pytest.mark.slow),
    ],
)
def test_methods_that_read_images_train(places, family, method, tmp_path):
    arguments = {"output_dir": str(tmp_path / "run"), **FAST}
    if method == "searle":
        (tmp_path / "names.txt").write_text("red dress\ndog\nsmall cat")
        (tmp_path / "phrases.txt").write_text("a photo of {} that is large\nthe {} and the tree")
        files = {"concepts": str(tmp_path / "names.txt"), "phrases": str(tmp_path / "phrases.txt")}
        small = {"oti_steps": 2, "oti_batch_size": 4, "oti_num_concepts": 2, "num_concepts": 2}
        args = SEARLETrainingArguments(**arguments | files | small)
    else:
        args = Pic2WordTrainingArguments(**arguments, warmup_steps=0)
    images = Dataset.from_dict({"image": build_images(8)})
    trainer = ProjectionTrainer(places[family], args, train_dataset=images, method=method)
    trainer.train()
    assert load_model_and_processor(str(trainer.save_model()))[1].default_template == method


@siglip_first
def test_an_adapter_reaches_all_linear_layers_and_its_base_gives_the_anchors(places, family, tmp_path):
    losses, towers = {}, {}
    for cache in ("never", "always"):
        torch.manual_seed(0)
        model, processor = load_model_and_processor(places[family], "lincir")
        args = {"noise_unit": "absolute", "anchor_cache": cache, "anchor_cache_dir": str(tmp_path / "anchors"), **FAST}
        trainer = RTDTrainer(
            model,
            RTDTrainingArguments(output_dir=str(tmp_path / cache), **args),
            train_dataset=Dataset.from_list(ROWS),
            processing_class=processor,
            peft_config=build_lora_config(r=2),
        )
        trainer.train()
        losses[cache], towers[cache] = get_losses(trainer), trainer.model
    assert losses["never"] == pytest.approx(losses["always"], rel=1e-5)
    plain = [
        name
        for name, layer in towers["always"].named_modules()
        if isinstance(layer, torch.nn.Linear) and "lora_" not in name and "base_layer" not in name
    ]
    assert not plain
    merged = merge_adapter(str(trainer.save_model()))
    batch = processor(text=["a red dress", "the dog"])
    with torch.no_grad():
        expected = towers["always"].eval()(**batch).text_embeds
        torch.testing.assert_close(merged.text_model(**batch).text_embeds, expected, atol=1e-5, rtol=0)
        assert (merged.get_text_features(**batch).pooler_output - expected).abs().max() > 1e-4


@beside_clip
def test_galleries_and_pipelines_take_them_and_galleries_of_another_family_are_refused(places, family, tmp_path):
    model, processor = load_model_and_processor(places[family], "lincir")
    images = build_images(5)
    gallery = Gallery(folder=tmp_path / "index")
    gallery.add(model, processor, images, list("abcde"))
    pipe = pipeline("composed-image-retrieval", model=model, processor=processor, gallery=gallery, device="cpu")
    queries = [{"image": images[2]}, {"image": images[0], "text": "is Red with no sleeves"}, {"text": "a dog"}]
    alone, joined = pipe(queries), pipe(queries, batch_size=3)
    assert alone[0][0]["id"] == "c"
    assert [[hit["id"] for hit in hits] for hits in alone] == [[hit["id"] for hit in hits] for hits in joined]
    other, processor = load_model_and_processor(places["clip"], "lincir")
    with pytest.raises(ValueError, match="another image tower"):
        Gallery(folder=tmp_path / "index").add(other, processor, images, list("fghij"))


@siglip_first
@pytest.mark.parametrize("benchmark", ["cirr", "genecis"])
def test_benchmarks_judge_them(places, family, benchmark, tmp_path):
    model, processor = load_model_and_processor(places[family], "lincir")
    root = build_stand_in(benchmark, tmp_path)
    record = evaluate(model, benchmark, root=root, processing_class=processor)
    assert record["protocol"]["image_size_px"] == [32, 32]


@beside_clip
def test_a_model_is_prepared_for_the_hub(places, family, tmp_path):
    model, processor = load_model_and_processor(places[family], "lincir")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    stage = {"stage": "lincir", "data": {"captions": "org/captions"}, "noise_unit": "rms"}
    (tmp_path / "model/provenance.json").write_text(json.dumps({"stages": [stage]}))
    publication = prepare_publication(tmp_path / "model", "someone/model", "none", "mit", without=["evaluation"])
    assert b"| noise_unit | rms |" in publication.files["README.md"]
    assert {"modeling_backbones_rtd.py", "modeling_text_rtd.py"} <= set(publication.files)


@beside_clip
def test_noise_needs_its_unit_beside_clip(places, family, tmp_path):
    model, processor = load_model_and_processor(places[family], "lincir")
    with pytest.raises(ValueError, match="noise_unit='rms'"):
        RTDTrainer(
            model,
            RTDTrainingArguments(output_dir=str(tmp_path), **FAST),
            train_dataset=Dataset.from_list(ROWS),
            processing_class=processor,
        )


def test_projections_of_image_tokens_are_refused_where_there_is_no_class_token(places):
    with pytest.raises(ValueError, match="class token, which SiglipModel does not have: take 'lincir'"):
        RTDModel.from_clip(places["siglip"], "context_i2w")
    assert RTDModel.from_clip(places["metaclip_2"], "context_i2w").config.context_token_id is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_alone_is_no_model(places, family):
    with pytest.raises(ValueError, match="from_clip"):
        RTDModel.from_pretrained(places[family])


@beside_clip
def test_a_projection_of_another_family_is_refused(places, family, tmp_path):
    RTDModel.from_clip(places["clip"]).save_pretrained(tmp_path)
    projection = load_projection(str(tmp_path))
    backbone, tokenizer = build_backbone(family)
    refused = pytest.raises(ValueError, match=f"made for a clip, and the backbone is a {family}; use a projection")
    with refused:
        RTDModel.from_clip(backbone, projection, tokenizer=tokenizer)
    model, processor = load_model_and_processor(places[family], "lincir")
    args = RTDTrainingArguments(output_dir=str(tmp_path / "run"), noise_unit="rms", **FAST)
    with refused:
        RTDTrainer(
            model.text_model,
            args,
            train_dataset=Dataset.from_list(ROWS),
            projection=projection,
            processing_class=processor,
        )
    projection.config.family = None  # as one that was saved before families were
    assert RTDModel.from_clip(backbone, projection, tokenizer=tokenizer).projection.config.family == family
    projection.config.text_hidden_size = 64
    with pytest.raises(ValueError, match="use a projection that was trained on this backbone"):
        RTDModel.from_clip(backbone, projection, tokenizer=tokenizer)


@siglip_first
def test_a_diagnosis_reads_them(places, family, tmp_path):
    model, processor = load_model_and_processor(places[family], "lincir")
    model.replace_text_model(shake(copy.deepcopy(model.text_model)))
    benchmark = load_benchmark("cirr", root=build_stand_in("cirr", tmp_path / "cirr"))
    facts = run_diagnosis(model, processor, benchmark, tmp_path / "diagnosis")
    assert "modality_gap" in facts


def test_an_export_to_onnx_is_refused(places, tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="only CLIP is exported"):
        export_onnx(*load_model_and_processor(places["siglip"], "lincir"), tmp_path / "onnx")
