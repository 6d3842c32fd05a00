from types import SimpleNamespace

from PIL import Image

from trainer.drawing.loss_curves import draw_loss_curves, get_loss_curve


def test_a_curve_is_read_from_the_log():
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 9.0}, {"step": 3, "loss": 1.0}]
    trainer = SimpleNamespace(state=SimpleNamespace(log_history=log))
    assert get_loss_curve(trainer) == [(1, 2.0), (3, 1.0)]


def test_panels_stand_side_by_side(tmp_path):
    panel = [{"rtd": [(1, 2.0), (2, 1.0)]}, {"rtd": []}]
    draw_loss_curves({"one": panel}, tmp_path / "one.png")
    draw_loss_curves({"one": panel, "two": panel}, tmp_path / "two.png")
    (width, height), two = Image.open(tmp_path / "one.png").size, Image.open(tmp_path / "two.png").size
    assert two == (2 * width, height)
