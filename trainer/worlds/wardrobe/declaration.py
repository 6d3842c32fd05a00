"""The wardrobe: what it is made of, and the benchmark that it is."""

from __future__ import annotations

from trainer.worlds.benchmark import declare_benchmark
from trainer.worlds.wardrobe import drawing, grammar, scenes
from trainer.worlds.world import World


__all__ = ["INFO", "WORLD"]

WORLD = World(
    name="wardrobe",
    title="wardrobe",
    presets=scenes.PRESETS,
    scene=scenes.Scene,
    held_out_by=("garment", "colour", "backdrop"),
    draw_scene=scenes.draw_scene,
    change_scene=scenes.change_scene,
    list_changeable=scenes.list_changeable,
    is_sound=scenes.is_sound,
    render_scene=drawing.render_scene,
    wordings=grammar.WORDINGS,
    tell_kind=grammar.tell_kind,
    say_value=grammar.say_value,
    write_caption=grammar.write_caption,
    list_words=grammar.list_words,
    list_concepts=grammar.list_concepts,
    redraws=True,
    hard_batches={"backdrop": 1, "colour": 2},  # or outlines would not be learnt: colours tell most batches apart
)
INFO = declare_benchmark(WORLD)
