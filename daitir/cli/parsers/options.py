"""What parsers share: the form of a command, options of several commands, kinds of values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from daitir.common.terminal import printable
from daitir.data.dialogues import TEXT_CONVENTIONS
from daitir.models.registry import encoder_forms
from daitir.studies.profiles import PROFILES

DTYPES = ("float32", "float16", "bfloat16")
EMBEDDED_AT_ONCE = 64
MOST_WORKERS = 256


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no empty value."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        if rest:  # told by the parser of the command, whose help knows what there is
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def _get_value(self, action: argparse.Action, text: str):
        of_command = action.nargs == argparse.PARSER  # the words that its own parser will read
        if not of_command and (not text.strip() or "\0" in text):
            raise argparse.ArgumentError(action, f"must not be {text!r}")
        return super()._get_value(action, text)


class _Folder(argparse.Action):
    """Stores a folder that two arguments may name; the one that is absent changes nothing."""

    def __call__(self, parser, namespace, values, option_string=None):
        if values is not None:
            setattr(namespace, self.dest, values)


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
                        help=encoder_forms())


def add_embedding(parser: argparse.ArgumentParser) -> None:
    """How the pictures of a folder of own data are embedded, and where features are kept."""
    add_features(parser)
    add = parser.add_argument
    add("--batch-size", type=positive, default=EMBEDDED_AT_ONCE, metavar="N",
        help="pictures that the encoder sees together (default: %(default)s)")
    add("--threads", "--workers", dest="workers", type=WORKERS, default=os.cpu_count() or 1,
        metavar="N", help="threads that decode pictures (default: one a core, %(default)s)")
    add("--dtype", choices=DTYPES, default="float32",
        help="precision of the encoder's products (default: %(default)s)")


def add_features(parser: argparse.ArgumentParser) -> None:
    """Where features are kept."""
    parser.add_argument("--features", type=Path, metavar="DIR",
                        help="where features are kept (default: features/ in the folder of own "
                        "data, by the encoder's name and identity; of other folders in the "
                        "user's cache)")


def add_folder(
    parser: argparse.ArgumentParser, help: str, *, dest: str = "folder", required: bool = True
) -> None:
    """A folder of own data or of pictures, as `--data DIR` or bare; both are one argument."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument(dest, nargs="?", type=Path, action=_Folder, metavar="DIR", help=help)
    group.add_argument("--data", dest=dest, type=Path, action=_Folder, metavar="DIR",
                       help="the same as DIR")


def add_data(parser: argparse.ArgumentParser, *, instead_of: str) -> None:
    """The folder of own data that stands for other arguments."""
    help = f"folder of own data, instead of {instead_of}"
    add_folder(parser, help, dest="data", required=False)
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


def add_device(parser: argparse.ArgumentParser, what: str, *, default: str = "cpu") -> None:
    """Where `what` computes."""
    parser.add_argument("--device", default=default,
                        help=f"where {what}: cpu, cuda, cuda:1 or mps (default: %(default)s)")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """The device, and the processes that draw scenes."""
    add_device(parser, "models run")
    parser.add_argument("--workers", type=WORKERS, default=os.cpu_count() or 1, metavar="N",
                        help="processes that draw scenes (default: one a core, %(default)s)")


def add_profile(parser: argparse.ArgumentParser, whose: str) -> None:
    """The profile, whose name `daitir.studies.profiles.get_profile` looks up."""
    parser.add_argument("--profile", metavar="NAME",
                        help=f"whose {whose}: {', '.join(PROFILES)} (default: DAITIR_PROFILE, or "
                        "classroom)")


def named(text: str, *, what: str) -> tuple[str, str]:
    """The two sides of NAME=`what`, for an argument's `type`."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"must be NAME={what}, not {text!r}")
    return name, value


def whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """The `type` of an argument that is a whole number between two, which count too.

    >>> whole(1)("x")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: must be a whole number, not 'x'
    """
    return partial(_bounded, int, "a whole number", lowest, highest)


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """The `type` of an argument that is a number between two, which count too."""
    return partial(_bounded, float, "a number", lowest, highest)


def _bounded(kind: type, words: str, lowest: float, highest: float | None, text: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise argparse.ArgumentTypeError(f"must be {words}, not {text!r}")
    if value < lowest:
        raise argparse.ArgumentTypeError(f"must be at least {lowest:,}, not {text}")
    if highest is not None and value > highest:
        raise argparse.ArgumentTypeError(f"must be at most {highest:,}, not {text}")
    return value


positive = whole(1)
SEED = whole(0, 2**63 - 1)
WORKERS = whole(1, MOST_WORKERS)
