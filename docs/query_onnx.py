"""A composed query without torch, over the files that `rtd export` writes.

Needs onnxruntime, tokenizers, numpy and Pillow, and nothing of this package:

    python docs/query_onnx.py runs/onnx --index index.npy --ids ids.txt --image photo.jpg --text "but in red"

`index.npy` holds an embedding a row, and `ids.txt` an id a line; `--id` takes a stored row as the reference.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def load(folder: Path, name: str) -> InferenceSession:
    """Load one of the networks."""
    path = folder / name / "model.onnx"
    try:
        return InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many classes of errors, and none above them
        reason = str(error).splitlines()[0].rstrip(".")
        raise SystemExit(
            f"{path} cannot be loaded: {reason}. Run `rtd export` again, or take the onnxruntime that it ran with."
        ) from error


def prepare_image(path: str, settings: dict) -> np.ndarray:
    """Resize the shorter side, crop the middle, scale and normalise; shape (1, 3, height, width)."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    side, (width, height) = settings["size"][0], image.size
    short = min(width, height)
    size = tuple(side if part == short else int(side * part / short) for part in (width, height))
    image = image.resize(size, Image.Resampling[settings["interpolation"].upper()])
    left, top = ((part - side) // 2 for part in size)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    pixels = (pixels - np.float32(settings["mean"])) / np.float32(settings["std"])
    return pixels.transpose(2, 0, 1)[None]


def build_prompt(condition: str, settings: dict, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Write the template around a condition; ids and the places of pseudo-words, both of shape (1, length)."""
    tokenizer.encode_special_tokens = True  # a special token that somebody types is a text
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def splice(text: str) -> list[int]:
        pieces = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in text.split("$")]
        return [*pieces[0], *(token for piece in pieces[1:] for token in (-1, *piece))]

    before, after = settings["template"].split("{condition}")
    lead, sign, bridge = before.rpartition("$")
    head, bridge, tail = splice(lead + sign), splice(bridge), splice(after)
    words = tokenizer.encode(condition, add_special_tokens=False).ids
    longest = settings["max_length"] - 2
    room = max(longest - len(head) - len(bridge) - len(tail), 0)
    row = [*head, *bridge, *words[:room], *tail] if condition.strip() or not head else head
    ids = np.array([[settings["bos_token_id"], *row[:longest], settings["eos_token_id"]]], np.int32)
    return np.where(ids == -1, np.int32(settings["placeholder_token_id"]), ids), ids == -1


def encode_query(folder: Path, features: np.ndarray, condition: str) -> np.ndarray:
    """Compose a reference, of shape (1, dim), and a condition into a query of shape (dim,)."""
    settings = json.loads((folder / "rtd.json").read_text(encoding="utf-8"))
    text, mask = build_prompt(condition, settings, Tokenizer.from_file(str(folder / "reader/tokenizer.json")))
    (words,) = load(folder, "projection").run(None, {"features": features})
    return load(folder, "reader").run(None, {"text": text, "placeholder_mask": mask, "words": words})[0][0]


def main() -> None:
    """Print the nearest ids and their cosines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what rtd export has written")
    parser.add_argument("--index", required=True, help="embeddings of the pictures")
    parser.add_argument("--ids", required=True, type=Path, help="their ids")
    reference = parser.add_mutually_exclusive_group(required=True)
    reference.add_argument("--image", help="picture to start from")
    reference.add_argument("--id", help="stored picture to start from")
    parser.add_argument("--text", required=True, help="what is to be different")
    parser.add_argument("--top-k", type=int, default=10)
    options = parser.parse_args()

    ids = options.ids.read_text(encoding="utf-8").splitlines()
    index = np.load(options.index).astype(np.float32)
    if len(ids) != len(index):
        parser.error(f"{options.ids} has {len(ids)} ids, and {options.index} has {len(index)} rows")
    if options.id is not None and options.id not in ids:
        parser.error(f"{options.ids} has no id '{options.id}'")
    index /= np.linalg.norm(index, axis=1, keepdims=True)
    if options.image:
        settings = json.loads((options.folder / "visual/preprocess_cfg.json").read_text(encoding="utf-8"))
        image = prepare_image(options.image, settings)
        features = load(options.folder, "visual").run(["features"], {"image": image})[0]
    else:
        # A stored embedding has lost its length, which the projection reads: the typical one stands in for it.
        length = json.loads((options.folder / "rtd.json").read_text(encoding="utf-8"))["typical_norm"]
        features = index[[ids.index(options.id)]] * np.float32(length)
    scores = index @ encode_query(options.folder, features, options.text)
    best = [row for row in np.argsort(-scores) if ids[row] != options.id][: options.top_k]
    for row in best:
        print(f"{scores[row]:.6f}  {ids[row]}")


if __name__ == "__main__":
    main()
