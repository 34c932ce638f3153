"""Commands of the embedded world: files, query sets, models that it teaches, and the studies."""

import argparse
from importlib import import_module
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import CACHE, DEVICE, MACHINE, command, profile_of, required, seed_of
from daitir.common.files import begins_with, check_output, check_results, claimed
from daitir.common.terminal import say
from daitir.data.manifests import MANIFEST
from daitir.studies.profiles import check_models
from daitir.studies.registry import STUDIES, get_study

_MODELS = (
    "which: clip is the dual encoder, diffusion the text-to-image pipeline, lm the language model"
)


@command(
    "daitir scenes runs/scenes --num-dialogues 100 --broken-share 0.15",
    options={
        "folder DIR": "gets images/, gallery.json, dialogues.json, rewrites.json and views/",
        "--split {train,val,test,heldout}": ("", "test"),
        "--source NAME": ("who asks and answers: human, terse, verbose, degenerate, unreliable, or "
        "another that is registered", "human"),
        "--num-dialogues N": ("", 100),
        "--num-gallery N": ("", 5000),
        "--broken-share P": "also write views in which this share of the stated facts is broken",
        "--size PIXELS": ("", 64),
        **seed_of(),
    },
)  # fmt: skip
def scenes(arguments: argparse.Namespace) -> None:
    """Write its pictures, dialogues and controlled views as files."""
    check_output(arguments.folder / "scenes.json")
    from daitir.scenes.export import export_scenes

    names = ("split", "source", "num_dialogues", "num_gallery", "broken_share", "size", "seed")
    export_scenes(arguments.folder, **inputs.given(arguments, *names), progress=True)
    say(f"written to {arguments.folder}")


@command(
    "daitir queries --out runs/queries",
    options={
        **profile_of("sizes and models"),
        "--steps STEPS": ("of drawing", 8),
        "--guidance SCALE": ("", 2.0),
        **CACHE,
        **DEVICE,
        "--out DIR": required("gets the captions and the features of the views"),
    },
)
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


@command(
    "daitir pretrain clip --out runs/clip",
    options={
        "model {tokenizer,clip,recogniser,diffusion,lm,lit}": f"{_MODELS}, lit the text head of "
        "the encoder for photographs",
        "--out DIR": required("gets checkpoint, log.csv, and at the end the model and its card"),
        **profile_of("recipe"),
        **seed_of(),
        **MACHINE,
    },
)
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


@command(
    "daitir quality clip --out results/quality.csv",
    options={
        "model {clip,recogniser,diffusion,lm}": _MODELS,
        "--spec SPEC": "which one (default: of clip the profile's, of others the package's)",
        **profile_of("sizes"),
        "--out FILE.csv": required("table that gets the model's rows; those of others stay"),
        **MACHINE,
    },
)
def quality(arguments: argparse.Namespace) -> None:
    """Measure such a model on the validation split."""
    profile, model = inputs.chosen_profile(arguments.profile), arguments.model
    own = "model,split,measure,value,"
    check_output(arguments.out, is_ours=lambda path: begins_with(path, own))
    inputs.check_device(arguments.device)
    if model == "clip" and not arguments.spec:
        check_models(profile, "clip")
    from daitir.models.encoders import load_encoder
    from daitir.models.recogniser import load_recogniser
    from daitir.models.reformulation import load_reformulator
    from daitir.models.views import load_view_generator
    from daitir.studies import quality

    spec = arguments.spec or (profile.encoder if model == "clip" else "mini")
    on, options = {"device": arguments.device}, {"num_workers": arguments.workers, "progress": True}
    if model == "clip":
        options |= {"num_dialogues": profile.num_test_dialogues, "num_gallery": profile.num_gallery}
        encoder = load_encoder(spec, **on)
        table = quality.clip_quality(encoder, size=profile.image_size, **options)
    elif model == "recogniser":
        table = quality.recogniser_quality(load_recogniser(spec, **on), **options)
    elif model == "lm":
        table = quality.lm_quality(load_reformulator(spec, **on), progress=True)
    else:
        models = load_view_generator(spec, **on), load_recogniser(**on)
        table = quality.pipeline_quality(*models, progress=True)
    quality.update_table(arguments.out, table)
    say(*table.to_string(index=False).split("\n"))
    say(f"written to {arguments.out}")


@command(
    "daitir study list",
    "daitir study benchmark",
    "daitir study tables",
    options={
        "name NAME": {
            "help": f"{', '.join(STUDIES)}; or list, which tells what each measures and about how "
            "many minutes it takes; or tables, which makes all tables again from kept ranks, "
            "without a model",
            "choices": ("list", "tables", *STUDIES),
        },
        **profile_of("sizes and models"),
        "--work DIR": ("keeps what is done and what is trained, in a folder for each profile; "
        "studies share it", Path("runs/studies")),
        **CACHE,
        "--results DIR": ("gets ranks/ with the ranks of each query, and a table with notes",
        Path("results")),
        **MACHINE,
    },
)  # fmt: skip
def study(arguments: argparse.Namespace) -> None:
    """Measure into results/: `daitir study list` tells what, and how long."""
    name, results = arguments.name, arguments.results
    if name == "list":
        say("minutes on two cores under the profile classroom, and what is measured:")
        for study in map(get_study, STUDIES):
            say(f"{study.name:<20}{study.minutes:>5}  {study.question}")
        return
    profile = inputs.chosen_profile(arguments.profile)
    if name == "tables":
        from daitir.studies.engine.run import study_tables

        say(*(f"written to {path}" for path in study_tables(profile.name, results)))
        return
    measured, work = get_study(name), arguments.work / profile.name
    check_results(results / f"{measured.table(profile.name)}.csv")
    check_output(results / "ranks" / f"{measured.table(profile.name)}.npz")
    check_output(work / "log.csv")
    check_output(arguments.cache / "view.webp")
    inputs.check_device(arguments.device)
    check_models(profile, "lm", "diffusion", "clip")
    from daitir.studies.engine.conditions import Study
    from daitir.studies.engine.run import run_instrument, run_study

    folders = {"work_dir": work, "cache": arguments.cache, "results_dir": results}
    on = {"device": arguments.device, "num_workers": arguments.workers, "progress": True}
    run = run_study if isinstance(measured, Study) else run_instrument
    say(f"written to {run(measured, profile, **folders, **on)}")
