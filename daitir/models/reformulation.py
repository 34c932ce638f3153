"""Reformulation: a language model refines a dialogue into one caption after every round.

A *spec* names a language model: `mini`, the one that comes with the package, a folder, or a hub
name. The mini model goes round by round: it reads the caption so far and what was newly said, and
writes the next caption. Any other causal model is shown the whole dialogue so far in `PROMPT`, as
DAR and PlugIR do it with instruction-tuned models; what it writes around its caption is left out
(`daitir.data.captions`).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from daitir.common.errors import DataError
from daitir.common.files import read_json, write_json
from daitir.data.captions import read_caption
from daitir.models import ASSETS
from daitir.models.hub import NO_CODE, check_source, find_source, read_weights, reading
from daitir.models.identity import CONFIG_NAME, identity, model_files
from daitir.models.prompts import PROMPT, round_tokens

if TYPE_CHECKING:
    from accelerate import PartialState

logger = logging.getLogger(__name__)

LM_FOLDER = ASSETS / "lm"
_PARTS = {
    CONFIG_NAME: [CONFIG_NAME],
    "tokeniser": ["tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
                  "vocab.json", "vocab.txt"],
}  # fmt: skip
MAX_NEW_TOKENS = 96
# A model that wrote something of no use is asked again by another search, without chance.
RETRY = {"num_beams": 4, "repetition_penalty": 1.1}


@dataclass(frozen=True)
class Refinement:
    """Refined dialogues."""

    captions: list[list[str]]  # `captions[dialogue][round]`, of all that was said up to the round
    # (dialogue, round) to what was wrong with the model's output (`read_caption`). There the
    # caption is the dialogue so far, joined by `", "`.
    faults: dict[tuple[int, int], str]
    num_truncated: int  # inputs that were longer than the model's context and lost their middle
    num_retried: int  # outputs that were of no use at first, those of `faults` among them

    @property
    def fault_kinds(self) -> str:
        """How often each kind of fault occurs, the most frequent first: `"2 loop, 1 empty"`."""
        return ", ".join(f"{n:,} {kind}" for kind, n in Counter(self.faults.values()).most_common())


class Reformulator:
    """Refines dialogues by a language model.

    Where it is `round_by_round` the model refines its own last caption (`window`), else it is shown
    the whole dialogue in its `prompt`. Files, precision and prompt decide the `digest`.
    """

    def __init__(
        self,
        spec: str,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        device: str | torch.device = "cpu",
        *,
        origin: str,
        prompt: str | None = None,
    ):
        """`origin` is the `identity` of the files. Raises DataError for a prompt of no use."""
        self.spec, self.tokenizer, self.device = spec, tokenizer, torch.device(device)
        self.model = model.to(device).eval()
        self.round_by_round = bool(getattr(model.config, "refines_round_by_round", False))
        if self.round_by_round and prompt is not None:
            raise DataError(f"{spec}: was trained to read rounds; leave the prompt out")
        self.prompt = PROMPT if prompt is None and not self.round_by_round else prompt
        if self.prompt is not None and self.prompt.count("{dialogue}") != 1:
            raise DataError("the prompt must hold {dialogue} once, where the dialogue goes")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self._max_input = min(tokenizer.model_max_length, context) - MAX_NEW_TOKENS
        if self._max_input < 1:
            raise DataError(f"{spec}: its context of {context} tokens leaves no room for a caption")
        self.digest = identity(origin=origin, prompt=self.prompt, dtype=str(model.dtype))

    @property
    def settings(self) -> dict:
        """All that decides, beside the dialogues, what is written, in the types of JSON."""
        return {
            "spec": self.spec,
            "model": self.digest,
            "prompt": self.prompt and hashlib.sha256(self.prompt.encode()).hexdigest(),
            "max_new_tokens": MAX_NEW_TOKENS,
            "retry": RETRY,
        }

    def refine(
        self, dialogues: Sequence[Sequence[str]], *, batch_size: int = 64, progress: bool = False
    ) -> Refinement:
        """One caption for every round of every dialogue, decoded greedily.

        `batch_size` dialogues are refined together, which does not change the captions. Raises
        DataError without a dialogue, or for one without rounds.
        """
        if not dialogues:
            raise DataError("no dialogues to refine; give at least one")
        for index, said in enumerate(dialogues):
            if isinstance(said, str) or not said or not all(isinstance(s, str) for s in said):
                raise DataError(f"dialogue {index}: must be one or more strings, a round each")
        written: list[list[str | None]] = [[] for _ in dialogues]  # None where it is of no use
        faults, num_truncated, num_retried, total = {}, 0, 0, sum(map(len, dialogues))
        with tqdm(total=total, desc="refining", unit="caption", disable=not progress) as bar:
            for t in range(max(map(len, dialogues))):
                inputs = {}
                for index, said in enumerate(dialogues):
                    if t < len(said):
                        inputs[index] = self._input(said[: t + 1], written[index])
                num_truncated += sum(len(ids) > self._max_input for ids in inputs.values())
                # Inputs of like length go together, so that little is computed on padding.
                order = sorted(inputs, key=lambda index: len(inputs[index]))
                for begin in range(0, len(order), batch_size):
                    batch = order[begin : begin + batch_size]
                    outputs, retried = self._outputs([self._cut(inputs[index]) for index in batch])
                    for index, (caption, fault) in zip(batch, outputs, strict=True):
                        written[index].append(None if fault else caption)
                        faults |= {(index, t): fault} if fault else {}
                    num_retried += retried
                    bar.update(len(batch))
        captions = [
            [", ".join(said[: t + 1]) if row[t] is None else row[t] for t in range(len(said))]
            for said, row in zip(dialogues, written, strict=True)
        ]
        refinement = Refinement(captions, dict(sorted(faults.items())), num_truncated, num_retried)
        if faults:
            told = "%s: %d of %d outputs were of no use (%s); the joined dialogue stands there"
            logger.warning(told, self.spec, len(faults), total, refinement.fault_kinds)
        if num_truncated:
            told = "%s: %d of %d inputs were longer than %d tokens and lost their middle"
            logger.warning(told, self.spec, num_truncated, total, self._max_input)
        return refinement

    def _input(self, said: Sequence[str], captions: Sequence[str | None]) -> list[int]:
        """The tokens after which the model writes the caption of the last round."""
        if self.round_by_round:
            return round_tokens(self.tokenizer, said, captions)
        text = self.prompt.replace("{dialogue}", "\n".join(said))
        if not self.tokenizer.chat_template:
            return self.tokenizer.encode(text)
        # There is no room for reasoning; a template that knows of none passes over the word.
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True,
            return_dict=False, enable_thinking=False,
        )  # fmt: skip

    def _cut(self, ids: list[int]) -> list[int]:
        """At most as many tokens as the model can read: the first and the last ones."""
        surplus, head = max(0, len(ids) - self._max_input), self._max_input // 4
        return ids[:head] + ids[head + surplus :]

    def _outputs(self, inputs: list[list[int]]) -> tuple[list[tuple[str, str | None]], int]:
        """Caption and fault of what the model writes, and how often it was asked again."""
        outputs = [read_caption(text, ended=ended) for text, ended in self._generate(inputs)]
        useless = [number for number, (_, fault) in enumerate(outputs) if fault]
        if self.round_by_round or not useless:
            return outputs, 0
        again = self._generate([inputs[number] for number in useless], **RETRY)
        for number, (text, ended) in zip(useless, again, strict=True):
            outputs[number] = read_caption(text, ended=ended)
        return outputs, len(useless)

    @torch.no_grad()
    def _generate(self, inputs: list[list[int]], **options) -> list[tuple[str, bool]]:
        """What the model writes after each input, and whether it came to an end."""
        padding = {"padding_side": "left", "return_attention_mask": True, "return_tensors": "pt"}
        tokens = self.tokenizer.pad({"input_ids": inputs}, **padding).to(self.device)
        read = tokens["input_ids"]
        written = self.model.generate(
            read,
            attention_mask=tokens["attention_mask"],
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            **{"num_beams": 1} | options,
        )[:, read.shape[1] :]
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        ended = [bool(ends & set(ids)) for ids in written.tolist()]
        return list(zip(texts, ended, strict=True))


def refine_resumably(
    reformulator: Reformulator,
    dialogues: Sequence[Sequence[str]],
    partial: Path,
    *,
    batch_size: int = 64,
    group: PartialState | None = None,
    progress: bool = False,
) -> Refinement:
    """As `Reformulator.refine`, by `batch_size` dialogues at a time; a killed run goes on.

    The folder `partial` gets a file for each batch; remove it when they are kept elsewhere. The
    processes of `group` call this alike; each refines its share, and waits for the others. Raises
    DataError as `refine` does, and where a file of `partial` is damaged.
    """
    starts = range(0, len(dialogues), batch_size)
    chunks = [[list(said) for said in dialogues[start : start + batch_size]] for start in starts]
    model = [reformulator.digest, reformulator.prompt or PROMPT]
    files = [partial / f"{identity(model=model, dialogues=c)[:32]}.json" for c in chunks]
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
                faults = [[*place, kind] for place, kind in known[k].faults.items()]
                write_json(files[k], asdict(known[k]) | {"faults": faults})
                bar.update(len(chunks[k]))
    if group:
        group.wait_for_everyone()
    refined = [known.get(k) or _read_refinement(file) for k, file in enumerate(files)]
    faults = {}
    for start, chunk in zip(starts, refined, strict=True):
        faults |= {(start + i, t): kind for (i, t), kind in chunk.faults.items()}
    captions = [row for chunk in refined for row in chunk.captions]
    num_truncated = sum(chunk.num_truncated for chunk in refined)
    num_retried = sum(chunk.num_retried for chunk in refined)
    return Refinement(captions, faults, num_truncated, num_retried)


def _read_refinement(path: Path) -> Refinement:
    content = read_json(path)
    try:
        faults = {(i, t): kind for i, t, kind in content.pop("faults")}
        return Refinement(faults=faults, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no captions of a run that was interrupted; remove it") from error


def load_reformulator(
    spec: str = "mini", *, device: str | torch.device = "cpu", prompt: str | None = None
) -> Reformulator:
    """The reformulator of a spec.

    Args:
        spec: `mini`, the one that comes with the package, a folder, or a hub's name.
        device: where it computes.
        prompt: the template for a model that is shown whole dialogues, with `{dialogue}` where
            the dialogue goes; by default `daitir.models.prompts.PROMPT`.

    Returns:
        The reformulator, its weights read from safetensors only.

    Raises:
        DataError: a part of the folder is missing, damaged or asks for code to be run, the hub
            cannot be reached, the model has no room for a caption, or the prompt is of no use.

    Example:
        >>> load_reformulator().refine([["a dog at the beach", "is it night? yes"]]).captions
        [['a dog at the beach', 'a dog at the beach at night']]
    """
    kind = "a transformers model with its tokeniser"
    source, local = find_source(spec, LM_FOLDER, _PARTS, kind=kind, recipe="lm")
    with reading(spec, "language model", local=local):
        # Half precision is slow on most processors; elsewhere the model's own is kept.
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
        model = read_weights(AutoModelForCausalLM, spec, source, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(source, **NO_CODE)
        origin = identity(files=model_files(check_source(source)))
    return Reformulator(spec, model, tokenizer, device, origin=origin, prompt=prompt)
