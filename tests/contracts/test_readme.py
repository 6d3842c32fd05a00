"""What the README and docs/ show runs, from the first block of a page to its last, where a demo has run."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_rtd import RTDModel, RTDProcessor
from tests.factories import build_immich, build_stand_in
from trainer.cli.main import main
from trainer.demo.run import run_demo
from trainer.evaluation.benchmarks import load_benchmark


ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
COMMANDS = sorted({line for page in PAGES.values() for line in re.findall(r"^ *rtd (.*)$", page, re.MULTILINE)})
# A toy in place of what takes long or is not here: the demo's world, and training until the end.
SHORT = {
    "wardrobe/demo": "wardrobe/toy",
    "openai/clip-vit-large-patch14": "runs/demo/clip",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "runs/demo/clip",
    "max_steps=300": "max_steps=1, use_cpu=True",
    "reference-0039": "reference-0000",
    "--output-dir runs/context-rtd": "--output-dir runs/context-rtd --lift-steps 2",
    "(12, 13)": '("00", "01")',
}
TRAINING = ["--max-steps", "1", "--use-cpu", "--per-device-train-batch-size", "8"]
# Run elsewhere: servers (tests/trainer/app, test_serve.py), and recipes, which fetch from the Hub (test_recipes.py).
ELSEWHERE = ("app", "serve", "train --recipe", "release")
# Packages that a page shows, and that need not be here.
NEEDS = {
    "README.md": ("sentence_transformers",),
    "other_libraries.md": ("sentence_transformers", "onnxruntime", "onnxscript"),
}
# A database that the README names; the page on it has the same line, which runs there on one of the tests.
DATABASE = "postgresql://rtd@localhost/immich"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder in which a toy demo has run."""
    place = tmp_path_factory.mktemp("clone")
    run_demo(place / "runs/demo", "toy")
    return place


@pytest.fixture
def place(demo, hub, tmp_path, monkeypatch):
    """A copy of it as working directory, with the files that a reader brings."""
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("dress\ncoat\nskirt\n")
    for name in ("cirr", "circo", "fashioniq"):
        build_stand_in(name, tmp_path / "data" / name)
    model, processor = RTDModel.from_pretrained("runs/demo/model"), RTDProcessor.from_pretrained("runs/demo/model")
    torch.save({"epoch": 1, "Phi": model.projection.state_dict()}, "lincir_large.pt")
    images = sorted(Path("runs/demo/world/gallery").iterdir())
    with torch.no_grad():
        np.save("index.npy", model.get_image_features(**processor(images=images)).pooler_output.numpy())
    Path("ids.txt").write_text("\n".join(image.stem for image in images))
    circo = load_benchmark("circo", root="data/circo")
    Path("rankings.json").write_text(json.dumps(dict.fromkeys(circo.queries["id"], circo.gallery["id"][:50])))
    return tmp_path


def run(line):
    """Run a line of a shell block, if it is one of ours."""
    words = shlex.split(line, comments=True)
    if not words or words[0] != "rtd" or DATABASE in words:
        return
    if line.startswith(tuple(f"rtd {verb}" for verb in ELSEWHERE)):
        return
    arguments = [
        part for word in words[1:] for part in (map(str, sorted(Path().glob(word))) if "*" in word else [word])
    ]
    code = 2 if "evaluate --check" in line else 0  # it sees that the stand-in is not the official data
    assert main(arguments + TRAINING * arguments[0].startswith("train")) == code, line


def bring_immich(page, place, postgres):
    """Bring what the page on Immich takes for granted, and give the page with its places."""
    import psycopg

    model, processor = RTDModel.from_pretrained("runs/demo/model"), RTDProcessor.from_pretrained("runs/demo/model")
    build_immich(postgres, place / "immich", model, processor)
    shutil.copy(next((place / "immich/thumbs").iterdir()), "reference.png")
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP ROLE IF EXISTS rtd")
        for statement in re.search(r"```sql\n(.*?)```", page, re.DOTALL)[1].split(";"):
            connection.execute(statement)
        connection.execute(
            "CREATE TABLE photos AS SELECT row_number() OVER () AS number, embedding AS vector, path AS file, "
            "7 AS shop, 2024 AS year FROM smart_search JOIN asset_file USING (\"assetId\") WHERE type = 'preview'"
        )
        connection.execute("GRANT SELECT ON photos TO rtd")
    page = page.replace("postgresql://rtd@localhost/immich", postgres.replace("postgres@", "rtd@"))
    return page.replace("/srv/immich:", f"{place}/immich:")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the learning rate warms up")  # as published; the tests take a few steps
@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_a_page_runs(name, place, request):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    page = PAGES[name]
    if name == "immich.md":
        page = bring_immich(page, place, request.getfixturevalue("postgres"))
    for long, short in SHORT.items():
        page = page.replace(long, short)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", page, re.DOTALL)
    for language, block in blocks:
        if language == "python" and "import mteb" not in block:  # which test_mteb.py runs
            exec(compile(block, name, "exec"), {})
        for line in block.splitlines() if language == "bash" else ():
            run(line)


def _find_method(arguments):
    """A method has options of its own."""
    place = arguments.index("--method") if "--method" in arguments else len(arguments)
    return arguments[place : place + 2]


def test_there_are_commands_to_check():
    assert {command.split()[0] for command in COMMANDS} >= {"search", "train", "train-projection", "publish"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_exists(command, capsys):
    verb, *arguments = shlex.split(command, comments=True)
    with pytest.raises(SystemExit):
        main([verb, *_find_method(arguments), "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {argument for argument in arguments if argument.startswith("--")} <= known


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGES[name]) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []
