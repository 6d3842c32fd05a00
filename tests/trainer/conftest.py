"""Directories of benchmarks, and a model, for the tests of whatever reads them."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.factories import (
    BUILDERS,
    TINY_CAPTIONS,
    build_clip,
    build_processor,
    build_stand_in,
    save_model,
    write_photos,
)
from trainer.cli.main import main
from trainer.data.language_model import PROMPT


@pytest.fixture(scope="session")
def oracle(shared):
    """Read values recorded beside the real annotations, by name."""
    return lambda name: json.loads(shared.joinpath("oracle", f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with a directory of each benchmark; not to be written to."""
    root = tmp_path_factory.mktemp("data")
    for name in BUILDERS:
        build_stand_in(name, root / name)
    return root


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Directory of a model."""
    return save_model(tmp_path_factory.mktemp("model"), "lincir", build_clip(), build_processor())


@pytest.fixture(scope="session")
def clip_place(tmp_path_factory):
    """Directory of the CLIP underneath."""
    place, processor = tmp_path_factory.mktemp("clip"), build_processor()
    for part in (build_clip(), processor.tokenizer, processor.image_processor):
        part.save_pretrained(place)
    return str(place)


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory):
    """Directory of a random GPT-2 that knows the words of its prompt and of `TINY_CAPTIONS`."""
    folder = tmp_path_factory.mktemp("lm")
    words = ["<unk>", "<eos>", *sorted({word for text in [PROMPT, *TINY_CAPTIONS] for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>").save_pretrained(folder)
    config = GPT2Config(vocab_size=len(words), n_positions=256, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    """Folder of fifteen images."""
    return write_photos(tmp_path / "photos")


@pytest.fixture
def run_evaluate():
    """Run `rtd evaluate`, and read its records by benchmark and split."""

    def run(*arguments, out, code=0):
        assert main(["evaluate", *map(str, arguments), "--output-dir", str(out)]) == code
        return (
            {path.stem[:-9]: json.loads(path.read_text()) for path in Path(out).glob("*.json")} if not code else None
        )

    return run
