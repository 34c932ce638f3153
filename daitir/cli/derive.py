"""Commands that derive captions and views from dialogues: `refine` and `generate`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.cli import inputs
from daitir.cli.options import CACHE, DEVICE, DTYPES, command, data_instead_of, seed_of, text_of
from daitir.common.errors import DataError, naming
from daitir.common.files import atomic_write, check_output, claimed, read_regular
from daitir.common.terminal import say
from daitir.data.dialogues import Dialogue, check_refined, query_texts, write_dialogues
from daitir.data.manifests import (
    MANIFEST,
    REWRITES_FORMAT,
    VIEWS_FORMAT,
    Rewrites,
    Views,
    content_digest,
    is_manifest,
    rewrites_manifest,
    round_digests,
    write_rewrites,
)
from daitir.models.identity import PIPELINE_INDEX

MAX_PROMPT = 2**20  # bytes

if TYPE_CHECKING:
    from daitir.models.reformulation import Refinement


@command(
    "daitir refine --dialogues dialogues.json --out rewrites.json",
    "accelerate launch -m daitir.cli refine --data my_pictures/ --model models/llama",
    options={
        **data_instead_of("--dialogues and --out"),
        "--dialogues FILE": "ChatIR file",
        "--num-dialogues N": "refine the first N dialogues only",
        "--model SPEC": ("mini, a folder of a transformers model, or a hub's name", "mini"),
        "--prompt FILE": "template of the prompt, with {dialogue} in it; not for mini",
        "--batch-size N": ("", 64),
        **DEVICE,
        "--out FILE": "gets the captions, a manifest beside it (default: the rewrites of --data)",
        "--overwrite": "write over a file that is there, of whatever origin",
    },
)
def refine(arguments: argparse.Namespace) -> None:
    """Refine dialogues by a language model into captions."""
    data, split, files, reads = inputs.find_own_data(
        arguments, "dialogues", text="raw_dialogue", out="rewrites"
    )
    path, out = files.dialogues, arguments.out or data.rewrites_file(split)
    beside = rewrites_manifest(out)
    for file in (out, beside):
        check_output(
            file,
            inputs=[*reads, arguments.prompt, arguments.model],
            is_ours=lambda _: is_manifest(beside, REWRITES_FORMAT),
            overwrite=arguments.overwrite,
        )
    dialogues, *_ = files.read_dialogues(
        num_dialogues=arguments.num_dialogues, text="raw_dialogue", allow_duplicate_targets=True
    )
    prompt = _read_prompt(arguments.prompt) if arguments.prompt else None
    inputs.check_device(arguments.device)
    from daitir.models.processes import processes
    from daitir.models.reformulation import load_reformulator, refine_resumably

    with processes(arguments.device) as (group, device):
        reformulator = load_reformulator(arguments.model, device=device, prompt=prompt)
        digests = [round_digests(dialogue) for dialogue in dialogues]
        manifest = Rewrites(reformulator.settings, {"file": path.name}, captions="", rounds=digests)
        if is_done := not arguments.overwrite and out.exists():
            check_refined(out, manifest)
        if group.is_main_process:
            say(f"refined: {path}")
            if is_done:
                say(f"{out} is there already, of these dialogues and this model")
        if is_done:
            return
        rounds = [dialogue.rounds for dialogue in dialogues]
        partial = out.with_name(f".{out.stem}.partial")
        options = {"batch_size": arguments.batch_size, "group": group, "progress": True}
        refinement = refine_resumably(reformulator, rounds, partial, **options)
        if group.is_main_process:  # the others wait: what they do next may read the file
            _write_refined(out, dialogues, refinement, manifest)
            shutil.rmtree(partial, ignore_errors=True)


def _read_prompt(path: Path) -> str:
    with naming("--prompt"):
        try:
            return read_regular(path, MAX_PROMPT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error})") from error


def _write_refined(
    out: Path, dialogues: Sequence[Dialogue], refinement: Refinement, manifest: Rewrites
) -> None:
    """Write captions and their manifest, and say how many there are of which kind."""
    pairs = zip(dialogues, refinement.captions, strict=True)
    refined = [Dialogue(dialogue.image, tuple(captions)) for dialogue, captions in pairs]
    counts = {
        "rounds": sum(len(captions) for captions in refinement.captions),
        "retried": refinement.num_retried,
        "faults": len(refinement.faults),
        "truncated": refinement.num_truncated,
    }
    faults = [[*place, kind] for place, kind in refinement.faults.items()]
    captions = content_digest(refined)
    # The manifest comes first: captions without one would count as written by hand.
    write_rewrites(out, replace(manifest, captions=captions, counts=counts, faults=faults))
    write_dialogues(out, refined)
    kinds = f" ({refinement.fault_kinds})" if faults else ""
    say(
        f"{counts['rounds']:,} captions of {len(dialogues):,} dialogues written to {out}; "
        f"{counts['retried']:,} outputs were asked for again, {len(faults):,} were of no use"
        f"{kinds} and are the joined dialogue, {counts['truncated']:,} inputs were cut"
    )


@command(
    "daitir generate --dialogues rewrites.json --out views/",
    "accelerate launch -m daitir.cli generate --data my_pictures/ --pipeline models/sdxl",
    options={
        **data_instead_of("--dialogues and --out"),
        "--dialogues FILE": "ChatIR file",
        **text_of("the prompt"),
        "--num-dialogues N": "draw for the first N dialogues only",
        "--pipeline SPEC": ("mini, a folder of a diffusers pipeline, or a hub's name", "mini"),
        "--steps STEPS": ("enough for mini; other pipelines may need more", 8),
        "--guidance SCALE": ("", 2.0),
        **seed_of("of the noise"),
        "--fixed-noise": "all rounds of a dialogue start from the same noise",
        "--batch-size N": ("", 32),
        **CACHE,
        "--without-negation": "take what an English prompt says is not there out of it, and give "
        "it to the pipeline as its negative prompt; signs, names and numbers stay",
        **DEVICE,
        f"--dtype {DTYPES}": "precision of the weights (default: float32 on a CPU, else float16)",
        "--offload": "move a part of the pipeline to the GPU only while it computes",
        "--out DIR": "gets {dialogue}_{round}.webp and a manifest (default: the views of --data)",
        "--overwrite": "remove the views that daitir drew there before, and draw anew",
    },
)
def generate(arguments: argparse.Namespace) -> None:
    """Draw a view of every round of every dialogue."""
    data, split, source, reads = inputs.find_own_data(
        arguments, "dialogues", text=arguments.text, out="views"
    )
    path, out = source.dialogues, arguments.out or data.views_dir(split)
    pipeline = Path(arguments.pipeline)
    reads += [pipeline if (pipeline / PIPELINE_INDEX).is_file() else None]
    check_output(out / MANIFEST, inputs=reads, is_ours=lambda path: is_manifest(path, VIEWS_FORMAT))
    check_output(arguments.cache / "view.webp", inputs=reads)
    dialogues, convention, why = source.read_dialogues(
        num_dialogues=arguments.num_dialogues, text=arguments.text, allow_duplicate_targets=True
    )
    inputs.check_device(arguments.device)
    import torch
    from PIL import Image

    from daitir.data.negation import without_negation
    from daitir.data.viewfiles import begin_views, check_redraw, views_of
    from daitir.models.processes import processes
    from daitir.models.views import load_view_generator, view_seed

    texts = query_texts(dialogues, convention=convention)
    rounds = [(i, t) for i, row in enumerate(texts) for t in range(len(row))]
    prompts, negatives, dropped = [texts[i][t] for i, t in rounds], [""] * len(rounds), ""
    seeds = [view_seed(arguments.seed, i, None if arguments.fixed_noise else t) for i, t in rounds]
    if arguments.without_negation:
        cleaned = [without_negation(prompt) for prompt in prompts]
        prompts = [prompt.positive for prompt in cleaned]
        negatives = [prompt.negative for prompt in cleaned]
        dropped = (
            f"; {sum(prompt.num_dropped for prompt in cleaned):,} negations were taken out of "
            f"{sum(prompt.num_dropped > 0 for prompt in cleaned):,} prompts, and "
            f"{sum(prompt.is_negation for prompt in cleaned):,} that only negate stay"
        )
    with claimed(out), processes(arguments.device) as (group, device):
        generator = load_view_generator(
            arguments.pipeline,
            **inputs.given(arguments, "steps", "guidance", "offload"),
            device=device,
            dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        )
        taken = negatives if generator.takes_negatives else [""] * len(rounds)
        facts = [
            {"file": f"{i}_{t}.webp", "prompt": prompt, "seed": seed, "negative_prompt": negative}
            for (i, t), prompt, seed, negative in zip(rounds, prompts, seeds, taken, strict=True)
        ]
        how = inputs.given(arguments, "seed", "fixed_noise", "without_negation")
        about = {"file": path.name, "text": convention}
        manifest = Views(generator.settings | how, about, views_of(dialogues, facts))
        check_redraw(out, manifest, overwrite=arguments.overwrite)
        if group.is_main_process:
            say(f"drawn texts: {convention} of {path} ({why})")
        options = {"batch_size": arguments.batch_size, "group": group, "progress": True}
        drawn = generator.generate(prompts, seeds, arguments.cache, negatives=negatives, **options)
        if group.is_main_process:
            with Image.open(drawn[0]) as first:
                settings = manifest.settings | {"size": list(first.size)}
            manifest = replace(manifest, settings=settings)
            begin_views(out, manifest, overwrite=arguments.overwrite)
        group.wait_for_everyone()
        views = list(zip(facts, drawn, strict=True))
        for fact, view in views[group.process_index :: group.num_processes]:
            with atomic_write(out / fact["file"], sync=False) as temporary:
                shutil.copyfile(view, temporary)
    if group.is_main_process:
        say(
            f"{len(drawn):,} views of {len(dialogues):,} dialogues, of {convention} of {path}, "
            f"written to {out}{dropped}"
        )
