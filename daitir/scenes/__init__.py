"""The embedded world: small composed scenes whose every fact is known."""
# ruff: noqa: F401, what is imported here is what the package gives

from daitir.scenes import world
from daitir.scenes.dialogues import (
    NUM_QUESTIONS,
    SOURCES,
    Turn,
    answer,
    best_question,
    dialogue,
    merge_facts,
    register_source,
    rewrites,
    talk,
)
from daitir.scenes.language import (
    Question,
    ask,
    describe,
    implied,
    parse,
    phrase,
    reply,
    short_caption,
)
from daitir.scenes.render import render, render_scenes
from daitir.scenes.scene import (
    SCENE_SPLITS,
    Fact,
    Scene,
    SceneObject,
    complete,
    controlled_view,
    counterfactual,
    foreseen,
    holds,
    sample_scene,
    sample_scenes,
    split_of,
)
