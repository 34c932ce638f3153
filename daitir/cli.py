"""The `daitir` command. Heavy imports stand inside the commands, so that `--help` is quick."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.dialogues import TEXT_CONVENTIONS, Dialogue, query_texts, read_dialogues
from daitir.errors import DataError
from daitir.files import atomic_write
from daitir.profiles import get_profile

if TYPE_CHECKING:
    from daitir.evaluation import Evaluation

logger = logging.getLogger(__name__)


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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(commands)
    return parser


def _add_command(commands, name: str, *, help: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more on stderr")
    return parser


def _add_evaluate(commands) -> None:
    parser = _add_command(
        commands,
        "evaluate",
        help="Rank a gallery after every round of every dialogue, and tabulate the metrics.",
        example="daitir evaluate --dialogues dialogues.json --images images/ --views views/ "
        "--encoder mini --fusion dar --out dar.csv",
    )
    parser.set_defaults(run=_evaluate)
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


def _add_scenes(commands) -> None:
    parser = _add_command(
        commands,
        "scenes",
        help="Write pictures, dialogues and controlled views of the embedded world as files.",
        example="daitir scenes runs/scenes --num-dialogues 100 --broken-share 0.15",
    )
    parser.set_defaults(run=_scenes)
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


def _add_draw(commands) -> None:
    parser = _add_command(
        commands,
        "draw",
        help="Draw a view of every round of every dialogue; an interrupted run continues.",
        example="daitir draw --dialogues rewrites.json --out views/",
    )
    parser.set_defaults(run=_draw)
    add = parser.add_argument
    add("--dialogues", required=True, type=Path, metavar="FILE", help="ChatIR file")
    add("--text", choices=tuple(TEXT_CONVENTIONS), default="current_rewrite",
        help="how the prompt is made from the rounds (default: %(default)s)")
    add("--num-dialogues", type=_positive, metavar="N", help="draw for the first N dialogues only")
    add("--pipeline", default="mini", metavar="SPEC",
        help="mini, a folder of a diffusers pipeline, or a hub's name (default: %(default)s)")
    add("--steps", type=int, default=20, metavar="N", help="(default: %(default)s)")
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


def _add_pretrain(commands) -> None:
    parser = _add_command(
        commands,
        "pretrain",
        help="Train a model of the package from scratch; an interrupted run continues.",
        example="daitir pretrain clip --out runs/clip",
    )
    parser.set_defaults(run=_pretrain)
    add = parser.add_argument
    add("model", choices=("tokenizer", "clip", "recogniser", "diffusion", "lm"),
        help="which: clip is the dual encoder, diffusion the text-to-image pipeline, lm the "
        "language model")
    add("--out", required=True, type=Path, metavar="DIR",
        help="gets checkpoint, log.csv, and at the end the model and its card")
    add("--profile", help="whose recipe (default: DAITIR_PROFILE or classroom)")
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    _add_machine(parser)


def _add_quality(commands) -> None:
    parser = _add_command(
        commands,
        "quality",
        help="Measure a model on the validation split, as its card in the book shows it.",
        example="daitir quality clip --out results/quality.csv",
    )
    parser.set_defaults(run=_quality)
    add = parser.add_argument
    add("model", choices=("clip", "recogniser", "diffusion", "lm"),
        help="which model: clip is the dual encoder, diffusion the text-to-image pipeline, lm the "
        "language model")
    add("--encoder", metavar="SPEC", help="of clip (default: the profile's)")
    add("--folder", type=Path, metavar="DIR",
        help="of the recogniser, pipeline or language model (default: the one that comes with "
        "the package)")
    add("--profile", help="whose sizes (default: DAITIR_PROFILE or classroom)")
    add("--out", required=True, type=Path, metavar="FILE.csv",
        help="table that gets the model's rows; those of other models stay")
    _add_machine(parser)


def _add_benchmark(commands) -> None:
    parser = _add_command(
        commands,
        "benchmark",
        help="Measure every method on every source of dialogues; an interrupted run continues.",
        example="daitir benchmark --work runs/benchmark",
    )
    parser.set_defaults(run=_benchmark)
    add = parser.add_argument
    add("--profile", help="whose sizes and models (default: DAITIR_PROFILE or classroom)")
    add("--work", type=Path, default=Path("runs/benchmark"), metavar="DIR",
        help="keeps what is done (default: %(default)s)")
    add("--results", type=Path, default=Path("results"), metavar="DIR",
        help="gets PROFILE.csv and PROFILE.json (default: %(default)s)")
    _add_machine(parser)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="where models run (default: %(default)s)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N",
                        help="processes that draw scenes (default: one a core, %(default)s)")


COMMANDS = (_add_evaluate, _add_draw, _add_scenes, _add_pretrain, _add_quality, _add_benchmark)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.fusion != "text" and arguments.views is None:
        raise DataError(f"--fusion {arguments.fusion} needs --views DIR")
    if arguments.fusion != "text" and arguments.method == "text":
        raise DataError("--method text is the name of text alone; choose another")
    _check_output(arguments.out)
    from daitir.gallery import list_images, read_gallery

    if arguments.gallery:
        gallery = read_gallery(arguments.gallery)
    else:
        gallery = list_images(arguments.images)
    dialogues = _first_dialogues(
        arguments, gallery=gallery, allow_duplicate_targets=arguments.allow_duplicate_targets
    )
    from daitir.encoders import load_encoder
    from daitir.evaluation import evaluate

    _check_device(arguments.device)
    encoder = load_encoder(arguments.encoder, device=arguments.device)
    benchmark = arguments.benchmark or arguments.dialogues.stem
    found = evaluate(
        dialogues,
        images_dir=arguments.images,
        gallery=gallery,
        encoder=encoder,
        fusion=arguments.fusion,
        views_dir=arguments.views,
        text_convention=arguments.text,
        benchmark=benchmark,
        method=arguments.method,
        seed=arguments.seed,
        missing_views=arguments.missing_views,
        skip_unreadable=arguments.skip_unreadable,
        progress=True,
    )
    with atomic_write(arguments.out) as temporary:
        found.rows.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    print(f"{benchmark}: {len(found.lengths):,} dialogues, {found.num_images:,} images")
    print(
        f"truncated: {found.num_truncated:,} of {found.num_texts:,} query texts "
        f"(context {encoder.context_length})"
    )
    print(_table(found))
    print(f"written to {arguments.out}")


def _draw(arguments: argparse.Namespace) -> None:
    dialogues = _first_dialogues(arguments, allow_duplicate_targets=True)
    _check_output(arguments.out / "0_0.webp")
    _check_output(arguments.cache / "view.webp")
    _check_device(arguments.device)
    from daitir.views import load_view_generator, view_seed

    generator = load_view_generator(
        arguments.pipeline,
        steps=arguments.steps,
        guidance=arguments.guidance,
        device=arguments.device,
    )
    texts = query_texts(dialogues, convention=arguments.text)
    rounds = [(i, t) for i, row in enumerate(texts) for t in range(len(row))]
    paths = generator.generate(
        [texts[i][t] for i, t in rounds],
        [view_seed(arguments.seed, i, None if arguments.fixed_noise else t) for i, t in rounds],
        arguments.cache,
        batch_size=arguments.batch_size,
        progress=True,
    )
    for (i, t), path in zip(rounds, paths, strict=True):
        with atomic_write(arguments.out / f"{i}_{t}.webp") as temporary:
            shutil.copyfile(path, temporary)
    print(f"{len(paths):,} views of {len(dialogues):,} dialogues written to {arguments.out}")


def _scenes(arguments: argparse.Namespace) -> None:
    if arguments.num_dialogues > arguments.num_gallery:
        raise DataError(
            f"{arguments.num_dialogues:,} dialogues need as many gallery images; "
            f"raise --num-gallery {arguments.num_gallery:,}"
        )
    if arguments.broken_share is not None and not 0 <= arguments.broken_share <= 1:
        raise DataError(f"--broken-share is between 0 and 1, not {arguments.broken_share}")
    _check_output(arguments.folder / "gallery.json")
    from daitir.scenes.export import export_scenes

    export_scenes(
        arguments.folder,
        split=arguments.split,
        source=arguments.source,
        num_dialogues=arguments.num_dialogues,
        num_gallery=arguments.num_gallery,
        broken_share=arguments.broken_share,
        size=arguments.size,
        seed=arguments.seed,
        progress=True,
    )
    print(f"written to {arguments.folder}")


def _pretrain(arguments: argparse.Namespace) -> None:
    profile = get_profile(arguments.profile)
    _check_output(arguments.out / "log.csv")
    _check_device(arguments.device)
    if arguments.model == "tokenizer":
        from daitir.training.tokenizer import train_tokenizer

        train_tokenizer().save_pretrained(arguments.out)
        print(f"written to {arguments.out}")
        return
    if arguments.model == "clip":
        from daitir.training.clip import train_clip as train
    elif arguments.model == "recogniser":
        from daitir.training.recogniser import train_recogniser as train
    elif arguments.model == "lm":
        from daitir.training.lm import train_lm as train
    else:
        from daitir.training.diffusion import train_diffusion as train

    train(
        getattr(profile, arguments.model),
        arguments.out,
        seed=arguments.seed,
        device=arguments.device,
        num_workers=arguments.workers,
    )
    hint = f"; load it with --encoder open_clip:{arguments.out}" * (arguments.model == "clip")
    print(f"written to {arguments.out}{hint}")


def _quality(arguments: argparse.Namespace) -> None:
    profile = get_profile(arguments.profile)
    _check_output(arguments.out)
    _check_device(arguments.device)
    from daitir import quality

    options = {"num_workers": arguments.workers, "progress": True}
    if arguments.model == "clip":
        from daitir.encoders import load_encoder

        encoder = load_encoder(arguments.encoder or profile.encoder, device=arguments.device)
        table = quality.clip_quality(
            encoder,
            image_size=profile.image_size,
            num_dialogues=profile.num_test_dialogues,
            num_gallery=profile.num_gallery,
            **options,
        )
    elif arguments.model == "recogniser":
        from daitir.recogniser import load_recogniser
        from daitir.training.recogniser import degraded

        spec = str(arguments.folder or "mini")
        recogniser = load_recogniser(spec, device=arguments.device)
        table = quality.recogniser_quality(recogniser, degrade=degraded, **options)
    elif arguments.model == "lm":
        from daitir.reformulation import load_reformulator

        spec = str(arguments.folder or "mini")
        reformulator = load_reformulator(spec, device=arguments.device)
        table = quality.lm_quality(reformulator, progress=True)
    else:
        from daitir.training.diffusion import pipeline_quality

        table = pipeline_quality(arguments.folder, device=arguments.device)
    quality.update_table(arguments.out, table)
    print(table.to_string(index=False))
    print(f"written to {arguments.out}")


def _benchmark(arguments: argparse.Namespace) -> None:
    profile = get_profile(arguments.profile)
    _check_output(arguments.results / f"{profile.name}.csv")
    _check_device(arguments.device)
    from daitir.benchmark import run_benchmark

    path = run_benchmark(
        profile,
        work_dir=arguments.work / profile.name,
        results_dir=arguments.results,
        device=arguments.device,
        num_workers=arguments.workers,
        progress=True,
    )
    print(f"written to {path}")


def _first_dialogues(arguments: argparse.Namespace, **options) -> list[Dialogue]:
    """The dialogues of `--dialogues`, the first `--num-dialogues` of them where that is given."""
    dialogues = read_dialogues(arguments.dialogues, **options)
    number = arguments.num_dialogues or len(dialogues)
    if number > len(dialogues):
        raise DataError(
            f"{arguments.dialogues}: has {len(dialogues):,} dialogues, fewer than "
            f"--num-dialogues {number:,}"
        )
    return dialogues[:number]


def _check_output(path: Path) -> None:
    """Raises DataError unless a file can be written at `path`, before anything long begins."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter where torch lacks CUDA
        raise DataError(f"--device {name}: not available here; use cpu") from error


def _table(found: Evaluation) -> str:
    """R@10, Hits@10 and MRR of each method per round, in percent."""
    columns = {"recall_at_10": "R@10", "hits_at_10": "Hits@10", "mrr": "MRR"}
    rows = found.rows[found.rows["metric"].isin(columns)]
    table = rows.pivot(index="round", columns=["method", "metric"], values="value") * 100
    header, lines = "round", {t: f"{t:>5}" for t in table.index}
    for method in found.ranks:
        for metric, label in columns.items():
            title = f"{method} {label}"
            header += f"  {title}"
            for t in table.index:
                lines[t] += f"  {table.at[t, (method, metric)]:>{len(title)}.2f}"
    return "\n".join([f"{header}   (percent)", *lines.values()])


if __name__ == "__main__":
    sys.exit(main())
