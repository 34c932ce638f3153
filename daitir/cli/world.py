"""Commands of the embedded world: its files and query sets, and the models that it teaches.

Every command checks at once all that can be checked, and imports what is heavy only then.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import add_command
from daitir.common.errors import DataError
from daitir.common.files import begins_with, check_output, claimed
from daitir.common.terminal import say
from daitir.data.manifests import MANIFEST
from daitir.studies.profiles import check_models


def add_scenes(commands) -> None:
    parser = add_command(
        commands, scenes, "daitir scenes runs/scenes --num-dialogues 100 --broken-share 0.15"
    )
    who = "human, terse, verbose, degenerate, unreliable, or another that is registered"
    parser.options({
        "folder DIR": "gets images/, gallery.json, dialogues.json, rewrites.json and views/",
        "--split {train,val,test,heldout}": ("", "test"),
        "--source NAME": (f"who asks and answers: {who}", "human"),
        "--num-dialogues N": ("", 100),
        "--num-gallery N": ("", 5000),
        "--broken-share P": "also write views in which this share of the stated facts is broken",
        "--size PIXELS": ("", 64),
    })  # fmt: skip
    parser.seed()


def scenes(arguments: argparse.Namespace) -> None:
    """Write its pictures, dialogues and controlled views as files."""
    if arguments.num_dialogues > arguments.num_gallery:
        raise DataError(
            f"{arguments.num_dialogues:,} dialogues need as many gallery images; "
            f"raise --num-gallery {arguments.num_gallery:,}"
        )
    check_output(arguments.folder / "scenes.json")
    from daitir.scenes.export import export_scenes

    names = ("split", "source", "num_dialogues", "num_gallery", "broken_share", "size", "seed")
    options = {name: getattr(arguments, name) for name in names}
    export_scenes(arguments.folder, **options, progress=True)
    say(f"written to {arguments.folder}")


def add_queries(commands) -> None:
    parser = add_command(commands, queries, "daitir queries --out runs/queries")
    parser.profile("sizes and models")
    parser.options({"--steps STEPS": ("of drawing", 8), "--guidance SCALE": ("", 2.0)})
    parser.cache()
    parser.device()
    parser.option("--out DIR", "gets the captions and the features of the views", required=True)


def queries(arguments: argparse.Namespace) -> None:
    """Refine and draw the dialogues that studies search with."""
    profile = inputs.chosen_profile(arguments.profile)
    check_output(arguments.out / MANIFEST)
    check_output(arguments.cache / "view.webp")
    inputs.check_device(arguments.device)
    check_models(profile, "lm", "diffusion", "clip")
    from daitir.models.views import load_view_generator
    from daitir.studies.engine.bench import Bench
    from daitir.studies.queries import make_query_sets

    out, cache, device = arguments.out, arguments.cache, arguments.device
    bench = Bench(profile, None, out, cache, device, progress=True)
    drawing = {"steps": arguments.steps, "guidance": arguments.guidance}
    bench.generator = load_view_generator(profile.generator, **drawing, device=device)
    make_query_sets(bench, out)
    say(f"written to {arguments.out}")


def add_pretrain(commands) -> None:
    parser = add_command(commands, pretrain, "daitir pretrain clip --out runs/clip")
    parser.options({
        "model {tokenizer,clip,recogniser,diffusion,lm,lit}": "which: clip is the dual encoder, "
        "diffusion the text-to-image pipeline, lm the language model, lit the text head of the "
        "encoder for photographs",
    })  # fmt: skip
    out = "gets checkpoint, log.csv, and at the end the model and its card"
    parser.option("--out DIR", out, required=True)
    parser.profile("recipe")
    parser.seed()
    parser.machine()


def pretrain(arguments: argparse.Namespace) -> None:
    """Train a model of the package from scratch."""
    profile, model, out = inputs.chosen_profile(arguments.profile), arguments.model, arguments.out
    inputs.check_run_folder(out, trains=model != "tokenizer")
    inputs.check_device(arguments.device)
    recipe = import_module(f"daitir.recipes.{model}")
    if model == "tokenizer":
        recipe.train_tokenizer().save_pretrained(out)
    else:
        from daitir.recipes.run import Run  # late: it loads torch

        run = Run(out, arguments.seed, arguments.device, arguments.workers)
        with claimed(out):
            getattr(recipe, f"train_{model}")(getattr(profile, model), run)
    spec = {"clip": "open_clip", "lit": "lit"}.get(model)
    say(f"written to {out}" + (f"; load it with --encoder {spec}:{out}" if spec else ""))


def add_quality(commands) -> None:
    parser = add_command(commands, quality, "daitir quality clip --out results/quality.csv")
    parser.options({
        "model {clip,recogniser,diffusion,lm}": "which model: clip is the dual encoder, diffusion "
        "the text-to-image pipeline, lm the language model",
        "--encoder SPEC": "for clip alone (default: the profile's)",
        "--folder DIR": "of the recogniser, diffusion pipeline or language model; not for clip "
        "(default: the package's)",
    })  # fmt: skip
    parser.profile("sizes")
    out = "table that gets the model's rows; those of other models stay"
    parser.option("--out FILE.csv", out, required=True)
    parser.machine()


def quality(arguments: argparse.Namespace) -> None:
    """Measure such a model on the validation split."""
    profile = inputs.chosen_profile(arguments.profile)
    model, folder = arguments.model, arguments.folder
    if model == "clip" and folder:
        raise DataError("--folder is not for clip; name its encoder with --encoder SPEC")
    if model != "clip" and arguments.encoder:
        raise DataError(f"--encoder is for clip; name the {model} with --folder DIR")
    if folder and not folder.is_dir():
        raise DataError(f"--folder {folder}: no such folder")
    check_output(arguments.out, is_ours=_is_quality)
    inputs.check_device(arguments.device)
    if model == "clip" and not arguments.encoder:
        check_models(profile, "clip")
    from daitir.models.recogniser import load_recogniser
    from daitir.studies import quality

    spec, on = str(folder or "mini"), {"device": arguments.device}
    options = {"num_workers": arguments.workers, "progress": True}
    if model == "clip":
        from daitir.models.encoders import load_encoder

        encoder = load_encoder(arguments.encoder or profile.encoder, **on)
        options |= {"num_dialogues": profile.num_test_dialogues, "num_gallery": profile.num_gallery}
        table = quality.clip_quality(encoder, image_size=profile.image_size, **options)
    elif model == "recogniser":
        from daitir.recipes.recogniser import degraded

        recogniser = load_recogniser(spec, **on)
        table = quality.recogniser_quality(recogniser, degrade=degraded, **options)
    elif model == "lm":
        from daitir.models.reformulation import load_reformulator

        table = quality.lm_quality(load_reformulator(spec, **on), progress=True)
    else:
        from daitir.models.views import load_view_generator

        generator = load_view_generator(spec, **on)
        table = quality.pipeline_quality(generator, load_recogniser(**on), progress=True)
    quality.update_table(arguments.out, table)
    say(*table.to_string(index=False).split("\n"))
    say(f"written to {arguments.out}")


def _is_quality(path: Path) -> bool:
    from daitir.studies.quality import QUALITY_COLUMNS  # late: it loads torch

    return begins_with(path, ",".join(QUALITY_COLUMNS))
