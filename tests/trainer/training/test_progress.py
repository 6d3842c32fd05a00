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
