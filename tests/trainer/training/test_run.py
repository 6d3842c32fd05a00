import json

import pytest

from tests.factories import build_triplets
from trainer.training.run import finish_run


@pytest.mark.parametrize("name", ["model/config.json", "adapter/weights", "metrics.json"])
def test_a_folder_with_something_else_is_never_written_over(build, tmp_path, name):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(ValueError, match="run' holds something that is not a run"):
        finish_run(build())
    assert file.read_text() == "mine"


def test_a_run_of_other_data_is_not_gone_on_with(build, tmp_path):
    (tmp_path / "run/checkpoint-1").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text(json.dumps(build().run_facts))
    with pytest.raises(ValueError, match=r"run' is of another run: triplets differs"):
        finish_run(build(rows=build_triplets(32)))


def test_a_run_that_saved_nothing_is_not_in_the_way(build, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(build().run_facts))
    trainer = build(rows=build_triplets(32))
    trainer.save_model = lambda: None  # of a tower alone, which has no place
    finish_run(trainer)
    assert trainer.state.global_step
    assert json.loads((tmp_path / "run/run.json").read_text()) == trainer.run_facts
