"""Approximate indexes against exact search, and their formulas against what faiss builds."""

import math

import pytest
import torch

from daitir.data.indexes import (
    Flat,
    Hnsw,
    IvfPq,
    at_size,
    build_index,
    default_lists,
    num_machines,
    recall_against_exact,
    search_index,
    set_effort,
)

NUMBER, DIM = 10_200, 32


def clustered(number, dim, *, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(200, dim, generator=torch.Generator().manual_seed(0))
    chosen = torch.randint(200, (number,), generator=generator)
    noise = torch.randn(number, dim, generator=generator)
    return torch.nn.functional.normalize(centres[chosen] + 0.7 * noise, dim=1)


@pytest.fixture(scope="module")
def gallery():
    return clustered(NUMBER, DIM, seed=1)


@pytest.fixture(scope="module")
def queries():
    return clustered(60, DIM, seed=2)


@pytest.fixture(scope="module")
def exact(gallery, queries):
    return (queries @ gallery.T).topk(10).indices


@pytest.fixture(scope="module")
def built(gallery):
    shards = gallery.split(2500)
    specs = {"flat": Flat(), "ivf_pq": IvfPq(code_bytes=4, probes=8), "hnsw": Hnsw()}
    return {name: (spec, build_index(spec, shards)) for name, spec in specs.items()}


def test_a_flat_index_is_exact_search(built, queries, exact):
    found = search_index(built["flat"][1], queries, k=10)[1]
    assert (recall_against_exact(found, exact) == 1).all()


def test_all_lists_ordered_by_features_are_exact_search(built, gallery, queries, exact):
    _, index = built["ivf_pq"]
    set_effort(index, IvfPq(code_bytes=4, probes=default_lists(NUMBER)))
    options = {"candidates": NUMBER, "rows": lambda numbers: gallery[numbers]}
    scores, found = search_index(index, queries[:4], k=10, **options)
    assert found.equal(exact[:4])
    assert torch.allclose(scores, (queries[:4, None] * gallery[found]).sum(-1), atol=1e-5)


def test_more_probes_candidates_and_effort_find_more(built, gallery, queries, exact):
    def recall(index, **options):
        found = search_index(index, queries, k=10, **options)[1]
        return recall_against_exact(found, exact).mean().item()

    spec, index = built["ivf_pq"]
    options = {"candidates": 200, "rows": lambda numbers: gallery[numbers]}
    recalls = {}
    for probes in (1, 64):
        set_effort(index, IvfPq(spec.code_bytes, probes))
        recalls[probes] = recall(index), recall(index, **options)
    assert recalls[1][1] < recalls[64][1] - 0.03, "lists that are not looked into cannot be found"
    assert recalls[64][0] < recalls[64][1] - 0.1, "codes lose what features know"
    assert recalls[64][1] > 0.9
    _, graph = built["hnsw"]
    set_effort(graph, Hnsw(effort=10))
    low = recall(graph)
    set_effort(graph, Hnsw(effort=200))
    assert low < recall(graph) and recall(graph) > 0.9


def test_the_scores_of_codes_are_ordered_and_missing_pictures_are_minus_one(built, queries):
    spec, index = built["ivf_pq"]
    set_effort(index, IvfPq(spec.code_bytes, 1))
    scores, found = search_index(index, queries, k=3000)
    assert (found == -1).any() and (scores.diff(dim=1) <= 0).all()
    options = {"candidates": 3000, "rows": lambda numbers: torch.ones(len(numbers), DIM)}
    scores, found = search_index(index, queries, k=3000, **options)
    missing = found == -1
    assert missing.any() and (missing.int().diff(dim=1) >= 0).all(), "the last"
    assert (scores[missing] == -torch.inf).all() and scores[~missing].isfinite().all()


@pytest.mark.parametrize("name", ["flat", "ivf_pq", "hnsw"])
def test_bytes_are_those_that_faiss_writes(built, name):
    import faiss

    spec, index = built[name]
    measured = faiss.serialize_index(index).nbytes / NUMBER
    assert spec.bytes_per_image(NUMBER, DIM) == pytest.approx(measured, rel=0.02)


def test_lists_follow_the_root_and_leave_enough_to_train():
    for number in (100, 10_000, 62_500, 250_000, 10**6, 10**7, 10**9):
        lists = default_lists(number)
        assert math.log2(lists).is_integer() and 39 * lists <= number
    assert default_lists(4 * 10**6) == 2 * default_lists(10**6)
    assert default_lists(10) == 1 and default_lists(10**6) == 4096


def test_what_is_read_by_hand():
    assert Flat().bytes_read(1000, 256) == 1000 * 1024
    assert default_lists(10_000) == 256
    assert IvfPq(32, 64).bytes_read(10_000, 256) == 256 * 1024 + 2500 * 40
    assert IvfPq(32, 500).bytes_read(10_000, 256) == 256 * 1024 + 10_000 * 40
    assert Hnsw(links=16, effort=64).bytes_read(10**9, 256) == 64 * 32 * 1028
    # A feature, links of 4 bytes, a level of 4, a place of 8; a picture has its links twice on the
    # ground, and once on each further level, which it reaches with a chance of 1 in as many.
    assert Hnsw(links=2).bytes_per_image(10, 256) == 1024 + 4 * 2 * (2 + 1) + 12
    assert Hnsw(links=5).bytes_per_image(10, 256) == 1024 + 4 * 5 * (2 + 1 / 4) + 12
    assert num_machines(7e10, 1e11) == 1 and num_machines(7.1e10, 1e11) == 2
    half = recall_against_exact(torch.tensor([[3, 1, -1]]), torch.tensor([[1, 2, 3]]))
    assert half.tolist() == pytest.approx([2 / 3])


def test_the_line_goes_through_two_points():
    assert at_size([100, 10_000], [1.0, 0.5], 1000) == pytest.approx(0.75)


@pytest.mark.slow
def test_training_does_not_depend_on_how_features_are_sharded(gallery, queries):
    spec = IvfPq(code_bytes=4, probes=8)
    pair = [build_index(spec, gallery.split(rows)) for rows in (NUMBER, 777)]
    first, second = (search_index(index, queries, k=10)[1] for index in pair)
    assert first.equal(second)


@pytest.mark.parametrize("number", [1, 5, 6, 7, 9, 10, 11, 1024 + 7])
@pytest.mark.parametrize("spec", [Flat(), Hnsw(), Flat], ids=["flat", "hnsw", "candidates"])
def test_equal_pictures_score_alike_and_stand_in_order(spec, number, queries):
    gallery = clustered(1, DIM, seed=3).repeat(number, 1)
    index = build_index(Flat() if spec is Flat else spec, [gallery])
    options = {"candidates": number, "rows": lambda numbers: gallery[numbers]}
    scores, found = search_index(
        index, queries, k=min(number, 20), **(options if spec is Flat else {})
    )
    assert (scores == scores[:, :1]).all()
    assert (found.diff(dim=1) > 0).all()


@pytest.mark.slow
def test_twins_in_an_index_of_codes_and_equal_queries(gallery, queries):
    twins = torch.cat([gallery[:-300], gallery[:300]])
    index = build_index(IvfPq(4, 8), [twins])
    scores, found = search_index(index, torch.cat([queries, queries]), k=500)
    assert scores[:60].equal(scores[60:]) and found[:60].equal(found[60:])
    # -1, nothing more found, goes to a column of its own, the last.
    of_picture = torch.full((120, NUMBER + 1), torch.nan).scatter_(1, found % (NUMBER + 1), scores)
    pairs = of_picture[:, :300], of_picture[:, -301:-1]
    both = ~(pairs[0].isnan() | pairs[1].isnan())
    assert both.any() and pairs[0][both].equal(pairs[1][both])
