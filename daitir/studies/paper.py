"""The papers' setting: its models and data, the commands that lead to its table, and the table.

`make run-gpu PROFILE=paper` runs the commands. Its data are files of people and its models are a
hub's, so no chapter of the embedded world runs in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_json


@dataclass(frozen=True)
class PaperProfile:
    """Models and settings of the papers' setting."""

    clip: str = "open_clip:ViT-B-32-quickgelu@openai"
    blip: str = "hf:Salesforce/blip-itm-base-coco"  # ADaFuSE's too
    # The encoder that DMCL trains; the paper's is BEiT-3 base, which no library here has.
    tuned: str = "open_clip:ViT-B-16-quickgelu@openai"
    reformulator: str = "Qwen/Qwen2.5-7B-Instruct"
    generator: str = "stabilityai/sdxl-turbo"
    draw_options: tuple[str, ...] = ("--steps", "4", "--guidance", "0")
    # The test sets, folders of `daitir fetch chatir`; the first is VisDial.
    sources: tuple[str, ...] = (
        "VisDial_v1.0_queries_val", "Human_BLIP2", "ChatGPT_BLIP2", "FLAN_ALPACA_XXL_BLIP2",
        "Unanswered_ChatGPT_BLIP2",
    )  # fmt: skip
    # Published settings: 50 epochs of 121,000 dialogues in batches of 128 are 47,000 steps.
    adafuse: tuple[str, ...] = (
        "projection_dim=512", "hidden_dim=2048", "learning_rate=5e-5", "steps=47000",
        "warmup_steps=4700", "eval_every=940",
    )  # fmt: skip
    dmcl: tuple[str, ...] = (
        "learning_rate=1e-5", "steps=47000", "warmup_steps=4700", "eval_every=940",
        "micro_batch_size=32",
    )  # fmt: skip


class Step(NamedTuple):
    """One command: its name, also of the note that it is done, and the arguments of `daitir`."""

    name: str
    arguments: tuple[str, ...]
    is_shared: bool = False  # whether several processes may share it


METHODS = ("clip", "blip", "dar", "adafuse", "dmcl")


def paper_steps(
    profile: PaperProfile, work: Path, *, coco: Path | None = None, device: str = "cuda"
) -> list[Step]:
    """The commands from nothing to the results, in order, all of them below `work`.

    `coco` is the folder of COCO's pictures with those of 2014, which VisDial's training dialogues
    are about. Without it nothing is trained.
    """
    pictures, visdial = work / "data" / "coco-unlabeled", work / "data" / "visdial"
    chatir = work / "data" / "chatir"
    on = ("--device", device)
    steps = [
        _step("pictures", "fetch", "coco-unlabeled", "--out", pictures),
        _step("dialogues", "fetch", "chatir", "--out", chatir, "--images", pictures / "images"),
    ]
    splits = [(source, chatir / source, "test") for source in profile.sources]
    if coco is not None:
        steps.append(_step("training", "fetch", "visdial", "--out", visdial, "--images", coco))
        splits += [("visdial", visdial, "train"), ("visdial", visdial, "val")]
    for name, folder, split in splits:
        data = ("--data", folder, "--split", split, *on)
        steps += [
            _step(f"refine {name} {split}", "refine", *data, "--model", profile.reformulator,
                  is_shared=True),
            _step(f"draw {name} {split}", "generate", *data, "--pipeline", profile.generator,
                  *profile.draw_options, "--cache", work / "views", is_shared=True),
        ]  # fmt: skip
    steps += [
        _step(f"embed {name} {encoder}", "embed", folder, "--encoder", encoder, *on, is_shared=True)
        for name, folder in {name: folder for name, folder, _ in splits}.items()
        for encoder in (profile.clip, profile.blip)
    ]
    ways = {
        "clip": (profile.clip, "text", "raw_dialogue"),
        "blip": (profile.blip, "text", "raw_dialogue"),
        "dar": (profile.blip, "dar", "current_rewrite"),
    }
    if coco is not None:
        for method, encoder, settings, text in (
            ("adafuse", profile.blip, profile.adafuse, "current_rewrite"),
            ("dmcl", profile.tuned, profile.dmcl, "raw_dialogue"),
        ):
            steps.append(_step(
                f"train {method}", "train", method, "--data", visdial, "--encoder", encoder,
                "--text", text, "--set", *settings, *on, "--out", work / method,
            ))  # fmt: skip
        ways |= {
            "adafuse": (profile.blip, f"adafuse:{work / 'adafuse'}", "current_rewrite"),
            "dmcl": (f"finetuned:{work / 'dmcl'}", "dar", "raw_dialogue"),
        }
    return steps + [
        _step(
            f"evaluate {source} {method}", "evaluate", "--data", chatir / source,
            "--encoder", encoder, "--fusion", fusion, "--text", text, "--method", method,
            "--benchmark", source, *on, "--out", results_file(work, source, method),
        )
        for source in profile.sources
        for method, (encoder, fusion, text) in ways.items()
    ]  # fmt: skip


def _step(name: str, *arguments: object, is_shared: bool = False) -> Step:
    return Step(name, tuple(map(str, arguments)), is_shared)


def results_file(work: Path, source: str, method: str) -> Path:
    """Where the table of a method on a source lies."""
    return work / "results" / f"{source}_{method}.csv"


def run_steps(steps: Sequence[Step], work: Path, run: Callable[[Step], int]) -> list[str]:
    """Run the steps that are not done, in order, and return their names.

    A step is done when it was run with the same arguments in this folder and ended well. Its
    command goes on where it was interrupted. Raises DataError where `run` gives another exit code
    than 0; the steps after that are not run.
    """
    notes, ran = work / "done", []
    for step in steps:
        note = notes / f"{step.name.replace('/', '_').replace(':', '_')}.json"
        if note.exists() and read_json(note) == list(step.arguments):
            continue
        code = run(step)
        if code:
            raise DataError(
                f"daitir {' '.join(step.arguments)}: ended with code {code}; mend what it says and "
                "run this again, it goes on from there"
            )
        with atomic_write(note) as temporary:
            temporary.write_text(json.dumps(step.arguments), encoding="utf-8")
        ran.append(step.name)
    return ran


class Figure(NamedTuple):
    """A published figure and the result of ours beside it."""

    name: str
    method: str
    base: str  # what it is a gain over, if any
    compare: str  # whether the two measure the same, and if not, why
    rounds: tuple[int, ...] = ()  # that are shown; all without them


NOT_RUN = "not run"
FIGURES = {  # by the published method and what it is measured on
    ("CLIP", "VisDial"): Figure(
        "CLIP, Hits@10, VisDial", "clip", "",
        "yes, if the encoder and the text convention are theirs: they name neither", (0, 5, 10)),
    ("ChatIR", "VisDial"): Figure(
        "ChatIR, Hits@10, VisDial", "blip", "",
        "no: theirs is fine-tuned on dialogues, ours as it comes", (0, 5, 10)),
    ("DAR", "four benchmarks"): Figure(
        "DAR, largest gain over blip", "dar", "blip",
        "no: over fine-tuned baselines there, over the same encoder here"),
    ("ADaFuSE", "four benchmarks"): Figure(
        "ADaFuSE, largest gain over dar", "adafuse", "dar",
        "in part: the largest of the benchmarks there, of the sources here"),
    ("ADaFuSE", "VisDial"): Figure(
        "ADaFuSE over DAR, VisDial", "adafuse", "dar",
        "in part: their views, rewrites and encoder are others"),
    ("DMCL", "five benchmarks"): Figure(
        "DMCL, largest gain over clip", "dmcl", "clip",
        "no: five benchmarks and BEiT-3 there, another encoder here"),
}  # fmt: skip


def published_beside_ours(
    work: Path, published: pd.DataFrame, sources: Sequence[str] = PaperProfile.sources
) -> pd.DataFrame:
    """The papers' figures beside those of a run, in percent and points of Hits@10.

    `published` has the rows of `book/published.csv`; a result that the run lacks is shown as not
    run. `round` is `any` for the largest of all rounds, and shares have a 95% interval.
    """
    rows = []
    values = published[published["metric"].str.contains("hits_at_10")]
    for row in values.to_dict("records"):
        figure = FIGURES.get((row["method"], row["dataset"]))
        number = None if str(row["round"]).strip() in ("", "nan") else int(row["round"])
        if figure is None or (figure.rounds and number not in figure.rounds):
            continue
        only_visdial = not figure.base or row["dataset"] == "VisDial"
        ours = _figure_of_ours(work, figure, sources[:1] if only_visdial else sources, number)
        shown = "any" if number is None else number
        rows.append((figure.name, shown, f"{float(row['value']):.2f}", ours, figure.compare))
    return pd.DataFrame(rows, columns=["figure", "round", "published", "ours", "compare"])


def _figure_of_ours(work: Path, figure: Figure, sources: Sequence[str], number: int | None) -> str:
    """A share with its interval, or the largest gain in points at a round, or at any."""
    tables = []
    for source in sources:
        rows, base = (_hits(work, source, method) for method in (figure.method, figure.base))
        if figure.base:
            rows = rows[["value"]] - base[["value"]]
        tables.append(rows if number is None else rows[rows.index == number])
    rows = 100 * pd.concat(tables).dropna()
    if rows.empty:
        return NOT_RUN
    if figure.base:
        return f"{rows['value'].max():+.2f}"
    return "{value:.2f} ({ci_low:.2f} to {ci_high:.2f})".format(**rows.iloc[0])


def _hits(work: Path, source: str, method: str) -> pd.DataFrame:
    """Hits@10 of a method on a source by round; no rows where it was not run."""
    columns = ["value", "ci_low", "ci_high"]
    path = results_file(work, source, method)
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=float)
    rows = pd.read_csv(path)
    hits = rows[(rows["method"] == method) & (rows["metric"] == "hits_at_10")]
    return hits.set_index("round")[columns]
