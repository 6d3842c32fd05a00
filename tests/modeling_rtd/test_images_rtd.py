"""Every path decodes the same formats, up to the same size."""

import base64
import http.server
import struct
import threading
import zlib
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from modeling_rtd import IMAGE_FORMATS, MAX_PIXELS, RTDProcessor, open_image
from tests.factories import build_images
from trainer.data.images import decode_image
from trainer.encoding.preprocessing import read_image


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture(autouse=True)
def ghostscript(monkeypatch):
    """Fail a test in which Pillow would start Ghostscript."""

    def start(*args, **kwargs):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)


def write_header(width, height):
    """Write a PNG that says to be so large, and holds next to nothing."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


WAYS = {
    "a path": lambda path: RTDProcessor.load_image(path),
    "bytes": lambda path: RTDProcessor.load_image(path.read_bytes()),
    "base64": lambda path: RTDProcessor.load_image(base64.b64encode(path.read_bytes()).decode()),
    "a data URL": lambda path: RTDProcessor.load_image(
        "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    ),
    "datasets": lambda path: RTDProcessor.load_image({"bytes": path.read_bytes(), "path": None}),
    "an opened image": lambda path: RTDProcessor.load_image(Image.open(path)),
    "evaluation": lambda path: read_image(str(path)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("content", [EPS, write_header(13_000, 13_000), b"", b"nonsense", b"\0" * (20 * 2**20 + 1)])
def test_no_way_decodes_what_is_not_an_image_or_too_large(tmp_path, way, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        WAYS[way](path)


@pytest.mark.parametrize("content", [EPS, write_header(8_000, 8_000)])
def test_training_leaves_them_out(content):
    assert decode_image({"bytes": content, "path": None}) is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("format_name", IMAGE_FORMATS)
def test_every_way_decodes_every_format(tmp_path, way, format_name):
    path = tmp_path / f"image{IMAGE_FORMATS[format_name][0]}"
    build_images(1, size=(12, 20))[0].save(path, format_name)
    image = WAYS[way](path)
    assert (image.size, image.mode) == ((20, 12), "RGB")


def test_a_picture_of_a_phone_is_a_jpeg(tmp_path):
    first, second = build_images(2)
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second])
    assert RTDProcessor.load_image(Image.open(tmp_path / "phone.jpg")).size == first.size


def test_one_option_allows_more(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    Image.new("1", (8_000, 8_000)).save(path)
    with pytest.raises(ValueError, match=rf"64,000,000 pixels, and {MAX_PIXELS:,} are allowed.*RTD_MAX_PIXELS"):
        open_image(path)
    monkeypatch.setenv("RTD_MAX_PIXELS", "64000000")
    with open_image(path) as image:
        assert image.size == (8_000, 8_000)
    monkeypatch.setenv("RTD_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="RTD_MAX_PIXELS must be a whole number of pixels, got 'many'"):
        open_image(path)


@pytest.fixture
def server(tmp_path):
    """Serve a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_read_to_the_same_bounds(server, tmp_path):
    build_images(1, size=(12, 20))[0].save(tmp_path / "a.png")
    Path(tmp_path, "eps.png").write_bytes(EPS)
    Path(tmp_path, "large.png").write_bytes(b"\0" * (20 * 2**20 + 1))
    assert RTDProcessor.load_image(f"{server}/a.png").size == (20, 12)
    for name, message in {"eps": "one of BMP", "large": "bytes, and 20,971,520 are", "none": "404"}.items():
        with pytest.raises(ValueError, match=message):
            RTDProcessor.load_image(f"{server}/{name}.png")


@pytest.mark.parametrize("name", ["none.png", "none", "ä" * 240, "a\0b.png", "/dev/zero", ""])
def test_a_path_without_a_file_is_named(name):
    with pytest.raises(ValueError, match="cannot be read"):
        RTDProcessor.load_image(name)


def test_a_folder_is_not_an_image(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        RTDProcessor.load_image(str(tmp_path))
