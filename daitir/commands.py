"""What the commands that refine, draw and evaluate do; `daitir.cli` reads their arguments.

Each function checks all that can be checked at once, and imports what is heavy only then.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.data_commands import cached_encoder, check_device, fill_in_files
from daitir.dialogues import Dialogue, query_texts, read_dialogues, write_dialogues
from daitir.errors import DataError
from daitir.files import atomic_write, check_output
from daitir.profiles import get_profile

MIN_SCENE_SIZE = 32  # smaller ones have no room for what is drawn

if TYPE_CHECKING:
    from torch.nn import Module

    from daitir.encoders import Encoder
    from daitir.evaluation import Evaluation


def evaluate(arguments: argparse.Namespace) -> None:
    """Rank a gallery for dialogues, print the main metrics, write the table."""
    fill_in_files(arguments, "dialogues", "images", "gallery", "views")
    if arguments.fusion != "text" and arguments.views is None:
        where = f"; `daitir generate --data {arguments.data}` draws some" if arguments.data else ""
        raise DataError(f"--fusion {arguments.fusion} needs --views DIR{where}")
    if arguments.fusion != "text" and arguments.method == "text":
        raise DataError("--method text is the name of text alone; choose another")
    check_output(arguments.out)
    from daitir.gallery import list_images, read_gallery

    if arguments.gallery:
        gallery = read_gallery(arguments.gallery)
    else:
        gallery = list_images(arguments.images)
    dialogues = _first_dialogues(
        arguments, gallery=gallery, allow_duplicate_targets=arguments.allow_duplicate_targets
    )
    check_device(arguments.device)
    import torch

    from daitir.encoders import load_encoder
    from daitir.evaluation import evaluate

    if arguments.data or arguments.features:
        encoder = cached_encoder(arguments, arguments.data or arguments.images)
    else:
        encoder = load_encoder(
            arguments.encoder, device=arguments.device, dtype=getattr(torch, arguments.dtype)
        )
    fusion, _, trained = arguments.fusion.partition(":")
    method = arguments.method or fusion
    if trained:
        fusion = _trained_fusion(fusion, Path(trained), encoder)
    benchmark = arguments.benchmark or arguments.dialogues.stem
    found = evaluate(
        dialogues,
        images_dir=arguments.images,
        gallery=gallery,
        encoder=encoder,
        fusion=fusion,
        views_dir=arguments.views,
        text_convention=arguments.text,
        benchmark=benchmark,
        method=method,
        seed=arguments.seed,
        missing_views=arguments.missing_views,
        skip_unreadable=arguments.skip_unreadable,
        progress=True,
    )
    with atomic_write(arguments.out) as temporary:
        found.rows.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    print(f"{benchmark}: {len(found.lengths):,} dialogues, {found.num_images:,} images")
    print(f"texts: {arguments.text} of {arguments.dialogues}")
    print(
        f"truncated: {found.num_truncated:,} of {found.num_texts:,} query texts "
        f"(context {encoder.context_length})"
    )
    if arguments.fusion != "text":
        print(
            f"without a view: {found.num_without_view:,} of {found.num_texts:,} rounds, ranked by "
            "text alone"
        )
    print(_table(found))
    print(f"written to {arguments.out}")


def refine(arguments: argparse.Namespace) -> None:
    """Refine dialogues by a language model into a ChatIR file of captions."""
    is_implied = arguments.out is None
    fill_in_files(arguments, "dialogues", "out_rewrites")
    if is_implied and arguments.out.exists():
        raise DataError(f"{arguments.out}: exists; remove it, or name another --out")
    dialogues = _first_dialogues(arguments, allow_duplicate_targets=True)
    prompt = _read_prompt(arguments.prompt)
    check_output(arguments.out)
    check_device(arguments.device)
    from daitir.processes import processes
    from daitir.reformulation import load_reformulator, refine_resumably

    partial = arguments.out.with_name(f".{arguments.out.stem}.partial")
    with processes(arguments.device) as (group, device):
        reformulator = load_reformulator(arguments.model, device=device, prompt=prompt)
        found = refine_resumably(
            reformulator,
            [dialogue.rounds for dialogue in dialogues],
            partial,
            batch_size=arguments.batch_size,
            group=group,
            progress=True,
        )
    if not group.is_main_process:
        return
    pairs = zip(dialogues, found.captions, strict=True)
    write_dialogues(arguments.out, [Dialogue(d.image, tuple(captions)) for d, captions in pairs])
    shutil.rmtree(partial, ignore_errors=True)
    number = sum(len(captions) for captions in found.captions)
    kinds = f" ({found.fault_kinds})" if found.faults else ""
    print(
        f"{number:,} captions of {len(dialogues):,} dialogues written to {arguments.out}; "
        f"{found.num_retried:,} outputs were asked for again, {len(found.faults):,} were of no use"
        f"{kinds} and are the joined dialogue, {found.num_truncated:,} inputs were cut"
    )


def generate(arguments: argparse.Namespace) -> None:
    """Draw a view of every round of every dialogue."""
    fill_in_files(arguments, "dialogues", "out_views")
    dialogues = _first_dialogues(arguments, allow_duplicate_targets=True)
    check_output(arguments.out / "0_0.webp")
    _check_nobody_drew(arguments.out)
    check_output(arguments.cache / "view.webp")
    check_device(arguments.device)
    import torch

    from daitir.negation import without_negation
    from daitir.processes import processes
    from daitir.views import load_view_generator, view_seed

    texts = query_texts(dialogues, convention=arguments.text)
    rounds = [(i, t) for i, row in enumerate(texts) for t in range(len(row))]
    prompts, negatives, told = [texts[i][t] for i, t in rounds], None, ""
    if arguments.without_negation:
        split = [without_negation(prompt) for prompt in prompts]
        prompts = [prompt.positive for prompt in split]
        negatives = [prompt.negative for prompt in split]
        told = (
            f"; {sum(p.num_dropped for p in split):,} negations were taken out of "
            f"{sum(p.num_dropped > 0 for p in split):,} prompts, and "
            f"{sum(p.is_negation for p in split):,} that only negate stay"
        )
    with processes(arguments.device) as (group, device):
        generator = load_view_generator(
            arguments.pipeline,
            steps=arguments.steps,
            guidance=arguments.guidance,
            device=device,
            dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
            offload=arguments.offload,
        )
        paths = generator.generate(
            prompts,
            [view_seed(arguments.seed, i, None if arguments.fixed_noise else t) for i, t in rounds],
            arguments.cache,
            negatives=negatives,
            batch_size=arguments.batch_size,
            group=group,
            progress=True,
        )
        views = list(zip(rounds, paths, strict=True))
        for (i, t), path in views[group.process_index :: group.num_processes]:
            with atomic_write(arguments.out / f"{i}_{t}.webp") as temporary:
                shutil.copyfile(path, temporary)
    if group.is_main_process:
        print(
            f"{len(paths):,} views of {len(dialogues):,} dialogues, of {arguments.text} of "
            f"{arguments.dialogues}, written to {arguments.out}{told}"
        )


def scenes(arguments: argparse.Namespace) -> None:
    """Write a part of the embedded world as files."""
    if arguments.num_dialogues > arguments.num_gallery:
        raise DataError(
            f"{arguments.num_dialogues:,} dialogues need as many gallery images; "
            f"raise --num-gallery {arguments.num_gallery:,}"
        )
    if arguments.size < MIN_SCENE_SIZE:
        raise DataError(f"--size is {MIN_SCENE_SIZE} pixels or more, not {arguments.size}")
    if arguments.broken_share is not None and not 0 <= arguments.broken_share <= 1:
        raise DataError(f"--broken-share is between 0 and 1, not {arguments.broken_share}")
    check_output(arguments.folder / "gallery.json")
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


def queries(arguments: argparse.Namespace) -> None:
    """Refine and draw the dialogues of the benchmark."""
    profile = get_profile(arguments.profile)
    check_output(arguments.out / "manifest.json")
    check_output(arguments.cache / "view.webp")
    check_device(arguments.device)
    from daitir.encoders import load_encoder
    from daitir.queries import Models, make_query_sets
    from daitir.recogniser import load_recogniser
    from daitir.reformulation import load_reformulator
    from daitir.views import load_view_generator

    on = {"device": arguments.device}
    models = Models(
        load_reformulator(profile.reformulator, **on),
        load_view_generator(
            profile.generator, steps=arguments.steps, guidance=arguments.guidance, **on
        ),
        load_encoder(profile.encoder, **on),
        load_recogniser(**on),
    )
    make_query_sets(profile, arguments.out, models, cache=arguments.cache, progress=True)
    print(f"written to {arguments.out}")


def _trained_fusion(kind: str, folder: Path, encoder: Encoder) -> Module:
    """The fusion of a folder, if it was trained on this encoder."""
    from daitir.training.fusion import load_fusion
    from daitir.training.origin import check_origin

    check_origin(folder, encoder)
    return load_fusion(folder, dim=encoder.dim, kind=kind)


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


def _read_prompt(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _check_nobody_drew(folder: Path) -> None:
    """Raises DataError where a folder holds views that this command would not have written."""
    others = [path.name for path in sorted(folder.glob("[0-9]*_[0-9]*")) if path.suffix != ".webp"]
    if others:
        raise DataError(
            f"{folder}: holds views of another origin ({others[0]} is one); name another --out"
        )


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
