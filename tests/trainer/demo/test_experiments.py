import json

import pytest

from trainer.cli.main import main
from trainer.demo.experiments import run_experiments


@pytest.mark.slow
def test_experiments_sweep_noise_and_compare_sources_of_triplets(tmp_path):
    folder = tmp_path / "runs"
    assert main(["demo", "--world", "shapes", "--preset", "toy", "--experiments", "--output-dir", str(folder)]) == 0
    rows = json.loads((folder / "experiments.json").read_text())
    assert [row["variant"] for row in rows if row["experiment"] == "noise"] == [
        "noise 0",
        "noise 0.25",
        "noise 0.5",
        "noise 1",
        "noise 2",
    ]
    assert [row["variant"] for row in rows if row["experiment"] == "triplets"] == [
        "the world's own",
        "rules",
        "rules, within a band of similarity",
    ]
    assert "## Experiments" in (folder / "report.md").read_text()


def test_noise_is_in_units_of_the_rms(tmp_path):
    rows = run_experiments(lambda name, rows, **options: {"variant": name, **options}, [1, 2], [], tmp_path, rms=0.5)
    assert [next(rows) for _ in range(5)] == [
        {"variant": f"noise {scale:g}", "noise_scale": 0.5 * scale, "experiment": "noise", "num_triplets": 2}
        for scale in (0, 0.25, 0.5, 1, 2)
    ]
