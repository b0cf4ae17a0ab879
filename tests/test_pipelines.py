"""Every pipeline of diffusers over FLUX.1 and SD3, held against a forward by hand in the transformer's place."""

from __future__ import annotations

import inspect

import kinds
import pytest
import torch
from hand import by_hand, near

import dg_tools as dg

CHANNELS, BLOCK, W = [3, 7], 1, 0.8
CASES = [(name, scale) for name in kinds.NAMES for scale in (1.0, 3.0) if scale == 1.0 or kinds.takes_cfg(name)]


@pytest.fixture(scope="module")
def pipelines():
    """Tiny pipelines by name, built on first use."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = kinds.pipeline(name)
        return built[name]

    return get


def run(pipe, scale, **changes):
    call = {**kinds.arguments(pipe, scale), **changes}
    torch.manual_seed(0)  # SD3's ControlNet pipelines draw the latents of their picture without the generator
    return pipe(**call, generator=torch.Generator().manual_seed(0))[0]


def hand(pipe, scale, **settings):
    """The same by hand."""
    sequential = not type(pipe).__name__.startswith("StableDiffusion3")
    return by_hand(pipe.transformer, scale, weight=W, channels=CHANNELS, block=BLOCK, sequential=sequential, **settings)


@pytest.mark.parametrize(("name", "scale"), CASES)
class TestPipelines:
    @pytest.mark.parametrize("way", ["fork", "whole"])
    def test_guidance(self, pipelines, name, scale, way):
        pipe, guided = pipelines(name), []
        plain = run(pipe, scale)
        with hand(pipe, scale, guided=guided):
            theirs = run(pipe, scale)
        guider = dg.DetailGuidance(detail_guidance_scale=W, disrupt=dg.Disrupt(CHANNELS, BLOCK))
        with dg.detail_guidance(pipe, guider, way=way) as record:
            ours = run(pipe, scale)
        near(ours, theirs, plain)
        assert record.report.finished and len(record.reports) == 1
        assert record.report.guided == record.report.planned == tuple(range(len(guided)))

    def test_edit(self, pipelines, name, scale):
        pipe = pipelines(name)
        plain = run(pipe, scale)
        with hand(pipe, scale, edited=True):
            theirs = run(pipe, scale)
        with dg.Disrupt(CHANNELS, BLOCK).on(pipe):
            near(run(pipe, scale), theirs, plain)

    def test_capture(self, pipelines, name, scale):
        pipe = pipelines(name)
        means = []

        def read(module, args, output):
            own = (kinds.HEIGHT // 4) * (kinds.WIDTH // 4)  # tokens of reference pictures come after the picture's own
            means.append(output[1][-1][:own].mean(0))

        handle = pipe.transformer.transformer_blocks[BLOCK].register_forward_hook(read)
        run(pipe, scale)
        handle.remove()
        sequential = scale > 1 and name.startswith("Flux")
        means = torch.stack(means[:: 2 if sequential else 1])
        call = kinds.arguments(pipe, scale)
        for ours in ("prompt", "output_type", "true_cfg_scale", "guidance_scale", "negative_prompt"):
            call.pop(ours, None)
        call["steps"] = call.pop("num_inference_steps")
        torch.manual_seed(0)
        acts = dg.capture(dg.load(pipe), "a", seeds=0, guidance=dg.CFG(scale), progress=False, **call)
        site = dg.load(pipe).sites[BLOCK]
        captured = torch.tensor(acts.data["mean"].sel(site=site, stream="image").squeeze().values)
        assert captured.shape == means.shape
        assert torch.allclose(captured, means, atol=1e-4)


def test_a_scale_that_the_pipeline_does_not_take(pipelines):
    dit = dg.load(pipelines("FluxFillPipeline"))
    with pytest.raises(ValueError, match="FluxFillPipeline takes no true_cfg_scale"):
        dg.generate(dit, "a", guidance=dg.CFG(3.0), progress=False, image=kinds.picture(), mask_image=kinds.mask())


def test_every_pipeline_of_these_transformers_is_here_or_refused():
    import diffusers

    for name in dir(diffusers):
        if not (name.startswith(("Flux", "StableDiffusion3")) and name.endswith("Pipeline")):
            continue
        if (
            name.startswith(("Flux2", "FluxPriorRedux")) or "Modular" in name
        ):  # another transformer; none; in test_modular
            continue
        kind = getattr(diffusers, name)
        assert "transformer" in inspect.signature(kind.__init__).parameters
        assert name in kinds.NAMES or "PAG" in name, name
