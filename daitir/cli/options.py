"""What commands are made of: their form, options of several commands, kinds of values."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daitir.common.terminal import printable
from daitir.data.dialogues import TEXT_CONVENTIONS
from daitir.models.registry import encoder_forms
from daitir.studies.profiles import PROFILES

# Arguments by their words, which `Parser.option` explains: each with its help, with its help and
# its default, or with all that argparse takes.
Options = Mapping[str, Any]
Run = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """A parser that takes tables of options and no empty value, and whose errors are one line."""

    def option(self, words: str, help: str | Callable[[], str], **options) -> None:
        """Add an argument by its flags and what its value is called, as `--out DIR`.

        The name of the value tells its type, or lists the choices, as `--split {train,val}`; what
        has no value is a switch. `data --data DIR` may stand bare or behind its flag. The help ends
        with the default.

        >>> parser = Parser()
        >>> parser.option("--out DIR", "gets the table", default=Path("results"))
        >>> parser.option("--quick", "decode nothing")
        >>> parser.parse_args(["--quick"]).quick, parser.parse_args([]).out.name
        (True, 'results')
        """
        *names, value = words.split() if " " in words else (words, None)
        help = help() if callable(help) else help
        if value and value.startswith("{"):
            options["choices"] = value.strip("{}").split(",")
        elif value:
            options = {"metavar": value, "type": VALUE_TYPES.get(value)} | options
        elif not options:
            options["action"] = "store_true"
        if options.get("default") is not None:
            help += " (default: %(default)s)"
        if names[1:] and not names[0].startswith("-"):
            name, *names = names
            group = self.add_mutually_exclusive_group(required=options.pop("required", False))
            group.add_argument(name, nargs="?", default=argparse.SUPPRESS, help=help, **options)
            group.add_argument(*names, dest=name, help=f"the same as {value}", **options)
        else:
            self.add_argument(*names, help=help.strip(), **options)

    def options(self, table: Options) -> None:
        for words, told in table.items():
            if isinstance(told, tuple):
                told = {"help": told[0], "default": told[1]}
            self.option(words, **(told if isinstance(told, dict) else {"help": told}))

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        arguments, rest = super().parse_known_args(args, namespace)
        if rest:  # told by the parser of the command, whose help knows what there is
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return arguments, rest

    def _get_value(self, action: argparse.Action, text: str):
        if text is argparse.SUPPRESS:  # of an argument that is absent
            return text
        of_command = action.nargs == argparse.PARSER  # the words that its own parser will read
        if not of_command and (not text.strip() or "\0" in text):
            raise argparse.ArgumentError(action, f"must not be {text!r}")
        return super()._get_value(action, text)


def about(summary: str, *examples: str) -> dict[str, Any]:
    """What `add_parser` takes for a help that begins with a summary and ends with examples."""
    epilog = "\n  ".join(("example:", *examples))
    form = argparse.RawDescriptionHelpFormatter
    shown = {"help": summary, "description": f"{summary}.", "epilog": epilog}
    return {**shown, "formatter_class": form}


def command(*examples: str, options: Options) -> Callable[[Run], Callable[..., None]]:
    """Declare the command that a function runs; in its place stands what adds it to a parser.

    The function's name is the command's, the first line of its docstring the summary.
    """

    def declare(run: Run) -> Callable[..., None]:
        def add(commands) -> None:
            summary = (run.__doc__ or "").split("\n")[0].rstrip(".")
            parser = commands.add_parser(run.__name__, **about(summary, *examples))
            parser.set_defaults(run=run)
            parser.add_argument("-v", "--verbose", action="store_true", help="tell more on stderr")
            parser.options(options)

        return add

    return declare


def bounded(lowest: float, highest: float | None = None, kind: type = int) -> Callable:
    """The `type` of an argument that is a number between two, which count too.

    >>> bounded(1)("x")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: must be a whole number, not 'x'
    """

    def value_of(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if value != value:
            words = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {words}, not {text!r}")
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest:,}, not {text}")
        if highest is not None and value > highest:
            raise argparse.ArgumentTypeError(f"must be at most {highest:,}, not {text}")
        return value

    return value_of


# What a value is called in the help tells its type; all others are text.
VALUE_TYPES: Mapping[str, Callable] = {
    "DIR": Path, "FILE": Path, "FILE.csv": Path, "N": bounded(1), "SCALE": bounded(0, 100, float),
    "STEPS": bounded(1, 1000),  # noise levels that the schedulers know
    "PIXELS": bounded(32, 4096),  # smaller scenes have no room for what is drawn
    "P": bounded(0, 1, float),
}  # fmt: skip


def required(help: str | Callable[[], str]) -> dict[str, Any]:
    return {"help": help, "required": True}


DTYPES = "{float32,float16,bfloat16}"
WHERE = "where models run: cpu, cuda, cuda:1 or mps"
WORKERS = {"type": bounded(1, 256), "default": os.cpu_count() or 1}
DEVICE: Options = {"--device NAME": (WHERE, "cpu")}
MACHINE: Options = DEVICE | {
    "--workers N": {"help": "processes that draw scenes, by default one a core"} | WORKERS
}
CACHE: Options = {"--cache DIR": ("keeps what is drawn", Path("runs/views"))}
FEATURES: Options = {
    "--features DIR": "where features are kept (default: features/ in the folder of own data, by "
    "the encoder's name and identity; of other folders in the user's cache)",
}
BATCH_SIZE, DTYPE = 64, "float32"  # of what embeds
EMBEDDING: Options = {
    "--encoder SPEC": required(encoder_forms),
    **FEATURES,
    "--batch-size N": ("pictures that the encoder sees together", BATCH_SIZE),
    "--threads --workers N": {
        "help": "threads that decode pictures, by default one a core", "dest": "workers",
    } | WORKERS,
    f"--dtype {DTYPES}": ("precision of the encoder's products", DTYPE),
    **DEVICE,
}  # fmt: skip


def data_instead_of(files: str) -> Options:
    """The folder of own data that stands for other arguments."""
    return {
        "data --data DIR": f"folder of own data, instead of {files}",
        "--split {train,val,test}": "of --data (default: test, which is what dialogues.json alone "
        "is)",
    }


def text_of(what: str) -> Options:
    """The convention by which `what` is made from the rounds of a dialogue."""
    return {
        f"--text {{{','.join(TEXT_CONVENTIONS)}}}": f"how {what} is made from the rounds: each is "
        "a caption (current_rewrite; affirmed_rewrite leaves out what it denies), or adds to those "
        "before (raw_dialogue, and all_rewrites, which repeats captions); default: current_rewrite "
        "for rewrites that daitir or --data knows, raw_dialogue for questions with answers; else "
        "it must be named",
    }


def seed_of(help: str = "") -> Options:
    return {"--seed N": {"help": help, "type": bounded(0, 2**63 - 1), "default": 0}}


def profile_of(whose: str) -> Options:
    names = f"{', '.join(PROFILES)} (default: DAITIR_PROFILE, or classroom)"
    return {"--profile NAME": f"whose {whose}: {names}"}
