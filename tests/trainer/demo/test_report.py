from trainer.demo.recipes import RECIPES
from trainer.demo.report import write_report
from trainer.publishing.tables import METRICS
from trainer.worlds.small_world.declaration import WORLD


RECALLS = {
    "lincir": 0.2,
    "lincir + rtd": 0.5,
    "lincir + rtd, captions kept": 0.6,
    "lincir + rtd without rc": 0.4,
    "lincir + rtd without rb": 0.5,
    "control: no composition": 0.35,
    "control: shuffled conditions": 0.1,
}
WORDINGS = dict.fromkeys(("kind", "wording"), {"colour": {"count": 2, "recall": 0.5}})


def test_gains_are_points_over_all_seeds(tmp_path):
    seconds = dict.fromkeys(("clip", "world", "lincir", "pic2word", "lincir + rtd"), 1)
    rows = [
        {
            "variant": variant,
            "seed": seed,
            "seconds": seconds,
            "final_loss": None,
            "caption_recall@5": 0.75,
            "wordings": WORDINGS,
        }
        | dict.fromkeys(METRICS, recall + 0.1 * seed)
        for seed in range(2)
        for variant, recall in RECALLS.items()
    ]
    facts = {"recipe": RECIPES["toy"], "methods": ("lincir",), "rms": 0.2, "versions": {"torch": "2"}}
    facts |= {"split": "test", "prompt": "$", "threads": 1, "num_queries": 9, "num_gallery": 9}
    facts |= {"backbone": "SigLIP", "clip_steps": 10, "world": WORLD, "preset": WORLD.presets["toy"]}
    write_report(rows, facts, tmp_path / "report.md")
    report = (tmp_path / "report.md").read_text()
    assert "RTD over its projection alone: R@5 +30.0 points (2 of 2 seed(s) above)" in report
    assert "Refined batch sampling (rb), R@5 with over without: +0.0 points (0 of 2 seed(s) above)" in report
    assert "the text tower gains 50 % of the R@5 that RTD gains" in report
    assert "| SigLIP from scratch | 10 steps | 1 |" in report
    assert "R@5 75.0 through the text tower from before" in report
    assert "against RTD as published: R@5 +10.0 points (2 of 2 seed(s) above)" in report
