"""The Hub's documented rules for the metadata of cards, written down so that they can be checked without the Hub.

After https://huggingface.co/docs/hub: model cards, data set cards, the reference of Spaces, and evaluation results.
"""

from __future__ import annotations

import json
import re

import yaml


__all__ = ["check_card", "check_eval_results", "write_snippets"]

LICENSES = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd "
    "bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 "
    "gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 "
    "odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "gemma unknown other".split()
)
TASKS = set(
    "text-classification token-classification table-question-answering question-answering "
    "zero-shot-classification translation summarization feature-extraction text-generation fill-mask "
    "sentence-similarity text-to-speech text-to-audio automatic-speech-recognition audio-to-audio "
    "audio-classification voice-activity-detection depth-estimation image-classification object-detection "
    "image-segmentation text-to-image image-to-text image-to-image image-to-video unconditional-image-generation "
    "video-classification reinforcement-learning robotics tabular-classification tabular-regression text-to-video "
    "image-text-to-text visual-question-answering document-question-answering zero-shot-image-classification "
    "graph-ml mask-generation zero-shot-object-detection text-to-3d image-to-3d image-feature-extraction "
    "video-text-to-text keypoint-detection visual-document-retrieval any-to-any "
    "text-ranking text-retrieval other".split()
)
SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "n>1T"}
COLOURS = set("red yellow green blue indigo purple pink gray".split())


def check_card(content: str, kind: str) -> list[str]:
    """Check the front matter of a README.md; `kind` is `model`, `dataset` or `space`. Gives a sentence an error."""
    found = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, re.DOTALL)
    if not found:
        return [] if kind != "space" else ["a Space needs metadata"]
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"the metadata are not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata are not a mapping"]
    return [
        *_check_common(data),
        *{"model": _check_model, "dataset": _check_dataset, "space": _check_space}[kind](data),
    ]


def check_eval_results(content: str) -> list[str]:
    """Check a file of the folder `.eval_results`."""
    # Not at the top: it reads the Hub's address when it is imported, and the stand-in starts before it is set.
    from huggingface_hub import EvalResultEntry, parse_eval_result_entries
    from huggingface_hub.utils import validate_repo_id

    try:
        entries = parse_eval_result_entries(yaml.safe_load(content))
        for entry in entries:
            validate_repo_id(entry.dataset_id)
            assert isinstance(entry, EvalResultEntry)
            assert "/" in entry.dataset_id
            assert isinstance(entry.value, int | float)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        return [f"an evaluation result is not valid: {error!r}"]
    return [] if entries else ["evaluation results are empty"]


def write_snippets(repo: str, files: dict[str, bytes]) -> dict[str, str]:
    """Write what the page of a model offers under "Use this model", after huggingface.js.

    It goes by the task of the card, the class in `auto_map`, and the libraries among the tags.
    """
    card = yaml.safe_load(files["README.md"].decode().split("---")[1])
    config = json.loads(files.get("config.json", b"{}"))
    names, remote = {}, ", trust_remote_code=True" * ("auto_map" in config)
    if card["library_name"] == "transformers" and config:
        names["pipeline"] = f"""from transformers import pipeline

pipe = pipeline("{card["pipeline_tag"]}", model="{repo}"{remote})"""
        auto = next(name for name in config["auto_map"] if name.startswith("AutoModel"))
        names[auto] = f"""from transformers import {auto}

model = {auto}.from_pretrained("{repo}"{remote}, dtype="auto")"""
    if "sentence-transformers" in card["tags"]:
        names["sentence-transformers"] = f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}"{remote})
sentences = ["a red dress", "a blue dress", "a small dog", "a green car"]
embeddings = model.encode(sentences)
similarities = model.similarity(embeddings, embeddings)"""
    return names


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _check_common(data: dict):
    for name in _as_list(data.get("license")):
        if name not in LICENSES:
            yield f"license '{name}' is not an identifier of the Hub"
    if data.get("license") == "other" and not {"license_name", "license_link"} & data.keys():
        yield "license 'other' needs license_name and license_link"
    for code in _as_list(data.get("language")):
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(code)):
            yield f"language '{code}' is not an ISO 639 code"
    for name in ("tags", "datasets", "models", "base_model"):
        for entry in _as_list(data.get(name)):
            if not isinstance(entry, str) or not entry.strip():
                yield f"{name} must be texts"
            elif name != "tags" and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", entry):
                yield f"'{entry}' of {name} is not an id of the Hub"


def _check_model(data: dict):
    if data.get("pipeline_tag", "other") not in TASKS:
        yield f"pipeline_tag '{data['pipeline_tag']}' is not a task of the Hub"
    if data.get("base_model_relation", "finetune") not in ("adapter", "merge", "quantized", "finetune"):
        yield f"base_model_relation '{data['base_model_relation']}' is unknown"
    if "base_model_relation" in data and not data.get("base_model"):
        yield "base_model_relation needs base_model"
    if not isinstance(data.get("library_name", ""), str):
        yield "library_name must be a text"
    for entry in data.get("widget") or ():
        if not isinstance(entry, dict) or not {"text", "src"} & entry.keys():
            yield "a widget entry needs text or src"
    from huggingface_hub import ModelCardData

    try:
        ModelCardData(**{name: value for name, value in data.items() if name != "model-index"})
        for model in data.get("model-index") or ():
            for result in model["results"]:
                assert result["task"]["type"]
                assert result["dataset"]["type"]
                assert result["dataset"]["name"]
                assert all(metric["type"] and metric["value"] is not None for metric in result["metrics"])
            assert model["name"]
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        yield f"model-index is not valid: {error!r}"


def _check_dataset(data: dict):
    for name in _as_list(data.get("size_categories")):
        if name not in SIZES:
            yield f"size_categories '{name}' is unknown"
    for name in _as_list(data.get("task_categories")):
        if name not in TASKS:
            yield f"task_categories '{name}' is not a task of the Hub"
    for config in _as_list(data.get("configs")):
        if not isinstance(config, dict) or not {"config_name", "data_files"} <= config.keys():
            yield "an entry of configs needs config_name and data_files"


def _check_space(data: dict):
    if data.get("sdk") not in ("gradio", "docker", "static"):
        yield f"sdk '{data.get('sdk')}' is unknown"
    if data.get("sdk") == "gradio" and not re.fullmatch(r"\d+\.\d+\.\d+", str(data.get("sdk_version", "0.0.0"))):
        yield "sdk_version must be a version, such as 6.31.0"
    for name in ("colorFrom", "colorTo"):
        if data.get(name, "red") not in COLOURS:
            yield f"{name} '{data[name]}' is not a colour of the Hub"
    if not re.fullmatch(r"3\.\d+(\.\d+)?", str(data.get("python_version", "3.10"))):
        yield "python_version must be 3.x"
    if len(data.get("short_description", "")) > 60:
        yield "short_description takes 60 characters"
    if not data.get("title"):
        yield "a Space needs a title"
