"""Reformulation: a language model refines a dialogue into one caption after every round.

A *spec* names a language model: `mini`, the one that comes with the package, a folder, or a hub
name. The mini model goes round by round: it reads the caption so far and what was newly said, and
writes the next caption. Any other causal or encoder-decoder model is shown the whole dialogue so
far in `PROMPT`, as DAR and PlugIR do it with instruction-tuned models; what it writes around its
caption is left out (`daitir.data.captions`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_json, weights_digest
from daitir.data.captions import fault_of as fault_of
from daitir.data.captions import read_caption
from daitir.models import ASSETS
from daitir.models.hub import NO_CODE, check_source, load_fault, offline_if_unreachable
from daitir.models.identity import identity, model_files

if TYPE_CHECKING:
    from accelerate import PartialState

logger = logging.getLogger(__name__)

MINI_FOLDER = ASSETS / "lm"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json",
    "vocab.txt",
)  # fmt: skip
WINDOW_ROUNDS = 3
MAX_NEW_TOKENS = 96
# How a model that wrote something of no use is asked again: another way of search, no chance.
RETRY = {"num_beams": 4, "repetition_penalty": 1.1}
PROMPT = """Below is a dialogue about one picture: a caption, then questions with their answers.
Write one caption of the picture that states everything that the dialogue tells of it, and nothing
else. Where answers disagree, the last one counts. Reply with the caption alone.

Dialogue:
{dialogue}

Caption:"""


@dataclass(frozen=True)
class Refinement:
    """Refined dialogues.

    Attributes:
        captions: `captions[dialogue][round]`, one caption of all that was said up to the round.
        faults: (dialogue, round) to what was wrong with the model's output, where it was of no
            use (see `read_caption`). There the caption is the dialogue so far, joined by `", "`.
        num_truncated: rounds whose input was longer than the model's context and lost its middle.
        num_retried: outputs that were of no use at first, those of `faults` among them.
    """

    captions: list[list[str]]
    faults: dict[tuple[int, int], str]
    num_truncated: int
    num_retried: int = 0

    @property
    def fault_kinds(self) -> str:
        """How often each kind of fault occurs, the most frequent first: `"2 loop, 1 empty"`."""
        return ", ".join(f"{n:,} {kind}" for kind, n in Counter(self.faults.values()).most_common())


class Reformulator:
    """Refines dialogues by a language model.

    Attributes:
        spec: the spec it was loaded from.
        model: a causal or encoder-decoder model of transformers, in eval mode.
        round_by_round: whether the model refines its own last caption (`window`), or is shown
            the whole dialogue in its prompt.
        prompt: the template of that prompt, with `{dialogue}` where the dialogue goes.
        digest: the identity of all that decides the captions: the files that it was loaded from,
            the precision and the prompt.
    """

    def __init__(
        self,
        spec: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: str | torch.device = "cpu",
        *,
        prompt: str | None = None,
        origin: str | None = None,
    ):
        """`origin` is the `identity` of the files, None for a model that was made in memory.

        Raises DataError for a model without room for a caption, or a prompt of no use.
        """
        self.spec = spec
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.round_by_round = bool(getattr(model.config, "refines_round_by_round", False))
        if prompt is not None and self.round_by_round:
            raise DataError(f"{spec}: was trained to read rounds; leave the prompt out")
        self.prompt = PROMPT if prompt is None else prompt
        if self.prompt.count("{dialogue}") != 1:
            raise DataError("the prompt must hold {dialogue} once, where the dialogue goes")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self._max_input = min(tokenizer.model_max_length, context)
        if not model.config.is_encoder_decoder:
            self._max_input -= MAX_NEW_TOKENS
        if self._max_input < 1:
            raise DataError(f"{spec}: its context of {context} tokens leaves no room for a caption")
        self.digest = identity(
            origin=origin or [weights_digest(model), str(model.config), str(tokenizer)],
            prompt=None if self.round_by_round else self.prompt,
            dtype=str(model.dtype),
        )

    @property
    def settings(self) -> dict:
        """All that decides what is written beside the dialogues, in the types of JSON."""
        prompt = None if self.round_by_round else self.prompt
        return {
            "spec": self.spec,
            "model": self.digest,
            "prompt": prompt and hashlib.sha256(prompt.encode()).hexdigest(),
            "max_new_tokens": MAX_NEW_TOKENS,
            "retry": RETRY,
        }

    def refine(
        self,
        dialogues: Sequence[Sequence[str]],
        *,
        batch_size: int = 64,
        progress: bool = False,
    ) -> Refinement:
        """One caption for every round of every dialogue, decoded greedily.

        Round 0 is refined as well: a caption can be as wordy as an answer.

        Args:
            dialogues: what was said in each round of each dialogue, of any number of rounds.
            batch_size: dialogues that are refined together; it does not change the captions.

        Raises DataError where there is no dialogue, or one without rounds.
        """
        if not dialogues:
            raise DataError("no dialogues to refine; give at least one")
        for index, said in enumerate(dialogues):
            if isinstance(said, str) or not said or not all(isinstance(s, str) for s in said):
                raise DataError(f"dialogue {index}: must be one or more strings, a round each")
        captions: list[list[str]] = [[] for _ in dialogues]
        faults: dict[tuple[int, int], str] = {}
        num_truncated = num_retried = 0
        lengths = [len(said) for said in dialogues]
        with tqdm(
            total=sum(lengths), desc="refining", unit="caption", disable=not progress
        ) as bar:
            for t in range(max(lengths)):
                inputs = {
                    index: self._input(dialogues[index], captions[index], faults, index, t)
                    for index, length in enumerate(lengths)
                    if t < length
                }
                # Inputs of like length go together, so that little is computed on padding.
                order = sorted(inputs, key=lambda index: len(inputs[index]))
                for begin in range(0, len(order), batch_size):
                    batch = order[begin : begin + batch_size]
                    cut = [self._cut(inputs[index]) for index in batch]
                    num_truncated += sum(len(inputs[i]) > self._max_input for i in batch)
                    outputs, retried = self._outputs(cut)
                    num_retried += retried
                    for index, (text, fault) in zip(batch, outputs, strict=True):
                        if fault:
                            faults[index, t] = fault
                            text = ", ".join(dialogues[index][: t + 1])
                        captions[index].append(text)
                    bar.update(len(batch))
        found = Refinement(captions, dict(sorted(faults.items())), num_truncated, num_retried)
        if faults:
            logger.warning(
                "%s: %d of %d outputs were of no use (%s); the joined dialogue stands there",
                self.spec, len(faults), sum(lengths), found.fault_kinds,
            )
        if num_truncated:
            logger.warning(
                "%s: %d of %d inputs were longer than %d tokens and lost their middle",
                self.spec, num_truncated, sum(lengths), self._max_input,
            )
        return found

    def _outputs(self, inputs: list[list[int]]) -> tuple[list[tuple[str, str | None]], int]:
        """What the model writes with its fault, and how many outputs were asked for again."""

        def judged(outputs: list[tuple[str, bool]]) -> list[tuple[str, str | None]]:
            return [read_caption(text, ended=ended) for text, ended in outputs]

        outputs = judged(self._generate(inputs))
        again = [i for i, (_, fault) in enumerate(outputs) if fault]
        if self.round_by_round or not again:
            return outputs, 0
        for i, output in zip(
            again, judged(self._generate([inputs[i] for i in again], **RETRY)), strict=True
        ):
            outputs[i] = output
        return outputs, len(again)

    def _input(
        self, said: Sequence[str], captions: list[str], faults: dict, index: int, t: int
    ) -> list[int]:
        """The tokens that round t's caption is written after."""
        if not self.round_by_round:
            prompt = self.prompt.replace("{dialogue}", "\n".join(said[: t + 1]))
            if self.tokenizer.chat_template:
                # `MAX_NEW_TOKENS` leaves no room for reasoning; a template that knows of none
                # passes over the word.
                return self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], add_generation_prompt=True,
                    tokenize=True, return_dict=False, enable_thinking=False,
                )  # fmt: skip
            return self.tokenizer.encode(prompt)
        # A round whose output was of no use has no caption: its words wait for the next one.
        rounds: list[tuple[str, str | None]] = []
        waiting: list[str] = []
        for number in range(t):
            waiting.append(said[number])
            if (index, number) not in faults:
                rounds.append((", ".join(waiting), captions[number]))
                waiting = []
        rounds.append((", ".join([*waiting, said[t]]), None))
        earlier, recent = rounds[:-WINDOW_ROUNDS], rounds[-WINDOW_ROUNDS:]
        return window(self.tokenizer, earlier[-1][1] if earlier else "", recent)[0]

    def _cut(self, ids: list[int]) -> list[int]:
        """At most as many tokens as the model can read: the first and the last ones."""
        surplus = len(ids) - self._max_input
        if surplus <= 0:
            return ids
        head = self._max_input // 4
        return ids[:head] + ids[head + surplus :]

    @torch.no_grad()
    def _generate(self, inputs: list[list[int]], **options) -> list[tuple[str, bool]]:
        """What the model writes after each input, and whether it came to an end."""
        longest = max(map(len, inputs))
        pad, left = self.tokenizer.pad_token_id, not self.model.config.is_encoder_decoder
        rows, mask = [], []
        for ids in inputs:
            gap = longest - len(ids)
            rows.append([pad] * gap + ids if left else ids + [pad] * gap)
            mask.append([0] * gap + [1] * len(ids) if left else [1] * len(ids) + [0] * gap)
        written = self.model.generate(
            torch.tensor(rows, device=self.device),
            attention_mask=torch.tensor(mask, device=self.device),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=pad,
            **{"num_beams": 1} | options,
        )
        if left:
            written = written[:, longest:]
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [
            (text, bool(ends & set(ids))) for text, ids in zip(texts, written.tolist(), strict=True)
        ]


def refine_resumably(
    reformulator: Reformulator,
    dialogues: Sequence[Sequence[str]],
    partial: Path,
    *,
    batch_size: int = 64,
    group: PartialState | None = None,
    progress: bool = False,
) -> Refinement:
    """As `Reformulator.refine`, `batch_size` dialogues after the other; a killed run goes on.

    Args:
        partial: a folder that gets a file for each batch, named by a hash of all that decides the
            captions. Remove it when they are kept elsewhere.
        group: processes that call this alike; each refines its share, and waits for the others.
        progress: show a bar, of the main process alone.

    Raises DataError as `refine` does, and where a file of `partial` is damaged.
    """
    chunks = [list(dialogues[i : i + batch_size]) for i in range(0, len(dialogues), batch_size)]
    model = [reformulator.digest, reformulator.prompt]
    files = []
    for chunk in chunks:
        key = identity(model=model, dialogues=list(map(list, chunk)))
        files.append(partial / f"{key[:32]}.json")
    index, number = (group.process_index, group.num_processes) if group else (0, 1)
    mine = range(index, len(chunks), number)
    # What is known stays in memory: another run of the same may end, and remove the files.
    known = {k: _read_refinement(files[k]) for k in mine if files[k].is_file()}
    with tqdm(
        total=sum(len(chunks[k]) for k in mine), initial=sum(len(chunks[k]) for k in known),
        desc="refining", unit="dialogue", disable=not progress or index > 0,
    ) as bar:  # fmt: skip
        for k in mine:
            if k not in known:
                known[k] = reformulator.refine(chunks[k], batch_size=batch_size)
                _write_refinement(files[k], known[k])
                bar.update(len(chunks[k]))
    if group:
        group.wait_for_everyone()
    parts = [known.get(k) or _read_refinement(file) for k, file in enumerate(files)]
    return Refinement(
        [captions for part in parts for captions in part.captions],
        {(k * batch_size + i, t): kind
         for k, part in enumerate(parts) for (i, t), kind in part.faults.items()},
        sum(part.num_truncated for part in parts),
        sum(part.num_retried for part in parts),
    )  # fmt: skip


def _write_refinement(path: Path, found: Refinement) -> None:
    content = asdict(found) | {"faults": [[*place, kind] for place, kind in found.faults.items()]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _read_refinement(path: Path) -> Refinement:
    content = read_json(path)
    try:
        faults = {(i, t): kind for i, t, kind in content.pop("faults")}
        return Refinement(faults=faults, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no captions of a run that was interrupted; remove it") from error


def window(
    tokenizer: PreTrainedTokenizerBase, caption: str, rounds: Sequence[tuple[str, str | None]]
) -> tuple[list[int], list[bool]]:
    """Some rounds of a dialogue and of its refinement, as the mini model reads and writes them.

    Every caption stands between `<start>` and `<end>`, the words of a round bare before it:
    `<start>a dog<end>what colour is it? red<start>a red dog<end>`, and so on.

    Args:
        tokenizer: the package's tokeniser.
        caption: the caption before the first of the rounds; empty where there is none.
        rounds: what was said, and the caption after it; None for a caption still to be written.

    Returns:
        Token numbers, and which of them the model has to write.
    """
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id

    def encode(text: str) -> list[int]:
        # Words that spell a special token stay words.
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    ids = [start, *encode(caption), end]
    written = [False] * len(ids)
    for said, refined in rounds:
        said_ids = [*encode(said), start]
        refined_ids = [] if refined is None else [*encode(refined), end]
        ids += said_ids + refined_ids
        written += [False] * len(said_ids) + [True] * len(refined_ids)
    return ids, written


def load_reformulator(
    spec: str = "mini", *, device: str | torch.device = "cpu", prompt: str | None = None
) -> Reformulator:
    """The reformulator of a spec (see the module's description).

    Weights are read from safetensors only. Raises DataError, naming the folder, where a part is
    missing or damaged, where the hub cannot be reached, and as `Reformulator` does.
    """
    folder = MINI_FOLDER if spec == "mini" else Path(spec)
    if spec == "mini" or folder.is_dir():
        _check_folder(folder)
    source = str(folder) if folder.is_dir() else spec
    check_source(source)
    try:
        with offline_if_unreachable(wanted=not folder.is_dir()):
            config = AutoConfig.from_pretrained(source, **NO_CODE)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            # Half precision is slow on most processors; elsewhere the model's own is kept.
            dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
            model, report = kind.from_pretrained(
                source, dtype=dtype, use_safetensors=True, output_loading_info=True, **NO_CODE
            )
            tokenizer = AutoTokenizer.from_pretrained(source, **NO_CODE)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        name = None if folder.is_dir() else spec
        raise load_fault(spec, "language model", error, name=name) from error
    if report["missing_keys"]:
        raise DataError(f"{spec}: weights are missing, {sorted(report['missing_keys'])[0]} is one")
    read = check_source(source)
    origin = None if read is None else identity(files=model_files(read))
    return Reformulator(spec, model, tokenizer, device, prompt=prompt, origin=origin)


def _check_folder(folder: Path) -> None:
    """Raises DataError where a folder lacks a file without which no language model is loaded."""
    is_ours = folder == MINI_FOLDER or (folder / "log.csv").is_file()
    told = f"; `daitir pretrain lm --out {folder}` writes it" if is_ours else ""
    if not (folder / "config.json").is_file():
        told = told or "; name the folder of a transformers model"
        raise DataError(f"{folder / 'config.json'}: no such file{told}")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        files = f"{', '.join(TOKENIZER_FILES[:-1])} or {TOKENIZER_FILES[-1]}"
        told = told or "; save the tokeniser beside the model"
        raise DataError(f"{folder}: has no tokeniser ({files}){told}")
