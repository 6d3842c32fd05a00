from trainer.demo import stages
from trainer.demo.stages import Stages


def test_stages_are_counted_timed_and_the_rest_is_estimated(monkeypatch, capsys):
    now = iter([0.0, 100.0, 160.0, 160.0, 170.0, 171.0])
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(now))
    seconds, stage = {}, Stages(["world", "clip", "lincir"])
    with stage("world", "drawing", seconds):
        pass
    with stage("clip", "a CLIP", seconds):
        pass
    assert seconds == {"world": 60.0, "clip": 1.0}
    assert capsys.readouterr().out.split("\n") == [
        "",
        "Stage 1 of 3: drawing",
        "",
        "Stage 2 of 3: a CLIP (about 16 min left)",  # 40 shares took 160 s, 245 are left
        "",
    ]
