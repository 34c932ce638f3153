"""The parsers of the commands that make pictures, captions and views."""

from __future__ import annotations

from pathlib import Path

from daitir.cli import commands
from daitir.cli.parsers.options import (
    DTYPES,
    SEED,
    add_command,
    add_data,
    add_device,
    add_profile,
    add_text,
    number,
    positive,
    whole,
)
from daitir.scenes import SOURCES

STEPS = whole(1, 1000)  # noise levels that the schedulers know
GUIDANCE = number(0, 100)
SCENE_SIZE = whole(32, 4096)  # smaller ones have no room for what is drawn


def add_scenes(subparsers) -> None:
    parser = add_command(
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
    add("--source", choices=tuple(SOURCES), default="human",
        help="who asks and answers (default: %(default)s)")
    add("--num-dialogues", type=positive, default=100, metavar="N", help="(default: %(default)s)")
    add("--num-gallery", type=positive, default=5000, metavar="N", help="(default: %(default)s)")
    add("--broken-share", type=number(0, 1), metavar="P",
        help="also write views in which this share of the stated facts is broken")
    add("--size", type=SCENE_SIZE, default=64,
        metavar="PIXELS", help="(default: %(default)s)")
    add("--seed", type=SEED, default=0, metavar="N", help="(default: %(default)s)")


def add_refine(subparsers) -> None:
    parser = add_command(
        subparsers,
        "refine",
        help="Refine dialogues by a language model into captions; an interrupted run continues.",
        example="daitir refine --dialogues dialogues.json --out rewrites.json\n"
        "  accelerate launch -m daitir.cli refine --data my_pictures/ --model models/llama "
        "--device cuda",
    )
    parser.set_defaults(run=commands.refine)
    add_data(parser, instead_of="--dialogues and --out")
    add = parser.add_argument
    add("--dialogues", type=Path, metavar="FILE", help="ChatIR file")
    add("--num-dialogues", type=positive, metavar="N", help="refine the first N dialogues only")
    add("--model", default="mini", metavar="SPEC",
        help="mini, a folder of a transformers model, or a hub's name (default: %(default)s)")
    add("--prompt", type=Path, metavar="FILE",
        help="template of the prompt, with {dialogue} in it; not for mini")
    add("--batch-size", type=positive, default=64, metavar="N", help="(default: %(default)s)")
    add_device(parser, "the model runs")
    add("--out", type=Path, metavar="FILE",
        help="ChatIR file with the captions as rounds, and a manifest beside it (default: the "
        "rewrites of --data)")
    add("--overwrite", action="store_true",
        help="write over a file that is there, of whatever origin")


def add_generate(subparsers) -> None:
    parser = add_command(
        subparsers,
        "generate",
        help="Draw a view of every round of every dialogue; an interrupted run continues.",
        example="daitir generate --dialogues rewrites.json --out views/\n"
        "  accelerate launch -m daitir.cli generate --data my_pictures/ --pipeline models/sdxl "
        "--device cuda",
    )
    parser.set_defaults(run=commands.generate)
    add_data(parser, instead_of="--dialogues and --out")
    add = parser.add_argument
    add("--dialogues", type=Path, metavar="FILE", help="ChatIR file")
    add_text(parser, "the prompt")
    add("--num-dialogues", type=positive, metavar="N", help="draw for the first N dialogues only")
    add("--pipeline", default="mini", metavar="SPEC",
        help="mini, a folder of a diffusers pipeline, or a hub's name (default: %(default)s)")
    add("--steps", type=STEPS, default=8, metavar="N",
        help="enough for mini; other pipelines may need more (default: %(default)s)")
    add("--guidance", type=GUIDANCE, default=2.0, metavar="SCALE", help="(default: %(default)s)")
    add("--seed", type=SEED, default=0, metavar="N", help="of the noise (default: %(default)s)")
    add("--fixed-noise", action="store_true",
        help="all rounds of a dialogue start from the same noise")
    add("--batch-size", type=positive, default=32, metavar="N", help="(default: %(default)s)")
    add("--cache", type=Path, default=Path("runs/views"), metavar="DIR",
        help="keeps what is drawn (default: %(default)s)")
    add("--without-negation", action="store_true",
        help="take what an English prompt says is not there out of it, and give it to the pipeline "
        "as its negative prompt; signs, names and numbers stay")
    add_device(parser, "the pipeline runs")
    add("--dtype", choices=DTYPES,
        help="precision of the weights (default: float32 on a CPU, else float16)")
    add("--offload", action="store_true",
        help="keep the pipeline in main memory and move a part to the GPU only while it computes")
    add("--out", type=Path, metavar="DIR",
        help="gets {dialogue}_{round}.webp and a manifest (default: the views of --data)")
    add("--overwrite", action="store_true",
        help="remove the views that daitir drew there before, and draw anew")


def add_queries(subparsers) -> None:
    parser = add_command(
        subparsers,
        "queries",
        help="Refine and draw the dialogues of the benchmark; an interrupted run continues.",
        example="daitir queries --out runs/queries",
    )
    parser.set_defaults(run=commands.queries)
    add = parser.add_argument
    add_profile(parser, "sizes and models")
    add("--steps", type=STEPS, default=8, metavar="N", help="of drawing (default: %(default)s)")
    add("--guidance", type=GUIDANCE, default=2.0, metavar="SCALE", help="(default: %(default)s)")
    add("--cache", type=Path, default=Path("runs/views"), metavar="DIR",
        help="keeps what is drawn (default: %(default)s)")
    add_device(parser, "models run")
    add("--out", required=True, type=Path, metavar="DIR",
        help="gets the captions and the features of the views")
