import pytest

from trainer.demo.stages import Stages


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until its time is set."""
    clock = type("Clock", (), {"now": 0.0})()
    monkeypatch.setattr("trainer.demo.stages.time.perf_counter", lambda: clock.now)
    return clock


def test_a_stage_tells_its_number_and_the_time_left_at_the_pace_so_far(clock, capsys):
    stages, seconds = Stages(["other", "other", "other"]), {}
    with stages("first", "drawing", seconds):
        clock.now = 120.0
    with stages("second", "training", seconds):
        clock.now = 150.0
    shown = capsys.readouterr().out.split("\n")
    assert [line for line in shown if line] == ["Stage 1 of 3: drawing", "Stage 2 of 3: training (about 4 min left)"]
    assert seconds == {"first": 120.0, "second": 30.0}
