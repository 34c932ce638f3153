"""The embedded world: small composed scenes whose every fact is known."""

from daitir.scenes import world
from daitir.scenes.controlled import ControlledView, controlled_view
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
from daitir.scenes.language import Parsed, describe, implied, parse, short_caption
from daitir.scenes.render import Rendered, render, render_scenes
from daitir.scenes.scene import (
    SCENE_SPLITS,
    Fact,
    Scene,
    SceneObject,
    complete,
    counterfactual,
    holds,
    sample_scene,
    sample_scenes,
    split_of,
)
from daitir.scenes.speech import Question, ask, phrase, reply

__all__ = [
    "NUM_QUESTIONS",
    "SOURCES",
    "SCENE_SPLITS",
    "ControlledView",
    "Fact",
    "Parsed",
    "Question",
    "Rendered",
    "Scene",
    "SceneObject",
    "Turn",
    "answer",
    "ask",
    "best_question",
    "complete",
    "controlled_view",
    "counterfactual",
    "describe",
    "dialogue",
    "holds",
    "implied",
    "merge_facts",
    "parse",
    "phrase",
    "register_source",
    "render",
    "render_scenes",
    "reply",
    "rewrites",
    "sample_scene",
    "sample_scenes",
    "short_caption",
    "split_of",
    "talk",
    "world",
]
