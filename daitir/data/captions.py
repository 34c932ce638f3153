"""The caption in what a language model writes, and what makes an output of no use.

A model may think aloud, announce its caption, label, quote and fence it, and explain it.
`read_caption` takes it out of all that by rules of words and signs; where they leave it open which
words are the caption, the output counts as a fault: a wrong caption does more harm than none.
"""

import json
import re
from typing import NamedTuple

# Scripts without spaces between words: a letter of theirs is a unit of its own.
_SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007"
    "\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNIT = re.compile(rf"(?=\w)[{_SPACELESS}]|[^\W{_SPACELESS}]+")
_LETTER = 0.5  # of a word
# A loop says the same at least so often in a row, and what it says is a phrase of so many words, or
# fills so many, or this share of the text: "very, very, very tall" and "ha ha ha" are no loops.
_LOOP_TIMES, _LOOP_PHRASE, _LOOP_WORDS, _LOOP_SHARE = 3, 2, 8, 0.8


def fault_of(text: str) -> str | None:
    """What makes a text no caption: `"empty"`, `"fragment"`, `"loop"`, or None.

    A fragment has fewer than two words of letters, such as the "45." among DAR's released captions;
    in scripts without spaces, fewer than two letters. A loop says a phrase three times in a row, or
    one word eight times or for more than four fifths of the text.
    """
    units = _UNIT.findall(text.lower())
    if not units:
        return "empty"
    if sum(any(map(str.isalpha, unit)) for unit in units) < 2:
        return "fragment"
    sizes = [_LETTER if re.match(f"[{_SPACELESS}]", unit) else 1 for unit in units]
    letters = {unit: chr(i) for i, unit in enumerate(dict.fromkeys(units))}
    word = "".join(map(letters.get, units))
    for size in range(1, len(units) // _LOOP_TIMES + 1):
        # From every place on, whole copies of the same so many.
        for run in re.finditer(rf"(?s)(?=((.{{{size}}})\2{{{_LOOP_TIMES - 1},}}))", word):
            begin, end = run.span(1)
            is_phrase = len(set(run[2])) > 1  # no "ha ha"
            if (
                (is_phrase and sum(sizes[begin : begin + size]) >= _LOOP_PHRASE)
                or sum(sizes[begin:end]) >= _LOOP_WORDS
                or end - begin > _LOOP_SHARE * len(units)
            ):
                return "loop"
    return None


_THINK = r"(?:think(?:ing)?|thoughts?|reasoning|reflection|analysis|seed:think)"
_THOUGHT = re.compile(  # where reasoning ends, in the signs of several families of models
    rf"<\s*/\s*{_THINK}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|assistantfinal", re.I
)
_THINKS = re.compile(
    rf"<\s*{_THINK}\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|^analysis(?=we |the |user|i )",
    re.I,
)
_WRAPPED = (  # the caption within tags, a fence or a box, whose end may be missing
    re.compile(r"<(caption|(?:final_)?answer|output|response|result)>(.*?)(</\1>|$)", re.S | re.I),
    re.compile(r"(```|~~~)(?:[\w+-]*[^\S\n]*\n)?(.*?)(\1|$)", re.S),
    re.compile(r"(\\boxed\{(?:\\text\{)?)([^{}]*)(\}|$)"),
)

_NOUN = (
    r"(?:captions?|descriptions?|answers?|response|output|result|summary|title|rewrite|sentence|"
    r"version|attempt|suggestion|alt[ -]text)"
)
_ADJECTIVE = (
    r"(?:the|an?|my|your|one|this|final|refined|revised|rewritten|updated|improved|combined|new|"
    r"complete|comprehensive|full|detailed|short|brief|concise|accurate|correct|possible|proposed|"
    r"suggested|generated|draft|best|image|picture|photo|scene|single|alternative|one-sentence)"
)
_HERE = (
    r"(?:so |and )?(?:here(?:['’]s| is| are)|(?:below|this|the following) is|"
    r"i(?:['’]d| would| will) (?:write|suggest|propose))\s"
    r"(?:(?!(?:with|of|on|in|and|for|that)\b)[\w'’-]+\s){0,5}?"
)
_OF = (  # "(refined) of the picture that states everything would be"
    r"(?:\s*#?\d+|\s*\([^)\n]*\))?"
    r"(?:\s(?:of|for|to|about|from|based on|that|which|as|in one|you|i)\b[^:：\n]*?)?"
    r"(?:\s(?:is|are|would be|could be|can be|might be|should be|reads|below|then))*"
)
_COLON = r"(?:\s*[:：]|\s[-–—](?=\s)|(?<=\bis|\bbe)(?=\s[\"“«])|(?<=reads)(?=\s[\"“«]))\s*"
_FOREIGN = (
    r"(?:légende|description|réponse|leyenda|descripción|respuesta|legenda|descrição|resposta|"
    r"bildunterschrift|bildbeschreibung|beschreibung|antwort|didascalia|descrizione|risposta|"
    r"подпись|описание|ответ|标题|描述|说明|答案|標題|說明|キャプション|説明|回答|캡션|설명|답변)"
)
_FOREIGN_HERE = (
    r"(?:voici|aquí (?:está|tienes)|aqui está|hier ist|ecco|вот|以下|这是|這是|こちら|다음)"
)
_LABEL = re.compile(
    rf"(?:^|(?<=[.!?])\s+)(?:{_HERE}{_NOUN}{_OF}(?:{_COLON}|[.!](?:\s+|$)|$)|"
    rf"(?:(?:so|thus|therefore|hence|i think),?\s)?(?:{_ADJECTIVE}[ -])*{_NOUN}{_OF}{_COLON}|"
    r"i(?:['’]d| would| will| can) (?:describe|caption|summari[sz]e|write|put)\b[^:：\n]*[:：]\s*)|"
    rf"^(?:{_ADJECTIVE}[ -])*(?:caption|description|answer) (?:is|would be) (?=(?:an?|the|two)\s)|"
    rf"^(?:{_ADJECTIVE}[ -])*{_NOUN}[.!]?$|^\[(?:{_ADJECTIVE}[ -])*{_NOUN}\]\s*|"
    r"^(?:assistant|model)$|^(?:a|ai|assistant|model|image|picture|photo)\s*[:：]\s*|"
    # The same in other languages: "Voici une légende :", "以下是图片的描述："
    rf"^{_FOREIGN_HERE}?[^\n:：,，。]{{0,12}}{_FOREIGN}[^\n:：,，。]{{0,20}}[:：]\s*|"
    rf"^{_FOREIGN_HERE}[^\n:：,，。]{{0,12}}{_FOREIGN}[^\n:：,，。]{{0,20}}[。.!！]?$",
    re.I,
)
_OPENER = re.compile(
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|al(?:l )?right|understood|got it|"
    r"hello|hi|hi there|great(?: question)?|thanks|thank you|no problem|here you (?:go|are)|"
    r"in (?:summary|short|conclusion|one sentence)|bien sûr|natürlich|claro|por supuesto|certo|"
    r"конечно|好的|当然|はい|もちろん(?:です)?|네|"
    r"i(?:['’]d| would) be (?:happy|glad) to (?:help|assist)[^.!:\n]*|"
    r"(?:based on|given|according to|from|considering|using) (?:the|this|your|our|all)[^,:\n]*"
    r"\b(?:dialogue|conversation|information|answers?|questions?|details?|above)\b[^,:\n]*(?=,)|"
    r"(?:so|thus|therefore|hence|finally)(?=,))(?:\s?[,!.:，！。、]+\s*|\s[-–—]\s|\s+(?=here\b|i\b|so\b)|$)",
    re.I,
)
_REFUSAL = re.compile(
    r"(?:i['’]?m|i am) (?:very |so |really |truly )?(?:sorry|afraid|unable|not able)\b|sorry,|"
    r"(?:my |i )?apolog|i (?:can ?not|can['’]?t|could ?n[o'’]t|do(?:n['’]t| not) have)\b|"
    r"as an? (?:ai|(?:large )?language model|assistant)\b|unfortunately,|there is not enough|"
    r"n/?a$|(?:there is )?no (?:caption|information|picture|image|dialogue) (?:can|is|was|about)\b|"
    r"(?:please|could you|can you)(?: please)? (?:provide|share|give|describe|upload)|"
    r"对不起|抱歉|很抱歉|無法|无法|申し訳|すみません|죄송|lo siento|désolée?\b|je suis désolé|"
    r"es tut mir leid|entschuldigung|desculpe|mi dispiace|извините|к сожалению",
    re.I,
)
_REASONING = re.compile(
    r"(?:(?:hmm+|wait|well|now|so|but|and|then|next)[,.… ]+)*"
    r"(?:(?:i|we)(?:['’](?:ll|ve|m|re|d))? (?:\w+ )?(?:need|have to|must|should|will|want|think|"
    r"know|asked|going to|try|start|combine|write|look)\b|let(?: me|['’]s| us)\b|"
    r"the (?:user|dialogue) (?:\w+s|\w+ed|said)\b|"
    r"to (?:write|create|make|produce|summari[sz]e|combine|generate)\b|"
    r"(?:first(?:ly)?|second(?:ly)?|hmm+|wait)[,.…]|step \d|"
    r"(?:reasoning|analysis|thinking|thoughts?|explanation|plan)\s*[:：])",
    re.I,
)
_AFTER_WORDS = (  # what explains the caption, or goes on as the prompt did
    r"(?:(?:notes?|p\.?s\.?|explanation|reasoning|rationale|justification|dialog(?:ue)?|question|"
    r"q\d*|user|human|instruction|input)\s*[:：]|note that\b|"
    rf"(?:this|the|my|that) (?:\w+ )?{_NOUN} (?:is|was|has|does|\w+s)\b|i hope\b|let me know\b|"
    r"i(?:['’]ve| have)? (?:included|combined|used|chose|left|kept|made|added|omitted)\b|"
    r"feel free\b|would you like\b|do you (?:want|need)\b|shall i\b|please let\b|"
    r"if you (?:need|want|would|have|['’]d)\b|is there anything\b)"
)
_AFTERWARDS = re.compile(rf"(?:(?<=[.!?…\"”])\s+|\s*[(\[]|\s+[-–—]+\s+)(?={_AFTER_WORDS})", re.I)
_AFTER = re.compile(rf"[(\[]?{_AFTER_WORDS}", re.I)
_TALK = re.compile(r".*[:：]$", re.S)
_ITEM = re.compile(r"(?:[-*+•‣▪◦·–—]|\(?(\d{1,2})[.)])\s+")
_EMPHASIS = re.compile(
    r"(\*{2,3}|__)(?=\S)(.+?)(?<=\S)\1|(?<![\w*])\*(?=[^\s*])([^*]+)(?<=\S)\*(?![\w*])"
)
_GOES_ON = re.compile(r"[,，、]$|\b(?:and|or|but|with|of|an?|the|no|his|her|its|their)$", re.I)
_TEXT = re.compile(r"\b(?:say(?:s|ing)?|read(?:s|ing)?|written|words?|ask(?:s|ing)|titled)\b", re.I)
_QUESTION = re.compile(
    r"(?:what|which|who|whose|where|when|why|how|is|are|was|were|do|does|did|can|could|would|has|"
    r"have|should)\b[^?]*\?",
    re.I,
)
_QUOTES = {
    '"': '"', "'": "'", "“": "”", "‘": "’", "”": "”", "’": "’", "„": "“”", "‚": "‘’",
    "«": "»", "»": "«", "‹": "›", "「": "」", "『": "』", "《": "》", "＂": "＂",
    "`": "`", "*": "*", "_": "_",
}  # fmt: skip


class _Line(NamedTuple):
    """A line of an output."""

    kind: str  # label, talk, refusal, reasoning, after (see `_AFTER`) or caption
    words: str  # those that may be a caption
    is_item: bool = False  # of a list
    is_final: bool = False  # by its label
    is_apart: bool = False  # behind a blank line


def read_caption(text: str, *, ended: bool = True) -> tuple[str, str | None]:
    """The caption in what a language model wrote, and its fault where it is of no use.

    A label ("Caption:") tells where the caption stands; without one it is the first line that is
    not talk about the task. A line that ends in a comma, or in a word such as "and", goes on in the
    next one; other lines after the caption are dropped. Unless the model `ended`, a caption is
    whole only where something follows it.

    Faults are those of `fault_of`; `"reasoning"` or `"preamble"`, which no caption follows;
    `"refusal"`; `"question"`; `"list"`; `"unfinished"`.

    >>> read_caption("Sure! Here is a caption:\\n\\n\\"A red dog.\\"\\n\\nNote: it is red.")
    ('A red dog.', None)
    """
    if thought := list(_THOUGHT.finditer(text)):
        text = text[thought[-1].end() :]
    if thinks := _THINKS.search(text):
        text = text[: thinks.start()]
    if (thought or thinks) and not text.strip():
        return "", "reasoning"
    ended = ended or thinks is not None
    for pattern in _WRAPPED:
        if (match := pattern.search(text)) and match[2].strip():
            text, ended = match[2], ended or bool(match[3])
    if (values := _json_values(text)) is not None:
        if len(values) != 1:
            return "", "list"
        text, ended = values[0], True
    lines, is_apart = [], False
    for line in text.splitlines():
        if is_word := re.search(r"\w", line):
            lines.append(_line(line)._replace(is_apart=is_apart))
        is_apart = not is_word
    if not lines:
        return "", "empty" if ended else "unfinished"
    kinds = [line.kind for line in lines]
    begin, fault = _begin(lines, kinds)
    if fault:
        return "", fault
    words, end = lines[begin].words, begin + 1
    while end < len(lines) and kinds[end] == "caption" and _GOES_ON.search(words):
        words, end = f"{words} {lines[end].words}", end + 1
    if lines[begin].is_item and end < len(lines) and lines[end].is_item:
        return "", "list"
    caption = _unquoted(words)
    if match := _AFTERWARDS.search(caption):
        caption, ended = _unquoted(caption[: match.start()]), True
    if _QUESTION.match(caption) or (re.search(r"[?？؟]$", caption) and not _TEXT.search(caption)):
        return caption, "question"
    return caption, fault_of(caption) or (None if ended or end < len(lines) else "unfinished")


def _begin(lines: list[_Line], kinds: list[str]) -> tuple[int, str | None]:
    """The line that the caption begins in, and the fault of an output without one."""
    first = kinds.index("caption") if "caption" in kinds else len(kinds)
    labelled = []
    for i, line in enumerate(lines):
        if line.kind == "after" and (labelled or first < i):
            break  # what the model goes on with is no longer about this caption
        at = i if line.words else i + 1
        if line.kind == "label" and (at == i or kinds[at : at + 1] == ["caption"]):
            labelled.append((not line.is_final, at))
    if labelled:
        return min(labelled)[1], None
    if "refusal" in kinds[:first]:
        return first, "refusal"
    if "reasoning" in kinds[:first]:
        # A single line that stands apart is the conclusion; among several nobody knows which is.
        is_clear = kinds.count("caption") == 1 and lines[first].is_apart
        return first, None if is_clear else "reasoning"
    return first, None if first < len(kinds) else "preamble"


def _line(line: str) -> _Line:
    """A line without Markdown, and what it is."""
    line = re.sub(r"^(?:#{1,6}|>)\s+|(?:<\|\w+\|>|</s>)+$", "", line.strip())
    item = _ITEM.match(line)
    if item and item[1] in (None, "1"):
        line = line[item.end() :]
    line = _EMPHASIS.sub(lambda match: match[2] or match[3], line).removeprefix("**")
    words = _unquoted(line)
    while words and (opener := _OPENER.match(words)):
        words = words[opener.end() :]
    if not words:
        return _Line("talk", "")
    if label := _LABEL.search(words):
        rest = words[label.end() :]
        inner = _line(rest) if rest.strip() else _Line("talk", "")
        if inner.kind not in ("caption", "label", "talk"):
            return inner
        is_final = inner.is_final or "final" in label[0].lower()
        words = "" if inner.kind == "talk" else inner.words
        return _Line("label", words, item is not None, is_final)
    kinds = {"refusal": _REFUSAL, "reasoning": _REASONING, "after": _AFTER, "talk": _TALK}
    kind = next((kind for kind, pattern in kinds.items() if pattern.match(words)), "caption")
    return _Line(kind, words, kind == "caption" and item is not None)


def _json_values(text: str) -> list[str] | None:
    """The texts of a JSON object or list that may be a caption; None of any other text."""
    if text.strip()[:1] not in ("{", "["):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, dict):
        named = [value for key, value in content.items() if re.search(_NOUN, key, re.I)]
        content = named or list(content.values())
    return [value for value in content if isinstance(value, str)]


def _unquoted(text: str) -> str:
    """A text without a pair of quotes, or Markdown's signs, around the whole of it."""
    while True:
        text = text.strip()
        closing = _QUOTES.get(text[:1], "")
        # The marks between the first and the last, apostrophes within words aside.
        inner = re.sub(r"(?<=\w)['’](?=\w)", "", text[1:])
        if match := re.match(r"[\"“«„]([^\"“”«»]+)[\"“”»]\s*[(\[–—-]", text):
            text = match[1]  # what comes after the quotation explains it
        elif closing and not any(mark in inner for mark in closing):
            text = text[1:]
        elif closing and (match := re.match(rf"(.+)[{closing}]([.,;]?)$", inner)):
            marks = re.search(f"[{closing}]", match[1])
            if marks and not match[1][: marks.start()][-1:].isspace():
                return text  # "Stop" and "Go"
            text = text[1 : len(text) - 1 - len(match[2])] + match[2].replace(",", "")
        elif re.search(r"^[^\"“”]*[^\W\d][.!]?[\"”]$", text):
            text = text[:-1]
        else:
            return text
