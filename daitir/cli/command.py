"""The `daitir` command: its groups of commands, exit codes and help.

Every command checks at once all that can be checked, and imports what is heavy only then.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from daitir import __version__
from daitir.cli import derive, fetch, own_data, paper, train, world
from daitir.cli.options import Parser
from daitir.common.errors import DataError
from daitir.common.terminal import LineFormatter, complain
from daitir.studies.registry import STUDIES

# The title of each group, and what adds its commands to the parser.
COMMAND_GROUPS = {
    "your own data, in one folder or in files": (
        own_data.lint, derive.refine, derive.generate, own_data.embed, own_data.evaluate,
        own_data.search, train.train,
    ),
    "the embedded world": (world.scenes, world.queries, world.pretrain, world.quality),
    "what is measured and published": (world.study, fetch.fetch, paper.add_paper),
}  # fmt: skip

# What commands were called before.
RENAMED = {"data": "fetch", "plan": "paper plan", "reproduce": "paper run"} | {
    name: f"study {name}" for name in STUDIES
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad data or arguments, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in RENAMED:
        complain(f"error: `daitir {argv[0]}` is called `daitir {RENAMED[argv[0]]}` now")
        return 2
    if hasattr(sys.stdout, "reconfigure"):  # names of files that the terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("daitir: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    level = logging.INFO if arguments.verbose else logging.NOTSET
    logging.getLogger("daitir").setLevel(level)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output left, as `head` does. Python would complain once more when it
        # flushes at exit, so the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (DataError, FloatingPointError) as error:
        complain(f"error: {error}")
        return 2
    except OSError as error:
        names_file = error.filename is not None and error.strerror
        complain(f"error: {error.filename}: {error.strerror}" if names_file else f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, whose help lists them by their groups."""
    parser = Parser(
        prog="daitir",
        usage="daitir [-h] [--version] COMMAND ...",
        description="Diffusion-augmented interactive text-to-image retrieval.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    hidden = {"help": argparse.SUPPRESS}
    parser.add_argument("-h", "--help", action="help", **hidden)
    parser.add_argument("--version", action="version", version=f"daitir {__version__}", **hidden)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", prog="daitir", **hidden)
    lines = []
    for title, group in COMMAND_GROUPS.items():
        lines.append(f"{title}:")
        for add in group:
            add(commands)
            name, command = list(commands.choices.items())[-1]
            lines.append(f"  {name:<10}{command.description.rstrip('.')}")
    lines += ["", "Each has --help with an example. A long one goes on where it was interrupted."]
    parser.epilog = "\n".join(lines)
    return parser
