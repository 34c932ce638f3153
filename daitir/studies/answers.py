"""Two things that users ask for: to be told that it is not there, and that no means no.

Which signal tells a search apart from one whose target was taken out of the gallery? One of the
query alone cannot, by construction, but it may tell which targets are found. And how many pictures
of those seen show what was denied? Validation chooses all thresholds and weights of remedies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from daitir import retrieval, scenes
from daitir.analysis.geometry.spaces import added_directions
from daitir.evaluation import judged_signal
from daitir.fusion import dar_fusion
from daitir.models.encoders import Encoder
from daitir.scenes import Fact, describe, world
from daitir.studies.cues.tables import measured, sample_counts, sample_means, sample_rows
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import Condition, Instrument, Trained
from daitir.studies.engine.inputs import said_facts
from daitir.studies.queries import SEED, SETS

SHOWN, ASKED = (2, 6, 10), (1, 2, 5, 6, 9, 10)  # rounds; each that is shown, and the one before
SEEN, KEPT_SHARE = 10, 0.95  # pictures that a user sees; of the targets there, at the threshold
THINGS = [Fact(name, "present", True) for name in (*world.GROUPS, *world.CATEGORIES)]
BARE_PLACES = [Fact("scene", "place", place) for place in world.PLACES]
DENIED_WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
ANSWER_COLUMNS = ["part", "method", "round", "what", "metric", "value", "ci_low", "ci_high"]
COMPARED_WITH = {"absent": (1, "text"), "denied": (3, "none")}  # which column has another value
OF_TEXT = ("none", "best_score", "gap", "unchanged")
OF_BOTH = (*OF_TEXT, "agreement", "shared_with_view")
SIGNALS = {"text": OF_TEXT, "dar": OF_BOTH, "adafuse": (*OF_BOTH, "gate")}
Queries = Mapping[str, Tensor]  # (num_seeds, num_queries, num_rounds, dim) by method


class Asked(NamedTuple):
    """A query set at the rounds `ASKED`; what needs a view is NaN where none was drawn."""

    queries: Queries
    unsaid: Queries  # from texts without their negations
    view: Tensor
    gates: Tensor  # (num_seeds, num_queries, num_rounds)
    gallery: Tensor
    stated: Tensor  # (num_queries, num_rounds, num_things) bool: what the dialogue denies
    read: Tensor  # what its caption denies, which is all that a system knows
    shown: Tensor  # (num_things, num_images) bool: what the gallery shows


def ask(bench: Bench, name: str) -> Asked:
    """All that is measured of a query set; the work folder keeps the features."""
    asked, drawn = Condition("", "", queries=name, rounds=ASKED), bench.query_set(name).rounds
    captions = bench.texts(asked)

    def encoded(encoder: Encoder) -> dict[str, Tensor]:
        plain = bench.texts(replace(asked, text="affirmed_rewrite"))
        texts = encoder.encode_texts([*captions, *plain], progress=bench.progress)
        return {"texts": texts, "gallery": bench.gallery_features(asked)}

    kept = measured(bench, {name: [bench.base]}, encoded, f"answers_{name}")[name]
    gallery, texts = kept["gallery"][0], kept["texts"].view(2, len(drawn), len(ASKED), -1)
    view = torch.full((len(drawn), max(ASKED) + 1, texts.shape[-1]), torch.nan)
    view[torch.arange(len(view))[:, None], drawn] = bench.kept_features(name)
    seeds = [Condition("", "", seed) for seed in range(bench.profile.num_fusion_seeds)]
    fusions = [bench.fusion(Trained("adafuse"), seed) for seed in seeds]
    (queries, gates), (unsaid, _) = (fused(text, view[:, ASKED], fusions) for text in texts)
    said = said_facts(bench, asked), [scenes.parse(text).facts for text in captions]
    names = [[{fact.subject for fact in row if fact.value is False} for row in of] for of in said]
    denied = torch.tensor([[[t.subject in no for t in THINGS] for no in of] for of in names])
    pictured = scenes.sample_scenes(SEED, SETS[name].split, len(gallery))
    shown = torch.tensor([[scenes.holds(of, scene) for scene in pictured] for of in THINGS])
    stated, read = denied.view(2, *texts.shape[1:3], -1)
    return Asked(queries, unsaid, view[:, ASKED], gates, gallery, stated, read, shown)


def fused(text: Tensor, view: Tensor, fusions: list) -> tuple[Queries, Tensor]:
    """The queries of every method, and the gates of the fusions."""
    missing = view.isnan().any(dim=-1, keepdim=True)
    pair = text, torch.where(missing, text, view)
    trained, details = zip(*(fusion(*pair) for fusion in fusions), strict=True)
    dar, gates = dar_fusion(*pair, round=torch.tensor(ASKED))[None], [of["gate"] for of in details]
    of_both = (dar, torch.stack(trained), torch.stack(gates))
    dar, adafuse, gate = (made.masked_fill(missing, torch.nan) for made in of_both)
    return {"text": text[None], "dar": dar, "adafuse": adafuse}, gate[..., 0]


def found(query: Tensor, gallery: Tensor, targets: Tensor) -> Tensor:
    """1 where the target is seen, else 0: (num_seeds, num_queries)."""
    return (retrieval.target_ranks(query.transpose(0, 1), gallery, targets) < SEEN).double().T


def signals(asked: Asked, method: str, place: int) -> dict[str, np.ndarray]:
    """What might tell that the target is there, (num_seeds, 2 · num_queries): then it is gone."""
    query, before = (asked.queries[method][:, :, place - back] for back in (0, 1))
    text, view = asked.queries["text"][:, :, place], asked.view[None, :, place]
    gallery, rows = asked.gallery, []
    firsts = retrieval.first_equal(gallery)
    for gone in (None, firsts == firsts[: query.shape[1], None]):
        row = retrieval.presence_signals(query, before, gallery, k=SEEN, gone=gone)
        by_text, by_view = (retrieval.seen_first(of, gallery, SEEN, gone)[1] for of in (text, view))
        row |= {
            "shared_with_view": retrieval.shared_places(by_text, by_view) + 0 * view[..., 0],
            "agreement": (text * view).sum(dim=-1),
            "gate": asked.gates[..., place], "none": 0 * query[..., 0],
        }  # fmt: skip
        rows.append({name: row[name].expand(query.shape[:2]) for name in SIGNALS[method]})
    return {name: torch.cat([row[name] for row in rows], dim=1).numpy() for name in rows[0]}


def not_there(val: Asked, test: Asked, counts: np.ndarray) -> dict:
    """How well each signal tells that the target is there, with the threshold of validation."""
    samples: dict[tuple, np.ndarray] = {}
    for method, t in product(SIGNALS, SHOWN):
        place, targets = ASKED.index(t), torch.arange(len(test.view))
        hits = found(test.queries[method][:, :, place], test.gallery, targets).numpy()
        known, told = (signals(asked, method, place) for asked in (val, test))
        for name in SIGNALS[method]:
            there = known[name][:, : len(val.view)]
            least = np.nanquantile(there, 1 - KEPT_SHARE, axis=1, method="lower")
            of_seeds = zip(told[name], hits, least, strict=True)
            rows = [judged_signal(*row, counts) for row in of_seeds]
            for metric in rows[0]:
                values = np.mean([row[metric] for row in rows], axis=0)
                samples["absent", method, t, name, metric] = values
    return samples


def remedied(asked: Asked, method: str, place: int, taken: Queries, weights: Mapping) -> Queries:
    """The queries of a round, (num_seeds, num_queries, dim), with each remedy and with `none`."""
    query, unsaid = (of[method][:, :, place] for of in (asked.queries, asked.unsaid))
    made = {"none": query, "unsaid": unsaid}
    for name, weight in weights.items():
        options = {"weight": weight, "along": name == "removed"}
        made[name] = retrieval.without_denied(query, asked.read[:, place], taken[name], **options)
    return made


def chosen_weight(val: Asked, method: str, name: str, taken: Queries) -> float:
    """The largest of `DENIED_WEIGHTS` that finds no fewer targets of queries with a denial."""
    hits = dict.fromkeys(DENIED_WEIGHTS, 0.0)
    for place, weight in product(map(ASKED.index, SHOWN), DENIED_WEIGHTS):
        query = remedied(val, method, place, taken, {name: weight})[name]
        asks = val.read[:, place].any(dim=-1) & ~query.isnan().any(dim=-1).any(dim=0)
        hits[weight] += found(query[:, asks], val.gallery, asks.nonzero()[:, 0]).sum().item()
    return max(weight for weight, number in hits.items() if number >= hits[0.0])


def no_means_no(test: Asked, weights: Mapping, taken: Queries, counts: np.ndarray) -> dict:
    """Violations among the pictures seen and targets found, with each remedy and without."""
    samples: dict[tuple, np.ndarray] = {}
    for method, t in product(SIGNALS, SHOWN):
        place, targets = ASKED.index(t), torch.arange(len(test.view))
        stated, read = test.stated[:, place], test.read[:, place]
        denies, violating = stated.any(dim=-1), (stated.float() @ test.shown.float()) > 0
        told = {
            ("none", "denying"): (denies, denies | True),
            ("none", "denials_read"): ((stated & read).sum(dim=-1) / stated.sum(dim=-1), denies),
            ("gallery", "violations"): (violating.double().mean(dim=1), denies),
        }
        for name, query in remedied(test, method, place, taken, weights[method]).items():
            places = retrieval.seen_first(query, test.gallery, SEEN)[1]
            hits = found(query, test.gallery, targets).mean(dim=0)
            shares = violating.expand(len(query), -1, -1).gather(-1, places).double()
            told[name, "violations"] = shares.mean(dim=(0, 2)), denies
            told[name, "recall_denying"] = hits, denies
            told[name, "recall_others"] = hits, ~denies
        for (name, metric), (values, where) in told.items():
            values = values.double().where(where, torch.nan).numpy()
            samples["denied", method, t, name, metric] = sample_means(values, counts)
    return samples


@torch.no_grad()
def measure_answers(bench: Bench) -> tuple[pd.DataFrame, dict]:
    """Measure the methods on `human`, with what validation chose: the table's rows and notes."""
    val, test = ask(bench, "val"), ask(bench, "human")
    taken = {
        "subtracted": bench.base.encode_texts([describe([thing]) for thing in THINGS]),
        "removed": added_directions(bench.base, THINGS, BARE_PLACES),
    }
    counts = sample_counts(len(test.view))
    weights = {m: {name: chosen_weight(val, m, name, taken) for name in taken} for m in SIGNALS}
    samples = not_there(val, test, counts) | no_means_no(test, weights, taken, counts)
    table = pd.DataFrame(sample_rows(samples, COMPARED_WITH), columns=ANSWER_COLUMNS).round(4)
    views = (~val.view[..., 0].isnan()).sum(dim=0).tolist()
    return table, {"weights": weights, "validation_views": views}


INSTRUMENT = Instrument(
    "answers", "Whether a search tells that a picture is missing, and heeds a no.", minutes=10,
    measure=measure_answers,
)  # fmt: skip
