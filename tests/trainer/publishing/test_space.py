import os
import subprocess
import sys
import urllib.request

import pytest
import yaml

from tests.factories import build_images, save_model
from trainer.cli.main import main
from trainer.publishing import space
from trainer.publishing.space import prepare_space


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(build_images(3)):
        image.save(tmp_path / f"photos/{i}.png")
    return tmp_path / "photos"


def publish(photos, *more):
    return main(["publish", "org/rtd-tiny", "org/search", "--space", "--gallery", str(photos), *more])


def test_a_space_goes_up_with_its_page_its_images_and_its_code(photos, hub):
    (photos.parent / "examples.jsonl").write_text('{"image": "photos/1.png", "text": "is red"}')
    assert publish(photos, "--license", "mit", "--examples", str(photos.parent / "examples.jsonl"), "--push") == 0
    stored = hub.repos["spaces/org/search"]
    facts = yaml.safe_load(stored["README.md"].decode().split("---")[1])
    assert (facts["sdk"], facts["models"], facts["app_file"]) == ("gradio", ["org/rtd-tiny"], "app.py")
    assert stored["gallery/2.png"] == (photos / "2.png").read_bytes()
    assert stored["examples/0.png"] == (photos / "1.png").read_bytes()
    assert b"[('examples/0.png', 'is red')]" in stored["app.py"]
    assert {"modeling_rtd/gallery_rtd.py", "trainer/app/page.py", "trainer/loading.py"} <= set(stored)
    assert not [name for name in stored if name.startswith(("trainer/training", "trainer/evaluation", "trainer/cli"))]
    assert all("==" in line and "+" not in line for line in stored["requirements.txt"].decode().split())


@pytest.mark.slow
def test_a_space_serves_its_page_with_nothing_but_its_own_files(photos, hub, clip, processor, tmp_path):
    pytest.importorskip("gradio")
    save_model(tmp_path / "model", "lincir", clip, processor)
    files = {path.relative_to(tmp_path / "model").as_posix(): path for path in (tmp_path / "model").rglob("*.*")}
    hub.repos["org/rtd-tiny"] = {name: path.read_bytes() for name, path in files.items()}
    folder, examples = tmp_path / "space", [(str(photos / "1.png"), "is red")]
    for name, content in prepare_space("org/rtd-tiny", "org/search", photos, "mit", examples).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache")}
    environment |= {"GRADIO_SERVER_PORT": "7951"}
    command = [sys.executable, "-c", "import app, trainer"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert "page: " in next(line for line in process.stdout if "page" in line)
            with urllib.request.urlopen("http://127.0.0.1:7951/") as answer:
                assert answer.status == 200
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [("license", "--license ID"), ("model", "publish it first|publish '"), ("many", "3 images")],
)
def test_what_makes_no_space_is_refused(photos, tmp_path, monkeypatch, mistake, complaint):
    if mistake == "many":
        monkeypatch.setattr(space, "_MOST_IMAGES", 2)
    model = str(tmp_path) if mistake == "model" else "org/rtd-tiny"
    with pytest.raises(ValueError, match=complaint):
        prepare_space(model, "org/search", photos, None if mistake == "license" else "mit")
