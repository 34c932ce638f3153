"""The embedded world: small composed scenes whose every fact is known."""

from daitir.scenes import world
from daitir.scenes.controlled import ControlledView, controlled_view
from daitir.scenes.datasets import render_scenes, sample_scenes
from daitir.scenes.dialogues import (
    NUM_QUESTIONS,
    SOURCES,
    Question,
    Turn,
    answer,
    ask,
    best_question,
    dialogue,
    merge_facts,
    reply,
    rewrites,
)
from daitir.scenes.language import Parsed, describe, implied, parse, short_caption
from daitir.scenes.render import Rendered, render
from daitir.scenes.scene import (
    SPLITS,
    Fact,
    Scene,
    SceneObject,
    complete,
    counterfactual,
    holds,
    sample_scene,
    split_of,
)

__all__ = [
    "NUM_QUESTIONS",
    "SOURCES",
    "SPLITS",
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
    "render",
    "render_scenes",
    "reply",
    "rewrites",
    "sample_scene",
    "sample_scenes",
    "short_caption",
    "split_of",
    "world",
]
