"""Refining dialogues: prompts, useless outputs, other models, real people's words, bad input."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.models import TOKENIZER_FOLDER
from daitir.models.prompts import window
from daitir.models.reformulation import (
    MAX_NEW_TOKENS,
    Reformulator,
    load_reformulator,
    refine_resumably,
)
from daitir.recipes.lm import train_lm
from daitir.recipes.run import Run
from daitir.scenes import (
    SOURCES,
    Fact,
    describe,
    dialogue,
    implied,
    merge_facts,
    parse,
    sample_scene,
    sample_scenes,
)
from daitir.studies.profiles import PROFILES
from daitir.studies.quality import QUALITY_COLUMNS, lm_quality

VISDIAL = Path(__file__).parents[2] / "../shared/data/chatir/VisDial_v1.0_queries_val.json"
TALK = ["a small dog at the beach", "what colour is the car? red", "are there any people? no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of the package's recipe, hardly trained: what it writes is of no use."""
    folder = tmp_path_factory.mktemp("lm")
    tiny = dataclasses.replace(
        PROFILES["classroom"].lm, width=16, layers=1, heads=2, steps=4, answer_steps=1, batch_size=2
    )
    train_lm(tiny, Run(folder, progress=False))
    return folder


@pytest.fixture(scope="module")
def mini(folder):
    return load_reformulator(str(folder))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)


def untrained(tokenizer, *, eos=None, **options):
    """A causal model with random weights that knows nothing of rounds."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, eos_token_id=tokenizer.eos_token_id if eos is None else eos,
            bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id, **options,
        )
    )  # fmt: skip


class Scripted(Reformulator):
    """Writes what it is told to instead of generating; keeps the inputs as words."""

    def __init__(self, tokenizer, outputs, *, refines_round_by_round=True):
        model = untrained(tokenizer, refines_round_by_round=refines_round_by_round)
        model.config.max_position_embeddings = 2048
        super().__init__("scripted", model, tokenizer, origin="scripted")
        self.outputs, self.inputs = iter(outputs), []

    def _generate(self, inputs, **options):
        self.inputs += self.tokenizer.batch_decode(inputs)
        return [next(self.outputs) for _ in inputs]


@given(st.sampled_from(list(SOURCES)), st.integers(0, 10**5), st.integers(0, 10), st.booleans())
@settings(max_examples=200, deadline=None)
def test_parse_is_the_inverse_of_describe(source, index, t, plain):
    scene = sample_scene(0, "train", index)
    for facts in (scene.facts, merge_facts(dialogue(source, scene)[: t + 1])):
        found = parse(describe(facts, None if plain else random.Random(index)))
        assert set(found.facts) == implied(facts) and found.unread == ()


def test_parse_understands_groups_relations_and_negations():
    facts = [
        Fact("animals", "present", True),
        Fact("dog", "left of", "cat"),
        Fact("dog", "in front of", "cat"),
        Fact("dog", "row", "front"),
        Fact("things", "present", False),
        Fact("scene", "count", 1),
    ]
    assert set(parse(describe(facts)).facts) == implied(facts)
    assert len(implied(facts)) == len(facts) + 2


@pytest.mark.parametrize(
    ("caption", "unread"),
    [
        ("", ()),
        ("a dog and a unicorn at night", ("unicorn",)),
        ("red", ("red",)),
        ("on the left, a dog", ("on the left",)),
        ("is there a dog? yes", ("is there", "yes")),
        ("a small at the beach", ("small",)),
        ("ein Hund 🙂", ("ein hund 🙂",)),
    ],
)
def test_parse_returns_what_it_does_not_understand(caption, unread):
    assert parse(caption).unread == unread


def test_the_window_has_roles_for_every_token(tokenizer):
    ids, written = window(tokenizer, "a dog", [("what else? a cat", "a dog and a cat")])
    text = "<start>a dog<end>what else? a cat<start>a dog and a cat<end>"
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([i for i, w in zip(ids, written, strict=True) if w]) == (
        "a dog and a cat<end>"
    )
    spelled, _ = window(tokenizer, "", [("a <end> of <start>", None)])
    assert spelled.count(tokenizer.eos_token_id) == 1
    assert spelled.count(tokenizer.bos_token_id) == 2


def test_what_a_useless_output_lost_is_said_again(tokenizer, caplog):
    outputs = [("a dog", True), ("45.", True), ("a dog at night", False), ("a red dog", True)]
    reformulator = Scripted(tokenizer, outputs)
    talk = ["one dog", "night? yes", "cat? no", "red? yes"]
    found = reformulator.refine([talk])
    assert found.faults == {(0, 1): "fragment", (0, 2): "unfinished"}
    assert found.captions == [
        ["a dog", "one dog, night? yes", "one dog, night? yes, cat? no", "a red dog"]
    ]
    assert reformulator.inputs[-1] == (
        "<start><end>one dog<start>a dog<end>night? yes, cat? no, red? yes<start>"
    )
    assert "2 of 4 outputs were of no use (1 fragment, 1 unfinished)" in caplog.text


def test_what_is_of_no_use_is_asked_for_again(tokenizer):
    outputs = [("45.", True), ("a dog", True), ("no no no", True), ("a dog at night", True)]
    outputs += [("", True), ("a red dog", False)]
    reformulator = Scripted(tokenizer, outputs, refines_round_by_round=False)
    found = reformulator.refine([["one dog", "night? yes", "red? yes"]])
    assert found.captions == [["a dog", "a dog at night", "one dog, night? yes, red? yes"]]
    assert found.faults == {(0, 2): "unfinished"} and found.num_retried == 3
    assert reformulator.inputs[0] == reformulator.inputs[1]


def test_a_killed_run_goes_on_with_the_same_captions(tokenizer, tmp_path):
    talks = [[f"said {i}"] for i in range(5)]
    said = [(f"a caption {i}", True) for i in range(5)]
    whole = Scripted(tokenizer, said).refine(talks)
    partial = tmp_path / "partial"
    with pytest.raises(StopIteration):  # the script ends too early
        refine_resumably(Scripted(tokenizer, said[:3]), talks, partial, batch_size=1)
    rest = Scripted(tokenizer, said[3:])
    assert refine_resumably(rest, talks, partial, batch_size=1) == whole
    assert len(rest.inputs) == 2
    other = Scripted(tokenizer, [("another caption", True)])
    found = refine_resumably(other, [*talks[:4], ["something else"]], partial, batch_size=1)
    assert found.captions == [*whole.captions[:4], ["another caption"]]
    other = Scripted(tokenizer, [("another caption", True)] * 5)
    other.prompt = "another {dialogue}"
    found = refine_resumably(other, talks, partial, batch_size=1)
    assert found.captions == [["another caption"]] * 5


@pytest.mark.slow
def test_faults_and_counts_survive_an_interruption(mini, tmp_path):
    """The hardly trained model writes nothing of use, and cuts what is long."""
    talks = [["a dog", "and then " * 2000], ["a cat"], ["a hen", "what? a hen", "red? no"]]
    whole = mini.refine(talks)
    assert len(whole.faults) > 2 and whole.num_truncated
    with pytest.raises(DataError):
        refine_resumably(mini, [*talks[:2], []], tmp_path / "partial", batch_size=1)
    assert len(list((tmp_path / "partial").iterdir())) == 2
    assert refine_resumably(mini, talks, tmp_path / "partial", batch_size=1) == whole
    for path in (tmp_path / "partial").iterdir():
        path.write_text("[]")
    with pytest.raises(DataError, match="no captions of a run that was interrupted; remove it"):
        refine_resumably(mini, talks, tmp_path / "partial", batch_size=1)


@pytest.mark.parametrize(
    ("rounds", "prompt", "message"),
    [
        (False, "no place for it", "must hold {dialogue} once"),
        (False, "{dialogue} {dialogue}", "must hold {dialogue} once"),
        (True, "{dialogue}", "leave the prompt out"),
    ],
)
def test_prompts_of_no_use_are_refused(tokenizer, rounds, prompt, message):
    model = untrained(tokenizer, refines_round_by_round=rounds)
    with pytest.raises(DataError, match=message):
        Reformulator("x", model, tokenizer, origin="x", prompt=prompt)


def test_the_window_slides(tokenizer):
    reformulator = Scripted(tokenizer, [(f"a caption {t}", True) for t in range(5)])
    reformulator.refine([[f"said {t}" for t in range(5)]])
    assert reformulator.inputs[4] == (
        "<start>a caption 1<end>said 2<start>a caption 2<end>said 3<start>a caption 3<end>"
        "said 4<start>"
    )


@pytest.mark.slow
def test_captions_depend_neither_on_the_batch_nor_on_the_neighbours(mini):
    talks = [
        [turn.text for turn in dialogue(list(SOURCES)[i % 5], scene)][: i + 1]
        for i, scene in enumerate(sample_scenes(0, "val", 6))
    ]
    together = mini.refine(talks)
    assert [len(captions) for captions in together.captions] == [1, 2, 3, 4, 5, 6]
    assert together == mini.refine(talks, batch_size=2)
    assert together.captions[3:4] == mini.refine(talks[3:4]).captions


def test_over_long_and_foreign_words_pass_and_are_counted(mini):
    long = "and then " * 2000
    found = mini.refine([["a dog", long], ["没有人 🙂", "?"], ["  ", "\n"]])
    assert found.num_truncated >= 1
    for (index, t), kind in found.faults.items():
        assert kind in ("empty", "fragment", "loop", "unfinished", "question")
        assert found.captions[index][t].startswith(["a dog", "没有人 🙂", "  "][index])


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_an_instruction_model_sees_the_whole_dialogue(tmp_path, tokenizer, chat, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    if chat:
        tokenizer.chat_template = "{% for m in messages %}USER {{ m.content }} REPLY{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    untrained(tokenizer, max_position_embeddings=2048).save_pretrained(tmp_path)
    reformulator = load_reformulator(str(tmp_path))
    assert not reformulator.round_by_round
    seen = []

    def spy(inputs, **options):
        if not options:  # else it is asked again
            seen.extend(reformulator.tokenizer.batch_decode(inputs))
        return Reformulator._generate(reformulator, inputs, **options)

    monkeypatch.setattr(reformulator, "_generate", spy)
    found = reformulator.refine([TALK])
    assert [len(captions) for captions in found.captions] == [3]
    assert "\n".join(TALK) in seen[2] and TALK[2] not in seen[1]
    assert seen[0].startswith("user" if chat else "<start>below")
    assert found == reformulator.refine([TALK])


def test_a_model_that_may_reason_is_asked_not_to():
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    tokenizer.chat_template = (
        "{{ messages[0].content }}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    reformulator = Scripted(tokenizer, [("a red dog", True)], refines_round_by_round=False)
    reformulator.refine([["a dog"]])
    assert reformulator.inputs[0].endswith("caption:<think></think>")


@pytest.mark.parametrize(
    ("output", "caption", "faults"),
    [
        ("here is a caption:\n\na red dog", "a red dog", {}),
        ("i'm sorry, i cannot see it", "a dog", {(0, 0): "refusal"}),
        ("<think>the dog is", "a dog", {(0, 0): "reasoning"}),
    ],
)
def test_what_stands_around_a_caption_is_left_out_or_counted(tokenizer, output, caption, faults):
    said = [(output, True)] * 2
    found = Scripted(tokenizer, said, refines_round_by_round=False).refine([["a dog"]])
    assert found.captions == [[caption]] and found.faults == faults
    assert found.fault_kinds == ", ".join(f"1 {kind}" for kind in faults.values())


def test_the_caption_of_an_output_ends_with_its_line(tokenizer, monkeypatch):
    reformulator = Reformulator("x", untrained(tokenizer), tokenizer, origin="x")
    ids = tokenizer.encode(' "a dog at night"\nit is late', add_special_tokens=False)

    def generate(tokens, **options):
        assert options["max_new_tokens"] == MAX_NEW_TOKENS and not options["do_sample"]
        return torch.cat([tokens, torch.tensor([ids] * len(tokens))], dim=1)

    monkeypatch.setattr(reformulator.model, "generate", generate)
    found = reformulator.refine([["a dog"]])
    assert found.captions == [["a dog at night"]] and not found.faults


@pytest.mark.parametrize(
    ("dialogues", "message"),
    [
        ([], "no dialogues to refine"),
        ([["a dog"], []], "dialogue 1: must be one or more strings"),
        (["a dog"], "dialogue 0: must be one or more strings"),
        ([["a dog", None]], "dialogue 0: must be one or more strings"),
    ],
)
def test_dialogues_that_are_none_are_refused(mini, dialogues, message):
    with pytest.raises(DataError, match=message):
        mini.refine(dialogues)


def test_folders_with_a_missing_part_are_refused(folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        broken = shutil.copytree(folder, tmp_path / name.split(".")[0])
        (broken / name).unlink()
        with pytest.raises(DataError, match=broken.name):
            load_reformulator(str(broken))
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(DataError, match="damaged"):
        load_reformulator(str(damaged))
    shutil.copy(folder / "model.safetensors", damaged)
    settings = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 9}))
    with pytest.raises(DataError, match="weights are missing"):
        load_reformulator(str(damaged))
    (damaged / "config.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        load_reformulator(str(damaged))


@pytest.mark.slow
@pytest.mark.skipif(not VISDIAL.is_file(), reason="the VisDial dialogue file is not at hand")
def test_real_peoples_dialogues_pass(mini):
    talks = [list(dialogue.rounds) for dialogue in read_dialogues(VISDIAL)[:20]]
    found = mini.refine(talks)
    for index, (said, captions) in enumerate(zip(talks, found.captions, strict=True)):
        assert len(captions) == len(said)
        for t, caption in enumerate(captions):
            assert ((index, t) in found.faults) == (caption == ", ".join(said[: t + 1]))


def test_quality_of_a_perfect_and_of_a_useless_model(tokenizer):
    truth = {
        tuple(turn.text for turn in turns[: t + 1]): describe(merge_facts(turns[: t + 1]))
        for source in SOURCES
        for scene in sample_scenes(0, "val", 5)
        for turns in [dialogue(source, scene)]
        for t in range(len(turns))
    }

    class Known(Scripted):
        def _input(self, said, before):
            return [*said]

        def _generate(self, inputs):
            return [(truth[tuple(said)] if self.knows else "45.", True) for said in inputs]

    reformulator = Known(tokenizer, [])
    for knows, kept, useless in ((True, 1, 0), (False, 0, 1)):
        reformulator.knows = knows
        table = lm_quality(reformulator, num_dialogues=5, rounds=(0, 10))
        assert list(table.columns) == QUALITY_COLUMNS
        value = table.set_index("measure")["value"]
        for source in SOURCES:
            assert value[f"kept, {source}, round 10"] == kept
            assert value[f"outputs of no use, {source}"] == useless
            if knows:
                assert value[f"invented, {source}, round 10"] == 0
    assert 0.6 < value["stated facts that are true, unreliable, round 10"] < 1


def test_the_command_writes_a_chatir_file(folder, tmp_path, capsys):
    write_dialogues(tmp_path / "talks.json", [Dialogue("a.png", tuple(TALK))] * 2)
    command = ["refine", "--dialogues", str(tmp_path / "talks.json"), "--num-dialogues", "1"]
    command += ["--model", str(folder)]
    assert main([*command, "--out", str(tmp_path / "rewrites.json")]) == 0
    told = capsys.readouterr().out
    assert "3 captions of 1 dialogues" in told and "3 were of no use (" in told
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "rewrites.json", "rewrites.manifest.json", "talks.json",
    ]  # fmt: skip
    (refined,) = read_dialogues(tmp_path / "rewrites.json")
    assert refined.image == "a.png" and len(refined.rounds) == len(TALK)
