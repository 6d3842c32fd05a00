"""Publishing a Space: the page of `rtd app` over a small gallery, with the code that it needs."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from modeling_rtd import RTDModel, open_image
from trainer.data.image_files import list_images
from trainer.publishing.pictures import refuse_places
from trainer.publishing.publication import Publication, add_record, check_repo, refuse_leaks
from trainer.publishing.secret_scan import find_leaks


__all__ = ["prepare_space"]

_MOST_IMAGES = 1000  # are encoded on two cores whenever the Space starts
_NEEDS = ("torch", "transformers", "accelerate", "huggingface_hub", "safetensors", "numpy", "Pillow")
# What `_APP` imports.
_PAGE = ("trainer", "trainer.app.page", "trainer.loading", "trainer.data.image_files")
_APP = '''"""The page of `rtd app` over the images in `gallery`; {model} answers."""

import os
from pathlib import Path

from modeling_rtd import Gallery
from trainer.app import SearchDesk, list_voices
from trainer.app.page import serve_page
from trainer.data.image_files import list_images, name_file
from trainer.loading import load_model_and_processor


root = Path(__file__).parent / "gallery"
model, processor = load_model_and_processor("{model}")
gallery = Gallery.from_images(model, processor, [name_file(path) for path in list_images(root)])
examples = [(str(root.parent / image), text) for image, text in {examples!r}]
desk = SearchDesk(list_voices(model, processor, gallery), root, examples=examples)
page, url = serve_page(desk, "0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
print(f"page: {{url}}", flush=True)
page.block_thread()
'''
_README = """---
title: {title}
emoji: 👗
colorFrom: red
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
app_file: app.py
license: {license}
models:
- {model}
tags:
- composed-image-retrieval
short_description: Search images by an image and a sentence
---

# {title}

Choose an image, say what should be different, and get the images that match both. The model is
[{model}](https://huggingface.co/{model}). The gallery has {count} images.

The pages of `rtd app` and `rtd-cir` are in this Space; nothing that you upload is kept.
"""


def prepare_space(
    model: str,
    repo: str,
    gallery: str | Path | None,
    license: str | None = None,
    examples: Sequence[tuple[str, str]] = (),
) -> Publication:
    """Gather what goes up of a Space.

    Args:
        model (`str`): Hub id of the model, which is public.
        repo (`str`): Hub id of the Space, `org/name`.
        gallery (`str` or `Path`): Folder of at most 1,000 images, which everybody can see and download.
        license (`str`, *optional*): License of the images, as the Hub names it.
        examples (`Sequence[tuple[str, str]]`, defaults to none): Path of an image and condition of queries to click.

    Returns:
        [`Publication`]: Page, requirements, images, and the files of this package that the page imports.

    Raises:
        ValueError: If the license is missing, the model is not a Hub id, there are too many images, or one cannot be
            read or holds the place where it was taken.
    """
    check_repo(repo)
    missing = {"--license ID": license, "--gallery DIR": gallery}
    if lacking := [name for name, value in missing.items() if value is None]:
        raise ValueError(f"a Space also needs {' and '.join(lacking)}.")
    if Path(model).exists() or model.count("/") != 1:
        raise ValueError(f"a Space takes its model from the Hub: publish '{model}' first, and name it as org/name.")
    check_repo(model)
    paths = list_images(gallery)
    if len(paths) > _MOST_IMAGES:
        raise ValueError(f"'{gallery}' holds {len(paths):,} images, and a Space takes {_MOST_IMAGES:,}: name fewer.")
    shown = {f"examples/{number}{Path(path).suffix}": Path(path) for number, (path, _) in enumerate(examples)}
    refuse_places([*paths, *shown.values()])
    for path in paths:
        with open_image(path) as image:
            image.load()
    facts = {"model": model, "title": repo.rpartition("/")[2], "license": license, "count": len(paths)}
    facts["examples"] = list(zip(shown, (text for _, text in examples), strict=True))
    files: dict[str, Path | bytes] = {f"gallery/{path.relative_to(gallery).as_posix()}": path for path in paths}
    files |= shown | _list_code()
    files["app.py"] = _APP.format(**facts).encode()
    files["requirements.txt"] = "".join(f"{name}=={_find_version(name)}\n" for name in _NEEDS).encode()
    files["README.md"] = _README.format(gradio=_find_version("gradio"), **facts).encode()
    written = {name: content for name, content in files.items() if isinstance(content, bytes)}
    refuse_leaks(find_leaks(written, Path(gallery)))
    return Publication(repo, add_record(files), kind="space")


def _find_version(name: str) -> str:
    return version(name).partition("+")[0]  # +cpu is a build that the package index does not have


def _list_code() -> dict[str, Path]:
    """List the room of models, and of the other room what the page imports, however deep."""
    root, models = Path(__file__).parents[2], Path(inspect.getfile(RTDModel)).parent
    files = {f"modeling_rtd/{path.name}": path for path in sorted(models.glob("*.py"))}
    waiting, seen = list(_PAGE), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        place = root / name.replace(".", "/")
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        files[path.relative_to(root).as_posix()] = path
        waiting += [name.rpartition(".")[0]] if "." in name else []
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # Not of the package itself, which imports by name what somebody asks for.
        for node in ast.walk(tree) if name != "trainer" else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trainer."):
                waiting.append(node.module)
    return files
