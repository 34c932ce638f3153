"""The recipe of the mini language model: dialogues of training scenes, refined round by round."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from daitir import scenes
from daitir.models import TOKENIZER_FOLDER
from daitir.models.hub import NO_CODE
from daitir.models.prompts import WINDOW_ROUNDS, window
from daitir.recipes.recogniser import any_object, any_scene
from daitir.recipes.run import Run, count_parameters
from daitir.recipes.settings import TRAINING_SOURCES, LmRecipe
from daitir.scenes import Scene, SceneObject, describe, merge_facts, world
from daitir.scenes.language import mention

CONTEXT_LENGTH = 512
IGNORED = -100
NUM_CHUNKS = 4

Window = tuple[list[int], list[bool]]
"""Tokens, and which of them the model has to write."""


def build_lm(recipe: LmRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained causal language model of the recipe's size."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 8 // 3 // 16 * 16,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        refines_round_by_round=True,
    )
    return LlamaForCausalLM(config)


def train_lm(recipe: LmRecipe, run: Run) -> None:
    """Train a language model from scratch; `load_reformulator` reads its folder."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER, **NO_CODE)
    torch.manual_seed(run.seed)
    model = build_lm(recipe, tokenizer).to(run.device)

    def loss_of(step: int, single: Callable, number: int) -> dict[str, Tensor]:
        windows = []
        for index in range(step * recipe.batch_size, (step + 1) * recipe.batch_size):
            windows += training_windows(tokenizer, run.seed, index)
        for index in range(step * number, (step + 1) * number):
            windows.append(single(tokenizer, run.seed, index))
        # Windows of like length go together, so that little is computed on padding.
        windows.sort(key=lambda pair: len(pair[0]))
        size = -(-len(windows) // NUM_CHUNKS)
        parts = [windows[begin : begin + size] for begin in range(0, len(windows), size)]
        chunks = [_pad(part, tokenizer.pad_token_id) for part in parts]
        return losses_of(model, [[tensor.to(run.device) for tensor in chunk] for chunk in chunks])

    def captions(step: int) -> dict[str, Tensor]:
        return loss_of(step, caption_window, recipe.num_captions)

    def answers(step: int) -> dict[str, Tensor]:
        return loss_of(recipe.steps + step, answer_window, recipe.num_answers)

    # The head is the embedding's matrix once more: a checkpoint holds it once.
    seconds = run.train(model.model, captions, recipe, stage="work/captions")
    steps = recipe.answer_steps
    seconds += run.train(model.model, answers, recipe, stage="work/answers", steps=steps)
    parameters = count_parameters(model)
    model.half().save_pretrained(run.folder)
    tokenizer.save_pretrained(run.folder)
    number = (recipe.steps + recipe.answer_steps) * recipe.batch_size
    facts = {"model": "daitir-lm", "parameters": parameters, "training_dialogues": number}
    facts |= {"transformers": transformers.__version__}
    run.write_card(seconds, recipe, stage="work/answers", **facts)


def losses_of(model: LlamaForCausalLM, chunks: Iterable[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Mean cross-entropy of the tokens that the model has to write, and the share guessed right.

    `chunks` are pairs of tokens and labels, as `_pad` gives them. Padding stands behind the words,
    where no word looks, so that no mask is needed.
    """
    loss, right, number = 0.0, 0, 0
    for tokens, labels in chunks:
        asked = labels[:, 1:] != IGNORED
        truth = labels[:, 1:][asked]
        logits = model.lm_head(model.model(tokens).last_hidden_state[:, :-1][asked])
        loss = loss + F.cross_entropy(logits, truth, reduction="sum")
        right = right + (logits.argmax(dim=-1) == truth).sum()
        number += len(truth)
    return {"loss": loss / number, "accuracy": right / number}


def training_windows(tokenizer: PreTrainedTokenizerFast, seed: int, index: int) -> list[Window]:
    """Dialogue number `index` of a training run with the plainest true refinement, in windows.

    The sources take turns. Every second scene is an unlikely one. The first window is of one to
    `WINDOW_ROUNDS` rounds, so that later ones begin at any round.
    """
    scene = unlikely_scene(seed, index) if index % 2 else scenes.sample_scene(seed, "train", index)
    turns = scenes.dialogue(TRAINING_SOURCES[index % len(TRAINING_SOURCES)], scene, seed=seed)
    captions = [describe(merge_facts(turns[: t + 1])) for t in range(len(turns))]
    rounds = [(turn.text, caption) for turn, caption in zip(turns, captions, strict=True)]
    first = random.Random(f"windows/{seed}/{index}").randint(1, WINDOW_ROUNDS)
    begins = [0, *range(first, len(rounds), WINDOW_ROUNDS)]
    return [
        window(tokenizer, captions[begin - 1] if begin else "", rounds[begin:end])
        for begin, end in zip(begins, [*begins[1:], len(rounds)], strict=True)
    ]


def caption_window(tokenizer: PreTrainedTokenizerFast, seed: int, index: int) -> Window:
    """A caption of an unlikely scene and its plainest wording: many nouns in few tokens."""
    rng, scene = random.Random(f"caption/{seed}/{index}"), unlikely_scene(seed, index)
    shares = {"attribute": 0.5, "place": 0.5, "time": 0.3, "weather": 0.3, "relation": 0.3}
    facts = mention(scene, rng, num_objects=(1, 2, 3, 4), **shares)
    return window(tokenizer, "", [(describe(facts, rng), describe(facts))])


def answer_window(tokenizer: PreTrainedTokenizerFast, seed: int, index: int) -> Window:
    """A caption of several objects, and answers about what one of them is like.

    The model must compare names to find whose colour it is. Few rounds of dialogues ask for that,
    and a model learns long before to copy the caption and to give the colour to anything.
    """
    rng, scene = random.Random(f"answer/{seed}/{index}"), unlikely_scene(seed, index)
    shares = {"attribute": 0.5, "place": 0.6, "time": 0.4, "weather": 0.4, "relation": 0.2}
    facts = mention(scene, rng, num_objects=(1, 2, 4, 8), **shares)
    style = rng.choice(("human", "human", "terse", "verbose"))
    turns, rounds = [scenes.Turn("", tuple(facts))], []
    present = [fact.subject for fact in facts if fact.attribute == "present"]
    for _ in range(WINDOW_ROUNDS):
        name = rng.choice(present)
        # The place of an object is the hardest to learn, so it is asked for more often.
        asked = ["position", "position", "size"] + ["colour"] * world.CATEGORIES[name].has_colour
        question = scenes.Question(name, rng.choice(asked))
        told = scenes.answer(question, scene, merge_facts(turns))
        turns.append(scenes.Turn(scenes.phrase(question, told, style, rng), told))
        rounds.append((turns[-1].text, describe(merge_facts(turns))))
    return window(tokenizer, describe(facts), rounds)


def unlikely_scene(seed: int, index: int) -> Scene:
    """A training scene in which any object is as likely as any other, in any place.

    Where places tell what to expect, a model learns to guess long before it learns to copy words.
    """
    rng = random.Random(f"unlikely/{seed}/{index}")

    def objects() -> list[SceneObject]:
        number = rng.randint(1, world.MAX_OBJECTS)
        categories = rng.sample(list(world.CATEGORIES), number)
        cells = rng.sample(world.CELLS, number)
        return [any_object(rng, c, *cell) for c, cell in zip(categories, cells, strict=True)]

    return any_scene(rng, objects)


def _pad(windows: list[Window], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels (num_windows, longest); `IGNORED` where the model writes nothing."""
    ids, flags = ([torch.tensor(row) for row in rows] for rows in zip(*windows, strict=True))
    tokens = pad_sequence(ids, batch_first=True, padding_value=pad)
    return tokens, tokens.where(pad_sequence(flags, batch_first=True), IGNORED)
