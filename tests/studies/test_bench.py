"""The bench: rankings of several views against loops, false cues, variants of recipes."""

import dataclasses
import random

import pytest
import torch

from daitir.common.errors import DataError
from daitir.fusion import average_views, dar_fusion, dar_weights
from daitir.models.views import load_view_generator
from daitir.retrieval import target_ranks
from daitir.scenes import sample_scenes, short_caption
from daitir.studies import ablations, encoder_ablations, queries
from daitir.studies.choices import false_cue_shares
from daitir.studies.drawings import content
from daitir.studies.engine.models import SHUFFLED, by_scores
from daitir.studies.profiles import PROFILES


def combined_ranks(text, views, gallery, rounds):
    """The ranks of DAR with several views, combined in three ways."""
    targets = torch.arange(len(text))
    several = rounds.expand(len(text), -1)
    fused = dar_fusion(text, average_views(views), round=rounds)
    return {"features": target_ranks(fused, gallery, targets)} | {
        name: by_scores(text, views, gallery, targets, several, together=together)
        for name, together in {
            "scores": lambda s: s.mean(dim=1),
            "best": lambda s: s.amax(dim=1),
        }.items()
    }


def test_combinations_agree_with_a_loop_over_queries_and_images():
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    text, views = unit(torch.randn(3, 2, 8), dim=-1), unit(torch.randn(3, 2, 4, 8), dim=-1)
    gallery, rounds = unit(torch.randn(20, 8), dim=-1), torch.tensor([0, 6])
    found = combined_ranks(text, views, gallery, rounds)
    combine = {
        "features": lambda some, image: torch.dot(unit(some.mean(0), dim=0), image),
        "scores": lambda some, image: sum(view @ image for view in some) / len(some),
        "best": lambda some, image: max(view @ image for view in some),
    }
    for name, of_views in combine.items():
        for i in range(3):
            for t, round in enumerate(rounds.tolist()):
                word_weight, view_weight = dar_weights(round)
                scores = [
                    word_weight * (text[i, t] @ image) + view_weight * of_views(views[i, t], image)
                    for image in gallery
                ]
                assert found[name][i, t] == sum(score > scores[i] for score in scores)


def test_one_view_is_the_same_by_any_combination():
    torch.manual_seed(1)
    unit = torch.nn.functional.normalize
    text, views = unit(torch.randn(5, 1, 8), dim=-1), unit(torch.randn(5, 1, 1, 8), dim=-1)
    found = combined_ranks(text, views, unit(torch.randn(9, 8), dim=-1), torch.tensor([3]))
    assert found["features"].equal(found["scores"]) and found["scores"].equal(found["best"])


@pytest.mark.parametrize("number", range(1, 12))
def test_equal_pictures_tie_in_any_combination(number):
    torch.manual_seed(number)
    unit = torch.nn.functional.normalize
    text = unit(torch.randn(number, 1, 64), dim=-1)
    views = unit(torch.randn(number, 1, 3, 64), dim=-1)
    gallery = unit(torch.randn(1, 64), dim=-1).repeat(number, 1)
    for ranks in combined_ranks(text, views, gallery, torch.tensor([3])).values():
        assert (ranks == number - 1).all()


def test_a_perfect_drawing_has_no_false_cue_and_another_place_has():
    scenes = sample_scenes(0, "val", 4)
    moved = [dataclasses.replace(s, place="beach" if s.place != "beach" else "city")
             for s in scenes]  # fmt: skip
    captions = [short_caption(s, random.Random(0)) for s in scenes]
    assert false_cue_shares(captions, scenes, scenes) == [0, 0, 0, 0]
    assert all(0 < share < 1 for share in false_cue_shares(captions, moved, scenes))


def test_a_drawing_is_placed_by_what_it_breaks_and_what_it_has_right():
    scene = sample_scenes(0, "val", 1)[0]
    said = [fact for fact in scene.own_facts if fact.attribute in ("place", "present")]
    assert content(said, scene, scene) == (0, 1)
    moved = dataclasses.replace(scene, place="beach" if scene.place != "beach" else "city")
    assert content(said, moved, scene) == (1 / len(said), 1)
    nothing = dataclasses.replace(scene, objects=())
    broken, right = content(said, nothing, scene)
    assert broken == (len(said) - 1) / len(said) and 0 < right < 1


def test_every_variant_of_adafuse_differs_from_the_whole_in_one_thing():
    recipe = PROFILES["classroom"].fusions["adafuse"]
    for name, other in ablations.variants(PROFILES["classroom"]).items():
        changed = [
            field.name for field in dataclasses.fields(recipe)
            if getattr(recipe, field.name) != getattr(other, field.name)
        ]  # fmt: skip
        size = {"projection_dim", "hidden_dim", "learning_rate"}
        few = 0 if name in ("whole", ablations.WITHOUT_VIEW) else 1
        assert len(changed) == few or (name.endswith(("width", "size")) and set(changed) <= size)


def test_every_variant_of_dmcl_differs_from_the_whole_in_one_thing():
    variants = encoder_ablations.variants(PROFILES["classroom"])
    whole = dataclasses.asdict(variants["whole"])
    for name, other in variants.items():
        changed = [key for key, value in dataclasses.asdict(other).items() if value != whole[key]]
        assert len(changed) == (0 if name in ("whole", SHUFFLED) else 1), name


def test_more_data_and_nothing_else():
    recipes = encoder_ablations.growth(PROFILES["classroom"])
    assert [r.num_dialogues for r in recipes.values()] == [187, 375, 750, 1500, 3000] * 2
    for name in ("dmcl", "finetune_text"):
        same = [dataclasses.replace(recipe, num_dialogues=None)
                for label, recipe in recipes.items() if label.startswith(name)]  # fmt: skip
        assert len(same) == 5 and len(set(same)) == 1


def test_views_of_another_generator_are_refused():
    with pytest.raises(DataError, match="another pipeline or with other settings"):
        queries.check_drawn_by(load_view_generator(steps=3), queries.QUERIES_FOLDER)
