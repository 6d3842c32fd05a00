import json
from pathlib import Path

import pytest

from tests.factories import StopAt
from trainer.training.checkpoints import find_last_complete_checkpoint, refuse_other_run


SLOW_FILES = [pytest.param(name, marks=pytest.mark.slow) for name in ("optimizer.pt", "rng_state.pth")]


@pytest.mark.parametrize("damage", ["trainer_state.json", "model.safetensors", *SLOW_FILES])
def test_the_newest_complete_checkpoint_is_the_one_resumed(build, damage):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    trainer = build(callbacks=[StopAt(4)], **settings)
    trainer.train()
    broken = Path(trainer.args.output_dir, "checkpoint-4", damage)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    assert find_last_complete_checkpoint(trainer.args.output_dir).name == "checkpoint-2"
    resumed = build(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("0a" * 32, "b1" * 32, r"fact differs\."),
        (None, "b1" * 32, r"fact differs\."),
        ("x" * 64, 8, r"fact was x{64}, now 8\."),  # as long as a hash
    ],
)
def test_a_fact_that_differs_is_shown_unless_it_is_a_hash(tmp_path, was, now, said):
    (tmp_path / "run.json").write_text(json.dumps({"fact": was}))
    with pytest.raises(ValueError, match=f"of another run: {said}"):
        refuse_other_run(tmp_path, {"fact": now})


def test_a_run_of_another_version_is_named_as_such(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"known": 1}))
    refuse_other_run(tmp_path, {"known": 1, "new": None})
    with pytest.raises(ValueError, match="by another version"):
        refuse_other_run(tmp_path, {"known": 2, "new": 3})
