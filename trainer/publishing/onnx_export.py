"""Export to ONNX: a model in files that onnxruntime runs without torch, each compared with torch when it is made."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from modeling_rtd import RTDModel, RTDProcessor, has_adapters, replace_folder, suggest, write_json


__all__ = ["ONNX_PRECISIONS", "export_onnx"]

# The largest difference from torch that a file may have: the length of the difference over the length of torch's row.
ONNX_PRECISIONS = {"fp32": 1e-4, "fp16": 2e-2, "int8": 2e-1}
_SINGLE_FILE = 1_900_000_000  # bytes; one file of protobuf holds two gigabytes
_TEXTS = ("a photo", "a red dress with no sleeves and a dog", "the same dress but in a larger size and with the cat")


class _Visual(nn.Module):
    """Pixels to CLIP's embedding, as an index holds it, and to the same before its length is lost."""

    def __init__(self, model: RTDModel):
        super().__init__()
        self.model = model

    def forward(self, image):
        features = self.model.get_image_features(image).pooler_output
        return nn.functional.normalize(features, dim=-1), features


class _Reader(nn.Module):
    """A text tower; with pseudo-words at the places of the mask where these come."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, text, placeholder_mask=None, words=None):
        # Padding stands on the right, and attention is causal: no mask of it is needed.
        output = self.tower(input_ids=text.long(), placeholder_mask=placeholder_mask, pseudo_token_embeds=words)
        return nn.functional.normalize(output.text_embeds, dim=-1)


class _Projection(nn.Module):
    def __init__(self, model: RTDModel):
        super().__init__()
        self.projection = model.projection

    def forward(self, features):
        return self.projection(features)[0]


class _Composed(nn.Module):
    """The three others in one, for who starts from pictures."""

    def __init__(self, model: RTDModel):
        super().__init__()
        self.visual, self.projection, self.reader = _Visual(model), _Projection(model), _Reader(model.text_model)

    def forward(self, image, text, placeholder_mask):
        return self.reader(text, placeholder_mask, self.projection(self.visual(image)[1]))


def export_onnx(
    model: RTDModel, processor: RTDProcessor, folder: str | Path, precisions: Sequence[str] = ("fp32",)
) -> dict[str, float]:
    """Write a model as ONNX files, in the folders that open_clip's exports and Immich use.

    `visual/model.onnx` and `textual/model.onnx` (plain text) are CLIP with the text tower from before RTD.
    `projection`, `reader` (the text tower with pseudo-words) and `composed` (picture and prompt to query) are ours.
    Other precisions are `model_fp16.onnx` and `model_int8.onnx` beside them. Each file is compared with torch on other
    batch sizes and lengths than it was traced with.

    Args:
        model ([`RTDModel`]): A whole model; it is moved to the CPU and to float32.
        processor ([`RTDProcessor`]): Its processor.
        folder (`str` or `Path`): Replaced whole, or left as it is where anything fails.
        precisions (`list[str]`, defaults to `("fp32",)`): Of `"fp32"`, `"fp16"` and `"int8"` (weights).

    Returns:
        `dict[str, float]`: For each file the largest difference, relative to the length of torch's row.

    Raises:
        ValueError: If the backbone is not CLIP, the projection reads more than the pooled embedding, the model has
            adapters, a precision is unknown, the preprocessing is not CLIP's, or a file differs from torch by more
            than `ONNX_PRECISIONS`.
        ImportError: If onnx, onnxruntime or onnxscript is missing.
    """
    _check(model, precisions)
    differences, norms = {}, []
    model = model.float().cpu().eval()
    parts = _list_parts(model, processor)
    with replace_folder(folder) as partial, torch.no_grad(), _keep_quiet():
        _write_settings(model, processor, partial)
        for name, (module, draw, outputs) in parts.items():
            (partial / name).mkdir(exist_ok=True)
            # Two of them: torch.export takes a size of 1 for a constant.
            whole = _trace(module, draw(2, 1), outputs, partial / name / "model.onnx")
            checks = [draw(1, 0), draw(3, 2)]
            expected = [_run_torch(module, inputs) for inputs in checks]
            if name == "visual":
                norms = [float(np.linalg.norm(row, axis=-1).mean()) for _, row in expected]
            for precision in precisions:
                path = _convert(whole, precision)
                place = path.relative_to(partial).as_posix()
                differences[place] = _compare(path, checks, expected)
                if not differences[place] <= ONNX_PRECISIONS[precision]:
                    raise ValueError(
                        f"{place} differs from torch by {differences[place]:.2g}, and at most "
                        f"{ONNX_PRECISIONS[precision]:g} is accepted; leave out the precision {precision}."
                    )
            # The others were made of it.
            if "fp32" not in precisions:
                whole.unlink()
                whole.with_name(f"{whole.name}.data").unlink(missing_ok=True)
        facts = {"differences": differences, "typical_norm": sum(norms) / len(norms)}
        write_json(partial / "rtd.json", _describe_prompt(processor) | facts)
    return differences


def _check(model: RTDModel, precisions: Sequence[str]) -> None:
    if model.config.text_config.model_type != "clip_text_model":
        raise ValueError(
            f"only CLIP is exported: a '{model.config.text_config.model_type}' pads its texts and writes its prompts "
            "otherwise; use the model with torch."
        )
    method, consumes = model.projection.config.projection_type, model.projection.consumes
    if tuple(consumes) != ("image_embeds",):
        raise ValueError(
            f"a '{method}' projection reads {', '.join(consumes)}, which no ONNX file here passes on. Export a model "
            "whose projection reads the pooled embedding alone, such as LinCIR, SEARLE or Pic2Word."
        )
    if has_adapters(model.text_model):
        raise ValueError("the text tower has an adapter: merge it with `rtd interpolate MODEL --alpha 1 -o FOLDER`.")
    for precision in precisions:
        if precision not in ONNX_PRECISIONS:
            raise ValueError(suggest("precision", precision, ONNX_PRECISIONS))
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error.name} is missing: pip install onnx onnxruntime onnxscript") from error


@contextlib.contextmanager
def _keep_quiet() -> Iterator[None]:
    """Silence notices about packages and shapes that no user of these files can act on."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _list_parts(model: RTDModel, processor: RTDProcessor) -> dict[str, tuple[nn.Module, Callable, list[str]]]:
    """Name each file's network, what draws inputs of a batch size and one of the texts for it, and its outputs."""
    side, _ = processor.image_size_px
    generator = torch.Generator().manual_seed(0)

    def draw_images(count: int, text: int) -> dict:
        pictures = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8).numpy()
        smooth = [Image.fromarray(one).resize((8, 8)).resize((side, side)) for one in pictures]
        return {"image": processor.prepare_images(smooth)}

    def draw_prompts(count: int, text: int) -> dict:
        inputs = processor.pad(processor.build_prompts([_TEXTS[text]] + [_TEXTS[0]] * (count - 1))[0])
        return {"text": inputs["input_ids"].int(), "placeholder_mask": inputs["placeholder_mask"]}

    def draw_features(count: int, text: int) -> dict:
        features = model.get_image_features(draw_images(count, text)["image"]).pooler_output
        return {"features": features.detach()}

    def draw_words(count: int, text: int) -> dict:
        words = model.projection(draw_features(count, text)["features"])[0]
        return draw_prompts(count, text) | {"words": words.detach()}

    return {
        "visual": (_Visual(model), draw_images, ["embeds", "features"]),
        "textual": (
            _Reader(model.plain_text_model),
            lambda count, text: {"text": draw_prompts(count, text)["text"]},
            ["embeds"],
        ),
        "projection": (_Projection(model), draw_features, ["words"]),
        "reader": (_Reader(model.text_model), draw_words, ["embeds"]),
        "composed": (
            _Composed(model),
            lambda count, text: draw_images(count, text) | draw_prompts(count, text),
            ["embeds"],
        ),
    }


def _trace(module: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: list[str], path: Path) -> Path:
    texts = ("text", "placeholder_mask")
    dims = {name: dict.fromkeys(range(2 if name in texts else 1), torch.export.Dim.AUTO) for name in inputs}
    program = torch.onnx.export(
        module.eval(),
        kwargs=dict(inputs),
        dynamo=True,
        input_names=list(inputs),
        output_names=outputs,
        dynamic_shapes=dims,
        verbose=False,
    )
    size = sum(parameter.nbytes for parameter in module.parameters())
    program.save(path, external_data=size > _SINGLE_FILE)
    return path


def _convert(whole: Path, precision: str) -> Path:
    """Write a file in another precision, by onnxruntime's own converters."""
    if precision == "fp32":
        return whole
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = whole.with_name(f"model_{precision}.onnx")
    is_large = whole.with_name(f"{whole.name}.data").exists()
    if precision == "int8":
        # Unsigned: signed weights overflow on CPUs with AVX2 and without VNNI. No convolution: it is slow as integers.
        settings = {"weight_type": QuantType.QUInt8, "op_types_to_quantize": ["MatMul", "Gemm", "Gather"]}
        quantize_dynamic(whole, path, use_external_data_format=is_large, **settings)
        return path
    # Inputs and outputs stay float32: one program feeds files of all precisions.
    half = convert_float_to_float16(onnx.load(whole), keep_io_types=True)
    onnx.save(half, path, save_as_external_data=half.ByteSize() > _SINGLE_FILE, location=f"{path.name}.data")
    return path


def _run_torch(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[np.ndarray]:
    outputs = module(**inputs)
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _compare(path: Path, checks: Sequence[Mapping], expected: Sequence[Sequence[np.ndarray]]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = [
        np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)
        for inputs, outputs in zip(checks, expected, strict=True)
        for ours, theirs in zip(
            session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()}), outputs, strict=True
        )
    ]
    # `max` may pass over NaN, which is the largest difference of all.
    return max(float(np.nan_to_num(row, nan=np.inf).max()) for row in differences)


def _write_settings(model: RTDModel, processor: RTDProcessor, folder: Path) -> None:
    """Write the tokenizer and the settings of preprocessing as open_clip's exports and Immich have them."""
    images, text = processor.image_processor, model.config.text_config
    side, crop = images.size.get("shortest_edge"), processor.image_size_px
    if crop != (side, side):
        raise ValueError(f"the preprocessing resizes to {images.size} and crops to {crop}, which is not CLIP's.")
    preprocess = {
        "size": list(crop),
        "mode": "RGB",
        "mean": list(images.image_mean),
        "std": list(images.image_std),
        "interpolation": Image.Resampling(images.resample).name.lower(),
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    config = {
        "embed_dim": model.config.projection_dim,
        "vision_cfg": {"image_size": side, "patch_size": model.config.vision_config.patch_size},
        "text_cfg": {"context_length": processor.max_length, "vocab_size": text.vocab_size},
    }
    (folder / "visual").mkdir()
    write_json(folder / "visual/preprocess_cfg.json", preprocess)
    write_json(folder / "config.json", config)
    for name in ("textual", "reader"):
        processor.tokenizer.save_pretrained(folder / name)


def _describe_prompt(processor: RTDProcessor) -> dict:
    """Give what a query without torch needs to know of the prompt."""
    tokenizer = processor.tokenizer
    return {
        "template": processor.prompt_templates.get(processor.default_template, processor.default_template),
        "max_length": processor.max_length,
        "placeholder_token_id": processor.placeholder_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
