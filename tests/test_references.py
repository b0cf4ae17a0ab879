"""Reference pictures: their tokens are told apart from the picture's own, in edits, guidance and capture."""

from __future__ import annotations

import inspect
from contextlib import contextmanager

import pytest
import tiny
import torch
from diffusers import FluxKontextPipeline
from PIL import Image

import dg_tools as dg

CHANNELS, BLOCK = [3, 7], 1
OWN = 8 * 12  # of a picture of 32 x 48
FAMILIES = tiny.families()
NAMES = ["kontext", "flux2", "flux2_dev", "qwen_edit", "qwen_edit_plus"]
NOISE = Image.effect_noise((96, 64), 100).convert("RGB")


class Subject:
    """A tiny pipeline that takes reference pictures, and its call."""

    def __init__(self, name):
        if name == "kontext":
            self.pipe = FluxKontextPipeline(**tiny.PIPELINES["flux"]().components)
            self.pipe.set_progress_bar_config(disable=True)
            picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
            self.call = {"image": picture, "_auto_resize": False, "max_area": 32 * 48, "max_sequence_length": 8}
        else:
            about = FAMILIES[name]
            self.pipe = about.pipeline()
            self.call = {"image": NOISE, **{k: v for k, v in about.CALL.items() if k != "steps"}}
        self.dit = dg.load(self.pipe)
        self.all = 0  # image tokens of the call

    def latents(self, steps=2):
        generator = torch.Generator().manual_seed(0)
        call = {**tiny.SIZE, **self.call, "num_inference_steps": steps, "output_type": "latent"}
        scale = {self.dit.family.guidance_argument: 1.0} if self.dit.has_cfg else {}
        return self.pipe(prompt="a", generator=generator, **call, **scale)[0]

    @contextmanager
    def by_hand(self, tokens=None, means=None, block=BLOCK):
        """Channels of these image tokens are zero after a block, or their means are kept."""
        module, transformer = self.dit.blocks[block].module, self.pipe.transformer

        def count(module, args, kwargs):
            named = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
            self.all = named["hidden_states"].shape[1]

        def hook(module, args, output):
            image = output if isinstance(output, torch.Tensor) else output[1]
            first = image.shape[1] - self.all  # text before it, in one sequence
            if means is not None:
                means.append((image[0, first : first + OWN].mean(0), image[0, first + OWN :].mean(0)))
                return None
            image = image.clone()
            chosen = first + torch.arange(self.all)[tokens]
            image[:, chosen[:, None], torch.tensor(CHANNELS)] = 0
            return image if isinstance(output, torch.Tensor) else (output[0], image)

        handles = [transformer.register_forward_pre_hook(count, with_kwargs=True), module.register_forward_hook(hook)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@pytest.fixture(scope="module", params=NAMES)
def subject(request):
    return Subject(request.param)


def test_an_edit_of_the_own_tokens_or_of_the_references(subject):
    plain = subject.latents()
    for block in {BLOCK, len(subject.dit.blocks) - 2}:  # of either list
        found = []
        for pictures, tokens in (("all", slice(None)), ("own", slice(OWN)), ("references", slice(OWN, None))):
            with subject.by_hand(tokens, block=block):
                theirs = subject.latents()
            with dg.Disrupt(CHANNELS, block, pictures=pictures).on(subject.pipe):
                found.append(subject.latents())
            assert torch.equal(found[-1], theirs) and not torch.equal(theirs, plain)
        assert not torch.equal(found[0], found[1])
    assert subject.all > OWN


def test_guidance_away_from_the_own_tokens_disrupted(subject):
    """The three ways agree, and differ from guidance away from all tokens disrupted."""
    made = {}
    for pictures, way in (("own", "fork"), ("own", "partial"), ("own", "whole"), ("all", "fork")):
        off = dg.Disrupt(CHANNELS, BLOCK, pictures=pictures)
        guider = dg.DetailGuidance(detail_guidance_scale=0.8, disrupt=off)
        with dg.detail_guidance(subject.pipe, guider, way=way) as run:
            made[pictures, way] = subject.latents()
        assert run.report.guided == (0, 1)
    change = (made["own", "fork"] - subject.latents()).norm()
    for way in ("partial", "whole"):
        assert (made["own", way] - made["own", "fork"]).norm() < 1e-3 * change
    assert (made["all", "fork"] - made["own", "fork"]).norm() > 0.01 * change


def test_a_capture_has_them_as_a_stream_of_their_own(subject):
    means = []
    with subject.by_hand(means=means):
        subject.latents()
    acts = dg.capture(subject.dit, "a", seeds=0, steps=2, raw=[BLOCK], progress=False, **tiny.SIZE, **subject.call)
    data = acts.data.isel(prompt=0, seed=0, branch=0)
    for step, (own, references) in enumerate(means):
        for stream, mean in (("image", own), ("reference", references)):
            captured = data["mean"].isel(site=BLOCK, step=step).sel(stream=stream).values
            assert torch.allclose(torch.tensor(captured), mean, atol=1e-4)
    norms = data["token_norm"].isel(site=BLOCK, step=0)
    counts = {stream: int(norms.sel(stream=stream).notnull().sum()) for stream in ("image", "reference")}
    assert counts == {"image": OWN, "reference": subject.all - OWN} and acts.grid == (8, 12)
    assert data["hidden_states"].shape[-2] == OWN  # maps of the picture
    assert dg.find_massive(acts, stream="reference", rule="top").channels


def test_regions_are_of_the_own_picture(subject):
    region = subject.dit.tokens([(0, 0, 24, 32)], **tiny.SIZE)
    with subject.by_hand(list(region)):
        theirs = subject.latents()
    with dg.Disrupt(CHANNELS, BLOCK, tokens=region).on(subject.pipe):
        assert torch.equal(subject.latents(), theirs)


def test_what_goes_with_it(dits):
    dit, own = dits("flux"), dg.Disrupt(CHANNELS, BLOCK, pictures="own")
    assert "the picture's own tokens" in own.sentence() and dg.Disrupt.from_json(own.to_json()) == own
    assert "pictures" not in dg.Disrupt(CHANNELS, BLOCK).to_json()
    edits = [own, dg.Disrupt(CHANNELS, BLOCK)]
    made = dg.generate(dit, "a", edits=edits, progress=False, **tiny.CALL).latents
    assert torch.equal(made[0], made[1])  # text-to-image: the own tokens are all
    with pytest.raises(ValueError, match="this call has no reference pictures"):
        dg.generate(dit, "a", edits=dg.Disrupt(CHANNELS, BLOCK, pictures="references"), progress=False, **tiny.CALL)
    for settings in ({"tokens": [1]}, {"mode": "gate"}, {"stream": "text"}):
        with pytest.raises(ValueError, match="pictures='own' chooses tokens of the image stream"):
            dg.Disrupt(CHANNELS, BLOCK, pictures="own", **settings)
    with pytest.raises(ValueError, match="allowed: all, own, references"):
        dg.Disrupt(CHANNELS, BLOCK, pictures="other")
