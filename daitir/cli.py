"""The `daitir` command: its arguments, exit codes and help."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from daitir import commands, data_commands, download_commands, paper_commands
from daitir.dialogues import TEXT_CONVENTIONS
from daitir.errors import DataError
from daitir.profiles import SMALL_FUSIONS
from daitir.studies import STUDIES, Study, run_study

DTYPES = ("float32", "float16", "bfloat16")
EMBEDDED_AT_ONCE = 64
UNTRAINED = ("text", "view", "dar")


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
        "--encoder mini --fusion dar --out dar.csv\n"
        "  daitir evaluate --data my_pictures/ --encoder mini --fusion text --out text.csv",
    )
    parser.set_defaults(run=commands.evaluate)
    _add_data(parser, instead_of="--dialogues, --images, --gallery and --views")
    add = parser.add_argument
    add("--dialogues", type=Path, metavar="FILE",
        help='ChatIR file: a JSON list of {"img": path, "dialog": [caption, round, ...]}')
    add("--images", type=Path, metavar="DIR",
        help="folder that the image paths are relative to")
    add("--gallery", type=Path, metavar="FILE",
        help="JSON list of the image paths to rank (default: all images below --images)")
    add("--views", type=Path, metavar="DIR", nargs="+",
        help="folder of views {dialogue}_{round}[_{k}].jpg|.jpeg|.webp|.png, for --fusion view or "
        "dar; several views of a round, and those of several folders, are averaged")
    _add_encoder(parser)
    _add_embedding(parser)
    add("--fusion", required=True, type=_fusion, metavar="FUSION",
        help="how the query is made: text, view, dar, or a trained fusion, for example "
        "adafuse:DIR or nrgr:DIR with the DIR that `daitir train` wrote; all but the first also "
        "tabulate text alone, to compare with")
    _add_text(parser, "the query text")
    add("--missing-views", choices=("error", "exclude", "text"), default="error",
        help="where a round lacks a view: refuse, leave its dialogue out, or rank that round by "
        "text alone (default: %(default)s)")
    add("--skip-unreadable", action="store_true",
        help="leave out gallery images that cannot be decoded, and the dialogues about them")
    add("--allow-duplicate-targets", action="store_true",
        help="accept several dialogues about one image")
    add("--num-dialogues", type=_positive, metavar="N", help="evaluate the first N dialogues only")
    add("--benchmark", metavar="NAME",
        help="label (default: that of the dialogue file, or of --data)")
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
        help="Refine dialogues by a language model into captions; an interrupted run continues.",
        example="daitir refine --dialogues dialogues.json --out rewrites.json",
    )
    parser.set_defaults(run=commands.refine)
    _add_data(parser, instead_of="--dialogues and --out")
    add = parser.add_argument
    add("--dialogues", type=Path, metavar="FILE", help="ChatIR file")
    add("--num-dialogues", type=_positive, metavar="N", help="refine the first N dialogues only")
    add("--model", default="mini", metavar="SPEC",
        help="mini, a folder of a transformers model, or a hub's name (default: %(default)s)")
    add("--prompt", type=Path, metavar="FILE",
        help="template of the prompt, with {dialogue} in it; not for mini")
    add("--batch-size", type=_positive, default=64, metavar="N", help="(default: %(default)s)")
    add("--device", default="cpu", help="where the model runs (default: %(default)s)")
    add("--out", type=Path, metavar="FILE",
        help="ChatIR file with the captions as rounds (default: the rewrites of --data)")


def _add_generate(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "generate",
        help="Draw a view of every round of every dialogue; an interrupted run continues.",
        example="daitir generate --dialogues rewrites.json --out views/\n"
        "  accelerate launch -m daitir.cli generate --data my_pictures/ --pipeline models/sdxl "
        "--device cuda",
    )
    parser.set_defaults(run=commands.generate)
    _add_data(parser, instead_of="--dialogues and --out")
    add = parser.add_argument
    add("--dialogues", type=Path, metavar="FILE", help="ChatIR file")
    _add_text(parser, "the prompt")
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
    add("--without-negation", action="store_true",
        help="take what an English prompt says is not there out of it, and give it to the pipeline "
        "as its negative prompt")
    add("--device", default="cpu", help="where the pipeline runs (default: %(default)s)")
    add("--dtype", choices=DTYPES,
        help="precision of the weights (default: float32 on a CPU, else float16)")
    add("--offload", action="store_true",
        help="keep the pipeline in main memory and move a part to the GPU only while it computes")
    add("--out", type=Path, metavar="DIR",
        help="gets {dialogue}_{round}.webp (default: the views of --data)")


def _add_lint(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "lint",
        help="Look at every file of a folder of own data; what is wrong is counted.",
        example="daitir lint my_pictures/",
    )
    parser.set_defaults(run=data_commands.lint)
    parser.add_argument("folder", type=Path, metavar="DIR",
                        help="folder with dialogues.json (or dialogues/) and images/")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quick", action="store_true", help="do not decode the pictures")


def _add_pretrain(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "pretrain",
        help="Train a model of the package from scratch; an interrupted run continues.",
        example="daitir pretrain clip --out runs/clip",
    )
    parser.set_defaults(run=commands.pretrain)
    add = parser.add_argument
    add("model", choices=("tokenizer", "clip", "recogniser", "diffusion", "lm", "lit"),
        help="which: clip is the dual encoder, diffusion the text-to-image pipeline, lm the "
        "language model, lit the text head of the encoder for photographs")
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
        help="Train a fusion, or fine-tune the encoder, on the query sets or on own data; an "
        "interrupted run continues.",
        example="daitir train adafuse --out runs/adafuse\n"
        "  daitir train dmcl --data my_pictures/ --encoder open_clip:ViT-B-32@clip.safetensors "
        "--set learning_rate=1e-5 --out runs/mine",
    )
    parser.set_defaults(run=commands.train)
    add = parser.add_argument
    add("method", metavar="METHOD",
        help="a fusion of the frozen encoder (adafuse, nrgr, concat_mlp, cosine_gate, scalar_gate) "
        "or an encoder (dmcl, text_view, finetune_text)")
    add("--profile", help="whose recipe, sizes and models (default: DAITIR_PROFILE or classroom)")
    add("--set", type=partial(_named, what="VALUE"), nargs="+", metavar="NAME=VALUE",
        help="numbers of the recipe to change, for example steps=1000 batch_size=64")
    add("--data", type=Path, metavar="DIR",
        help="folder of own data with dialogues/train.json and val.json, and views/train and val, "
        "instead of the query sets")
    _add_encoder(parser, required=False)
    _add_text(parser, "the query text")
    add("--missing-views", choices=("error", "text"),
        help="where a round of --data lacks a view: refuse, or train an encoder with its text "
        "alone and a fusion without it (default: error)")
    _add_features(parser)
    parser.set_defaults(batch_size=EMBEDDED_AT_ONCE, dtype="float32")
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    add("--cache", type=Path, default=Path("runs/cache"), metavar="DIR",
        help="keeps features for a fusion, views for an encoder, of the query sets "
        "(default: %(default)s)")
    add("--out", required=True, type=Path, metavar="DIR", help="gets weights, log and checkpoint")
    _add_machine(parser)


def _add_study(subparsers, study: Study) -> None:
    flags = " ".join(f"{flag} {folder}" for flag, folder in study.folders.items())
    parser = _add_command(
        subparsers, study.name, help=study.help, example=f"daitir {study.name} {flags}"
    )
    parser.set_defaults(run=partial(run_study, study))
    add = parser.add_argument
    add("--profile", help="whose sizes and models (default: DAITIR_PROFILE or classroom)")
    kept = {"--work": "keeps what is done", "--cache": "keeps what is drawn"}
    for flag, folder in study.folders.items():
        add(flag, type=Path, default=Path(folder), metavar="DIR",
            help=f"{kept[flag]} (default: %(default)s)")
    table = study.table("PROFILE")
    add("--results", type=Path, default=Path("results"), metavar="DIR",
        help=f"gets {table} and .json (default: %(default)s)")
    if study.compares:
        add("--after", nargs="+", metavar="NAME=SPEC", type=partial(_named, what="SPEC"),
            help="the trained encoders; a name given several times is one training with several "
            "seeds, for example dmcl=finetuned:runs/encoders/classroom/encoders/dmcl/1 "
            "(default: finetune_text and dmcl, with the seeds that the profile has)")
    _add_machine(parser)


def _add_embed(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "embed",
        help="Embed the pictures and views of a folder of own data; an interrupted run continues.",
        example="daitir embed my_pictures/ --encoder hf:models/siglip\n"
        "  accelerate launch -m daitir.cli embed my_pictures/ --encoder hf:models/siglip "
        "--device cuda",
    )
    parser.set_defaults(run=data_commands.embed)
    parser.add_argument("folder", type=Path, metavar="DIR",
                        help="folder with dialogues.json (or dialogues/) and images/")
    _add_encoder(parser)
    _add_embedding(parser)
    parser.add_argument("--device", default="cpu",
                        help="where the encoder runs (default: %(default)s)")


def _add_search(subparsers) -> None:
    parser = _add_command(
        subparsers,
        "search",
        help="Search a folder of pictures by a dialogue in the terminal.",
        example="daitir search my_pictures/ --encoder hf:models/siglip",
    )
    parser.set_defaults(run=data_commands.search)
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR",
        help="folder of pictures at any depth, or of own data with images/")
    _add_encoder(parser)
    _add_embedding(parser)
    add("--model", metavar="SPEC",
        help="refine what is said by this language model (default: the words are joined)")
    add("--pipeline", metavar="SPEC",
        help="search with a view that this pipeline draws too, as DAR does (default: words alone)")
    add("--top", type=_positive, default=10, metavar="N",
        help="pictures that are named (default: %(default)s)")
    add("--skip-unreadable", action="store_true", help="leave out pictures that cannot be decoded")
    add("--device", default="cpu", help="where models run (default: %(default)s)")


def _add_download(subparsers) -> None:
    parser = _add_command(
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
    add("--mirror", metavar="URL", help="fetch the files of the same names from below this address")
    add("--dry-run", action="store_true", help="only say what would be fetched, and from where")


def _add_encoder(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--encoder", required=required, metavar="SPEC",
                        help="mini, lit, open_clip:NAME[@PRETRAINED-or-file], hf:NAME-or-folder "
                        "(CLIP, SigLIP, SigLIP 2 or BLIP of transformers), or finetuned:DIR")


def _add_embedding(parser: argparse.ArgumentParser) -> None:
    """How the pictures of a folder of own data are embedded, and where features are kept."""
    _add_features(parser)
    add = parser.add_argument
    add("--batch-size", type=_positive, default=EMBEDDED_AT_ONCE, metavar="N",
        help="pictures that the encoder sees together (default: %(default)s)")
    add("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N",
        help="threads that decode pictures (default: one a core, %(default)s)")
    add("--dtype", choices=DTYPES, default="float32",
        help="precision of the encoder's products (default: %(default)s)")


def _add_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", type=Path, metavar="DIR",
                        help="where features are kept (default: features/ and the encoder's name "
                        "in the folder of own data)")


def _add_data(parser: argparse.ArgumentParser, *, instead_of: str) -> None:
    """The folder of own data that stands for other arguments."""
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help=f"folder of own data, instead of {instead_of}")
    parser.add_argument("--split", choices=("train", "val", "test"),
                        help="of --data (default: test, which is what dialogues.json alone is)")


def _add_text(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--text", choices=tuple(TEXT_CONVENTIONS),
                        help=f"how {what} is made from the rounds (default: current_rewrite; "
                        "raw_dialogue where --data has no rewrites)")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="where models run (default: %(default)s)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N",
                        help="processes that draw scenes (default: one a core, %(default)s)")


def _add_paper(subparsers) -> None:
    for add in paper_commands.PARSERS:
        add(partial(_add_command, subparsers))


COMMANDS = (
    _add_evaluate,
    _add_download,
    _add_lint,
    _add_refine,
    _add_generate,
    _add_embed,
    _add_search,
    _add_scenes,
    _add_pretrain,
    _add_quality,
    _add_queries,
    _add_train,
    *(partial(_add_study, study=study) for study in STUDIES),
    _add_paper,
)


def _named(text: str, *, what: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"must be NAME={what}, not {text!r}")
    return name, value


def _fusion(text: str) -> str:
    kind, _, folder = text.partition(":")
    if text not in UNTRAINED and (kind not in SMALL_FUSIONS or not folder):
        names = ", ".join((*UNTRAINED, *(f"{name}:DIR" for name in SMALL_FUSIONS)))
        raise argparse.ArgumentTypeError(f"must be one of {names}, not {text!r}")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
