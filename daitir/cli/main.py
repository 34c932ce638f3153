"""The `daitir` command: its arguments, exit codes and help."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from daitir import __version__
from daitir.cli import paper_commands
from daitir.cli.parsers import generation, own_data, training
from daitir.cli.parsers.options import Parser, add_command, add_machine, add_profile, named
from daitir.cli.study_commands import STUDIES, Study, run_study
from daitir.common.errors import DataError
from daitir.common.terminal import LineFormatter, complain


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad data or arguments, 130 for Ctrl-C."""
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
    """The parser of all commands; each function in COMMANDS adds its own."""
    parser = Parser(
        prog="daitir", description="Diffusion-augmented interactive text-to-image retrieval."
    )
    parser.add_argument("--version", action="version", version=f"daitir {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(subparsers)
    return parser


def _add_study(subparsers, study: Study) -> None:
    flags = " ".join(f"{flag} {folder}" for flag, folder in study.folders.items())
    parser = add_command(
        subparsers, study.name, help=study.help, example=f"daitir {study.name} {flags}"
    )
    parser.set_defaults(run=partial(run_study, study))
    add = parser.add_argument
    add_profile(parser, "sizes and models")
    kept = {"--work": "keeps what is done", "--cache": "keeps what is drawn"}
    for flag, folder in study.folders.items():
        add(flag, type=Path, default=Path(folder), metavar="DIR",
            help=f"{kept[flag]} (default: %(default)s)")
    table = study.table("PROFILE")
    add("--results", type=Path, default=Path("results"), metavar="DIR",
        help=f"gets {table} and .json (default: %(default)s)")
    if study.compares:
        add("--after", nargs="+", action="extend", type=partial(named, what="SPEC"),
            metavar="NAME=SPEC",
            help="the trained encoders; a name given several times is one training with several "
            "seeds, for example dmcl=finetuned:runs/encoders/classroom/encoders/dmcl/1 "
            "(default: finetune_text and dmcl, with the seeds that the profile has)")
    add_machine(parser)


COMMANDS = (
    own_data.add_evaluate,
    own_data.add_download,
    own_data.add_lint,
    generation.add_refine,
    generation.add_generate,
    own_data.add_embed,
    own_data.add_search,
    generation.add_scenes,
    training.add_pretrain,
    training.add_quality,
    generation.add_queries,
    training.add_train,
    *(partial(_add_study, study=study) for study in STUDIES),
    paper_commands.add_plan,
    paper_commands.add_reproduce,
)


if __name__ == "__main__":
    sys.exit(main())
