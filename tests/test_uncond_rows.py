"""Detail Guidance in CFG's own unconditional pass, against loops with plain hooks; what it costs; what is refused."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

import dg_tools as dg
from dg_tools.generation.recipes import again, recipe

CHANNELS, BLOCK, S = [3, 7], 1, 3.0
OFF = dg.Disrupt(CHANNELS, BLOCK)
COND, UNCOND = (dg.Disrupt(CHANNELS, BLOCK, rows=rows) for rows in ("cond", "uncond"))
AMPLIFIED = dg.Disrupt(CHANNELS, BLOCK, "scale", rho=1.5)
AFTER = dg.Disrupt(CHANNELS, BLOCK, steps=[3])
STEPS = 4
ABOUT = tiny.families()
PIPES = {"sd3": tiny.sd3, "flux": tiny.flux, "qwen": ABOUT["qwen"].pipeline, "wan": ABOUT["wan"].pipeline}
SCALE = {"sd3": "guidance_scale", "flux": "true_cfg_scale", "qwen": "true_cfg_scale", "wan": "guidance_scale"}


@pytest.fixture(scope="module")
def pipes():
    made = {}
    return lambda name: made[name] if name in made else made.setdefault(name, PIPES[name]())


def settings(name):
    size = {"height": 32, "width": 64} if name == "wan" else tiny.SIZE
    return {**size, **(ABOUT[name].CALL if name in ABOUT else {}), "num_inference_steps": STEPS}


def call(pipe, name, s=S, **changes):
    """The pipeline's own call, with a negative prompt that is not empty."""
    arguments = {**settings(name), "prompt": "a", "negative_prompt": "b", SCALE[name]: s, "output_type": "latent"}
    arguments |= {"max_sequence_length": 8, "generator": torch.Generator().manual_seed(3)}
    arguments.pop("steps", None)
    return pipe(**{**arguments, **changes})[0]


def blocks_of(transformer):
    return getattr(transformer, "transformer_blocks", None) or transformer.blocks


def by_hand(pipe, name, rho=0.0, window=range(STEPS)):
    """Latents with D = c + (s - 1) (c - u_d); by step ||D - c|| / ||c||, ||u_d - c|| / ||c||, the block's change."""
    forward, numbers, count, half = pipe.transformer.forward, {}, [0], {}
    sequential = name != "sd3"

    def scaled(module, args, output):
        parts = [output] if isinstance(output, torch.Tensor) else list(output)
        before = parts[-1]
        parts[-1] = before.clone()
        parts[-1][..., CHANNELS] *= rho
        half["at block"] = (parts[-1] - before)[:1].double().norm() / before[:1].double().norm()
        return parts[0] if isinstance(output, torch.Tensor) else tuple(parts)

    def hooked(**inputs):
        handle = blocks_of(pipe.transformer)[BLOCK].register_forward_hook(scaled)
        prediction = forward(**inputs)[0]
        handle.remove()
        return prediction

    def stand_in(**inputs):
        step, second = divmod(count[0], 2 if sequential else 1)
        count[0] += 1
        if sequential and not second:
            half["c"] = forward(**inputs)[0]
            return (half["c"],)
        if step not in window:
            return forward(**inputs)
        if sequential:
            c, u = half["c"], hooked(**inputs)
        else:
            c, u = forward(**inputs)[0][1:], hooked(**inputs)[:1]
        guided = c + (S - 1) * (c - u)
        numbers[step] = [x.item() for x in ((guided - c).norm() / c.norm(), (u - c).norm() / c.norm())]
        numbers[step].append(half["at block"].item())
        # the pipeline's own u' + s (c' - u') gives what was made here
        return ((S * c - guided) / (S - 1),) if sequential else (torch.cat([guided, guided]),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.transformer, "forward", stand_in)
        latents = call(pipe, name)
    return latents, numbers


def block_rows(pipe, run):
    """What a run returns, and how many rows go through blocks in it."""
    rows = [0]

    def count(module, args, output):
        rows[0] += (output if isinstance(output, torch.Tensor) else output[-1]).shape[0]

    parts = [m for n in ("transformer_blocks", "single_transformer_blocks", "blocks")
             for m in getattr(pipe.transformer, n, [])]  # fmt: skip
    handles = [m.register_forward_hook(count) for m in parts]
    result = run()
    for handle in handles:
        handle.remove()
    return result, rows[0]


def close(ours, theirs, plain):
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (theirs - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", PIPES)
def test_equals_a_loop_by_hand_at_the_price_of_cfg(pipes, name):
    pipe = pipes(name)
    plain, price = block_rows(pipe, lambda: call(pipe, name))
    for edit, rho in ((OFF, 0.0), (AMPLIFIED, 1.5)):
        guider = dg.DetailGuidance(None, disrupt=edit, rows="uncond", detail_guidance_start=0.25)
        with dg.detail_guidance(pipe, guider) as run:
            ours, paid = block_rows(pipe, lambda: call(pipe, name))
        theirs, numbers = by_hand(pipe, name, rho, range(1, STEPS))
        close(ours, theirs, plain)
        assert paid == price
        report = run.report
        assert report.planned == report.guided == (1, 2, 3) and report.in_pass and report.finished
        for values, column in ((report.push, 0), (report.change, 1), (report.at_block, 2)):
            assert list(values) == pytest.approx([numbers[i][column] for i in (1, 2, 3)], rel=1e-3)
        said = str(report).split(";")[0]  # Qwen-Image's report has a note on its pipeline
        assert said.endswith(f", the edited block's output changed by {report.mean_at_block:.3g}")
        assert report.summary()["at_block"] == report.mean_at_block > 0.01
    assert torch.equal(call(pipe, name), plain), "nothing is left"


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_generate_is_the_context_and_an_edit_of_the_unconditional_rows(dits, name):
    dit = dits(name)
    guider = dg.DetailGuidance(S, disrupt=AMPLIFIED, rows="uncond")
    call = {"seed": 3, "steps": 3, "progress": False, **tiny.SIZE}
    made = dg.generate(dit, "a", guidance=[dg.CFG(S), guider], **call)
    edited = dg.Disrupt(CHANNELS, BLOCK, "scale", rho=1.5, rows="uncond")
    other = dg.generate(dit, "a", guidance=dg.CFG(S), edits=edited, **call)
    assert torch.equal(made.latents[1:], other.latents) and not torch.equal(made.latents[0], made.latents[1])
    assert made.block_calls[0] == made.block_calls[1] and made.forwards[0] == made.forwards[1]
    assert made.settings[1]["guidance"] == "CFG 3 + DG uncond rho 1.5"
    assert edited.sentence().endswith("unconditional rows")
    by = json.loads(json.dumps(recipe(dit, made.settings[1], guider, made.guided[1])))
    assert by["guidance"]["rows"] == "uncond" and by["guided"]["push"] > 0
    assert torch.equal(again(dit, by).latents, made.latents[1:])


def test_what_a_recipe_says_makes_the_same_guider(tmp_path):
    guider = dg.DetailGuidance(S, disrupt=AMPLIFIED, rows="uncond", detail_guidance_stop=0.5)
    guider.save_pretrained(tmp_path)
    for copy in (dg.DetailGuidance.from_pretrained(tmp_path), guider.new(), dg.DetailGuidance(**made(guider))):
        assert (copy.rows, copy.disrupt, copy.guidance_scale, copy.window) == ("uncond", AMPLIFIED, S, [0.0, 0.5])
        assert made(copy) == made(guider) and made(copy)["detail_guidance_scale"] is None
    profile = {"channels": CHANNELS, "block": BLOCK, "detail_guidance_scale": 0.5}
    assert dg.DetailGuidance.from_profile(profile, rows="uncond", guidance_scale=S).disrupt == OFF


def made(guider):
    return {name: value for name, value in guider.config.items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"detail_guidance_start": 0.5}, 2),
        ({"start": 0.5}, 2),
        ({"disrupt": AFTER}, 3),
    ],
)
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_outside_of_its_windows_it_is_plain_cfg_bit_for_bit(pipes, name, changes, first):
    pipe, latents = pipes(name), []

    def keep(pipeline, step, timestep, tensors):
        latents.append(tensors["latents"])
        return {}

    guider = dg.DetailGuidance(None, **{"disrupt": OFF, "rows": "uncond", **changes})
    call(pipe, name, callback_on_step_end=keep)
    with dg.detail_guidance(pipe, guider) as run:
        call(pipe, name, callback_on_step_end=keep)
    same = [torch.equal(a, b) for a, b in zip(latents[:STEPS], latents[STEPS:], strict=True)]
    assert same == [step < first for step in range(STEPS)] and run.report.guided == tuple(range(first, STEPS))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_disabled_it_is_plain_cfg_bit_for_bit(dits, name):
    dit = dits(name)
    guider = dg.DetailGuidance(S, disrupt=OFF, rows="uncond", enabled=False)
    both = dg.generate(dit, "a", guidance=[dg.CFG(S), guider], progress=False, **tiny.CALL)
    assert torch.equal(both.latents[0], both.latents[1]) and both.settings[1]["guidance"] == "CFG 3"
    other = dg.DetailGuidance(S, 0.5, OFF, enabled=False)  # with rows="cond" it is c
    both = dg.generate(dit, "a", guidance=[None, other], progress=False, **tiny.CALL)
    assert torch.equal(both.latents[0], both.latents[1]) and both.settings[1]["guidance"] == "cond"


def test_an_exception_in_the_disrupted_pass_leaves_nothing(pipes):
    pipe = pipes("flux")
    plain, calls = call(pipe, "flux"), []

    def crash(module, args, output):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    handle = pipe.transformer.transformer_blocks[BLOCK].register_forward_hook(crash)
    with pytest.raises(KeyboardInterrupt):
        with dg.detail_guidance(pipe, dg.DetailGuidance(None, disrupt=OFF, rows="uncond")):
            call(pipe, "flux")
    handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipe.transformer.modules())
    assert "forward" not in vars(pipe.transformer) and torch.equal(call(pipe, "flux"), plain)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"detail_guidance_scale": 0.5}, "rows='uncond' has no w, and detail_guidance_scale=0.5 was given"),
        ({"detail_guidance_scale": 0}, "detail_guidance_scale=0 was given"),
        ({"guidance_scale": 1.0}, "at CFG scale 1 there is none"),
        ({"disrupt": COND}, "contradicts the rows of the disruption"),
        ({"disrupt": None}, "rows is 'uncond', so disrupt= is needed"),
        ({"match": "gain"}, "leave it out with rows='uncond'"),
        ({"rows": "both"}, "rows='both'; allowed: cond, uncond"),
        (
            {"rows": "cond", "disrupt": UNCOND},
            "contradicts the rows of the disruption",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(ValueError, match=words):
        dg.DetailGuidance(**{"guidance_scale": S, "disrupt": OFF, "rows": "uncond", **settings})


def test_what_is_set_later_is_checked_when_a_run_begins(dits):
    guider = dg.DetailGuidance(S, disrupt=OFF, rows="uncond")
    guider.detail_guidance_scale = 0.5
    with pytest.raises(ValueError, match="rows='uncond' has no w"):
        dg.generate(dits("sd3"), "a", guidance=guider, progress=False, **tiny.CALL)


@pytest.mark.parametrize("name", ["sd3", "flux-distilled"])
def test_without_an_unconditional_pass_it_is_an_error_before_the_first_forward(dits, name):
    dit, guider = dits(name), dg.DetailGuidance(None, disrupt=OFF, rows="uncond")
    handle = dit.blocks[0].module.register_forward_pre_hook(lambda *_: pytest.fail("a block ran before the error"))
    arguments = {**tiny.SIZE, "num_inference_steps": 2, "max_sequence_length": 8, "output_type": "latent"}
    scale = {"guidance_scale": 1.0 if name == "sd3" else 3.5}
    try:
        with pytest.raises(ValueError, match="at CFG scale 1 there is none.*true_cfg_scale with a negative prompt"):
            with dg.detail_guidance(dit.pipeline, guider):
                dit.pipeline("a", **arguments, **scale)
        with pytest.raises(ValueError, match="at CFG scale 1 there is none"):
            dg.generate(dit, "a", guidance=guider, progress=False, **tiny.CALL)
        with pytest.raises(ValueError, match="no step of 3 lies in"):
            late = dg.DetailGuidance(S, disrupt=OFF, rows="uncond", detail_guidance_start=0.9)
            dg.generate(dit, "a", guidance=late, progress=False, **tiny.CALL)
    finally:
        handle.remove()


def test_an_edit_that_does_nothing_is_an_error(pipes):
    same = dg.Disrupt(CHANNELS, BLOCK, "scale", rho=1.0)
    with pytest.raises(RuntimeError, match="the guidance changed nothing"):
        with dg.detail_guidance(pipes("sd3"), dg.DetailGuidance(None, disrupt=same, rows="uncond")):
            call(pipes("sd3"), "sd3")


# -- in a modular pipeline --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modular(pipes):
    made = StableDiffusion3AutoBlocks().init_pipeline()
    made.update_components(**pipes("sd3").components)
    made.set_progress_bar_config(disable=True)
    return made


def sample(modular, guider):
    modular.update_components(guider=guider)
    return modular(
        prompt="a", negative_prompt="b", **tiny.SIZE, num_inference_steps=STEPS, max_sequence_length=8,
        output="latents", generator=torch.Generator().manual_seed(3),
    )  # fmt: skip


def test_as_the_guider_of_a_modular_pipeline(pipes, modular):
    pipe = pipes("sd3")
    plain, price = block_rows(pipe, lambda: sample(modular, dg.CFG(S)))
    guider = dg.DetailGuidance(S, disrupt=OFF, rows="uncond", detail_guidance_start=0.25)
    ours, paid = block_rows(pipe, lambda: sample(modular, guider))
    theirs, numbers = by_hand(pipe, "sd3", 0.0, range(1, STEPS))
    close(ours, theirs, plain)
    assert paid == price
    report = modular.guider.report
    assert report.guided == (1, 2, 3) and report.in_pass and report.finished
    assert list(report.push) == pytest.approx([numbers[i][0] for i in (1, 2, 3)], rel=1e-3)
    assert list(report.at_block) == pytest.approx([numbers[i][2] for i in (1, 2, 3)], rel=1e-3)
    assert torch.equal(sample(modular, guider.new(enabled=False)), plain)
    with pytest.raises(ValueError, match="at CFG scale 1 there is none"):
        sample(modular, dg.DetailGuidance(None, disrupt=OFF, rows="uncond"))
