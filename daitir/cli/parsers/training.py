"""The parsers of the commands that train models and measure them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from daitir.cli import training_commands
from daitir.cli.parsers.options import (
    EMBEDDED_AT_ONCE,
    SEED,
    add_command,
    add_encoder,
    add_features,
    add_folder,
    add_machine,
    add_profile,
    add_text,
    named,
    positive,
)
from daitir.studies.profiles import get_profile


def add_pretrain(subparsers) -> None:
    parser = add_command(
        subparsers,
        "pretrain",
        help="Train a model of the package from scratch; an interrupted run continues.",
        example="daitir pretrain clip --out runs/clip",
    )
    parser.set_defaults(run=training_commands.pretrain)
    add = parser.add_argument
    add("model", choices=("tokenizer", "clip", "recogniser", "diffusion", "lm", "lit"),
        help="which: clip is the dual encoder, diffusion the text-to-image pipeline, lm the "
        "language model, lit the text head of the encoder for photographs")
    add("--out", required=True, type=Path, metavar="DIR",
        help="gets checkpoint, log.csv, and at the end the model and its card")
    add_profile(parser, "recipe")
    add("--seed", type=SEED, default=0, metavar="N", help="(default: %(default)s)")
    add_machine(parser)


def add_quality(subparsers) -> None:
    parser = add_command(
        subparsers,
        "quality",
        help="Measure a model on the validation split, as its card in the book shows it.",
        example="daitir quality clip --out results/quality.csv",
    )
    parser.set_defaults(run=training_commands.quality)
    add = parser.add_argument
    add("model", choices=("clip", "recogniser", "diffusion", "lm"),
        help="which model: clip is the dual encoder, diffusion the text-to-image pipeline, lm the "
        "language model")
    add("--encoder", metavar="SPEC", help="for clip alone (default: the profile's)")
    add("--folder", type=Path, metavar="DIR",
        help="of the recogniser, diffusion pipeline or language model; not for clip (default: the "
        "package's)")
    add_profile(parser, "sizes")
    add("--out", required=True, type=Path, metavar="FILE.csv",
        help="table that gets the model's rows; those of other models stay")
    add_machine(parser)


def add_train(subparsers) -> None:
    parser = add_command(
        subparsers,
        "train",
        help="Train a fusion, or fine-tune the encoder, on the query sets or on own data; an "
        "interrupted run continues.",
        example="daitir train adafuse --out runs/adafuse\n"
        "  daitir train dmcl --data my_pictures/ --encoder open_clip:ViT-B-32@clip.safetensors "
        "--set learning_rate=1e-5 --out runs/mine",
    )
    parser.set_defaults(run=training_commands.train)
    add = parser.add_argument
    profile = get_profile("classroom")
    add("method", metavar="METHOD",
        help=f"a fusion of the frozen encoder ({', '.join(profile.fusions)}, or another one that "
        f"is registered) or an encoder ({', '.join(profile.encoders)})")
    add_folder(
        parser, "folder of own data with dialogues/train.json and val.json, and views/train and "
        "val, instead of the query sets; right behind METHOD", dest="data", required=False,
    )  # fmt: skip
    add_profile(parser, "recipe, sizes and models")
    add("--set", type=partial(named, what="VALUE"), nargs="+", action="extend",
        metavar="NAME=VALUE",
        help="numbers of the recipe to change, for example steps=1000 batch_size=64")
    add_encoder(parser, required=False)
    add_text(parser, "the query text")
    add("--missing-views", choices=("error", "text"),
        help="where a round of --data lacks a view: refuse, or train an encoder with its text "
        "alone and a fusion without it (default: error)")
    add("--val-images", type=positive, metavar="N",
        help="pictures of --data that validation ranks while an encoder learns: all targets, and "
        "others drawn once (default: 2000)")
    add_features(parser)
    parser.set_defaults(batch_size=EMBEDDED_AT_ONCE, dtype="float32")
    add("--seed", type=SEED, default=0, metavar="N", help="(default: %(default)s)")
    add("--cache", type=Path, default=Path("runs/cache"), metavar="DIR",
        help="keeps features for a fusion, views for an encoder, of the query sets "
        "(default: %(default)s)")
    add("--out", required=True, type=Path, metavar="DIR", help="gets weights, log and checkpoint")
    add_machine(parser)
