"""What language models write around a caption, and texts that are none, by tables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir.data.captions import fault_of, read_caption

THOUGHT = "Okay, so I need to write a caption. The dog is red.\nIt is at a beach."
JOINED = "a red dog, a ball and a car"


@pytest.mark.parametrize(
    "output",
    [
        # Preambles
        "Here is a caption of the picture:\n\na red dog",
        "here's one caption that states everything:\n\"a red dog\"",
        "Sure! Here is the refined caption: a red dog", "Certainly!\n\na red dog",
        "Of course. Here's my attempt.\na red dog", "Here is the caption. a red dog",
        "Based on the dialogue, a caption of the picture would be: a red dog",
        "Based on the dialogue:\na red dog", "I'd be happy to help! Here you go:\n\na red dog",
        "Hi there! Here is the answer you asked for: a red dog", "okay\na red dog",
        "I would describe the picture as: a red dog", "Sure — a red dog",
        "I'm sorry for the confusion. Here is the caption: a red dog",
        "Voici une légende de l'image :\na red dog", "Hier ist eine Beschreibung: a red dog",
        "好的，这是图片的描述。\n\na red dog", "以下は画像の説明です：\na red dog",
        # Labels
        "Caption: a red dog", "CAPTION:\na red dog", "**Caption:** a red dog",
        "**Caption**: a red dog", "***Caption:***\n\na red dog", "## Caption\n\na red dog",
        "Refined caption: a red dog", "Caption (refined): a red dog", "[Caption] a red dog",
        "Final answer: a red dog", "**Final Answer**\n\n\\boxed{\\text{a red dog}}",
        "A: a red dog", "Image caption - a red dog", "The caption is \"a red dog\"",
        "The final caption would be: 'a red dog'", "assistant\n\na red dog",
        "Assistant: Sure! Here is a caption:\n\n> a red dog", "Answer: \"Caption: a red dog\"",
        "Draft caption: a dog\nFinal caption: a red dog", "标题：a red dog",
        # Reasoning
        f"<think>\n{THOUGHT}\n</think>\n\na red dog", f"{THOUGHT}\n</think>\n\na red dog",
        "<think>\n\n</think>\n\nCaption: a red dog", f"[THINK]{THOUGHT}[/THINK]a red dog",
        f"<reasoning>{THOUGHT}</reasoning>\n<answer>a red dog</answer>",
        "analysisWe need a caption.assistantfinala red dog", f"{THOUGHT}\n\nCaption: a red dog",
        "Let me think. The dog is red.\n\na red dog",
        "The dog is red. So the caption is: a red dog",
        # Markdown, quotes, fences, other wrapping
        "```\na red dog\n```", "```text\na red dog\n```\nNote: x", "```a red dog```", "`a red dog`",
        "~~~\na red dog", '```json\n{"caption": "a red dog"}\n```', '["a red dog"]',
        '{"reasoning": "It is red.", "caption": "a red dog"}', "<caption>a red dog",
        '"a red dog"', "'a red dog'", "“a red dog”", "‘a red dog’", "«a red dog»", "„a red dog“",
        "「a red dog」", '"a red dog', 'a red dog"', "**a red dog**", "_a red dog_", "*a red dog*",
        "- a red dog", "1. a red dog", "• a red dog", "> a red dog", "# a red dog",
        "a red dog</s>",
        # What comes afterwards
        "a red dog\n\nNote: the last answer counts.", "a red dog (Note: the last answer counts.)",
        "a red dog\n(This caption states everything.)", "a red dog\n\nLet me know if it helps!",
        '"a red dog" - this caption states everything', "a red dog\nI hope this helps.",
        '"a red dog" (it is red)',
        "a red dog\n\nDialogue:\na blue cat\n\nCaption: a blue cat", "a red dog\na blue dog",
    ],
)  # fmt: skip
def test_a_caption_is_taken_out_of_what_stands_around_it(output):
    assert read_caption(output) == ("a red dog", None)
    assert read_caption(f"\n  {output}\n\n") == ("a red dog", None)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("", "empty"), ("\n", "empty"), ("...", "empty"), ("Caption: 45.", "fragment"),
        ("Here is a caption of the picture:", "preamble"), ("Sure!", "preamble"),
        ("Here is the caption", "preamble"), ("**Caption:**", "preamble"),
        ("Caption:\nNote: it is red", "preamble"),
        ("<think>The dog is red", "reasoning"), ("The dog is red.\n</think>\n", "reasoning"),
        (THOUGHT, "reasoning"), (f"{THOUGHT}\n\nThe end.", "reasoning"),
        ("Let me think.", "reasoning"),
        ("I'm sorry, but I can't see the picture.", "refusal"), ("Answer: I cannot.", "refusal"),
        ("I am unable to help.\nThe dialogue is empty.\nIt says nothing.", "refusal"),
        ("As an AI language model, I see no pictures.\n\nAsk me more.", "refusal"),
        ("Please provide the dialogue.", "refusal"), ("抱歉，我无法看到图片。", "refusal"),
        ("N/A", "refusal"), ("No caption can be written.", "refusal"),
        ("What colour is the dog?", "question"), ("is it red? yes", "question"),
        ("a red dog?", "question"), ("这只狗是什么颜色的？", "question"),
        ("1. a red dog\n2. a dog in red", "list"), ("- a dog\n- a beach", "list"),
        ('["a dog", "a beach"]', "list"), ("{}", "list"),
        ("Here are two captions:\n\n* a red dog\n* a dog in red", "list"),
        ("a dog a dog a dog a dog", "loop"),
    ],
)  # fmt: skip
def test_an_output_without_one_clear_caption_is_a_fault(output, fault):
    assert read_caption(output)[1] == fault


@pytest.mark.parametrize(
    "caption",
    [
        "Here is a dog on a beach", "This is a red dog.", "a dog: a portrait", "I see a red dog",
        "a sign that says: stop", 'a sign that says "stop"', "'Stop' and 'Go' signs",
        '"Stop" and "Go"', "a dog's owner's hat", "the dogs' bowls", '"Stop" sign by a road',
        "Here is a poster with the title: Jaws", "a book with the caption: hello there",
        "two men: one in red, one in blue", "a dog (brown) on a beach", 'a 42" tv on a wall',
        "a dog - a good one", "the answer on a chalkboard: 42", "10:30 on a clock in a station",
        "the title of the book is Jaws", "The caption of a comic is funny",
        "OK sign made by a hand",
        "looking at the camera, a dog sits", "the user of a computer sits at a desk",
        "first place winner on a podium", "sure footed goat on a rock", "3 dogs on a beach",
        "a shirt that says what's up?", "a well lit room", "a note: no parking here",
        "so many dogs on a beach", "great white shark in the sea", "thank you card on a table",
        "a no parking sign next to a red car", "a dog,a cat;  a car", "a dog reading a note",
        "一只红色的狗在海滩上奔跑", "浜辺を走る赤い犬", "สุนัขสีแดงวิ่งบนชายหาด",
        "빨간 개가 해변을 달린다", "लाल कुत्ता समुद्र तट पर", "كلب أحمر على الشاطئ",
        "a caption 1", "ein Hund am Strand", "一张照片：一只狗",
    ],
)  # fmt: skip
def test_an_ordinary_caption_comes_through_letter_for_letter(caption):
    assert read_caption(caption) == (caption, None)


@pytest.mark.parametrize(
    ("output", "caption"),
    [
        ("a red dog, a ball\nand a car", "a red dog, a ball"),
        ("a red dog,\na ball and\na car", JOINED),
        ("a red dog,\n\na ball and a car\nx y", JOINED),
        ("Caption: a red dog, a ball and\na car\n\nNote: x", JOINED),
    ],
)
def test_a_line_that_stays_open_goes_on_in_the_next(output, caption):
    assert read_caption(output) == (caption, None)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("a red dog on", "unfinished"), ("Caption: a red dog on", "unfinished"),
        ("```\na red dog on", "unfinished"), ("a red dog,\nand a", "unfinished"),
        ("a red dog\nand", None), ("a red dog. Note: th", None), ("a red dog\nNote: th", None),
        ("```\na red dog\n```", None), ("a red dog\n<think>th", None), ("", "unfinished"),
        ('{"caption": "a red dog"}', None), ("Let me think.\n\nThe dog", "unfinished"),
    ],
)  # fmt: skip
def test_what_was_cut_short_is_whole_only_if_something_follows(output, fault):
    assert read_caption(output, ended=False)[1] == fault


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_and_what_was_read_stays(text):
    caption, fault = read_caption(text)
    if fault is None:
        assert fault_of(caption) is None and read_caption(caption)[1] is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"), ("...", "empty"), ("🙂", "empty"), ("45.", "fragment"), ("dog", "fragment"),
        ("a 45", "fragment"), ("a dog", None), ("ein hund", None), ("a dog, a cat, a dog", None),
        ("a red dog and a red cat", None),
        # Scripts without spaces
        ("狗", "fragment"), ("４５。", "fragment"), ("红狗", None), ("赤い犬", None), ("สุนัข", None),
        ("ໝາແດງ", None), ("ឆ្កែ", None), ("ခွေးနီ", None), ("강아지", "fragment"), ("빨간 개", None),
        ("犬2", "fragment"), ("T恤", None), ("कुत्ता लाल", None),
        # Words that are said again to stress them
        ("a very, very, very tall tower by a river", None), ("a shirt that says ha ha ha", None),
        ("big big big dog", None), ("写着哈哈哈的T恤", None),
        ("a long long long long long road", None),
        ("きらきらきら光る星", None), ("a bell goes ding ding ding ding ding ding ding", None),
        # Loops
        ("no no no", "loop"), ("a dog and a dog and a dog and", "loop"),
        ("a farmer in the mountains, no people, no people, no people", "loop"),
        ("the a dog a dog a dog", "loop"), ("a dog a dog a dog", "loop"),
        ("a dog on a dog dog dog dog dog dog dog dog and a cat and a car and a red ball", "loop"),
        ("a red ball by a tree and a cat by a tree and a cat by a tree and a cat", "loop"),
        ("一只狗一只狗一只狗一只狗", "loop"), ("犬、犬、犬、犬", "loop"), ("สุนัขสุนัขสุนัข", "loop"),
        ("海滩上有一只狗和一棵树和一棵树和一棵树", "loop"),
        (" ".join(["one two three four five six seven eight nine ten eleven"] * 3), "loop"),
    ],
)  # fmt: skip
def test_texts_that_are_no_captions_are_told_from_those_that_are(text, fault):
    assert fault_of(text) == fault
