"""Prompts without negation: what is not there moves into a negative prompt.

Text-to-image models tend to draw what a prompt names, also behind a "no". Two thirds of DAR's
released prompts of the last round hold a negation (measured on the released file). A "no" that is
part of a sign, a name or a number ("a no parking sign", "No Man's Land", "No. 5") negates nothing.
"""

import re
from typing import NamedTuple

_CLAUSE = re.compile(r"(?<=[.,;!])\s+|\n+|\s+(?=but\b)", re.I)
_NO = (  # not "no-name", nor "yes/no"
    r"(?<![\w/-])(?:no[ -]one|no|not|without|never|nobody|nothing|none|neither|nor|cannot|"
    r"\w+n['’]t)\b(?![/-]\w)"
)
_NEGATION = re.compile(_NO, re.I)
# Where what a negation is about ends: "no people and a dog".
_NEXT = re.compile(
    r"\s+and\s+(?=(?:an?|the|there|it|its|his|her|their|with|in|on|at|no|one|two|three|\d+)\b)",
    re.I,
)
_BEFORE = re.compile(  # what leads to a negation, and says nothing without it
    r"(?:^|\s+)(?:there|it|they|he|she|i|we|you|is|are|was|were|has|have|had|having|do|does|did|"
    r"can|could|would|with|and|or|but|also|so|just|seems?)$", re.I
)  # fmt: skip
_QUESTION = re.compile(  # and what leads to the thing that is asked for
    r"^(?:is|are|was|were|do|does|did|can|could|has|have)\s+"
    r"(?:(?:there|it|this|that|they|he|she|you|the (?:photo|picture|image))\b\s*)?", re.I
)  # fmt: skip
_KNOWN = re.compile(r"(?:the|this|these|those|that|his|her|its|their|your)\s", re.I)
_ANSWER = re.compile(r"\s+(?:it|its|he|she|they|there|just|only)\b", re.I)
_LEADING = re.compile(
    r"^(?:see|have|has|show|be|look|any|an?|the|some|much|many|really|quite|so)\s+", re.I
)
_TRAILING = re.compile(
    r"\s+(?:is|are|was|were|there|anywhere|around|visible|in sight|at all|either|"
    r"(?:in|on) (?:it|the (?:photo|picture|image|background|scene)))$", re.I
)  # fmt: skip
_UNSURE = re.compile(r"^(?:tell|know|see|say|sure|idea|clue|clear|certain|think|believe)\b", re.I)
_NO_THING = re.compile(
    r"^(?:really|that|them|at all|it|like it|any|visible|there|appear to be|seem to be|\d+)\b", re.I
)
# "No other people" says that there are some: a negative prompt would drive them out too.
_OTHERS = re.compile(r"\b(?:others?|else|another|more|besides|than)\b", re.I)


# Where a "no" is part of a sign, a name or a number and negates nothing. First what is quoted ...
_QUOTED = re.compile(
    r"(?<!\w)\"(?=\S)[^\"\n]+\"|“[^”\n]+”|«[^»\n]+»|‹[^›\n]+›|„[^“”\n]+[“”]|「[^」\n]+」|『[^』\n]+』|"
    r"(?<!\w)['‘](?=\S)(?:[^'’\n]|(?<=\w)['’](?=\w))+['’](?!\w)"
)
# ... and what is said, or is a name, up to where the caption goes on.
_DO_NOT = r"(?:do not|do ?n['’]?t|never)"
_PHRASE = (
    rf"(?:(?!\s(?:and(?! {_DO_NOT})|but|while|with|on|in|next|beside|by|near|hanging|above|under|"
    r"is|are|as|who)\b)[^,.;:!?\n])+"
)
_BEARER = r"(?:signs?|banners?|posters?|boards?|shirts?|hats?|caps?|labels?|stickers?|texts?)"
_SAID = re.compile(
    r"\b(?:(?:says|saying|spells|spelling|(?:that|which|signs|letters|shirts|they) say)\s"
    r"(?!(?:nothing|none)\s*(?:$|[,.;!?]|(?:at|on|else|i|is)\b))|"
    r"(?:called|named|(?:en)?titled|label+ed|marked)\s|"
    r"the (?:words?|text|name|slogan|phrase|message|title)\s|"
    rf"{_BEARER} (?:that )?(?:reads?|reading)\s|read(?:s|ing)?\s(?={_NO})|"
    rf"(?:{_BEARER}|words?|written|painted|printed)\b[^,.;:!?\n]*:\s){_PHRASE}",
    re.I,
)
_SIGN = (
    r"(?:signs?|signage|signals?|symbols?|stickers?|placards?|notices?|labels?|posters?|banners?|"
    r"zones?|areas?|lanes?|boards?|markings?|tags?|logos?|warnings?|lines?)"
)
_FORBIDDEN = (
    r"(?:(?:parking|smoking|stopping|standing|swimming|diving|fishing|hunting|camping|running|"
    r"walking|trespassing|loitering|littering|dumping|soliciting|passing|overtaking|crossing|turning|"
    r"entering|skating|skateboarding|cycling|biking|idling|entry|entrance|admittance|access|exit|"
    r"outlet|vacancy|fly|wake|u[ -]?turns?|(?:left |right )?turns?(?: on red)?|"
    r"(?:thru|through) traffic)(?: any ?time)?)"
)
_MEANT = (  # "do not see any" is an answer
    r"(?:see|know|think|believe|have|look|appear|seem|notice|tell|care|remember|recall|understand|"
    r"want|get|say|really|even|actually|any|much|need|like|recogni[sz]e|mind|seen|been|be)\b"
)
_ANSWERED = r"(?<!\? )"
_IS_ABSENT = (
    r"(?<!\bthere is )(?<!\bthere are )(?<!\bthere['’]s )(?<!\bhas )(?<!\bhave )(?<!\bsee )"
)
_NAMED = [  # each with the negation as its group
    re.compile(pattern, re.I)
    for pattern in (
        # Signs: "no parking sign", "no dogs sign", "no parking", "no dogs allowed", "do not enter"
        rf"{_ANSWERED}{_IS_ABSENT}({_NO})\s(?:{_FORBIDDEN}(?:\s\w+)?|\w*[a-rt-z]s)\s{_SIGN}\b",
        rf"{_ANSWERED}{_IS_ABSENT}(?<!\bwith )({_NO})\s{_FORBIDDEN}"
        r"(?=\s*(?:$|[,.;!)/]|(?:painted|written|printed|posted)\b))",
        rf"\b{_SIGN}\s(?:with|for)\s(no)\s{_FORBIDDEN}",
        rf"({_NO})(?:\s\w+){{1,3}}\s(?:allowed|permitted|beyond this point)\b",
        r"(?:(?:^|[,;:.!\n/(–—-])\s*|\b(?:to|by|near|under|beside|behind|at|on|of|above|below|"
        r"with|for|about)\s)"
        rf"({_DO_NOT})\s(?!{_MEANT})\w",
        rf"\b({_DO_NOT})\s(?!{_MEANT})\w+(?:\s(?!an?\b|the\b|at\b|in\b|on\b|any\b)\w+){{0,2}}"
        rf"\s{_SIGN}\b",
        # "what does the sign say? no fear"
        r"\b(?:what|which)\b[^?.]*\b(?:says?|reads?|written|called|named?|words?|writing|title|"
        rf"slogan)\b[^?]*\?\s*(no|{_DO_NOT})\s(?!{_MEANT}|(?:idea|clue|way|text|words?|writing|"
        r"letters?|names?|titles?|signs?|i|it|he|she|they|there|you|one|not|visible|can)\b)\w",
        # A negation after an article is part of what the article belongs to.
        r"\bof\s(no)\b",
        rf"\b(?:an?|the|another|every|each|my|our|his)\s({_NO})",
        r"\b(?:this|these|those|her|its|their|your)\s(no)\b",
        # Numbers
        rf"{_ANSWERED}\b(nos?\.\s*)(?:[#\d]|(?:[ivx]+|one|two|three|four|five|six|seven|eight|nine|"
        r"ten)\b)",
        rf"{_ANSWERED}{_IS_ABSENT}\b(no)\s#?(?!1\b)\d",  # "no 1" is "no one"
        r"\b(?:what|which)\b[^?.]*\?\s*(no\.\s*)[#\d]",
        # Names, and words that say of nothing that it is absent
        r"\b(dr\.?\sno)\b",
        rf"{_IS_ABSENT}\b(no)\s(?:man['’]s|name|frills|doubt)\b",
        r"\b(no)\s(?:more|less|fewer)\sthan\b",
        rf"{_ANSWERED}\b(not)\s(?:only|just|merely|far)\b",
        r"\b(?:or|if|why)\s(not)\b",
    )
]
# Words with capitals, as in a title: "No Country for Old Men".
_CAPITAL = r"[A-Z][\w'’]*(?:-\w+)*"
_TITLE = re.compile(rf"\b{_CAPITAL}(?:\s(?:(?:of|the|for|on|and|to|a|in)\s)?{_CAPITAL})*")


class Prompt(NamedTuple):
    """A text without its negations."""

    positive: str  # what is left
    negative: str  # what was negated, joined by ", "
    num_dropped: int  # negations
    is_negation: bool = False  # a text that only negates stays


def without_negation(text: str) -> Prompt:
    """Take the negations out of an English caption or dialogue; a rule of words, not a parser.

    A question that is answered by no goes with its answer, and so does one whose answer tells
    nothing ("can't tell"). A text without negation is given back letter for letter.

    >>> without_negation("a dog at the beach, no people and a red ball. There is no car")[:3]
    ('a dog at the beach, a red ball', 'people, car', 2)
    """
    masked, words = _mask(text)
    positive: list[str] = []
    absent: list[str] = []
    dropped = 0
    waiting = _CLAUSE.split(masked)
    while waiting:
        clause = waiting.pop(0)
        question, mark, answer = clause.rpartition("?")
        no = _NEGATION.search(answer)
        if not no:
            positive.append(clause)
            continue
        dropped += 1
        about, *rest = _NEXT.split(answer[no.end() :], maxsplit=1)
        waiting[:0] = rest
        if mark and no.start() == len(answer) - len(answer.lstrip()):
            # "are there people? no": the question names what is absent, unless it asks what is,
            # or what something is like: "is the dog big? no" says that there is a dog.
            asked = _QUESTION.sub("", question.strip())
            is_open = asked == question.strip() and not asked.lower().startswith("any ")
            is_open = is_open or _KNOWN.match(asked)
            absent += [] if is_open or _UNSURE.match(about.strip()) else _things(asked)
            if _ANSWER.match(about):  # "no it is red"
                waiting.insert(0, about)
            continue
        nobody = no[0].lower() in ("no one", "no-one", "nobody")
        absent += ["people"] if nobody else _things(about)
        if not mark:
            before = answer[: no.start()].rstrip()
            while match := _BEFORE.search(before):
                before = before[: match.start()]
            if before.strip():
                positive.append(before)
    if not dropped:
        return Prompt(text, "", 0)
    clauses = [clause.strip().rstrip(",.;!").strip() for clause in positive]
    clauses = [re.sub(r"^(?:but|and)\s+", "", clause) for clause in clauses if clause]
    if not clauses:
        return Prompt(text, "", 0, True)
    negative = ", ".join(dict.fromkeys(absent))
    return Prompt(", ".join(clauses).translate(words), negative.translate(words), dropped)


def _mask(text: str) -> tuple[str, dict[int, str]]:
    """A text with a sign in place of whatever is no negation, and what each sign stands for."""
    spans = [quoted.span() for quoted in _QUOTED.finditer(text) if quoted[0] != text.strip()]
    spans += _titles(text)
    for said in _SAID.finditer(text):
        spans += [no.span() for no in _NEGATION.finditer(text, *said.span())]
    spans += [named.span(1) for pattern in _NAMED for named in pattern.finditer(text)]
    free = (number for number in range(0xF0000, 0xFFFFE) if chr(number) not in text)
    masked, end, words = "", 0, {}
    for begin, stop in sorted(spans, key=lambda span: (span[0], -span[1])):
        if begin >= end:
            number = next(free)
            words[number] = text[begin:stop]
            masked += text[end:begin] + chr(number)
            end = stop
    return masked + text[end:], words


def _titles(text: str) -> list[tuple[int, int]]:
    """Where words with capitals and a negation are a name, in a text that is not all capitals."""
    spans = []
    for title in _TITLE.finditer(text):
        others = re.findall(r"[^\W\d_]+", text[: title.start()] + " " + text[title.end() :])
        begins = re.search(r"(?:^|[.?!,;\n])\s*$", text[: title.start()])
        # At the beginning "No" has a capital of its own; it takes more to make a name.
        names = re.findall(rf"\b(?!I\b){_CAPITAL}", title[0])
        is_name = not begins or len(names) > 2 or re.match(rf"no {_FORBIDDEN}", title[0], re.I)
        is_name = is_name and others and _NEGATION.search(title[0])
        if is_name and 2 * sum(word[0].isupper() for word in others) <= len(others):
            spans.append(title.span())
    return spans


def _things(phrase: str) -> list[str]:
    """The things that a negated phrase names: "any people or cars in it" are two."""
    things = []
    for thing in re.split(r"\s+(?:or|nor)\s+", phrase.strip().rstrip(",.;!?").strip()):
        while (shorter := _TRAILING.sub("", _LEADING.sub("", thing))) != thing:
            thing = shorter
        vague = _UNSURE.match(thing) or _NO_THING.match(thing) or _OTHERS.search(thing)
        if thing and not vague:
            things.append(thing)
    return things
