from tests.factories import StopAt
from trainer.training.progress import LossBarCallback


def test_the_bar_has_a_title_and_the_newest_loss(build, capsys):
    trainer = build(disable_tqdm=False)
    LossBarCallback.install(trainer, "RTD")
    trainer.train()
    shown, last = capsys.readouterr().err, [log["loss"] for log in trainer.state.log_history if "loss" in log][-1]
    assert "RTD: 100%" in shown
    assert f"loss={last:.4f}" in shown


def test_there_is_no_bar_where_the_trainer_shows_none(build):
    trainer = build(disable_tqdm=True)
    LossBarCallback.install(trainer, "RTD")
    assert trainer.pop_callback(LossBarCallback) is None


def test_a_run_that_continues_says_where(build, capsys):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "disable_tqdm": False}
    build(callbacks=[StopAt(2)], **settings).train()
    assert "continuing" not in capsys.readouterr().err
    trainer = build(**settings)
    LossBarCallback.install(trainer, "RTD")
    trainer.train(resume_from_checkpoint=True)
    assert "continuing at step 2" in capsys.readouterr().err
