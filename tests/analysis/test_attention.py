"""Attention: what is recorded is what was computed, maps against loops, and nothing is left."""

import copy
import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hub_models import tiny_pipeline
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn
from torch.nn import functional as F

from daitir.analysis.attention import (
    attention_maps,
    before_after,
    deletion_insertion,
    head_grid,
    image_pixels,
    mask_share,
    pointing_hits,
    randomised,
    record_attention,
    record_cross_attention,
    relevance,
    relevance_maps,
    rollout,
    rollout_maps,
    show_maps,
    token_strip,
)
from daitir.analysis.attention.maps import patch_maps
from daitir.analysis.attention.record import attention_layers, text_tower
from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.views import load_view_generator
from daitir.scenes import render_scenes, sample_scenes

TEXTS = ["a red car at the beach", "a dog in the city at night", "no people, but a kite"]


@pytest.fixture(scope="module")
def mini():
    return load_encoder("mini")


@pytest.fixture(scope="module")
def pixels(mini):
    return image_pixels(mini, render_scenes(sample_scenes(0, "val", 3)))


@pytest.fixture(scope="module")
def vit():
    """A ViT-B/32 with random weights, whose text layers are those of the model itself."""
    return load_encoder("open_clip:ViT-B-32")


def small_model(**vision):
    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=12, vocab_size=40, width=32, heads=2, layers=2)
    return CLIP(16, CLIPVisionCfg(image_size=64, **vision), text).eval()


def state_of(model):
    """Everything a recorder could leave behind: attributes, hooks, processors."""
    return [
        (name, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks),
         getattr(m, "processor", None), m.training)
        for name, m in model.named_modules()
    ]  # fmt: skip


def run(model, tower, pixels):
    if tower is model.visual:
        return model.encode_image(pixels)
    tokens = torch.arange(1, 9).expand(2, -1).clone()
    tokens[1, 5:] = 0
    tokens[:, 4] = 30
    length = getattr(model, "context_length", tower.context_length)
    return model.encode_text(F.pad(tokens, (0, length - 8)))


POOLED = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 16, "pool_type": "avg"}


@pytest.mark.slow
@pytest.mark.parametrize("is_training_graph", [False, True])
@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kind", ["mini", "vit", "pooled"])
def test_recorded_attention_reproduces_the_fused_output(kind, side, is_training_graph, request):
    model = small_model(**POOLED) if kind == "pooled" else request.getfixturevalue(kind).model
    tower = model.visual if side == "image" else text_tower(model)
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    before = state_of(model)
    with torch.set_grad_enabled(is_training_graph):
        expected = run(model, tower, pictures)
        with record_attention(tower) as found:
            answer = run(model, tower, pictures)
    assert torch.allclose(answer, expected, atol=1e-5)
    assert len(found) == len(attention_layers(tower))
    for weights in found:
        assert weights.ndim == 4 and weights.shape[-1] == weights.shape[-2]
        assert torch.allclose(weights.sum(dim=-1), torch.ones(()), atol=1e-5)
    if side == "text":
        assert (found[0].triu(1) == 0).all(), "a token looks ahead"
    assert state_of(model) == before
    assert torch.equal(run(model, tower, pictures), run(model, tower, pictures))


def test_the_recorded_weights_are_those_of_the_projections(mini, pixels):
    layer = mini.model.visual.transformer.resblocks[0].attn
    inputs = []
    handle = layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with record_attention(mini.model.visual) as found, torch.no_grad():
        mini.model.encode_image(pixels)
    handle.remove()
    with torch.no_grad():
        _, expected = copy.deepcopy(layer)(
            inputs[0], inputs[0], inputs[0], need_weights=True, average_attn_weights=False
        )
    assert torch.allclose(found[0], expected, atol=1e-6)


def test_a_second_pass_replaces_the_first_and_recorders_nest(mini, pixels):
    with torch.no_grad(), record_attention(mini.model.visual) as outer:
        mini.model.encode_image(pixels)
        first = [weights.clone() for weights in outer]
        with record_attention(mini.model.visual) as inner:
            mini.model.encode_image(pixels[:1])
        assert len(inner) == len(first) and inner[0].shape[0] == 1
        mini.model.encode_image(pixels[1:])
        assert len(outer) == len(first)
        assert torch.allclose(outer[2], first[2][1:], atol=1e-5)


def test_a_recorder_is_removed_after_an_error(mini, pixels):
    before = state_of(mini.model)
    with pytest.raises(RuntimeError), record_attention(mini.model.visual):
        mini.model.encode_image(pixels[..., :40])
    assert state_of(mini.model) == before


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_recorded(mini, pixels, dtype):
    model = copy.deepcopy(mini.model).to(dtype)
    with torch.no_grad():
        expected = model.encode_image(pixels.to(dtype)).float()
        with record_attention(model.visual) as found:
            answer = model.encode_image(pixels.to(dtype)).float()
    assert all(weights.dtype == dtype for weights in found)
    # Both round as they go; they agree as far as such numbers can.
    assert F.cosine_similarity(answer, expected).min() > 1 - 5 * torch.finfo(dtype).eps


def test_frozen_models_have_relevance_too(mini, pixels):
    model = copy.deepcopy(mini)
    model.model.requires_grad_(False)
    frozen, free = (relevance_maps(e, pixels, TEXTS) for e in (model, mini))
    assert torch.allclose(frozen.images, free.images, atol=1e-6)
    assert all(p.grad is None for p in mini.model.parameters())


def test_what_has_no_attention_of_the_expected_kind_is_refused(pixels):
    resnet = small_model(layers=[1, 1, 1, 1], width=8)
    with (
        pytest.raises(DataError, match="ModifiedResNet.*choose a ViT"),
        record_attention(resnet.visual),
    ):
        pass
    fused = small_model(**(POOLED | {"qk_norm": True}))
    with pytest.raises(DataError, match="fused kernel only"), record_attention(fused.visual):
        pass


# --- maps ------------------------------------------------------------------------------------


def test_rollout_of_two_tokens_by_hand():
    first = torch.tensor([[[[0.8, 0.2], [0.4, 0.6]], [[0.2, 0.8], [0.6, 0.4]]]])  # heads: mean 1/2
    second = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]] * 2])
    # (I + mean) / 2: [[.75, .25], [.25, .75]] and then [[1, 0], [.5, .5]]
    expected = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]])
    assert torch.allclose(rollout([first, second]), expected)
    with pytest.raises(ValueError, match="no attention"):
        rollout([])


def test_relevance_of_two_tokens_by_hand():
    one = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
    gradient = torch.tensor([[[[2.0, -1.0], [4.0, 0.0]]]])  # weighted: [[1, 0], [1, 0]]
    two = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    second = torch.tensor([[[[0.0, 3.0], [1.0, 2.0]]]])  # weighted: [[0, 0], [.5, 1]]
    # after one: [[2, 0], [1, 1]]; after two: that plus [[0, 0], [.5, 1]] of it: [[0,0],[2, 1]]
    assert torch.allclose(relevance([one, two], [gradient, second]),
                          torch.tensor([[[2.0, 0.0], [3.0, 2.0]]]))  # fmt: skip


def test_relevance_maps_agree_with_a_loop_over_pairs_layers_and_heads(mini, pixels):
    found = relevance_maps(mini, pixels, TEXTS)
    model = mini.model
    for i, text in enumerate(TEXTS):
        tokens = mini.tokenizer([text])
        with record_attention(model.visual) as seen:
            image = F.normalize(model.encode_image(pixels[i : i + 1]), dim=-1)
            score = (image * F.normalize(model.encode_text(tokens), dim=-1)).sum()
        gradients = torch.autograd.grad(score, seen)
        total = torch.eye(65)
        for weights, gradient in zip(seen, gradients, strict=True):
            mean = torch.zeros(65, 65)
            for head in range(weights.shape[1]):
                mean += (weights[0, head] * gradient[0, head]).clamp(min=0) / weights.shape[1]
            total = total + mean @ total
        assert torch.allclose(found.images[i].flatten(), total[0, 1:].detach(), atol=1e-6)
    assert [word for word, _ in found.tokens[0]] == ["a", "red", "car", "at", "the", "beach"]


@pytest.mark.slow
def test_relevance_names_the_word_that_the_picture_shares(mini):
    """Of a caption's words those that name what is seen count more than those that do not."""
    scenes = sample_scenes(0, "val", 24)
    texts = [f"a {s.objects[0].category} in a {s.place}" for s in scenes]
    found = relevance_maps(mini, image_pixels(mini, render_scenes(scenes)), texts)
    named = [
        dict(pairs)[s.objects[0].category]
        for pairs, s in zip(found.tokens, scenes, strict=True)
        if s.objects[0].category in dict(pairs)
    ]
    small = [dict(pairs)["a"] for pairs in found.tokens]
    assert len(named) > 12 and np.mean(named) > 3 * np.mean(small)


def test_patch_maps_read_what_the_tower_reads(mini):
    tokens = torch.arange(65.0 * 65).view(1, 65, 65)
    tower = mini.model.visual
    assert torch.equal(patch_maps(tower, tokens)[0].flatten(), tokens[0, 0, 1:])
    pooled = small_model(**POOLED).visual
    few = torch.rand(1, 17, 17)
    assert torch.allclose(patch_maps(pooled, few)[0].flatten(), few[0, 1:, 1:].mean(dim=0))
    other = small_model(**(POOLED | {"attentional_pool": True, "attn_pooler_heads": 2}))
    with pytest.raises(DataError, match="pooling of another kind"):
        patch_maps(other.visual, few)


def test_maps_of_heads_and_rollout(mini, pixels):
    maps, rolled = attention_maps(mini, pixels), rollout_maps(mini, pixels)
    assert maps.shape == (3, 6, 4, 8, 8) and rolled.shape == (3, 8, 8)
    assert (maps.sum(dim=(-2, -1)) <= 1 + 1e-5).all() and (rolled > 0).all()
    again = attention_maps(mini, pixels[1:2])
    assert torch.allclose(again[0], maps[1], atol=1e-5)


def test_texts_of_another_number_are_refused(mini, pixels):
    with pytest.raises(ValueError, match="as many texts"):
        relevance_maps(mini, pixels, TEXTS[:2])


def test_a_text_tower_that_reads_another_token_than_the_end_is_refused(mini, pixels):
    other = copy.deepcopy(mini)
    other.model.text.pool_type = "last"
    with pytest.raises(DataError, match="'last'"):
        relevance_maps(other, pixels, TEXTS)


# --- diffusion pipelines ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_cross_attention_is_recorded_and_changes_no_drawing(guidance):
    generator = load_view_generator(steps=2, guidance=guidance)
    unet = generator.pipeline.unet
    prompts, seeds = ["a red car at the beach", "a dog"], [1, 2]
    plain = generator.draw(prompts, seeds)
    before = state_of(unet)
    with record_cross_attention(generator.pipeline) as found:
        drawn = generator.draw(prompts, seeds)
    assert state_of(unet) == before
    for a, b in zip(plain, drawn, strict=True):
        difference = np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int))
        assert difference.max() <= 1
    length = generator.pipeline.tokenizer.model_max_length
    assert found.maps.shape == (2, length, 8, 8)
    assert torch.allclose(found.maps.sum(dim=1), torch.ones(()), atol=1e-4)
    assert not torch.allclose(found.maps[0], found.maps[1], atol=1e-3)


def test_recorded_scores_are_the_processor_s_and_reproduce_it():
    pipeline = tiny_pipeline()
    unet = pipeline.unet.eval()
    torch.manual_seed(0)
    config = unet.config
    noisy = torch.randn(2, config.in_channels, config.sample_size, config.sample_size)
    text = torch.randn(2, 5, config.cross_attention_dim)
    extra = {"added_cond_kwargs": {}} if config.addition_embed_type else {}
    pipeline._guidance_scale = 1.0
    with torch.no_grad():
        expected = unet(noisy, 10, encoder_hidden_states=text, **extra).sample
        with record_cross_attention(pipeline) as found:
            answer = unet(noisy, 10, encoder_hidden_states=text, **extra).sample
    assert torch.allclose(answer, expected, atol=1e-5)
    assert torch.allclose(found.maps.sum(dim=1), torch.ones(()), atol=1e-5)


def test_pipelines_without_cross_attention_are_refused():
    with pytest.raises(DataError, match="no U-Net"), record_cross_attention(nn.Module()):
        pass
    pipeline = tiny_pipeline()
    layer = next(m for n, m in pipeline.unet.named_modules() if n.endswith("attn2"))
    layer.processor = object()
    with pytest.raises(DataError, match="attn2.*object"), record_cross_attention(pipeline):
        pass
    with (
        pytest.raises(ValueError, match="nothing was drawn"),
        record_cross_attention(tiny_pipeline()) as found,
    ):
        _ = found.maps


# --- numbers ---------------------------------------------------------------------------------


def test_mask_share_agrees_with_a_sum_over_pixels():
    torch.manual_seed(0)
    maps, masks = torch.rand(5, 4, 4), torch.rand(5, 16, 16) > 0.7
    found = mask_share(maps, masks)
    for i in range(5):
        fine = maps[i].repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert found[i] == pytest.approx(float(fine[masks[i]].sum() / fine.sum()), abs=1e-6)
    even = mask_share(torch.ones(5, 4, 4), masks)
    assert torch.allclose(even, masks.float().mean(dim=(1, 2)))
    assert torch.equal(mask_share(maps, torch.ones_like(masks)), torch.ones(5))


def test_pointing_finds_the_mask_of_the_peak_only():
    maps = torch.zeros(2, 8, 8)
    maps[:, 2, 5] = 1
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 16:24, 40:48] = True
    masks[1, :8] = True
    assert pointing_hits(maps, masks).tolist() == [1, 0]


def test_empty_masks_other_sizes_and_maps_without_mass_are_refused():
    maps, masks = torch.rand(2, 4, 4), torch.ones(2, 16, 16, dtype=torch.bool)
    for function in (mask_share, pointing_hits):
        with pytest.raises(DataError, match="1 of 2 masks are empty, the first is number 1"):
            function(maps, torch.stack([masks[0], ~masks[1]]))
        with pytest.raises(DataError, match="do not divide"):
            function(maps, masks[:, :, :15])
    with pytest.raises(DataError, match="negative somewhere or zero"):
        mask_share(torch.zeros(2, 4, 4), masks)


def test_deletion_and_insertion_by_hand():
    pixels = torch.zeros(1, 3, 4, 4)
    pixels[:, :, :2, :2] = 1.0  # the score looks here only

    def score(shown):
        return shown[:, 0, :2, :2].mean(dim=(1, 2))

    right, wrong = torch.tensor([[[4.0, 3], [2, 1]]]), torch.tensor([[[1.0, 2], [3, 4]]])
    good = deletion_insertion(score, pixels, right, num_steps=4)
    assert good.deletion[0].tolist() == [1, 0.25, 0.25, 0.25, 0.25]  # a quarter is the mean colour
    assert good.insertion[0].tolist() == [0.25, 1, 1, 1, 1]
    bad = deletion_insertion(score, pixels, wrong, num_steps=4)
    assert bad.deletion[0].tolist() == [1, 1, 1, 1, 0.25]
    assert bad.areas()[0] > good.areas()[0] and bad.areas()[1] < good.areas()[1]
    assert good.areas()[0].item() == pytest.approx((0.625 + 3 * 0.25) / 4)


@pytest.mark.slow
def test_maps_of_the_trained_model_find_objects_and_those_of_a_randomised_one_do_not(mini):
    from daitir.scenes import render

    scenes = [s for s in sample_scenes(0, "val", 60) if len(s.objects) > 1]
    drawn = [render(scene) for scene in scenes]
    masks = torch.stack([torch.from_numpy(d.masks[0]) for d in drawn])
    seen = masks.flatten(1).any(dim=1)
    pixels = image_pixels(mini, [d.image for d in drawn])[seen]
    texts = [f"a {s.objects[0].category}" for s, s_ in zip(scenes, seen, strict=True) if s_]
    blank = copy.copy(mini)
    blank.model = randomised(mini.model, seed=0)
    shares = [
        mask_share(relevance_maps(e, pixels, texts).images, masks[seen]) for e in (mini, blank)
    ]
    even = masks[seen].float().mean()
    assert shares[0].mean() > 2 * even
    assert shares[0].mean() > 1.5 * shares[1].mean()


@pytest.mark.slow
def test_randomised_weights_keep_their_values_and_the_model_its_own(mini):
    before = copy.deepcopy(mini.model.state_dict())
    blank = randomised(mini.model, seed=0)
    for (name, old), new in zip(before.items(), blank.state_dict().values(), strict=True):
        assert torch.equal(mini.model.state_dict()[name], old)
        assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
    assert not torch.equal(blank.visual.proj, mini.model.visual.proj)
    again = randomised(mini.model, seed=0)
    assert all(map(torch.equal, blank.state_dict().values(), again.state_dict().values()))


# --- figures ---------------------------------------------------------------------------------


@pytest.fixture
def figures():
    yield
    plt.close("all")


def test_panels_that_are_compared_share_a_scale_that_is_shown(figures):
    images = [np.full((16, 16, 3), 90, dtype=np.uint8)] * 2
    axes = show_maps([torch.eye(4), 3 * torch.eye(4)], images=images, label="mass")
    assert {ax.images[-1].norm.vmax for ax in axes} == {3.0}
    assert [a.get_ylabel() for a in axes[0].figure.axes[2:]] == ["mass"]
    extents = [axes[0].images[k].get_extent() for k in (0, 1)]
    assert extents[0] == pytest.approx(extents[1])
    with pytest.raises(ValueError):
        show_maps([torch.eye(4)], images=images)


def test_the_grid_of_heads_names_layers_and_heads(figures):
    axes = head_grid(torch.rand(2, 3, 4, 4))
    assert axes.shape == (2, 3) and axes[1, 0].get_ylabel() == "layer 1"
    assert len({(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in axes.flat}) == 1


def test_the_strip_of_tokens_has_a_bar_for_each(figures):
    ax = token_strip([("a", 0.1), ("dog", 0.6)])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "dog"]
    assert [bar.get_height() for bar in ax.patches] == [0.1, 0.6]


def test_before_and_after_are_shares_on_one_scale(figures):
    images = [np.zeros((8, 8, 3), dtype=np.uint8)] * 2
    maps = [torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[4.0, 0.0], [0.0, 4.0]])]
    axes = before_after(images, maps, [10 * m for m in maps])
    shown = [[ax.images[-1].get_array() for ax in row] for row in axes[1:]]
    for a, b in zip(*shown, strict=True):
        np.testing.assert_allclose(a, b)
        assert a.sum() == pytest.approx(1)
    pairs = itertools.product(axes[1:].flat, repeat=2)
    assert all(a.images[-1].norm.vmax == b.images[-1].norm.vmax for a, b in pairs)
    with pytest.raises(ValueError, match="2 images, but 1 maps before and 3 after"):
        before_after(images, maps[:1], [*maps, maps[0]])
