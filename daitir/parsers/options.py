"""What parsers share: the form of a command, options of several commands, kinds of values."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from daitir.dialogues import TEXT_CONVENTIONS

DTYPES = ("float32", "float16", "bfloat16")
EMBEDDED_AT_ONCE = 64


def add_command(subparsers, name: str, *, help: str, example: str) -> argparse.ArgumentParser:
    """The parser of a new command, whose help ends with an example."""
    parser = subparsers.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more on stderr")
    return parser


def add_encoder(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The encoder by its spec."""
    parser.add_argument("--encoder", required=required, metavar="SPEC",
                        help="mini, lit, open_clip:NAME[@PRETRAINED-or-file], hf:NAME-or-folder "
                        "(CLIP, SigLIP, SigLIP 2 or BLIP of transformers), or finetuned:DIR")


def add_embedding(parser: argparse.ArgumentParser) -> None:
    """How the pictures of a folder of own data are embedded, and where features are kept."""
    add_features(parser)
    add = parser.add_argument
    add("--batch-size", type=positive, default=EMBEDDED_AT_ONCE, metavar="N",
        help="pictures that the encoder sees together (default: %(default)s)")
    add("--workers", type=positive, default=os.cpu_count() or 1, metavar="N",
        help="threads that decode pictures (default: one a core, %(default)s)")
    add("--dtype", choices=DTYPES, default="float32",
        help="precision of the encoder's products (default: %(default)s)")


def add_features(parser: argparse.ArgumentParser) -> None:
    """Where features are kept."""
    parser.add_argument("--features", type=Path, metavar="DIR",
                        help="where features are kept (default: features/ and the encoder's name "
                        "in the folder of own data; of other folders in the user's cache)")


def add_data(parser: argparse.ArgumentParser, *, instead_of: str) -> None:
    """The folder of own data that stands for other arguments."""
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help=f"folder of own data, instead of {instead_of}")
    parser.add_argument("--split", choices=("train", "val", "test"),
                        help="of --data (default: test, which is what dialogues.json alone is)")


def add_text(parser: argparse.ArgumentParser, what: str) -> None:
    """The convention by which `what` is made from the rounds of a dialogue."""
    parser.add_argument("--text", choices=tuple(TEXT_CONVENTIONS),
                        help=f"how {what} is made from the rounds: each is a whole caption "
                        "(current_rewrite), or adds to those before (raw_dialogue, and "
                        "all_rewrites, which repeats captions); default: current_rewrite for "
                        "rewrites that daitir or --data knows, raw_dialogue for questions with "
                        "answers; for anything else it must be named")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """The device, and the processes that draw scenes."""
    parser.add_argument("--device", default="cpu", help="where models run (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, metavar="N",
                        help="processes that draw scenes (default: one a core, %(default)s)")


def named(text: str, *, what: str) -> tuple[str, str]:
    """The two sides of NAME=`what`, for an argument's `type`."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"must be NAME={what}, not {text!r}")
    return name, value


def positive(text: str) -> int:
    """A whole number from 1 on, for an argument's `type`."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number
