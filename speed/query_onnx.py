"""Measure a composed query by the ONNX files of `rtd export` beside the same query by torch, each on one thread.

    PYTHONPATH=. OMP_NUM_THREADS=1 python speed/query_onnx.py --repeats 20

Torch is the baseline of the ratios, so that 2 is half of its time. All take turns in one process, which has loaded
everything before, and run what `docs/query_onnx.py` runs, without its search. A reference is a JPEG file of 640x480
pixels, or a stored embedding, which needs neither the picture nor the vision tower. `MiB` are the weights that such a
query needs, and `difference` is the largest of a query's cosines with one fixed vector.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions
from tokenizers import Tokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from speed.comparing import add_options, compare, report
from speed.synthetic import build_model, build_processor, draw_images, draw_texts
from trainer.publishing.onnx_export import export_onnx


__all__ = ["measure"]

_SCRIPT = Path(__file__).parents[1] / "docs/query_onnx.py"
_FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
_PARTS = {"picture": ("visual", "projection", "reader"), "stored embedding": ("projection", "reader")}
_COLUMNS = ("reference", "by", "MiB", "seconds", "ratio", "processor's ratio", "difference")


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("query_onnx", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_onnx(folder: Path, file: str, threads: int) -> Callable[..., np.ndarray]:
    """Make a query of a picture's path or of features, and a text."""
    script, options = _load_script(), SessionOptions()
    options.intra_op_num_threads = threads
    sessions = {name: InferenceSession(folder / name / file, options) for name in _PARTS["picture"]}
    prompt, preprocess = (
        json.loads((folder / name).read_text()) for name in ("rtd.json", "visual/preprocess_cfg.json")
    )
    tokenizer = Tokenizer.from_file(str(folder / "reader/tokenizer.json"))

    def encode(reference: str | np.ndarray, text: str) -> np.ndarray:
        if isinstance(reference, str):
            image = script.prepare_image(reference, preprocess)
            (reference,) = sessions["visual"].run(["features"], {"image": image})
        ids, mask = script.build_prompt(text, prompt, tokenizer)
        (words,) = sessions["projection"].run(None, {"features": reference})
        return sessions["reader"].run(None, {"text": ids, "placeholder_mask": mask, "words": words})[0][0]

    return encode


def _load_torch(model, processor) -> Callable[..., np.ndarray]:
    @torch.no_grad()
    def encode(reference: str | np.ndarray, text: str) -> np.ndarray:
        if isinstance(reference, str):
            return model(**processor(images=reference, conditions=text)).composed_embeds[0].numpy()
        inputs = processor.pad(processor.build_prompts([text])[0])
        features = BaseModelOutputWithPooling(pooler_output=torch.from_numpy(reference))
        query = model.get_composed_features(**inputs, image_features=features).pooler_output
        return torch.nn.functional.normalize(query, dim=-1)[0].numpy()

    return encode


def _count_mib(model, parts: tuple[str, ...]) -> float:
    modules = {"visual": (model.vision_model, model.visual_projection), "projection": (model.projection,)}
    modules["reader"] = (model.text_model,)
    counts = [p.numel() * 4 for part in parts for module in modules[part] for p in module.parameters()]
    return sum(counts) / 2**20


def measure(options: argparse.Namespace) -> list[dict]:
    """Measure queries from pictures and from stored embeddings.

    Args:
        options (`argparse.Namespace`): The script's.

    Returns:
        `list[dict]`: For each kind of reference a row of torch and one of each precision.
    """
    processor = build_processor()
    model = build_model(options.size, "lincir", processor)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(model, processor, folder / "onnx", options.precisions)
        draw_images(1, (640, 480))[0].save(folder / "a.jpg", quality=90)
        ways = {"torch": _load_torch(model, processor)}
        ways |= {one: _load_onnx(folder / "onnx", _FILES[one], options.threads) for one in options.precisions}
        with torch.no_grad():
            pixels = processor(images=str(folder / "a.jpg"))
            features = model.get_image_features(**pixels).pooler_output.numpy()
        probe = np.random.default_rng(0).standard_normal(features.shape[1])
        probe /= np.linalg.norm(probe)
        texts = draw_texts("conditioning_caption", options.repeats + 1, np.random.default_rng(1))
        for kind, parts in _PARTS.items():
            reference = str(folder / "a.jpg") if kind == "picture" else features
            arms = {
                way: lambda turn, encode=encode, reference=reference: encode(reference, texts[turn]) @ probe
                for way, encode in ways.items()
            }
            for way, row in compare(arms, options.repeats).items():
                if way in ("fp16", "int8"):
                    del row["agrees"]  # which says whether it is float32's result
                mib = _count_mib(model, parts) if way == "torch" else _measure_mib(folder / "onnx", parts, _FILES[way])
                rows.append(row | {"reference": kind, "by": way, "MiB": mib})
    return rows


def _measure_mib(folder: Path, parts: tuple[str, ...], file: str) -> float:
    paths = [path for part in parts for path in (folder / part).glob(f"{file}*")]
    return sum(path.stat().st_size for path in paths) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, repeats=20)
    parser.add_argument("--precisions", nargs="+", choices=_FILES, default=list(_FILES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report(measure(options), _COLUMNS, options)


if __name__ == "__main__":
    main()
