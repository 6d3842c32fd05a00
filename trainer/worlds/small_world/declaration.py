"""The small world: what it is made of, and the benchmark that it is."""

from __future__ import annotations

from trainer.worlds.benchmark import declare_benchmark
from trainer.worlds.small_world import grammar, scenes
from trainer.worlds.world import World


__all__ = ["INFO", "WORLD"]

WORLD = World(
    name="small_world",
    title="small world",
    presets=scenes.PRESETS,
    scene=scenes.Scene,
    held_out_by=("shape", "colour", "background"),
    draw_scene=scenes.draw_scene,
    change_scene=scenes.change_scene,
    list_changeable=scenes.list_changeable,
    is_sound=scenes.is_sound,
    render_scene=scenes.render_scene,
    wordings=grammar.WORDINGS,
    tell_kind=grammar.tell_kind,
    say_value=grammar.say_value,
    write_caption=grammar.write_caption,
    list_words=grammar.list_words,
    list_concepts=grammar.list_concepts,
)
INFO = declare_benchmark(WORLD)
