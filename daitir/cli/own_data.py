"""Commands that look at, embed, rank and search one's own pictures."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.cli import inputs
from daitir.cli.options import EMBEDDING, command, data_instead_of, required, seed_of, text_of
from daitir.common.errors import DataError
from daitir.common.files import begins_with, check_output, has_notes
from daitir.common.terminal import say
from daitir.data.dialogues import read_dialogues, read_source
from daitir.data.names import is_utf8

UNTRAINED = ("text", "view", "dar")
FEW_DIALOGUES = 20  # of fewer a percentile bootstrap covers the mean less often than it says
_SEARCH_HELP = "/undo takes a round back, /new begins anew, /quit ends."
_FOLDER = required("folder with dialogues.json (or dialogues/) and images/")

if TYPE_CHECKING:
    from daitir.data.datafolder import DataFolder
    from daitir.evaluation import Evaluation
    from daitir.models.encoders import Encoder


@command(
    "daitir lint my_pictures/",
    options={
        "folder --data DIR": _FOLDER,
        "--json": "print the report as JSON",
        "--quick": "do not decode the pictures",
        "--encoder SPEC": "count the rounds that this encoder does not read to the end",
    },
)
def lint(arguments: argparse.Namespace) -> None:
    """Look at every file; what is wrong is counted.

    Raises DataError, after the report, where the other commands would refuse the data.
    """
    from daitir.data.lint import lint_data

    options = {"decode": not arguments.quick, "progress": not arguments.json}
    if arguments.encoder:
        from daitir.models.encoders import load_encoder

        options["encoder"] = load_encoder(arguments.encoder)
    report = lint_data(arguments.folder, **options)
    if arguments.json:
        say(*json.dumps(report.as_dict(), indent=1).split("\n"))
    else:
        say(", ".join(f"{name} {size:,}" for name, size in report.sizes.items()))
        say("suffixes: " + ", ".join(f"{name} {n:,}" for name, n in report.suffixes.items()))
        for finding in report.findings:
            level = "error" if finding.is_error else "warning"
            say(f"{level}: {finding.where}: {finding.count:,} × {finding.kind}")
            say(*(f"    {message}" for message in finding.examples))
            if finding.count > len(finding.examples):
                say(f"    … and {finding.count - len(finding.examples):,} more")
        if not report.findings:
            say("nothing is wrong")
    if number := report.num_errors:
        raise DataError(f"{arguments.folder}: {number:,} error{'s' * (number > 1)}; mend the files")


@command(
    "daitir embed my_pictures/ --encoder hf:models/siglip",
    "accelerate launch -m daitir.cli embed my_pictures/ --encoder hf:models/siglip",
    options={"folder --data DIR": _FOLDER, **EMBEDDING},
)
def embed(arguments: argparse.Namespace) -> None:
    """Embed pictures and views, and keep the features."""
    from daitir.data.datafolder import find_data
    from daitir.data.gallery import check_images

    inputs.check_device(arguments.device)
    data = find_data(arguments.folder)
    gallery = check_images(data.images_dir, data.gallery(tell=say))
    views = [view for split in data.dialogues for view in _checked_views(data, split)]
    from daitir.models.processes import processes

    with processes(arguments.device) as (group, device):
        cached = inputs.cached_encoder(arguments, data.root, device=device)
        pictures = (data.images_dir / name for name in gallery)
        number = cached.embed(chain(pictures, views), group=group, progress=True)
    if group.is_main_process:
        what = f"{len(gallery):,} pictures and {len(views):,} views, {number:,} embedded now"
        say(f"{what}; written to {cached.folder}")


def _checked_views(data: DataFolder, split: str) -> list[Path]:
    """The views of a split. Raises DataError where one is unreadable or of other dialogues."""
    from daitir.data.gallery import check_images
    from daitir.data.viewfiles import check_views, list_views

    folder = data.views_dir(split)
    if not folder.is_dir():
        return []
    files, accepted = data.files(split), {"allow_duplicate_targets": True}
    dialogues = read_dialogues(data.dialogues[split], **accepted)
    rewrites = read_source(files.dialogues, files.raw, **accepted) if files.raw else ()
    views = list_views(folder, dialogues).views
    check_views(folder, dialogues, views, also=rewrites)
    paths = [path for rounds in views for paths in rounds for path in paths]
    check_images(folder, [path.name for path in paths])
    return paths


def _fusion(text: str) -> str:
    if text not in UNTRAINED:
        from daitir.fusion import TRAINED_FUSIONS  # late: it loads torch

        kind, _, folder = text.partition(":")
        if kind not in TRAINED_FUSIONS or not folder:
            names = ", ".join((*UNTRAINED, *(f"{name}:DIR" for name in TRAINED_FUSIONS)))
            raise argparse.ArgumentTypeError(f"must be one of {names}, not {text!r}")
    return text


@command(
    "daitir evaluate --dialogues d.json --images d/ --encoder mini --fusion text --out d.csv",
    "daitir evaluate --data my_pictures/ --encoder mini --fusion dar --out dar.csv",
    options={
        **data_instead_of("--dialogues, --images, --gallery and --views"),
        "--dialogues FILE": 'ChatIR file: a list of {"img": path, "dialog": [caption, round, ...]}',
        "--images DIR": "folder that the image paths are relative to",
        "--gallery FILE": "JSON list of the image paths to rank (default: all below --images)",
        "--views DIR": {
            "help": "folder of views {dialogue}_{round}[_{k}].jpg|.jpeg|.webp|.png, for --fusion "
            "view or dar; several views of a round, and those of several folders, are averaged",
            "nargs": "+", "action": "extend",
        },
        **EMBEDDING,
        "--fusion FUSION": {
            "help": "how the query is made: text, view, dar, or a trained fusion, for example "
            "adafuse:DIR or nrgr:DIR with the DIR that `daitir train` wrote; all but the first "
            "also tabulate text alone, to compare with",
            "required": True, "type": _fusion,
        },
        **text_of("the query text"),
        "--missing-views {error,text}": ("where a round lacks a view: refuse, or rank it by text "
        "alone", "error"),
        "--skip-unreadable": "leave out images that cannot be decoded, and dialogues about them",
        "--allow-duplicate-targets": "accept several dialogues about one image",
        "--num-dialogues N": "evaluate the first N dialogues only",
        "--benchmark NAME": "label (default: that of the dialogue file, or of --data)",
        "--method NAME": "label (default: the fusion)",
        **seed_of("label: the seed that made the views or the encoder"),
        "--out FILE.csv": required("where the table goes"),
    },
)  # fmt: skip
def evaluate(arguments: argparse.Namespace) -> None:
    """Rank a gallery after every round, and tabulate the metrics."""
    flags = ("dialogues", "images", "gallery", "views")
    data, _, files, reads = inputs.find_own_data(arguments, *flags, text=arguments.text)
    if arguments.fusion != "text" and not files.views_dirs:
        where = f"; `daitir generate --data {arguments.data}` draws some" if data else ""
        raise DataError(f"--fusion {arguments.fusion} needs --views DIR{where}")
    if arguments.fusion != "text" and arguments.method == "text":
        raise DataError("--method text is the name of text alone; choose another")
    check_output(
        arguments.out,
        inputs=reads,
        is_ours=lambda path: (
            begins_with(path, "benchmark,method,seed,round,metric,") and not has_notes(path)
        ),
    )
    told: list[str] = []
    names = ("text", "num_dialogues", "allow_duplicate_targets")
    search = files.read(**inputs.given(arguments, *names), tell=told.append)
    inputs.check_device(arguments.device)
    import torch

    from daitir.data.evaluate import evaluate
    from daitir.evaluation import write_rows
    from daitir.models.encoders import load_encoder

    if data or arguments.features:
        encoder = inputs.cached_encoder(arguments, data.root if data else files.images_dir)
    else:
        dtype = getattr(torch, arguments.dtype)
        encoder = load_encoder(arguments.encoder, device=arguments.device, dtype=dtype)
    kind, _, folder = arguments.fusion.partition(":")
    fusion = kind
    if folder:
        from daitir.recipes.checkpoint import check_origin
        from daitir.recipes.fusion import load_fusion

        check_origin(Path(folder), encoder)
        fusion = load_fusion(Path(folder), dim=encoder.dim, kind=kind)
    say(f"ranked texts: {search.text} of {files.dialogues} ({search.text_known})", *told)
    result = evaluate(
        search,
        encoder=encoder,
        fusion=fusion,
        method=arguments.method or kind,
        **inputs.given(arguments, "benchmark", "seed", "missing_views", "skip_unreadable"),
        progress=True,
    )
    write_rows(arguments.out, result.rows)
    _print(result, encoder, with_views=kind != "text")
    say(f"written to {arguments.out}")


def _print(result: Evaluation, encoder: Encoder, *, with_views: bool) -> None:
    """Print R@10, Hits@10 and MRR of each method per round, in percent, and what they rest on."""
    benchmark, number = result.rows["benchmark"].iloc[0], len(result.lengths)
    say(f"{benchmark}: {number:,} dialogues, {result.num_images:,} images")
    of = f"of {result.num_texts:,}"
    say(f"truncated: {result.num_truncated:,} {of} query texts (context {encoder.context_length})")
    if with_views:
        say(f"without a view: {result.num_without_view:,} {of} rounds, ranked by text alone")
    labels = {"recall_at_10": "R@10", "hits_at_10": "Hits@10", "mrr": "MRR"}
    rows = result.rows[result.rows["metric"].isin(labels)]
    table = rows.pivot(index="round", columns=["method", "metric"], values="value") * 100
    table = table[[(method, metric) for method in result.ranks for metric in labels]]
    table.columns = [f"{method} {labels[metric]}" for method, metric in table.columns]
    lines = table.reset_index().to_string(index=False, float_format="{:.2f}".format).split("\n")
    say(f"{lines[0]}   (percent)", *lines[1:])
    if number < FEW_DIALOGUES:
        enough = f"a bootstrap needs {FEW_DIALOGUES} or more"
        say(f"warning: intervals over {number} dialogues are too narrow; {enough}")


@command(
    "daitir search my_pictures/ --encoder hf:models/siglip",
    options={
        "folder --data DIR": required("folder of pictures at any depth, or of own data"),
        **EMBEDDING,
        "--model SPEC": "language model that refines what is said (default: it is joined)",
        "--pipeline SPEC": "draws a view to search with too, as DAR does (default: words alone)",
        "--top N": ("pictures that are named", 10),
        "--skip-unreadable": "leave out pictures that cannot be decoded",
    },
)  # fmt: skip
def search(arguments: argparse.Namespace) -> None:
    """Search a folder of pictures by a dialogue in the terminal."""
    inputs.check_device(arguments.device)
    from daitir.book.live import LiveSearch
    from daitir.data.gallery import check_images, list_gallery

    root, listed = arguments.folder, arguments.folder / "gallery.json"
    images_dir = root / "images" if (root / "images").is_dir() else root
    names = list_gallery(images_dir, listed if listed.exists() else None, tell=say)
    names = check_images(images_dir, names, skip_unreadable=arguments.skip_unreadable)
    reformulator = generator = None
    if arguments.model:
        from daitir.models.reformulation import load_reformulator

        reformulator = load_reformulator(arguments.model, device=arguments.device)
    if arguments.pipeline:
        from daitir.models.views import load_view_generator

        generator = load_view_generator(arguments.pipeline, device=arguments.device)
    is_own_data = (root / "dialogues.json").exists() or (root / "dialogues").is_dir()
    cached = inputs.cached_encoder(arguments, root, is_own_data=is_own_data)
    features = cached.encode_images([images_dir / name for name in names], progress=True)
    encoder = cached.encoder  # what is said is kept nowhere
    search = LiveSearch(features, encoder, reformulator, generator)
    say(f"features are kept in {cached.folder}")
    say(f"{len(names):,} pictures. Describe one; then add what is missing. {_SEARCH_HELP}")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # else odd bytes end the search
    while True:
        try:
            words = input(f"round {len(search.rounds)}> ").strip()
        except EOFError:
            say("")
            return
        if words == "/quit":
            return
        if words == "/undo":
            search.undo()
        elif words == "/new":
            search.rounds.clear()
        elif not words or words.startswith("/"):
            say(_SEARCH_HELP)
        elif not is_utf8(words):
            say("(this cannot be read as text; say it again)")
        else:
            result = search.say(words)
            if encoder.count_truncated([result.caption]):
                say(f"(too long: the encoder reads {encoder.context_length} tokens, no more)")
            if reformulator:
                say(f"searched for: {result.caption}")
            for place, index in enumerate(result.ranking[: arguments.top].tolist(), 1):
                say(f"{place:>4}  {result.scores[index]:.3f}  {names[index]}")
