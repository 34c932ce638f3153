"""The papers' setting: its models and data, the commands that lead to its table, and the table.

`make run-gpu PROFILE=paper` runs the commands. Its data are files of people and its models are a
hub's, so no chapter of the embedded world runs in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from daitir.common.errors import DataError
from daitir.common.files import read_json, write_json


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
    chatir, on = work / "data" / "chatir", ("--device", device)
    steps: list[Step] = []

    def add(name: str, *arguments: object, is_shared: bool = False) -> None:
        steps.append(Step(name, tuple(map(str, arguments)), is_shared))

    add("pictures", "fetch", "coco-unlabeled", "--out", pictures)
    add("dialogues", "fetch", "chatir", "--out", chatir, "--images", pictures / "images")
    splits = [(source, chatir / source, "test") for source in profile.sources]
    if coco is not None:
        add("training", "fetch", "visdial", "--out", visdial, "--images", coco)
        splits += [("visdial", visdial, "train"), ("visdial", visdial, "val")]
    for name, folder, split in splits:
        data = ("--data", folder, "--split", split, *on)
        add(f"refine {name} {split}", "refine", *data, "--model", profile.reformulator,
            is_shared=True)  # fmt: skip
        add(f"draw {name} {split}", "generate", *data, "--pipeline", profile.generator,
            *profile.draw_options, "--cache", work / "views", is_shared=True)  # fmt: skip
    for name, folder in {name: folder for name, folder, _ in splits}.items():
        for encoder in (profile.clip, profile.blip):
            add(f"embed {name} {encoder}", "embed", folder, "--encoder", encoder, *on,
                is_shared=True)  # fmt: skip
    ways = [
        ("clip", profile.clip, "text", "raw_dialogue"),
        ("blip", profile.blip, "text", "raw_dialogue"),
        ("dar", profile.blip, "dar", "current_rewrite"),
    ]
    if coco is not None:
        for method, encoder, settings, text in (
            ("adafuse", profile.blip, profile.adafuse, "current_rewrite"),
            ("dmcl", profile.tuned, profile.dmcl, "raw_dialogue"),
        ):
            add(f"train {method}", "train", method, "--data", visdial, "--encoder", encoder,
                "--text", text, "--set", *settings, *on, "--out", work / method)  # fmt: skip
        ways += [
            ("adafuse", profile.blip, f"adafuse:{work / 'adafuse'}", "current_rewrite"),
            ("dmcl", f"finetuned:{work / 'dmcl'}", "dar", "raw_dialogue"),
        ]
    for source in profile.sources:
        for method, encoder, fusion, text in ways:
            add(f"evaluate {source} {method}", "evaluate", "--data", chatir / source, "--encoder",
                encoder, "--fusion", fusion, "--text", text, "--method", method, "--benchmark",
                source, *on, "--out", results_file(work, source, method))  # fmt: skip
    return steps


def results_file(work: Path, source: str, method: str) -> Path:
    """Where the table of a method on a source lies."""
    return work / "results" / f"{source}_{method}.csv"


def run_steps(steps: Sequence[Step], work: Path, run: Callable[[Step], int]) -> list[str]:
    """Run the steps that are not done, in order, and return their names.

    A step is done when it was run with the same arguments in this folder and ended well. Its
    command goes on where it was interrupted. Raises DataError where `run` gives another exit code
    than 0; the steps after that are not run.
    """
    ran = []
    for step in steps:
        note = work / "done" / f"{step.name.replace('/', '_').replace(':', '_')}.json"
        if note.exists() and read_json(note) == list(step.arguments):
            continue
        if code := run(step):
            raise DataError(
                f"daitir {' '.join(step.arguments)}: ended with code {code}; mend what it says and "
                "run this again, it goes on from there"
            )
        write_json(note, step.arguments)
        ran.append(step.name)
    return ran


FIGURES = {  # by the published method and what it is measured on
    # Our method, what it is a gain over, if any, and whether the two measure the same.
    ("CLIP", "VisDial"): (
        "clip", "",
        "yes, if the encoder and the text convention are theirs: they name neither"),
    ("ChatIR", "VisDial"): (
        "blip", "", "no: theirs is fine-tuned on dialogues, ours as it comes"),
    ("DAR", "four benchmarks"): (
        "dar", "blip", "no: over fine-tuned baselines there, over the same encoder here"),
    ("ADaFuSE", "four benchmarks"): (
        "adafuse", "dar", "in part: the largest of the benchmarks there, of the sources here"),
    ("ADaFuSE", "VisDial"): (
        "adafuse", "dar", "in part: their views, rewrites and encoder are others"),
    ("DMCL", "five benchmarks"): (
        "dmcl", "clip", "no: five benchmarks and BEiT-3 there, another encoder here"),
}  # fmt: skip
SHOWN_ROUNDS = (0, 5, 10)  # of figures that are no gain


def published_beside_ours(
    work: Path, published: pd.DataFrame, sources: Sequence[str] = PaperProfile.sources
) -> pd.DataFrame:
    """The papers' figures beside those of a run, in percent and points of Hits@10.

    `published` has the rows of `book/published.csv`; a result that the run lacks is shown as not
    run. `round` is `any` for the largest of all rounds, and shares have a 95% interval.
    """
    rows = []
    for row in published[published["metric"].str.contains("hits_at_10")].to_dict("records"):
        name, place = row["method"], row["dataset"]
        number = None if str(row["round"]).strip() in ("", "nan") else int(row["round"])
        method, base, compare = FIGURES.get((name, place), ("", "", ""))
        if not method or (not base and number not in SHOWN_ROUNDS):
            continue
        figure = f"{name}, largest gain over {base}"
        if place == "VisDial":
            figure = f"{name} over {base.upper()}, VisDial" if base else f"{name}, Hits@10, VisDial"
        of_sources = [
            _ours(work, source, method, base)
            for source in (sources[:1] if place == "VisDial" else sources)
        ]
        ours = 100 * pd.concat(of_sources).dropna()
        ours = ours if number is None else ours[ours.index == number]
        text = "not run"
        if len(ours):
            text = "{value:.2f} ({ci_low:.2f} to {ci_high:.2f})".format(**ours.iloc[0])
        if len(ours) and base:
            text = f"{ours['value'].max():+.2f}"
        shown = "any" if number is None else number
        rows.append((figure, shown, f"{float(row['value']):.2f}", text, compare))
    return pd.DataFrame(rows, columns=["figure", "round", "published", "ours", "compare"])


def _ours(work: Path, source: str, method: str, base: str) -> pd.DataFrame:
    """Hits@10 of a method on a source by round, or its gain; no rows where it was not run."""
    path, columns = results_file(work, source, method), ["value", "ci_low", "ci_high"]
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=float)
    rows = pd.read_csv(path).query("method == @method and metric == 'hits_at_10'")
    rows = rows.set_index("round")[columns]
    return rows - _ours(work, source, base, "") if base else rows
