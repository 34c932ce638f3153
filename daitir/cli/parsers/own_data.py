"""The parsers of the commands that look at, embed, search and rank pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from daitir.cli import commands, data_commands, download_commands
from daitir.cli.parsers.options import (
    SEED,
    add_command,
    add_data,
    add_device,
    add_embedding,
    add_encoder,
    add_folder,
    add_text,
    positive,
)

UNTRAINED = ("text", "view", "dar")


def add_evaluate(subparsers) -> None:
    parser = add_command(
        subparsers,
        "evaluate",
        help="Rank a gallery after every round of every dialogue, and tabulate the metrics.",
        example="daitir evaluate --dialogues dialogues.json --images images/ --views views/ "
        "--encoder mini --fusion dar --out dar.csv\n"
        "  daitir evaluate --data my_pictures/ --encoder mini --fusion text --out text.csv",
    )
    parser.set_defaults(run=commands.evaluate)
    add_data(parser, instead_of="--dialogues, --images, --gallery and --views")
    add = parser.add_argument
    add("--dialogues", type=Path, metavar="FILE",
        help='ChatIR file: a JSON list of {"img": path, "dialog": [caption, round, ...]}')
    add("--images", type=Path, metavar="DIR",
        help="folder that the image paths are relative to")
    add("--gallery", type=Path, metavar="FILE",
        help="JSON list of the image paths to rank (default: all images below --images)")
    add("--views", type=Path, metavar="DIR", nargs="+", action="extend",
        help="folder of views {dialogue}_{round}[_{k}].jpg|.jpeg|.webp|.png, for --fusion view or "
        "dar; several views of a round, and those of several folders, are averaged")
    add_encoder(parser)
    add_embedding(parser)
    add("--fusion", required=True, type=_fusion, metavar="FUSION",
        help="how the query is made: text, view, dar, or a trained fusion, for example "
        "adafuse:DIR or nrgr:DIR with the DIR that `daitir train` wrote; all but the first also "
        "tabulate text alone, to compare with")
    add_text(parser, "the query text")
    add("--missing-views", choices=("error", "exclude", "text"), default="error",
        help="where a round lacks a view: refuse, leave its dialogue out, or rank that round by "
        "text alone (default: %(default)s)")
    add("--skip-unreadable", action="store_true",
        help="leave out gallery images that cannot be decoded, and the dialogues about them")
    add("--allow-duplicate-targets", action="store_true",
        help="accept several dialogues about one image")
    add("--num-dialogues", type=positive, metavar="N", help="evaluate the first N dialogues only")
    add("--benchmark", metavar="NAME",
        help="label (default: that of the dialogue file, or of --data)")
    add("--method", metavar="NAME", help="label (default: the fusion)")
    add("--seed", type=SEED, default=0, metavar="N",
        help="label: the seed that made the views or the encoder (default: %(default)s)")
    add_device(parser, "the encoder runs")
    add("--out", required=True, type=Path, metavar="FILE.csv", help="where the table goes")


def add_download(subparsers) -> None:
    parser = add_command(
        subparsers,
        "data",
        help="Fetch the papers' data into a folder of own data; an interrupted run continues.",
        example="daitir data coco-unlabeled\n"
        "  daitir data chatir --images runs/data/coco-unlabeled/images",
    )
    parser.set_defaults(run=download_commands.data)
    add = parser.add_argument
    add("name", choices=("visdial", "chatir", "coco-unlabeled"), help="which")
    add("--out", type=Path, metavar="DIR", help="gets it (default: runs/data/ and its name)")
    add("--from", dest="source", type=Path, metavar="DIR",
        help="take it from a folder that has it, at any depth, packed or not; nothing is fetched")
    add("--images", type=Path, metavar="DIR",
        help="COCO's pictures that the dialogues are about: unlabeled2017/, and for training "
        "those of 2014 or 2017; images/ becomes a link to it")
    add("--mirror", metavar="URL", type=_address,
        help="fetch the files of the same names from below this address")
    add("--dry-run", action="store_true", help="only say what would be fetched, and from where")


def add_lint(subparsers) -> None:
    parser = add_command(
        subparsers,
        "lint",
        help="Look at every file of a folder of own data; what is wrong is counted.",
        example="daitir lint my_pictures/",
    )
    parser.set_defaults(run=data_commands.lint)
    add_folder(parser, "folder with dialogues.json (or dialogues/) and images/")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quick", action="store_true", help="do not decode the pictures")
    parser.add_argument("--encoder", metavar="SPEC",
                        help="count the rounds that this encoder does not read to the end")


def add_embed(subparsers) -> None:
    parser = add_command(
        subparsers,
        "embed",
        help="Embed the pictures and views of a folder of own data; an interrupted run continues.",
        example="daitir embed my_pictures/ --encoder hf:models/siglip\n"
        "  accelerate launch -m daitir.cli embed my_pictures/ --encoder hf:models/siglip "
        "--device cuda",
    )
    parser.set_defaults(run=data_commands.embed)
    add_folder(parser, "folder with dialogues.json (or dialogues/) and images/")
    add_encoder(parser)
    add_embedding(parser)
    add_device(parser, "the encoder runs")


def add_search(subparsers) -> None:
    parser = add_command(
        subparsers,
        "search",
        help="Search a folder of pictures by a dialogue in the terminal.",
        example="daitir search my_pictures/ --encoder hf:models/siglip",
    )
    parser.set_defaults(run=data_commands.search)
    add = parser.add_argument
    add_folder(parser, "folder of pictures at any depth, or of own data with images/")
    add_encoder(parser)
    add_embedding(parser)
    add("--model", metavar="SPEC",
        help="refine what is said by this language model (default: the words are joined)")
    add("--pipeline", metavar="SPEC",
        help="search with a view that this pipeline draws too, as DAR does (default: words alone)")
    add("--top", type=positive, default=10, metavar="N",
        help="pictures that are named (default: %(default)s)")
    add("--skip-unreadable", action="store_true", help="leave out pictures that cannot be decoded")
    add_device(parser, "models run")


def _fusion(text: str) -> str:
    kind, _, folder = text.partition(":")
    if text in UNTRAINED:
        return text
    from daitir.fusion import TRAINED_FUSIONS  # late: it loads torch

    if kind not in TRAINED_FUSIONS or not folder:
        names = ", ".join((*UNTRAINED, *(f"{name}:DIR" for name in TRAINED_FUSIONS)))
        raise argparse.ArgumentTypeError(f"must be one of {names}, not {text!r}")
    return text


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must begin with http:// or https://, not {text!r}")
    return text
