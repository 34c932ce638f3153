"""The `daitir` command: its arguments, exit codes and help."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from daitir import commands
from daitir.dialogues import TEXT_CONVENTIONS
from daitir.errors import DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad data or arguments, 130 for Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(format="daitir: %(levelname)s: %(message)s", level=logging.WARNING)
    if arguments.verbose:
        logging.getLogger("daitir").setLevel(logging.INFO)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output left, as `head` does. Python would complain once more when it
        # flushes at exit, so the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (DataError, FloatingPointError, OSError) as error:
        print(f"daitir: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("daitir: interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each function in COMMANDS adds its own."""
    parser = argparse.ArgumentParser(
        prog="daitir", description="Diffusion-augmented interactive text-to-image retrieval."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(subparsers)
    return parser


def _add_command(subparsers, name: str, *, help: str, example: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more on stderr")
    return parser


def _add_evaluate(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "evaluate",
        help="Rank a gallery after every round of every dialogue, and tabulate the metrics.",
        example="daitir evaluate --dialogues dialogues.json --images images/ --views views/ "
        "--encoder mini --fusion dar --out dar.csv",
    )
    parser.set_defaults(run=commands.evaluate)
    add = parser.add_argument
    add("--dialogues", required=True, type=Path, metavar="FILE",
        help='ChatIR file: a JSON list of {"img": path, "dialog": [caption, round, ...]}')
    add("--images", required=True, type=Path, metavar="DIR",
        help="folder that the image paths are relative to")
    add("--gallery", type=Path, metavar="FILE",
        help="JSON list of the image paths to rank (default: all images below --images)")
    add("--views", type=Path, metavar="DIR", nargs="+",
        help="folder of views {dialogue}_{round}.jpg|.jpeg|.webp|.png, for --fusion view or dar; "
        "the views of several folders are averaged")
    add("--encoder", required=True, metavar="SPEC",
        help="mini, or open_clip:NAME[@PRETRAINED-or-file]")
    add("--fusion", required=True, choices=("text", "view", "dar"),
        help="how the query is made; view and dar also tabulate text alone, to compare with")
    add("--text", choices=tuple(TEXT_CONVENTIONS), default="current_rewrite",
        help="how the query text is made from the rounds (default: %(default)s)")
    add("--missing-views", choices=("error", "exclude"), default="error",
        help="what to do with dialogues that lack a view (default: %(default)s)")
    add("--skip-unreadable", action="store_true",
        help="leave out gallery images that cannot be decoded, and the dialogues about them")
    add("--allow-duplicate-targets", action="store_true",
        help="accept several dialogues about one image")
    add("--num-dialogues", type=_positive, metavar="N", help="evaluate the first N dialogues only")
    add("--benchmark", metavar="NAME", help="label (default: the dialogue file's name)")
    add("--method", metavar="NAME", help="label (default: the fusion)")
    add("--seed", type=int, default=0, metavar="N",
        help="label: the seed that made the views or the encoder (default: %(default)s)")
    add("--device", default="cpu", help="where the encoder runs (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="FILE.csv", help="where the table goes")


def _add_scenes(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "scenes",
        help="Write pictures, dialogues and controlled views of the embedded world as files.",
        example="daitir scenes runs/scenes --num-dialogues 100 --broken-share 0.15",
    )
    parser.set_defaults(run=commands.scenes)
    add = parser.add_argument
    add("folder", type=Path,
        help="gets images/, gallery.json, dialogues.json, rewrites.json and views/")
    add("--split", choices=("train", "val", "test", "heldout"), default="test",
        help="(default: %(default)s)")
    add("--source", choices=("human", "terse", "verbose", "degenerate", "unreliable"),
        default="human", help="who asks and answers (default: %(default)s)")
    add("--num-dialogues", type=_positive, default=100, metavar="N", help="(default: %(default)s)")
    add("--num-gallery", type=_positive, default=5000, metavar="N", help="(default: %(default)s)")
    add("--broken-share", type=float, metavar="P",
        help="also write views in which this share of the stated facts is broken")
    add("--size", type=_positive, default=64, metavar="PIXELS", help="(default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")


def _add_refine(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "refine",
        help="Refine dialogues by a language model, into one caption after every round.",
        example="daitir refine --dialogues dialogues.json --out rewrites.json",
    )
    parser.set_defaults(run=commands.refine)
    add = parser.add_argument
    add("--dialogues", required=True, type=Path, metavar="FILE", help="ChatIR file")
    add("--num-dialogues", type=_positive, metavar="N", help="refine the first N dialogues only")
    add("--model", default="mini", metavar="SPEC",
        help="mini, a folder of a transformers model, or a hub's name (default: %(default)s)")
    add("--batch-size", type=_positive, default=64, metavar="N", help="(default: %(default)s)")
    add("--device", default="cpu", help="where the model runs (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="FILE",
        help="ChatIR file with the captions as rounds")


def _add_draw(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "draw",
        help="Draw a view of every round of every dialogue; an interrupted run continues.",
        example="daitir draw --dialogues rewrites.json --out views/",
    )
    parser.set_defaults(run=commands.draw)
    add = parser.add_argument
    add("--dialogues", required=True, type=Path, metavar="FILE", help="ChatIR file")
    add("--text", choices=tuple(TEXT_CONVENTIONS), default="current_rewrite",
        help="how the prompt is made from the rounds (default: %(default)s)")
    add("--num-dialogues", type=_positive, metavar="N", help="draw for the first N dialogues only")
    add("--pipeline", default="mini", metavar="SPEC",
        help="mini, a folder of a diffusers pipeline, or a hub's name (default: %(default)s)")
    add("--steps", type=int, default=8, metavar="N",
        help="enough for mini; other pipelines may need more (default: %(default)s)")
    add("--guidance", type=float, default=2.0, metavar="SCALE", help="(default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)")
    add("--fixed-noise", action="store_true",
        help="all rounds of a dialogue start from the same noise")
    add("--batch-size", type=_positive, default=32, metavar="N", help="(default: %(default)s)")
    add("--cache", type=Path, default=Path("runs/views"), metavar="DIR",
        help="keeps what is drawn (default: %(default)s)")
    add("--device", default="cpu", help="where the pipeline runs (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="DIR",
        help="gets {dialogue}_{round}.webp")


def _add_pretrain(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "pretrain",
        help="Train a model of the package from scratch; an interrupted run continues.",
        example="daitir pretrain clip --out runs/clip",
    )
    parser.set_defaults(run=commands.pretrain)
    add = parser.add_argument
    add("model", choices=("tokenizer", "clip", "recogniser", "diffusion", "lm"),
        help="which: clip is the dual encoder, diffusion the text-to-image pipeline, lm the "
        "language model")
    add("--out", required=True, type=Path, metavar="DIR",
        help="gets checkpoint, log.csv, and at the end the model and its card")
    add("--profile", help="whose recipe (default: DAITIR_PROFILE or classroom)")
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    _add_machine(parser)


def _add_quality(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "quality",
        help="Measure a model on the validation split, as its card in the book shows it.",
        example="daitir quality clip --out results/quality.csv",
    )
    parser.set_defaults(run=commands.quality)
    add = parser.add_argument
    add("model", choices=("clip", "recogniser", "diffusion", "lm"),
        help="which model: clip is the dual encoder, diffusion the text-to-image pipeline, lm the "
        "language model")
    add("--encoder", metavar="SPEC", help="of clip (default: the profile's)")
    add("--folder", type=Path, metavar="DIR",
        help="of the recogniser, pipeline or language model (default: the package's, where it "
        "has one)")
    add("--profile", help="whose sizes (default: DAITIR_PROFILE or classroom)")
    add("--out", required=True, type=Path, metavar="FILE.csv",
        help="table that gets the model's rows; those of other models stay")
    _add_machine(parser)


def _add_queries(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "queries",
        help="Refine and draw the dialogues of the benchmark; an interrupted run continues.",
        example="daitir queries --out runs/queries",
    )
    parser.set_defaults(run=commands.queries)
    add = parser.add_argument
    add("--profile", help="whose sizes and models (default: DAITIR_PROFILE or classroom)")
    add("--steps", type=int, default=8, metavar="N", help="of drawing (default: %(default)s)")
    add("--guidance", type=float, default=2.0, metavar="SCALE", help="(default: %(default)s)")
    add("--cache", type=Path, default=Path("runs/views"), metavar="DIR",
        help="keeps what is drawn (default: %(default)s)")
    add("--device", default="cpu", help="where models run (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="DIR",
        help="gets the captions and the features of the views")


def _add_train(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "train",
        help="Train a fusion, or fine-tune the encoder, on the query sets; an interrupted run "
        "continues.",
        example="daitir train adafuse --out runs/adafuse",
    )
    parser.set_defaults(run=commands.train)
    add = parser.add_argument
    add("method", metavar="METHOD",
        help="a fusion of the frozen encoder (adafuse, nrgr, concat_mlp, cosine_gate, scalar_gate) "
        "or an encoder (dmcl, text_view, finetune_text)")
    add("--profile", help="whose sizes and models (default: DAITIR_PROFILE or classroom)")
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    add("--cache", type=Path, default=Path("runs/cache"), metavar="DIR",
        help="keeps features for a fusion, views for an encoder (default: %(default)s)")
    add("--out", required=True, type=Path, metavar="DIR", help="gets weights, log and checkpoint")
    _add_machine(parser)


def _add_benchmark(subparsers) -> None:
    _add_table(
        subparsers,
        "benchmark",
        commands.benchmark,
        help="Measure every method on every source of dialogues; an interrupted run continues.",
        writes="PROFILE.csv and .json",
        keeps=("--work", "runs/benchmark"),
    )


def _add_encoders(subparsers) -> None:
    parser = _add_table(
        subparsers,
        "encoders",
        commands.encoders,
        help="Measure the fine-tuned encoders; an interrupted run continues.",
        writes="PROFILE_encoders.csv and .json",
        keeps=("--work", "runs/encoders"),
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/views"), metavar="DIR",
                        help="keeps the views (default: %(default)s)")


def _add_choices(subparsers) -> None:
    _add_table(
        subparsers,
        "choices",
        commands.choices,
        help="Measure numbers of views, guidance and steps; an interrupted run continues.",
        writes="PROFILE_choices.csv and .json",
        keeps=("--cache", "runs/views"),
    )


def _add_ablations(subparsers) -> None:
    _add_table(
        subparsers,
        "ablations",
        commands.ablations,
        help="Train and measure ADaFuSE with one part changed; an interrupted run continues.",
        writes="PROFILE_ablations.csv and .json",
        keeps=("--work", "runs/ablations"),
    )


def _add_geometry(subparsers) -> None:
    parser = _add_table(
        subparsers,
        "geometry",
        commands.geometry,
        help="Measure what becomes of single cues under the profile's encoder and trained ones.",
        writes="PROFILE_geometry.csv and .json",
        keeps=("--work", "runs/geometry"),
    )
    _add_after(parser)


def _add_attention(subparsers) -> None:
    parser = _add_table(
        subparsers,
        "attention",
        commands.attention,
        help="Measure where the profile's encoder and trained ones look in drawn views.",
        writes="PROFILE_attention.csv and .json",
        keeps=("--cache", "runs/views"),
    )
    _add_after(parser)


def _add_after(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--after", nargs="+", metavar="NAME=SPEC", type=_named_spec,
                        help="the trained encoders (default: finetune_text and dmcl, seed 0, of "
                        "the profile)")


def _add_table(
    subparsers,
    name: str,
    run: Callable,
    *,
    help: str,
    writes: str,
    keeps: tuple[str, str],
) -> argparse.ArgumentParser:
    """A command that measures a profile and writes a table among the results."""
    flag, folder = keeps
    parser = _add_command(subparsers, name, help=help, example=f"daitir {name} {flag} {folder}")
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--profile", help="whose sizes and models (default: DAITIR_PROFILE or classroom)")
    add(flag, type=Path, default=Path(folder), metavar="DIR",
        help="keeps what is done (default: %(default)s)")
    add("--results", type=Path, default=Path("results"), metavar="DIR",
        help=f"gets {writes} (default: %(default)s)")
    _add_machine(parser)
    return parser


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="where models run (default: %(default)s)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N",
                        help="processes that draw scenes (default: one a core, %(default)s)")


COMMANDS = (
    _add_evaluate,
    _add_refine,
    _add_draw,
    _add_scenes,
    _add_pretrain,
    _add_quality,
    _add_queries,
    _add_train,
    _add_benchmark,
    _add_encoders,
    _add_choices,
    _add_ablations,
    _add_geometry,
    _add_attention,
)


def _named_spec(text: str) -> tuple[str, str]:
    name, _, spec = text.partition("=")
    if not name or not spec:
        raise argparse.ArgumentTypeError(f"must be NAME=SPEC, not {text!r}")
    return name, spec


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
