from trainer.demo.card import describe_demo_stages
from trainer.demo.recipes import RECIPES
from trainer.worlds.small_world.declaration import WORLD


def test_the_three_trainings_of_the_first_seed_are_described():
    seconds = {"clip": 7, "lincir": 5, "lincir + rtd": 3}
    rows = [
        {"variant": variant, "seed": seed, "seconds": seconds, "final_loss": seed + loss}
        for seed in (1, 0)
        for variant, loss in (("lincir", 0.25), ("lincir + rtd", 0.5))
    ]
    facts = {"recipe": RECIPES["toy"], "rms": 0.5, "world": WORLD, "preset": WORLD.presets["toy"]}
    facts |= {"hardware": {}, "versions": {}, "backbone": "SigLIP", "clip_steps": 10}
    stages = describe_demo_stages(rows, facts | {"captions": "c" * 64, "triplets": "t" * 64})
    assert [(stage["stage"], stage["seconds"], stage["steps"]) for stage in stages] == [
        ("SigLIP, from scratch", 7, 10),
        ("lincir", 5, 4),
        ("rtd", 3, 4),
    ]
    assert [stage["final_loss"] for stage in stages[1:]] == [0.25, 0.5]
    assert [stage["noise_scale"] for stage in stages[1:]] == [0.5, 0.25]  # 1.0 and 0.5, in units of the rms
