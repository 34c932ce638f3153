"""What the commands that refine, draw and evaluate do; `daitir.cli` reads their arguments.

Each function checks all that can be checked at once, and imports what is heavy only then.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.cli.data_commands import (
    cached_encoder,
    check_device,
    chosen_profile,
    fill_in_files,
)
from daitir.common.errors import DataError, naming
from daitir.common.files import (
    atomic_write,
    begins_with,
    check_output,
    claimed,
    has_notes,
    read_regular,
)
from daitir.common.terminal import say
from daitir.data.dialogues import Dialogue, query_texts, recognise_convention, write_dialogues
from daitir.data.manifests import (
    MANIFEST,
    Rewrites,
    Views,
    content_digest,
    is_rewrites_manifest,
    is_views_manifest,
    rewrites_manifest,
    round_digests,
    write_rewrites,
)
from daitir.models.identity import PIPELINE_INDEX
from daitir.studies.profiles import check_models

MAX_PROMPT = 2**20  # bytes
# With fewer a percentile bootstrap covers the mean clearly less often than it says: its variance is
# (n - 1) / n of the unbiased one, and its samples hold no value that was not seen.
FEW_DIALOGUES = 20

if TYPE_CHECKING:
    from torch.nn import Module

    from daitir.evaluation import Evaluation
    from daitir.models.encoders import Encoder
    from daitir.models.reformulation import Refinement


def evaluate(arguments: argparse.Namespace) -> None:
    """Rank a gallery for dialogues, print the main metrics, write the table."""
    fill_in_files(arguments, "dialogues", "images", "gallery", "views")
    if arguments.fusion != "text" and arguments.views is None:
        where = f"; `daitir generate --data {arguments.data}` draws some" if arguments.data else ""
        raise DataError(f"--fusion {arguments.fusion} needs --views DIR{where}")
    if arguments.fusion != "text" and arguments.method == "text":
        raise DataError("--method text is the name of text alone; choose another")
    check_output(arguments.out, inputs=arguments.inputs, is_ours=_is_table)
    from daitir.data.datafolder import SearchFiles

    told: list[str] = []
    files = SearchFiles(
        arguments.dialogues,
        arguments.images,
        arguments.gallery,
        arguments.views or (),
        arguments.raw,
        arguments.benchmark or "",
    )
    data = files.read(
        text=arguments.text,
        num_dialogues=arguments.num_dialogues,
        allow_duplicate_targets=arguments.allow_duplicate_targets,
        tell=told.append,
    )
    check_device(arguments.device)
    import torch

    from daitir.data.evaluate import evaluate
    from daitir.evaluation import write_rows
    from daitir.models.encoders import load_encoder

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
    say(f"ranked texts: {data.text} of {files.dialogues} ({data.text_known})", *told)
    found = evaluate(
        data,
        encoder=encoder,
        fusion=fusion,
        method=method,
        seed=arguments.seed,
        missing_views=arguments.missing_views,
        skip_unreadable=arguments.skip_unreadable,
        progress=True,
    )
    write_rows(arguments.out, found.rows)
    say(f"{data.name}: {len(found.lengths):,} dialogues, {found.num_images:,} images")
    say(
        f"truncated: {found.num_truncated:,} of {found.num_texts:,} query texts "
        f"(context {encoder.context_length})"
    )
    if arguments.fusion != "text":
        say(
            f"without a view: {found.num_without_view:,} of {found.num_texts:,} rounds, ranked by "
            "text alone"
        )
    say(*_table(found).split("\n"))
    if len(found.lengths) < FEW_DIALOGUES:
        say(
            f"warning: intervals over {len(found.lengths)} dialogues are too narrow; a bootstrap "
            f"needs {FEW_DIALOGUES} or more"
        )
    say(f"written to {arguments.out}")


def refine(arguments: argparse.Namespace) -> None:
    """Refine dialogues by a language model into a ChatIR file of captions."""
    fill_in_files(arguments, "dialogues", "out_rewrites")
    out, model = arguments.out, Path(arguments.model)
    inputs = [*arguments.inputs, arguments.prompt, model if model.exists() else None]
    rule = {"inputs": inputs, "overwrite": arguments.overwrite}
    check_output(out, is_ours=lambda path: is_rewrites_manifest(rewrites_manifest(path)), **rule)
    check_output(rewrites_manifest(out), is_ours=is_rewrites_manifest, **rule)
    dialogues = _first_dialogues(arguments, allow_duplicate_targets=True)
    prompt = _read_prompt(arguments.prompt)
    check_device(arguments.device)
    from daitir.data.rewrites import check_refined
    from daitir.models.processes import processes
    from daitir.models.reformulation import load_reformulator, refine_resumably

    partial = out.with_name(f".{out.stem}.partial")
    with processes(arguments.device) as (group, device):
        reformulator = load_reformulator(arguments.model, device=device, prompt=prompt)
        manifest = Rewrites(
            reformulator.settings,
            {"file": arguments.dialogues.name},
            captions="",
            rounds=[round_digests(dialogue) for dialogue in dialogues],
        )
        is_done = not arguments.overwrite and out.exists()
        if is_done:
            check_refined(out, manifest)
        if group.is_main_process:
            say(f"refined: {arguments.dialogues}")
        found = None if is_done else refine_resumably(
            reformulator,
            [dialogue.rounds for dialogue in dialogues],
            partial,
            batch_size=arguments.batch_size,
            group=group,
            progress=True,
        )  # fmt: skip
        if group.is_main_process and found is None:
            say(f"{out} is there already, of these dialogues and this model")
        elif group.is_main_process:  # the others wait: what they do next may read the file
            _write_refined(out, dialogues, found, manifest)
            shutil.rmtree(partial, ignore_errors=True)


def _write_refined(
    out: Path, dialogues: Sequence[Dialogue], found: Refinement, manifest: Rewrites
) -> None:
    """Write captions and their manifest, and say how many there are of which kind."""
    pairs = zip(dialogues, found.captions, strict=True)
    refined = [Dialogue(d.image, tuple(captions)) for d, captions in pairs]
    number = sum(len(captions) for captions in found.captions)
    counts = {"rounds": number, "retried": found.num_retried, "faults": len(found.faults),
              "truncated": found.num_truncated}  # fmt: skip
    faults = [[*place, kind] for place, kind in found.faults.items()]
    captions = content_digest(refined)
    # The manifest comes first: captions without one would count as written by hand.
    write_rewrites(out, replace(manifest, captions=captions, counts=counts, faults=faults))
    write_dialogues(out, refined)
    kinds = f" ({found.fault_kinds})" if found.faults else ""
    say(
        f"{number:,} captions of {len(dialogues):,} dialogues written to {out}; "
        f"{found.num_retried:,} outputs were asked for again, {len(found.faults):,} were of no use"
        f"{kinds} and are the joined dialogue, {found.num_truncated:,} inputs were cut"
    )


def generate(arguments: argparse.Namespace) -> None:
    """Draw a view of every round of every dialogue."""
    fill_in_files(arguments, "dialogues", "out_views")
    out, pipeline = arguments.out, Path(arguments.pipeline)
    inputs = [*arguments.inputs, pipeline if (pipeline / PIPELINE_INDEX).is_file() else None]
    check_output(out / MANIFEST, inputs=inputs, is_ours=is_views_manifest)
    check_output(arguments.cache / "view.webp", inputs=inputs)
    dialogues = _first_dialogues(arguments, allow_duplicate_targets=True)
    check_device(arguments.device)
    import torch
    from PIL import Image

    from daitir.data.negation import without_negation
    from daitir.data.viewfiles import begin_views, check_redraw, views_of
    from daitir.models.processes import processes
    from daitir.models.views import load_view_generator, view_seed

    texts = query_texts(dialogues, convention=arguments.text)
    rounds = [(i, t) for i, row in enumerate(texts) for t in range(len(row))]
    prompts, negatives, told = [texts[i][t] for i, t in rounds], [""] * len(rounds), ""
    seeds = [view_seed(arguments.seed, i, None if arguments.fixed_noise else t) for i, t in rounds]
    if arguments.without_negation:
        split = [without_negation(prompt) for prompt in prompts]
        prompts = [prompt.positive for prompt in split]
        negatives = [prompt.negative for prompt in split]
        told = (
            f"; {sum(p.num_dropped for p in split):,} negations were taken out of "
            f"{sum(p.num_dropped > 0 for p in split):,} prompts, and "
            f"{sum(p.is_negation for p in split):,} that only negate stay"
        )
    with claimed(arguments.out), processes(arguments.device) as (group, device):
        generator = load_view_generator(
            arguments.pipeline,
            steps=arguments.steps,
            guidance=arguments.guidance,
            device=device,
            dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
            offload=arguments.offload,
        )
        names = [f"{i}_{t}.webp" for i, t in rounds]
        facts = zip(names, prompts, negatives, seeds, strict=True)
        manifest = Views(
            generator.settings
            | {"seed": arguments.seed, "fixed_noise": arguments.fixed_noise,
               "without_negation": arguments.without_negation},
            {"file": arguments.dialogues.name, "text": arguments.text},
            views_of(dialogues, (
                {"file": name, "prompt": prompt, "seed": seed,
                 "negative_prompt": negative if generator.takes_negatives else ""}
                for name, prompt, negative, seed in facts
            )),
        )  # fmt: skip
        check_redraw(out, manifest, overwrite=arguments.overwrite)
        if group.is_main_process:
            known = f"{arguments.text} of {arguments.dialogues} ({arguments.text_known})"
            say(f"drawn texts: {known}")
        paths = generator.generate(
            prompts,
            seeds,
            arguments.cache,
            negatives=negatives,
            batch_size=arguments.batch_size,
            group=group,
            progress=True,
        )
        if group.is_main_process:
            with Image.open(paths[0]) as first:
                settings = manifest.settings | {"size": list(first.size)}
            manifest = replace(manifest, settings=settings)
            begin_views(out, manifest, overwrite=arguments.overwrite)
        group.wait_for_everyone()
        views = list(zip(names, paths, strict=True))
        for name, path in views[group.process_index :: group.num_processes]:
            with atomic_write(out / name, sync=False) as temporary:
                shutil.copyfile(path, temporary)
    if group.is_main_process:
        say(
            f"{len(paths):,} views of {len(dialogues):,} dialogues, of {arguments.text} of "
            f"{arguments.dialogues}, written to {out}{told}"
        )


def scenes(arguments: argparse.Namespace) -> None:
    """Write a part of the embedded world as files."""
    if arguments.num_dialogues > arguments.num_gallery:
        raise DataError(
            f"{arguments.num_dialogues:,} dialogues need as many gallery images; "
            f"raise --num-gallery {arguments.num_gallery:,}"
        )
    check_output(arguments.folder / "scenes.json")
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
    say(f"written to {arguments.folder}")


def queries(arguments: argparse.Namespace) -> None:
    """Refine and draw the dialogues of the benchmark."""
    profile = chosen_profile(arguments)
    check_output(arguments.out / MANIFEST)
    check_output(arguments.cache / "view.webp")
    check_device(arguments.device)
    check_models(profile, "lm", "diffusion", "clip")
    from daitir.models.encoders import load_encoder
    from daitir.models.recogniser import load_recogniser
    from daitir.models.reformulation import load_reformulator
    from daitir.models.views import load_view_generator
    from daitir.studies.queries import Models, make_query_sets

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
    say(f"written to {arguments.out}")


def _trained_fusion(kind: str, folder: Path, encoder: Encoder) -> Module:
    """The fusion of a folder, if it was trained on this encoder."""
    from daitir.recipes.fusion import load_fusion
    from daitir.recipes.origin import check_origin

    check_origin(folder, encoder)
    return load_fusion(folder, dim=encoder.dim, kind=kind)


def _first_dialogues(arguments: argparse.Namespace, **options) -> list[Dialogue]:
    """The dialogues of `--dialogues`, the first `--num-dialogues` of them where that is given.

    Where the command makes texts of them, `text` is set to the convention that all of them show,
    if it is not named, and `text_known` to how it is known.
    """
    from daitir.data.rewrites import read_source

    dialogues = read_source(arguments.dialogues, arguments.raw, **options)
    number = arguments.num_dialogues or len(dialogues)
    if number > len(dialogues):
        raise DataError(
            f"{arguments.dialogues}: has {len(dialogues):,} dialogues, fewer than "
            f"--num-dialogues {number:,}"
        )
    if "text" in arguments:
        arguments.text, arguments.text_known = recognise_convention(
            dialogues, path=arguments.dialogues, named=arguments.text
        )
    return dialogues[:number]


def _is_table(path: Path) -> bool:
    """Whether a file is a table that `evaluate` wrote, and not one of a study."""
    from daitir.evaluation import RESULT_COLUMNS  # late: it loads torch

    return begins_with(path, ",".join(RESULT_COLUMNS)) and not has_notes(path)


def _read_prompt(path: Path | None) -> str | None:
    if path is None:
        return None
    with naming("--prompt"):
        try:
            return read_regular(path, MAX_PROMPT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error


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
