"""`features` against hooks written by hand, on every family; what it refuses, and that nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.models.pictures import encode, packed
from dg_tools.onestep import conditions

HEIGHT, WIDTH = 32, 48
SIGMA, CHANNELS = 0.4, [3, 17]
CALL = {"max_sequence_length": 8}


def pictures(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


def by_hand(dit, images, block: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """What the block's own first lines compute, from a whole forward: its input, and its input as it modulates it."""
    module = dit.blocks[block].module
    found: dict[str, torch.Tensor] = {}
    norm = module.norm1 if hasattr(module, "norm1") else module.norm

    def given(module, args, kwargs):
        found["raw"] = (kwargs.get("hidden_states") if "hidden_states" in kwargs else args[0]).clone()

    def regressed(module, args, kwargs, output):
        found["adaln"] = output[0].clone()

    handles = [
        module.register_forward_pre_hook(given, with_kwargs=True),
        norm.register_forward_hook(regressed, with_kwargs=True),
    ]
    inputs = conditions(dit, [""] * len(images), HEIGHT, WIDTH, **CALL)
    latents = encode(dit, images)
    noise = torch.randn(latents[:1].shape, generator=torch.Generator().manual_seed(seed))
    z = packed(dit, (1 - SIGMA) * latents + SIGMA * noise)
    with torch.no_grad():
        level = torch.full((len(images),), SIGMA * dit.family.timestep_scale)
        dit.transformer(**{**inputs, "hidden_states": z, "timestep": level})
    for handle in handles:
        handle.remove()
    tokens = (HEIGHT // 4) * (WIDTH // 4)  # the tiny pipelines' tokens are 4 pixels wide
    return {name: value[:, -tokens:] for name, value in found.items()}  # single blocks: the norm has text tokens before


def test_equal_to_what_the_block_computes(dit):
    """Raw, and LayerNorm with AdaLN, at the first block, in the middle, and in FLUX's double and single blocks."""
    images = pictures()
    for block in (0, 1, len(dit.blocks) - 1):
        known = by_hand(dit, images, block)
        for recipe in ("raw", "adaln"):
            made = dg.features(dit, images, block=block, sigma=SIGMA, recipe=recipe, **CALL)
            assert made.shape == (2, 8, 12, tiny.WIDTH) and made.dtype == torch.float32
            assert torch.allclose(made.flatten(1, 2), known[recipe], atol=1e-5), (block, recipe)


def test_discarding_comes_before_the_layernorm(dit):
    """DiTF's recipe, written out in numpy from the block's own AdaLN."""
    images, block = pictures(), len(dit.blocks) - 2
    raw = by_hand(dit, images, block)["raw"].double().numpy()
    raw[..., CHANNELS] = 0
    given = {"block": block, "sigma": SIGMA, "channels": CHANNELS, **CALL}
    assert np.allclose(dg.features(dit, images, recipe="discard", **given).flatten(1, 2).numpy(), raw, atol=1e-5)

    module, found = dit.blocks[block].module, {}
    linear = (module.norm1 if hasattr(module, "norm1") else module.norm).linear
    handle = linear.register_forward_hook(lambda m, a, output: found.update(chunks=output.double().numpy()))
    by_hand(dit, images, block)
    handle.remove()
    shift, scale = (found["chunks"][:, None, i * tiny.WIDTH : (i + 1) * tiny.WIDTH] for i in (0, 1))
    mean, variance = raw.mean(-1, keepdims=True), raw.var(-1, keepdims=True)
    wanted = (raw - mean) / np.sqrt(variance + 1e-6) * (1 + scale) + shift
    made = dg.features(dit, images, **given).flatten(1, 2).numpy()
    assert np.allclose(made, wanted, atol=1e-4)
    assert abs(made[..., CHANNELS] - made.mean()).max() > 0, "LayerNorm and AdaLN move what was zeroed"


def test_the_map_of_the_channels_stands_beside_the_modulated_features(dit):
    """MREP written out in numpy, from what the block itself computes; two channels, two pictures of another mean."""
    images, block = pictures() * torch.tensor([1.0, 0.4])[:, None, None, None], len(dit.blocks) - 1
    known = {name: value.double().numpy() for name, value in by_hand(dit, images, block).items()}
    given = {"block": block, "sigma": SIGMA, "channels": CHANNELS, "recipe": "mrep", **CALL}
    made = dg.features(dit, images, **given).flatten(1, 2).numpy()
    assert made.shape[-1] == tiny.WIDTH + 2
    wanted = known["adaln"] / np.sqrt((known["adaln"] ** 2).sum(-1, keepdims=True))
    assert np.allclose(made[..., : tiny.WIDTH], wanted, atol=1e-5)
    for place, channel in enumerate(CHANNELS):
        for picture in range(2):
            field = known["raw"][picture, :, channel]
            field = (field - field.mean()) / field.std() / np.sqrt(2)
            assert np.allclose(made[picture, :, tiny.WIDTH + place], field, atol=1e-3)
    assert np.allclose((made[..., : tiny.WIDTH] ** 2).sum(-1).mean(1), (made[..., tiny.WIDTH :] ** 2).sum(-1).mean(1))


WITHOUT = {"dit", "pixart", "z_image", "lumina2", "hidream", "cogvideox"}  # no velocity
WITHOUT |= {"qwen_edit", "qwen_edit_plus"}  # reference pictures


@pytest.mark.parametrize("name", sorted(set(tiny.families()) - WITHOUT))
def test_further_families(name):
    """Raw equals the output of the block before it; AdaLN undone by the block's chunks is the LayerNorm of raw."""
    family = tiny.families()[name]
    dit = dg.load(family.pipeline())
    call = {k: v for k, v in family.CALL.items() if k != "steps"}
    size = dit.size(family.SIZE.get("height"), family.SIZE.get("width"))
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    block = len(dit.blocks) - 1
    call = {k: v for k, v in call.items() if k not in ("height", "width")}
    raw = dg.features(dit, image, block=block, sigma=SIGMA, recipe="raw", **call)
    acts = dg.capture_image(dit, image, sigma=SIGMA, raw=[block - 1], progress=False, **call)
    before = torch.from_numpy(np.asarray(acts.data["hidden_states"].values, np.float32)).flatten(0, -3)
    assert raw.shape == (1, *dit.grid(*size), dit.width)
    assert torch.allclose(raw.flatten(1, 2), before, atol=1e-4)
    if not dit.family.layer_norms:
        with pytest.raises(ValueError, match="does not have: take 'raw' or 'discard'"):
            dg.features(dit, image, block=block, sigma=SIGMA, recipe="adaln", **call)
        return
    made = dg.features(dit, image, block=block, sigma=SIGMA, recipe="adaln", **call).flatten(1, 2)[0]
    normed = torch.nn.functional.layer_norm(raw.flatten(1, 2)[0], (dit.width,), eps=1e-6)
    line = torch.stack([normed, torch.ones_like(normed)], -1).transpose(0, 1)  # per channel: made = a * normed + b
    fit = line @ torch.linalg.lstsq(line, made.T[..., None]).solution
    assert torch.allclose(fit[..., 0].T, made, atol=1e-3)
    assert not torch.allclose(made, normed, atol=1e-2)


def test_noise_prompts_and_batches(dits):
    dit, images = dits("sd3"), pictures(3)
    settings = {"block": 2, "sigma": SIGMA, "recipe": "raw", **CALL}
    one = dg.features(dit, images, **settings)
    assert torch.equal(one, dg.features(dit, images, **settings))
    assert torch.allclose(one, dg.features(dit, list(images), batch=2, **settings), atol=1e-3)
    assert torch.allclose(one[1:2], dg.features(dit, images[1], **settings), atol=1e-3)
    several = dg.features(dit, images, seed=[0, 5, 0], prompt=["", "", "an owl"], **settings)
    assert torch.allclose(several[0], one[0], atol=1e-3)
    assert not torch.allclose(several[1], one[1], atol=0.1) and not torch.allclose(several[2], one[2], atol=1e-2)


def test_the_forward_ends_at_the_block_and_hooks_are_gone(dits):
    dit, seen = dits("flux"), []
    handles = [b.module.register_forward_hook(lambda m, a, o, i=b.index: seen.append(i)) for b in dit.blocks]
    dg.features(dit, pictures(1), block=3, sigma=SIGMA, recipe="adaln", **CALL)
    for handle in handles:
        handle.remove()
    assert seen == [0, 1, 2]
    assert not [m for m in dit.transformer.modules() if m._forward_hooks or m._forward_pre_hooks]


REFUSED = {
    "recipe": ({"recipe": "best"}, ValueError, "ditf, raw, discard, adaln, mrep"),
    "sigma": ({"sigma": 0.0}, ValueError, "above 0 and up to 1"),
    "block": ({"block": 4}, IndexError, "4.*0 to 3"),
    "channel": ({"channels": [tiny.WIDTH]}, IndexError, f"there are 0 to {tiny.WIDTH - 1}"),
    "no channels": ({}, ValueError, "none are given or in a profile"),
    "unused channels": ({"recipe": "raw", "channels": CHANNELS}, ValueError, "uses no channels"),
    "seeds": ({"recipe": "raw", "seed": [1]}, ValueError, "1 seed for 2 pictures"),
    "prompts": ({"recipe": "raw", "prompt": ["a"] * 3}, ValueError, "3 prompts for 2 pictures"),
    "batch": ({"recipe": "raw", "batch": 0}, ValueError, "batch=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_forward(case, dits):
    dit, (changed, error, words) = dits("sd3"), REFUSED[case]
    counted: list[int] = []
    handle = dit.transformer.register_forward_pre_hook(lambda *_: counted.append(1))
    with pytest.raises(error, match=words):
        dg.features(dit, pictures(), **{"block": 1, "sigma": SIGMA, **CALL, **changed})
    handle.remove()
    assert not counted


def test_sizes_and_predictions_that_do_not_fit(dits):
    with pytest.raises(ValueError, match="multiples of 4"):
        dg.features(dits("sd3"), torch.full((3, 30, 48), -0.5), block=1, sigma=SIGMA, recipe="raw", **CALL)
    noise = dg.load(tiny.families()["pixart"].pipeline())
    with pytest.raises(ValueError, match="predicts noise"):
        dg.features(noise, pictures(), block=1, sigma=SIGMA, recipe="raw")
