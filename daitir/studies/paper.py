"""The papers' setting: its models and data, the commands that lead to its table, and the table.

`make run-gpu PROFILE=paper` runs the commands. Its data are files of people and its models are a
hub's, so no chapter of the embedded world runs in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from daitir.common.errors import DataError
from daitir.common.files import atomic_write
from daitir.data.dialogues import read_json


@dataclass(frozen=True)
class PaperProfile:
    """Models and settings of the papers' setting.

    Attributes:
        clip, blip: specs of the encoders that are used as they come; BLIP's is ADaFuSE's too.
        tuned: the encoder that DMCL trains. The paper's is BEiT-3 base, which no library here has.
        reformulator, generator: as `daitir refine --model` and `daitir generate --pipeline`.
        draw_options: of `daitir generate`: steps, guidance, precision.
        sources: the test sets, folders of `daitir fetch chatir`; the first is VisDial.
        adafuse, dmcl: the settings of training that differ from the package's recipes, published
            ones: 50 epochs of 121,000 dialogues in batches of 128 are 47,000 steps.
    """

    clip: str = "open_clip:ViT-B-32-quickgelu@openai"
    blip: str = "hf:Salesforce/blip-itm-base-coco"
    tuned: str = "open_clip:ViT-B-16-quickgelu@openai"
    reformulator: str = "Qwen/Qwen2.5-7B-Instruct"
    generator: str = "stabilityai/sdxl-turbo"
    draw_options: tuple[str, ...] = ("--steps", "4", "--guidance", "0")
    sources: tuple[str, ...] = (
        "VisDial_v1.0_queries_val", "Human_BLIP2", "ChatGPT_BLIP2", "FLAN_ALPACA_XXL_BLIP2",
        "Unanswered_ChatGPT_BLIP2",
    )  # fmt: skip
    adafuse: tuple[str, ...] = (
        "projection_dim=512", "hidden_dim=2048", "learning_rate=5e-5", "steps=47000",
        "warmup_steps=4700", "eval_every=940",
    )  # fmt: skip
    dmcl: tuple[str, ...] = (
        "learning_rate=1e-5", "steps=47000", "warmup_steps=4700", "eval_every=940",
        "micro_batch_size=32",
    )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: also of the note that it is done.
        arguments: of `daitir`.
        is_shared: whether several processes may share it.
    """

    name: str
    arguments: tuple[str, ...]
    is_shared: bool = False


METHODS = ("clip", "blip", "dar", "adafuse", "dmcl")
TRAINED = ("adafuse", "dmcl")


def paper_steps(
    profile: PaperProfile, work: Path, *, coco: Path | None = None, device: str = "cuda"
) -> list[Step]:
    """The commands from nothing to the results, in order.

    Args:
        work: folder that gets data, views, trained weights and results.
        coco: folder of COCO's pictures with those of 2014, which VisDial's training dialogues are
            about. Without it nothing is trained.
    """
    pictures, visdial = work / "data" / "coco-unlabeled", work / "data" / "visdial"
    chatir = work / "data" / "chatir"
    on = ("--device", device)

    def step(name: str, *arguments: object, shared: bool = False) -> Step:
        return Step(name, tuple(map(str, arguments)), shared)

    steps = [
        step("pictures", "fetch", "coco-unlabeled", "--out", pictures),
        step("dialogues", "fetch", "chatir", "--out", chatir, "--images", pictures / "images"),
    ]
    parts = [(source, chatir / source, "test") for source in profile.sources]
    if coco is not None:
        steps.append(step("training", "fetch", "visdial", "--out", visdial, "--images", coco))
        parts += [("visdial", visdial, "train"), ("visdial", visdial, "val")]
    for name, folder, split in parts:
        of = ("--data", folder, "--split", split, *on)
        steps.append(
            step(f"refine {name} {split}", "refine", *of, "--model", profile.reformulator,
                 shared=True)
        )  # fmt: skip
        steps.append(
            step(f"draw {name} {split}", "generate", *of, "--pipeline", profile.generator,
                 *profile.draw_options, "--cache", work / "views", shared=True)
        )  # fmt: skip
    for name, folder in dict((name, folder) for name, folder, _ in parts).items():
        for encoder in dict.fromkeys((profile.clip, profile.blip)):
            steps.append(
                step(f"embed {name} {encoder}", "embed", folder, "--encoder", encoder, *on,
                     shared=True)
            )  # fmt: skip
    if coco is not None:
        for method, encoder, settings, text in (
            ("adafuse", profile.blip, profile.adafuse, "current_rewrite"),
            ("dmcl", profile.tuned, profile.dmcl, "raw_dialogue"),
        ):
            steps.append(
                step(f"train {method}", "train", method, "--data", visdial, "--encoder", encoder,
                     "--text", text, "--set", *settings, *on, "--out", work / method)
            )  # fmt: skip
    return steps + list(_evaluations(profile, work, chatir, coco is not None, on, step))


def _evaluations(
    profile: PaperProfile, work: Path, chatir: Path, trained: bool, on: tuple, step: Callable
) -> Iterator[Step]:
    ways = {
        "clip": (profile.clip, "text", "raw_dialogue"),
        "blip": (profile.blip, "text", "raw_dialogue"),
        "dar": (profile.blip, "dar", "current_rewrite"),
        "adafuse": (profile.blip, f"adafuse:{work / 'adafuse'}", "current_rewrite"),
        "dmcl": (f"finetuned:{work / 'dmcl'}", "dar", "raw_dialogue"),
    }
    for source in profile.sources:
        for method, (encoder, fusion, text) in ways.items():
            if trained or method not in TRAINED:
                yield step(
                    f"evaluate {source} {method}", "evaluate", "--data", chatir / source,
                    "--encoder", encoder, "--fusion", fusion, "--text", text, "--method", method,
                    "--benchmark", source, *on, "--out", results_file(work, source, method),
                )  # fmt: skip


def results_file(work: Path, source: str, method: str) -> Path:
    """Where the table of a method on a source lies."""
    return work / "results" / f"{source}_{method}.csv"


def run_steps(steps: Sequence[Step], work: Path, run: Callable[[Step], int]) -> list[str]:
    """Run the steps that are not done, in order, and return their names.

    A step is done when it was run with the same arguments in this folder and ended well. Its
    command goes on where it was interrupted.

    Args:
        run: runs a step and returns its exit code.

    Raises DataError where one does not end well; those after it are not run.
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


def published_beside_ours(
    work: Path, published: pd.DataFrame, sources: Sequence[str] = PaperProfile.sources
) -> pd.DataFrame:
    """The papers' figures beside those of a run, in percent and points of Hits@10.

    Args:
        work: the folder of the run; a result that is missing is shown as not run.
        published: the rows of `book/published.csv`.
        sources: as in the profile, VisDial first.

    Returns:
        `figure`, `round` (`any` for the largest of all rounds), `published`, `ours`, with a 95%
        interval over dialogues where it is a share, and `compare`: whether the two measure the
        same, and if not, why.
    """
    values = published[published["metric"].str.startswith(("hits_at_10", "gain in hits_at_10"))]
    found = {(source, method): _hits(work, source, method) for source in sources
             for method in METHODS}  # fmt: skip
    visdial, rows = sources[0], []

    def add(name: str, row: pd.Series, ours: str, compare: str) -> None:
        shown = int(row["round"]) if str(row["round"]).strip() not in ("", "nan") else "any"
        rows.append((name, shown, f"{float(row['value']):.2f}", ours, compare))

    for row in values.to_dict("records"):
        row = pd.Series(row)
        method, of = row["method"], row["metric"]
        number = None if str(row["round"]).strip() in ("", "nan") else int(row["round"])
        if of == "hits_at_10" and number in (0, 5, 10):
            key = {"CLIP": "clip", "ChatIR": "blip"}[method]
            add(f"{method}, Hits@10, VisDial", row, _share(found[visdial, key], number), SAME[key])
        elif method == "ADaFuSE" and number is not None:
            pair = found[visdial, "adafuse"], found[visdial, "dar"]
            add("ADaFuSE over DAR, VisDial", row, _difference(*pair, number), ADAFUSE)
        elif method in ("DAR", "ADaFuSE", "DMCL") and of.startswith("gain"):
            best, base = {"DAR": ("dar", "blip"), "ADaFuSE": ("adafuse", "dar"),
                          "DMCL": ("dmcl", "clip")}[method]  # fmt: skip
            gains = [_difference(found[s, best], found[s, base], number) for s in sources]
            known = [gain for gain in gains if gain != NOT_RUN]
            ours = max(known, key=float) if known else NOT_RUN
            add(f"{method}, largest gain over {base}", row, ours, MOST[method])
    return pd.DataFrame(rows, columns=["figure", "round", "published", "ours", "compare"])


NOT_RUN = "not run"
SAME = {
    "clip": "yes, if the encoder and the text convention are theirs: they name neither",
    "blip": "no: theirs is fine-tuned on dialogues, ours as it comes",
}
ADAFUSE = "in part: their views, rewrites and encoder are others"
MOST = {
    "DAR": "no: over fine-tuned baselines there, over the same encoder here",
    "ADaFuSE": "in part: the largest of the benchmarks there, of the sources here",
    "DMCL": "no: five benchmarks and BEiT-3 there, another encoder here",
}


def _hits(work: Path, source: str, method: str) -> pd.DataFrame | None:
    path = results_file(work, source, method)
    if not path.exists():
        return None
    rows = pd.read_csv(path)
    return rows[(rows["method"] == method) & (rows["metric"] == "hits_at_10")].set_index("round")


def _share(rows: pd.DataFrame | None, number: int) -> str:
    if rows is None or number not in rows.index:
        return NOT_RUN
    return "{:.2f} ({:.2f} to {:.2f})".format(
        *(100 * rows.loc[number, name] for name in ("value", "ci_low", "ci_high"))
    )


def _difference(rows: pd.DataFrame | None, other: pd.DataFrame | None, number: int | None) -> str:
    """The difference at a round, or the largest of all rounds, in points."""
    if rows is None or other is None:
        return NOT_RUN
    gains = 100 * (rows["value"] - other["value"])
    if number is not None and number not in gains.index:
        return NOT_RUN
    return f"{gains.max() if number is None else gains[number]:+.2f}"


def prices(texts: Sequence[str] | None) -> Mapping[str, float]:
    """The hourly prices of `NAME=DOLLARS`. Raises DataError for another form."""
    found = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise DataError(f"must be NAME=DOLLARS, not {text!r}") from error
        if not 0 <= found[name] < float("inf"):
            raise DataError(f"dollars must be a number from 0 on, not {value!r}")
    return found
