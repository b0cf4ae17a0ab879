"""Videos: several frames of Wan, LTX and CogVideoX, in guidance, edits, regions, captures and the figure of frames."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools import plots
from dg_tools.models.pictures import decode_frames
from dg_tools.plots.frames import frame_parts

ABOUT = tiny.families()
FRAMES, TOKENS = 3, 8 * 12  # latent frames, and image tokens of each
CALL = {**ABOUT["wan"].SIZE, "steps": 3, "max_sequence_length": 16, "num_frames": 9}
CHANNELS, BLOCK = [3, 7], 1


@pytest.fixture(scope="module", params=["wan", "ltx", "cogvideox"])
def dit(request):
    return dg.load(ABOUT[request.param].pipeline())


def stock(dit, s=1.0):
    """Latents of the pipeline's own call, as (N, C, frames, H, W)."""
    call = {k: v for k, v in CALL.items() if k != "steps"}
    negative = {"negative_prompt": ""} if s > 1 else {}
    generator = torch.Generator().manual_seed(0)
    call |= {"num_inference_steps": CALL["steps"], "output_type": "latent", "guidance_scale": s}
    made = dit.pipeline(prompt="apple", generator=generator, **call, **negative)[0]
    if dit.family.name == "cogvideox":
        return made.transpose(1, 2)
    return made if made.ndim == 5 else made.transpose(1, 2).unflatten(2, (FRAMES, 8, 12))


def stream(output):
    """The image stream of what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def edited(dit, change):
    """The stock call with a plain hook on a block: `change` of the stream (rows, tokens, channels), in place."""

    def hook(module, args, output):
        changed = stream(output).clone()
        change(changed)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = dit.blocks[BLOCK].module.register_forward_hook(hook)
    try:
        return stock(dit)
    finally:
        handle.remove()


def test_a_video_is_the_pipelines_own(dit):
    theirs = stock(dit)
    made = dg.generate(dit, "apple", progress=False, **CALL)
    assert made.latents.shape[:3] == (1, 4, FRAMES) and torch.equal(made.latents, theirs)
    (frames,) = decode_frames(dit, made.latents)
    assert len(frames) == 9 and frames[0].tobytes() == made.images[0].tobytes()
    assert [x.tobytes() for x in made.frames[0]] == [x.tobytes() for x in frames]
    assert repr(made).startswith("Generation(1 video of 9 frames (.images: the first of each), ")
    assert dg.generate(dit, "apple", progress=False, **{**CALL, "num_frames": 1}).latents.ndim == 4


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_guidance_by_hand(dit, s):
    """The conditional call once more with a plain hook, and w (c - d) added."""
    forward, count = dit.transformer.forward, [0]

    def stand_in(*args, **kwargs):
        count[0] += 1
        prediction = forward(*args, **kwargs)[0]
        if s > 1 and dit.family.rows == "sequential" and count[0] % 2 == 0:
            return (prediction,)
        zero = tiny.zero_first if dit.family.name == "cogvideox" else tiny.zero_tensor
        handle = dit.blocks[BLOCK].module.register_forward_hook(lambda m, a, o: zero(o, CHANNELS, 0))
        degraded = forward(*args, **kwargs)[0]
        handle.remove()
        change = 0.8 / s * (prediction - degraded)
        if s > 1 and dit.family.rows == "batched":
            change[0] = 0  # the unconditional row
        return (prediction + change,)

    dit.transformer.forward = stand_in
    try:
        theirs = stock(dit, s)
    finally:
        del dit.transformer.forward
    guidance = dg.DetailGuidance(s, 0.8, dg.Disrupt(CHANNELS, BLOCK))
    ours = dg.generate(dit, "apple", guidance=guidance, progress=False, **CALL).latents
    assert (ours - theirs).norm() < 1e-3 * (theirs - stock(dit, s)).norm()


def test_a_region_of_one_frame(dit):
    region = dit.tokens([(0, 0, 96, 128)], height=128, width=192, frames=[2])
    assert min(region) == 2 * TOKENS and len(region) == TOKENS // 2

    def zero(hidden):
        hidden[:, torch.tensor(region)[:, None], torch.tensor(CHANNELS)] = 0

    ours = dg.generate(dit, "apple", edits=dg.Disrupt(CHANNELS, BLOCK, tokens=region), progress=False, **CALL).latents
    assert torch.equal(ours, edited(dit, zero)) and not torch.equal(ours, stock(dit))
    with pytest.raises(IndexError, match=f"token {3 * TOKENS} requested; there are 0 to {3 * TOKENS - 1}"):
        dg.generate(dit, "apple", edits=dg.Disrupt(CHANNELS, BLOCK, tokens=[3 * TOKENS]), progress=False, **CALL)


def test_steering_to_the_largest(dit):
    """The first frame's channels at 1.5 times their value of the largest size over all frames, its sign kept."""

    seen = []
    edited(dit, lambda hidden: seen.append(hidden[0].clone()))
    largest = seen[0].gather(0, seen[0].abs().argmax(0, keepdim=True))[0]
    channels = [int(largest.argmin()), int(largest.argmax())]
    assert largest[channels[0]] < 0 < largest[channels[1]]

    def steer(hidden):
        for row in hidden:
            for channel in channels:
                row[:TOKENS, channel] = 1.5 * row[row[:, channel].abs().argmax(), channel]

    first = dg.Disrupt(channels, BLOCK, "steer", rho=1.5, tokens=range(TOKENS))
    assert "to 1.5 times their largest value over tokens" in first.sentence()
    ours = dg.generate(dit, "apple", edits=first, progress=False, **CALL).latents
    assert torch.equal(ours, edited(dit, steer))
    assert dg.Disrupt.from_json(first.to_json()) == first


def test_a_capture_has_frames(dit):
    found = []
    handle = dit.blocks[BLOCK].module.register_forward_hook(lambda m, a, o: found.append(stream(o)[0].clone()))
    stock(dit)
    handle.remove()
    acts = dg.capture(dit, "apple", raw=[BLOCK], progress=False, **CALL)
    assert acts.frames == FRAMES and acts.grid == (8, 12)
    data = acts.data.isel(prompt=0, seed=0, branch=0, site=BLOCK, step=0).sel(stream="image")
    by_frame = data["token_norm"].groupby("frame").mean()
    wanted = found[0].norm(dim=1).view(FRAMES, TOKENS).mean(1)
    assert np.allclose(by_frame.sel(frame=range(FRAMES)), wanted, atol=1e-4)
    assert acts.data["hidden_states"].shape[-2] == FRAMES * TOKENS
    assert dg.capture(dit, "apple", progress=False, **{**CALL, "num_frames": 1}).frames == 1


def test_the_figure_of_frames(dit):
    acts = dg.capture(dit, "apple", progress=False, **CALL)
    parts = frame_parts(acts.data["frame"].values, acts.grid)
    assert [int(part.sum()) for part in parts.values()] == [TOKENS, 2 * 24, 2 * (TOKENS - 24)]
    figure = plots.frames_by_block(acts.data, step=1)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    sizes = acts.data["token_max"].sel(stream="image", step=1).isel(prompt=0, seed=0, branch=0).values
    for name, part in parts.items():
        assert np.allclose(lines[name], sizes[:, part].mean(1))
    picture = dg.capture(dit, "apple", progress=False, **{**CALL, "num_frames": 1})
    with pytest.raises(ValueError, match="are of pictures, which have no frames"):
        plots.frames_by_block(picture.data)
