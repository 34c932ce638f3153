"""Robustness: text, view, DAR and ADaFuSE under conditions that ADaFuSE was not trained for.

Whatever is perturbed goes through the whole chain again: it is refined, drawn and encoded as a
system would have to do it. All is measured on the first test dialogues of the source `human`;
wrong answers are a source of the benchmark, `unreliable`, and placebo views a method of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir import metrics
from daitir.book.provenance import versions
from daitir.evaluation import RESULT_COLUMNS, read_results, write_results
from daitir.fusion import dar_fusion
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.reformulation import Reformulator
from daitir.models.views import ViewGenerator, view_seed
from daitir.recipes.clip import train_clip
from daitir.recipes.fusion import FusionData, load_fusion, train_fusion
from daitir.recipes.settings import ClipRecipe
from daitir.retrieval import target_ranks
from daitir.scenes import (
    NUM_QUESTIONS,
    Scene,
    controlled_view,
    dialogue,
    merge_facts,
    render_scenes,
    rewrites,
    sample_scenes,
)
from daitir.studies.perturbations import (
    Said,
    dropped_rounds,
    last_views,
    refine_arrived,
    shuffled_rounds,
    typos,
)
from daitir.studies.profiles import Profile
from daitir.studies.queries import (
    SEED,
    SETS,
    QuerySet,
    load_query_set,
    manifest_of,
    queries_folder,
    set_dialogues,
)
from daitir.studies.training_sets import encode_queries, fusion_folder

logger = logging.getLogger(__name__)
ROUNDS, LONG_ROUNDS = (2, 6, 10), (10, 15, 20)
TYPO_SHARES, DROP_SHARE, MISSING_SHARE = (0.1, 0.3), 0.3, 0.5
SETTINGS = {"guidance_1": {"guidance": 1.0}, "steps_2": {"steps": 2}}
NUM_SEEDS = 3  # of a fusion that is trained here

PERTURBATIONS: dict[str, Callable[[Sequence[str], int], Said]] = {
    **{f"typos_{100 * share:.0f}": partial(typos, share=share) for share in TYPO_SHARES},
    "dropped_rounds": partial(dropped_rounds, share=DROP_SHARE),
    "shuffled_rounds": shuffled_rounds,
}
Ranks = Mapping[str, Tensor]  # of each method (num_seeds, num_queries, num_rounds)


def run_robustness(
    profile: Profile,
    reformulator: Reformulator,
    generator: ViewGenerator,
    encoder: Encoder,
    *,
    cache: Path,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Measure every condition and write `results/<profile>_robustness.csv` and `.json`.

    Args:
        reformulator: refines perturbed dialogues.
        generator: draws.
        encoder: that the shipped fusions were trained with.
        cache: keeps the views.
        work_dir: keeps each condition that is done, and what is trained, so that an interrupted
            run continues.

    Returns the path of the table. Raises DataError where the query sets do not fit the encoder or
    a fusion is missing.
    """
    options = {"num_workers": num_workers, "progress": progress}
    bench = Bench(profile, reformulator, generator, encoder, cache, work_dir, device, options)
    facts = [asdict(profile), bench.queries, generator.digest, reformulator.digest]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    tables, seconds = [], {}
    for name, measure in conditions(bench).items():
        part = work_dir / key / f"{name}.csv"
        if not part.is_file():
            logger.warning("%s: measuring", name)
            began = time.perf_counter()
            rows = pd.concat(measure(name))
            write_results(part, rows, {"seconds": round(time.perf_counter() - began, 1)})
        rows, found = read_results(part)
        tables.append(rows)
        seconds |= {name: found["seconds"]}
    path = results_dir / f"{profile.name}_robustness.csv"
    notes = {
        "profile": asdict(profile),
        "queries": bench.queries,
        "other_encoder": asdict(other_recipe(profile.clip)),
        "versions": versions(),
        "seconds": seconds,
    }
    write_results(path, pd.concat(tables), notes)
    return path


def other_recipe(recipe: ClipRecipe) -> ClipRecipe:
    """The recipe of the other encoder: a fifth of the steps and of the scenes, half a batch."""
    return replace(
        recipe,
        steps=recipe.steps // 5,
        num_scenes=recipe.num_scenes // 5,
        batch_size=recipe.batch_size // 2,
    )


def fused_queries(
    text: Tensor, view: Tensor, rounds: Sequence[int], models: Sequence[nn.Module]
) -> dict[str, Tensor]:
    """Queries `(num_seeds, num_queries, num_rounds, dim)` of `text`, `view`, `dar` and `adafuse`.

    `text` and `view` are `(num_queries, num_rounds, dim)`; `models` are the ADaFuSE of each seed.
    """
    with torch.no_grad():
        adaptive = torch.stack([model(text, view)[0] for model in models])
    dar = dar_fusion(text, view, round=torch.tensor(rounds))
    return {"text": text[None], "view": view[None], "dar": dar[None], "adafuse": adaptive}


def method_ranks(queries: Mapping[str, Tensor], gallery_features: Tensor) -> Ranks:
    """The ranks of each method's queries `(num_seeds, num_queries, num_rounds, dim)`.

    `gallery_features` `(num_images, dim)`; query i looks for image i.
    """
    return {
        method: torch.stack(
            [target_ranks(one, gallery_features, torch.arange(len(one))) for one in found]
        )
        for method, found in queries.items()
    }


def condition_rows(
    condition: str, ranks: Ranks, rounds: Sequence[int], *, usual: Ranks | None = None
) -> pd.DataFrame:
    """Tidy rows of every method under one condition.

    What is measured is averaged over the seeds of a method, dialogue by dialogue, and then put to
    the bootstrap. The column `seed` says how many they were.

    Args:
        condition: stands as the benchmark.
        ranks: of each method, `text` and `dar` among them.
        rounds: which they are.
        usual: the ranks without the condition, of the same dialogues and rounds.

    Metrics: `recall_at_10`; its paired differences to text, `_gain`, to DAR, `_gain_over_dar`, and
    to the same method without the condition, `_change`; `degradation_rate_ln2`, against text.
    """

    def averaged(values: Callable[[Tensor], np.ndarray], found: Tensor) -> np.ndarray:
        return np.mean([values(one) for one in found], axis=0)

    recall = partial(averaged, partial(metrics.recall_values, k=10))
    doubled = partial(
        metrics.degradation_values, baseline_ranks=ranks["text"][0], margin=math.log(2)
    )
    tables = []
    for method, found in ranks.items():
        values = {"recall_at_10": recall(found)}
        others = {}
        if method != "text":
            others["gain"] = ranks["text"]
        if method not in ("text", "dar"):
            others["gain_over_dar"] = ranks["dar"]
        if usual is not None:
            others["change"] = usual[method]
        known = {}
        for suffix, other in others.items():
            values[f"recall_at_10_{suffix}"] = values["recall_at_10"] - recall(other)
            known[f"recall_at_10_{suffix}"] = metrics.same_ranks(found, other)
        if method != "text":
            values["degradation_rate_ln2"] = averaged(doubled, found)
        for metric, columns in values.items():
            bounds = metrics.DIFFERENCES if metric in known else metrics.SHARES
            low, high = metrics.bootstrap_interval(
                columns, bounds=bounds, known=known.get(metric, False)
            )
            row = (condition, method, f"mean of {len(found)}", rounds, metric,
                   columns.mean(axis=0), low, high, len(columns))  # fmt: skip
            tables.append(pd.DataFrame(dict(zip(RESULT_COLUMNS, row, strict=True))))
    return pd.concat(tables, ignore_index=True)


@dataclass
class Bench:
    """The models, the test dialogues and the gallery that every condition is measured with."""

    profile: Profile
    reformulator: Reformulator
    generator: ViewGenerator
    encoder: Encoder
    cache: Path
    work_dir: Path
    device: str
    options: Mapping  # num_workers and progress, of drawing scenes

    def __post_init__(self):
        profile, number = self.profile, self.profile.num_other_dialogues
        folder = queries_folder(profile)
        self.queries = manifest_of(folder)
        human = load_query_set("human", self.encoder, folder)
        self.human = QuerySet(human.captions[:number], human.rounds[:number],
                              human.view_features[:number], human.readings[:number])  # fmt: skip
        self.scenes, self.talks = (some[:number] for some in set_dialogues(profile, "human"))
        self.said = [[turn.text for turn in turns] for turns in self.talks]
        self.models = [
            load_fusion(fusion_folder(profile, "adafuse", seed), dim=self.encoder.dim)
            for seed in range(profile.num_fusion_seeds)
        ]
        self.gallery = self.pictures(sample_scenes(SEED, "test", profile.num_gallery))
        self.text = self.encode(self.human.captions)
        self.view = self.human.view_features[:, list(ROUNDS)]
        queries = fused_queries(self.text, self.view, ROUNDS, self.models)
        self.usual = method_ranks(queries, self.gallery)

    def pictures(self, scenes: Sequence[Scene], encoder: Encoder | None = None) -> Tensor:
        """(num_scenes, dim) features of rendered scenes."""
        images = render_scenes(scenes, size=self.profile.image_size, **self.options)
        return (encoder or self.encoder).encode_images(images)

    def encode(
        self,
        captions: Sequence[Sequence[str]],
        rounds: Sequence[int] = ROUNDS,
        encoder: Encoder | None = None,
    ) -> Tensor:
        """(num_dialogues, num_rounds, dim) features of the captions of some rounds."""
        flat = [row[t] for row in captions for t in rounds]
        features = (encoder or self.encoder).encode_texts(flat)
        return features.view(len(captions), len(rounds), -1)

    def draw(
        self,
        captions: Sequence[Sequence[str]],
        rounds: Sequence[int] = ROUNDS,
        generator: ViewGenerator | None = None,
    ) -> list[Path]:
        """The views of the captions of some rounds, dialogue by dialogue."""
        return (generator or self.generator).generate(
            [row[t] for row in captions for t in rounds],
            [view_seed(SEED, i, t) for i in range(len(captions)) for t in rounds],
            self.cache,
            progress=self.options["progress"],
        )


def conditions(bench: Bench) -> dict[str, Callable[[str], Iterator[pd.DataFrame]]]:
    """What is measured, by name: each a function of its name that yields rows."""
    profile, human = bench.profile, bench.human

    def rows(
        name: str, text: Tensor, view: Tensor, rounds: Sequence[int] = ROUNDS
    ) -> Iterator[pd.DataFrame]:
        ranks = method_ranks(fused_queries(text, view, rounds, bench.models), bench.gallery)
        yield condition_rows(name, ranks, rounds, usual=bench.usual if rounds == ROUNDS else None)

    def again(name: str, captions: list[list[str]], rounds: Sequence[int] = ROUNDS):
        drawn = bench.encoder.encode_images(bench.draw(captions, rounds))
        text = bench.encode(captions, rounds)
        return rows(name, text, drawn.view_as(text), rounds)

    def perturbed(name: str):
        arrived = [PERTURBATIONS[name](said, seed) for seed, said in enumerate(bench.said)]
        progress = bench.options["progress"]
        return again(name, refine_arrived(bench.reformulator, arrived, progress=progress))

    def longer(name: str):
        talks = [
            dialogue("human", scene, seed=SEED, num_questions=LONG_ROUNDS[-1])
            for scene in bench.scenes
        ]
        said = [[turn.text for turn in turns] for turns in talks]
        found = bench.reformulator.refine(said, progress=bench.options["progress"])
        return again(name, found.captions, LONG_ROUNDS)

    def other_setting(name: str):
        usual = {"steps": bench.generator.steps, "guidance": bench.generator.guidance}
        spec, pipeline = bench.generator.spec, bench.generator.pipeline
        other = ViewGenerator(spec, pipeline, **usual | SETTINGS[name])
        paths = bench.draw(human.captions, generator=other)
        return rows(name, bench.text, bench.encoder.encode_images(paths).view_as(bench.text))

    def redrawn(name: str):
        """What the recogniser reads off each view, rendered: drawn well, with the same content."""
        seen = [row[t] for row in human.readings for t in ROUNDS]
        return rows(name, bench.text, bench.pictures(seen).view_as(bench.text))

    def controlled(name: str, *, share: float):
        """Controlled views with a share of false facts, of texts that are exact."""
        exact = [rewrites(turns, seed=index) for index, turns in enumerate(bench.talks)]
        text = bench.encode(exact)
        views = [
            controlled_view(merge_facts(t[: r + 1]), broken_share=share, seed=f"{i}/{r}").scene
            for i, t in enumerate(bench.talks)
            for r in ROUNDS
        ]
        return rows(name, text, bench.pictures(views).view_as(text))

    def missing(name: str):
        """A share of the views is missing; the method gets a stand-in, or text alone is asked."""
        generator = torch.Generator().manual_seed(SEED)
        gone = torch.rand(len(human.captions), NUM_QUESTIONS + 1, generator=generator)
        gone = gone < MISSING_SHARE
        earlier, none = (some[:, list(ROUNDS)] for some in last_views(human.view_features, gone))
        gone = gone[:, list(ROUNDS), None]
        as_text, as_before = gone, none[..., None]
        stand_ins = {
            "text_alone": (bench.view, as_text),
            "text_as_view": (torch.where(gone, bench.text, bench.view), torch.zeros_like(gone)),
            "previous_view": (earlier, as_before),
        }
        for stand_in, (view, alone) in stand_ins.items():
            queries = fused_queries(bench.text, view, ROUNDS, bench.models)
            del queries["view"]
            queries = {m: torch.where(alone, bench.text, found) for m, found in queries.items()}
            ranks = method_ranks(queries, bench.gallery)
            yield condition_rows(f"{name}_{stand_in}", ranks, ROUNDS, usual=bench.usual)

    def elsewhere(name: str, train: FusionData, val: FusionData, text: Tensor, view: Tensor,
                  gallery: Tensor):  # fmt: skip
        """Features of another space: the fusions carried over to it, and trained in it."""
        trained = [
            train_fusion(
                train, val, profile.fusions["adafuse"], bench.work_dir / name / str(seed),
                seed=seed, device=bench.device, progress=bool(bench.options["progress"]),
            )
            for seed in range(NUM_SEEDS)
        ]  # fmt: skip
        for how, models in (("carried_over", bench.models), ("trained_for_it", trained)):
            ranks = method_ranks(fused_queries(text, view, ROUNDS, models), gallery)
            yield condition_rows(f"{name}_{how}", ranks, ROUNDS)

    def rotated(name: str):
        """The same space in other coordinates: the same to DAR, another to a trained fusion."""
        dim = bench.encoder.dim
        noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(SEED))
        turn = torch.linalg.qr(noise).Q
        data = (
            encode_queries(profile, some, bench.encoder, cache=bench.work_dir / "features",
                           **bench.options)
            for some in ("train", "val")
        )  # fmt: skip
        turned = (
            FusionData(d.text_features @ turn, d.view_features @ turn, d.gallery_features @ turn)
            for d in data
        )
        here = (features @ turn for features in (bench.text, bench.view, bench.gallery))
        return elsewhere(name, *turned, *here)

    def other_encoder(name: str):
        """An encoder of the same recipe, from another seed and trained for less long."""
        folder = bench.work_dir / "encoder"
        if not (folder / "open_clip_config.json").is_file():
            train_clip(other_recipe(profile.clip), folder, seed=SEED + 1, device=bench.device,
                       **bench.options)  # fmt: skip
        encoder = load_encoder(f"open_clip:{folder}", device=bench.device)
        data = (_drawn_data(bench, some, encoder) for some in ("train", "val"))
        text = bench.encode(human.captions, encoder=encoder)
        view = encoder.encode_images(bench.draw(human.captions)).view_as(text)
        gallery = bench.pictures(sample_scenes(SEED, "test", profile.num_gallery), encoder)
        return elsewhere(name, *data, text, view, gallery)

    return {
        "as_trained": lambda name: rows(name, bench.text, bench.view),
        **dict.fromkeys(PERTURBATIONS, perturbed),
        "longer": longer,
        **dict.fromkeys(SETTINGS, other_setting),
        "redrawn": redrawn,
        **{f"controlled_{round(100 * share):02d}": partial(controlled, share=share)
           for share in profile.broken_shares},
        "missing": missing,
        "rotated": rotated,
        "other_encoder": other_encoder,
    }  # fmt: skip


def _drawn_data(bench: Bench, name: str, encoder: Encoder) -> FusionData:
    """A query set as `encode_queries` has it, drawn again and encoded by another encoder."""
    profile, recipe = bench.profile, SETS[name]
    found = load_query_set(name, bench.encoder, queries_folder(profile))
    captions = [caption for row in found.drawn_captions for caption in row]
    seeds = [view_seed(recipe.seed, i, t) for i, ts in enumerate(found.rounds.tolist()) for t in ts]
    progress = bench.options["progress"]
    paths = bench.generator.generate(captions, seeds, bench.cache, progress=progress)
    number = len(found.captions) if name == "train" else profile.num_gallery
    gallery = bench.pictures(sample_scenes(SEED, recipe.split, number), encoder)
    shape = (*found.rounds.shape, -1)
    texts, views = encoder.encode_texts(captions), encoder.encode_images(paths)
    return FusionData(texts.view(shape), views.view(shape), gallery)
