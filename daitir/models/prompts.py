"""What a language model is shown of a dialogue: its latest rounds, or all of it in a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

WINDOW_ROUNDS = 3  # that the mini model reads, the new one among them
PROMPT = """Below is a dialogue about one picture: a caption, then questions with their answers.
Write one caption of the picture that states everything that the dialogue tells of it, and nothing
else. Where answers disagree, the last one counts. Reply with the caption alone.

Dialogue:
{dialogue}

Caption:"""


def round_tokens(
    tokenizer: PreTrainedTokenizerBase, said: Sequence[str], captions: Sequence[str | None]
) -> list[int]:
    """The tokens that the mini model reads before it writes the caption of the last round.

    `captions` are those of each round but the last, None where the model wrote nothing of use: the
    round's words wait for the next one.
    """
    rounds: list[tuple[str, str | None]] = [("", "")]
    waiting: list[str] = []
    for words, caption in zip(said, [*captions, None], strict=True):
        waiting.append(words)
        if caption is not None:
            rounds.append((", ".join(waiting), caption))
            waiting = []
    rounds.append((", ".join(waiting), None))
    (_, before), *recent = rounds[-WINDOW_ROUNDS - 1 :]
    return window(tokenizer, before or "", recent)[0]


def window(
    tokenizer: PreTrainedTokenizerBase, caption: str, rounds: Sequence[tuple[str, str | None]]
) -> tuple[list[int], list[bool]]:
    """Token numbers of rounds and captions as the mini model reads them, and which it has to write.

    Every caption stands between `<start>` and `<end>`, the words of a round bare before it:
    `<start>a dog<end>what colour is it? red<start>a red dog<end>`, and so on. `caption` is the one
    before the first of the rounds, empty where there is none; a round is what was said, and the
    caption after it, None for one still to be written.
    """
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id

    def encode(text: str) -> list[int]:
        # Words that spell a special token stay words.
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    ids = [start, *encode(caption), end]
    is_written = [False] * len(ids)
    for said, refined in rounds:
        said_ids = [*encode(said), start]
        refined_ids = [] if refined is None else [*encode(refined), end]
        ids += said_ids + refined_ids
        is_written += [False] * len(said_ids) + [True] * len(refined_ids)
    return ids, is_written
