import json
import shutil

import pytest

from tests.factories import STAGES
from trainer.cli.main import main
from trainer.publishing.provenance import write_stages


def test_without_push_it_lists_the_files_and_may_write_the_card(place, tmp_path, hub, capsys):
    folder, card = shutil.copytree(place, tmp_path / "model"), tmp_path / "card.md"
    write_stages(STAGES, folder)
    ways = ["--license", "mit", "--base-model", "none", "--without", "evaluation", "alignment", "--card", str(card)]
    assert main(["publish", str(folder), "someone/rtd-tiny", *ways]) == 0
    *rows, last = capsys.readouterr().out.splitlines()
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:>13,}  model.safetensors" in rows
    assert last.startswith("Nothing was uploaded.")
    assert last.endswith("go to someone/rtd-tiny.")
    assert "license: mit" in card.read_text()
    assert json.loads(card.with_suffix(".json").read_text())["license"] == "mit"
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (["--dataset", "--base-model", "none"], "--base-model"),
        (["--space", "--results", "a.json"], "--results"),
        (["--gallery", "photos"], "--gallery"),
        (["--license", "mit", "--license-name", "house"], "--license-name"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options, option, place, capsys):
    assert main(["publish", place, "someone/name", *options]) == 2
    assert f"{option} is for" in capsys.readouterr().err
