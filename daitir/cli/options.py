"""What parsers share: the form of a command, options of several commands, kinds of values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from daitir.common.terminal import printable
from daitir.data.dialogues import TEXT_CONVENTIONS
from daitir.models.registry import encoder_forms
from daitir.studies.profiles import PROFILES

DTYPES = ("float32", "float16", "bfloat16")
EMBEDDED_AT_ONCE = 64
MOST_WORKERS = 256


class _Folder(argparse.Action):
    """Stores a folder that two arguments may name; the one that is absent changes nothing."""

    def __call__(self, parser, namespace, values, option_string=None):
        if values is not None:
            setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, that takes no empty value, and knows shared options.

    Attributes:
        summary: what its command does, in half a line.
    """

    summary = ""

    def option(self, words: str, help: str, **options) -> None:
        """Add an argument by its flags and what its value is called, as `--out DIR`.

        The name of the value tells its type; what has neither a value nor a default is a switch.
        The help ends with the default.

        >>> parser = Parser()
        >>> parser.option("--out DIR", "gets the table", default=Path("results"))
        >>> parser.option("--quick", "decode nothing")
        >>> parser.parse_args(["--quick"]).quick, parser.parse_args([]).out.name
        (True, 'results')
        """
        *flags, value = words.split() if " " in words else (words, None)
        if value:
            options = {"metavar": value, "type": VALUE_TYPES.get(value)} | options
        elif not options and words.startswith("--"):
            options["action"] = "store_true"
        if options.get("default") is not None:
            help += " (default: %(default)s)"
        self.add_argument(*flags, help=help.strip(), **options)

    def encoder(self, *, required: bool = True) -> None:
        """The encoder by its spec."""
        self.option("--encoder SPEC", encoder_forms(), required=required)

    def embedding(self) -> None:
        """How the pictures of a folder of own data are embedded, and where features are kept."""
        self.features()
        at_once, cores = EMBEDDED_AT_ONCE, os.cpu_count() or 1
        self.option("--batch-size N", "pictures that the encoder sees together", default=at_once)
        self.option(
            "--threads --workers N", "threads that decode pictures, by default one a core",
            dest="workers", type=WORKERS, default=cores,
        )  # fmt: skip
        self.option(
            "--dtype", "precision of the encoder's products", choices=DTYPES, default="float32"
        )

    def features(self) -> None:
        """Where features are kept."""
        self.option(
            "--features DIR",
            "where features are kept (default: features/ in the folder of own data, by the "
            "encoder's name and identity; of other folders in the user's cache)",
        )

    def folder(self, help: str, *, dest: str = "folder", required: bool = True) -> None:
        """A folder of own data or of pictures, as `--data DIR` or bare; both are one argument."""
        group = self.add_mutually_exclusive_group(required=required)
        options = {"dest": dest, "type": Path, "action": _Folder, "metavar": "DIR"}
        group.add_argument(nargs="?", help=help, **options)
        group.add_argument("--data", help="the same as DIR", **options)

    def data(self, *, instead_of: str) -> None:
        """The folder of own data that stands for other arguments."""
        self.folder(f"folder of own data, instead of {instead_of}", dest="data", required=False)
        self.option(
            "--split", "of --data (default: test, which is what dialogues.json alone is)",
            choices=("train", "val", "test"),
        )  # fmt: skip

    def text(self, what: str) -> None:
        """The convention by which `what` is made from the rounds of a dialogue."""
        self.option(
            "--text",
            f"how {what} is made from the rounds: each is a whole caption (current_rewrite), or "
            "adds to those before (raw_dialogue, and all_rewrites, which repeats captions); "
            "default: current_rewrite for rewrites that daitir or --data knows, raw_dialogue for "
            "questions with answers; for anything else it must be named",
            choices=TEXT_CONVENTIONS,
        )

    def seed(self, help: str = "") -> None:
        """The seed of what is random."""
        self.option("--seed N", help, type=SEED_NUMBER, default=0)

    def cache(self) -> None:
        """Where drawn views are kept, and shared by whatever draws."""
        self.option("--cache DIR", "keeps what is drawn", default=Path("runs/views"))

    def device(self, what: str = "models run", *, default: str = "cpu") -> None:
        """Where `what` computes."""
        self.option("--device NAME", f"where {what}: cpu, cuda, cuda:1 or mps", default=default)

    def machine(self) -> None:
        """The device, and the processes that draw scenes."""
        self.device()
        processes, cores = "processes that draw scenes, by default one a core", os.cpu_count() or 1
        self.option("--workers N", processes, type=WORKERS, default=cores)

    def profile(self, whose: str) -> None:
        """The profile, whose name `daitir.studies.profiles.get_profile` looks up."""
        self.option(
            "--profile NAME",
            f"whose {whose}: {', '.join(PROFILES)} (default: DAITIR_PROFILE, or classroom)",
        )

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        arguments, rest = super().parse_known_args(args, namespace)
        if rest:  # told by the parser of the command, whose help knows what there is
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return arguments, rest

    def _get_value(self, action: argparse.Action, text: str):
        of_command = action.nargs == argparse.PARSER  # the words that its own parser will read
        if not of_command and (not text.strip() or "\0" in text):
            raise argparse.ArgumentError(action, f"must not be {text!r}")
        return super()._get_value(action, text)


def add_command(
    commands,
    run: Callable[[argparse.Namespace], None],
    *examples: str,
    name: str = "",
    summary: str = "",
) -> Parser:
    """The parser of a new command, whose help ends with examples.

    Args:
        commands: the subparsers that it is added to.
        run: what it does.
        name: by default that of the function.
        summary: what it does in half a line, by default the first line of the function's docstring.
    """
    summary = summary or (run.__doc__ or "").split("\n")[0].rstrip(".")
    parser = commands.add_parser(
        name or run.__name__,
        help=summary,
        description=f"{summary}.",
        epilog="\n  ".join(("example:", *examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.summary = summary
    parser.set_defaults(run=run)
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more on stderr")
    return parser


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
SEED_NUMBER = whole(0, 2**63 - 1)
WORKERS = whole(1, MOST_WORKERS)
NOISE_LEVELS = whole(1, 1000)  # noise levels that the schedulers know
GUIDANCE = number(0, 100)
# What a value is called in the help tells its type; all others are text.
VALUE_TYPES: Mapping[str, Callable] = {
    "DIR": Path, "FILE": Path, "FILE.csv": Path, "N": positive, "SCALE": GUIDANCE,
}  # fmt: skip
