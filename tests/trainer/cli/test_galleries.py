"""`rtd search` and `rtd app` on a table of PostgreSQL in Immich's layout."""

import json

import pytest

from tests.factories import build_images, build_immich
from trainer.app import page
from trainer.cli.main import main


pytest.importorskip("psycopg")
ANNA = ["--owner", "anna@example.org"]


@pytest.fixture
def immich(postgres, tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return build_immich(postgres, tmp_path, model, processor)


@pytest.fixture
def call(postgres, tmp_path, immich, capsys, monkeypatch):
    """Call a verb on the table; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(verb, *options, status=0):
        assert main([verb, "model", "--gallery", postgres, *options]) == status
        captured = capsys.readouterr()
        assert postgres not in captured.out + captured.err
        return captured

    return call


def test_a_search_finds_one_owners_pictures(call, immich, tmp_path):
    volume = ["--volume", f"{tmp_path}:/data"]
    preview = f"thumbs/{immich['anna'][2]}_preview.jpeg"
    found = call("search", "--image", preview, "--text", "is red", "--top-k", "50", "--json", *ANNA, *volume)
    assert {hit["id"] for hit in json.loads(found.out)["results"]} <= set(immich["anna"])
    assert "smallest cosine 1.0000" in found.err
    by_index = call("search", "--image", preview, "--text", "is red", "--use-index", "--json", *ANNA, *volume)
    assert json.loads(by_index.out)["results"] == json.loads(found.out)["results"][:10]
    where = ["--where", "name=0.heic"]
    found = call("search", "--text", "a red dress", "--history", "turns.json", "--json", *where, *ANNA, *volume)
    assert [hit["metadata"]["name"] for hit in json.loads(found.out)["results"]] == ["0.heic"]
    found = call("search", "--use", "1", "--history", "turns.json", "--json", *ANNA, *volume)
    assert immich["anna"][0] not in {hit["id"] for hit in json.loads(found.out)["results"]}


def test_the_page_shows_one_owners_pictures(call, immich, tmp_path, monkeypatch):
    desks = []

    class Closed:
        def block_thread(self):
            pass

    monkeypatch.setattr(page, "serve_page", lambda desk, *_: (desks.append(desk), (Closed(), "nowhere"))[1])
    call("app", *ANNA, "--volume", f"{tmp_path}:/data")
    (desk,) = desks
    assert desk.root == (tmp_path / "thumbs").resolve()
    assert len(desk.gallery) == len(immich["anna"])
    pictures = [desk.draw([{"id": name}])[0][0] for name in (immich["anna"][0], immich["bert"][0])]
    assert [len(picture.getcolors(10**6)) > 1 for picture in pictures] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Name one by owner="),
        (ANNA, "none can be opened here"),
        ([*ANNA, "--table", "photos"], "has no table 'photos'"),
        ([*ANNA, "--path", "nope"], 'column "nope" does not exist'),
    ],
)
def test_what_is_missing_is_said(call, options, message):
    assert message in call("search", "--text", "a dog", *options, status=2).err


@pytest.mark.parametrize("options", [ANNA, ["--use-index"]])
def test_options_of_a_table_need_one(tmp_path, capsys, options):
    assert main(["search", "model", "--gallery", str(tmp_path), "--text", "a dog", *options]) == 2
    assert f"{options[0]} is of a table of PostgreSQL" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--uri", "--token"])
@pytest.mark.parametrize("place", [None, "postgresql://host/db"])
def test_options_of_a_milvus_server_need_an_index(tmp_path, capsys, place, option):
    build_images(1)[0].save(tmp_path / "a.png")
    assert main(["search", "model", "--gallery", place or str(tmp_path), "--text", "a dog", option, "x"]) == 2
    assert f"{option} is of an index on a Milvus server" in capsys.readouterr().err


def test_an_interruption_repeats_no_connection_string(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.cli.search.run", interrupt)
    for option in (["--gallery", "postgresql://me:secret@host/db"], ["--gallery=postgres://me:secret@host/db"]):
        assert main(["search", "model", *option]) == 130
        error = capsys.readouterr().err
        assert "secret" not in error
        assert "gallery" in error
