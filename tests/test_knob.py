"""The dose applied directly, against plain hooks in the pipeline's own call; what it costs; what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import tiny
import torch
from diffusers.modular_pipelines import StableDiffusion3AutoBlocks
from test_uncond_rows import PIPES, block_rows, blocks_of, call, close

import dg_tools as dg
from dg_tools.cli.options import disruption
from dg_tools.generation.recipes import again, recipe
from dg_tools.guidance.auto import store
from dg_tools.models.profiles import write_profile

CHANNELS, BLOCK, S, STEPS = [3, 7], 1, 3.0, 4
KNOB = dg.DetailKnob(CHANNELS, BLOCK, 1.5)
SCHEDULE = ((0.3, 1.5), (0.9, 0.5))
QUICK = {**tiny.SIZE, "steps": 3, "progress": False}


@pytest.fixture(scope="module")
def pipes():
    made = {}
    return lambda name: made[name] if name in made else made.setdefault(name, PIPES[name]())


def by_hand(pipe, run, dose):
    """What `run()` returns with a plain hook that multiplies the channels by `dose(step)`, and the block's change."""
    steps, shares = [0], {}

    def scaled(module, args, output):
        parts = [output] if isinstance(output, torch.Tensor) else list(output)
        before, parts[-1] = parts[-1], parts[-1].clone()
        parts[-1][..., CHANNELS] *= dose(steps[0])
        sums = [(parts[-1] - before).double().square().sum(), before.double().square().sum()]
        shares.setdefault(steps[0], []).append(torch.stack(sums))
        return parts[0] if isinstance(output, torch.Tensor) else tuple(parts)

    own = pipe.scheduler.step

    def step(*args, **kwargs):
        steps[0] += 1
        return own(*args, **kwargs)

    handle = blocks_of(pipe.transformer)[BLOCK].register_forward_hook(scaled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.scheduler, "step", step)
        latents = run()
    handle.remove()
    both = [torch.stack(shares[i]).sum(0) for i in sorted(shares)]
    return latents, [(change / size).sqrt().item() for change, size in both]


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("s", [1.0, S])
def test_equals_plain_hooks_in_every_pass_at_the_price_of_the_run(pipes, name, s):
    pipe = pipes(name)
    plain, price = block_rows(pipe, lambda: call(pipe, name, s))
    with dg.detail_guidance(pipe, KNOB) as run:
        ours, paid = block_rows(pipe, lambda: call(pipe, name, s))
    theirs, shares = by_hand(pipe, lambda: call(pipe, name, s), lambda step: 1.5)
    close(ours, theirs, plain)
    assert paid == price
    report = run.report
    assert report.planned == report.guided == (0, 1, 2, 3) and report.finished and report.in_pass
    assert list(report.at_block) == pytest.approx(shares, rel=1e-4) and report.push == report.change == ()
    said = str(report).split(";")[0]  # Qwen-Image's report has a note on its pipeline
    assert said == f"guided 4 of 4 steps, the edited block's output changed by {report.mean_at_block:.3g}"
    done = {"push": None, "change": None, "at_block": report.mean_at_block}
    assert report.summary() == {"steps": 4, "planned": 4, "guided": 4, **done, "finished": True}
    with dg.detail_guidance(pipe, dg.DetailKnob(CHANNELS, BLOCK, 1.0)) as run:
        assert torch.equal(call(pipe, name, s), plain), "a dose of 1 is off, bit for bit"
    assert str(run.report) == "guided 0 of 0 steps (4 run)"


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_schedule_over_sigma_and_a_window(pipes, name):
    pipe = pipes(name)
    knob = dg.DetailKnob(CHANNELS, BLOCK, SCHEDULE, stop=0.75)
    with dg.detail_guidance(pipe, knob) as run:
        ours = call(pipe, name)

    def dose(step):
        part = min(max((pipe.scheduler.sigmas[step].item() - 0.3) / 0.6, 0.0), 1.0)
        return 1.5 - part if step < 3 else 1.0

    theirs, shares = by_hand(pipe, lambda: call(pipe, name), dose)
    close(ours, theirs, call(pipe, name))
    assert run.report.guided == (0, 1, 2) and list(run.report.at_block) == pytest.approx(shares[:3], rel=1e-4)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_generate_is_the_context_and_its_recipe_makes_the_picture_again(dits, name):
    dit = dits(name)
    knob = dg.DetailKnob(CHANNELS, [BLOCK, 2], SCHEDULE, guidance_scale=S)
    plain, made, off = (
        dg.generate(dit, "a", seed=3, guidance=g, **QUICK) for g in (dg.CFG(S), knob, knob.new(enabled=False))
    )
    edit = dg.Disrupt(CHANNELS, [BLOCK, 2], "scale", rho=SCHEDULE)
    assert torch.equal(made.latents, dg.generate(dit, "a", seed=3, guidance=dg.CFG(S), edits=edit, **QUICK).latents)
    assert torch.equal(off.latents, plain.latents) and off.settings[0]["guidance"] == "CFG 3"
    assert made.block_calls == plain.block_calls and made.forwards == plain.forwards
    assert made.settings[0]["guidance"] == "CFG 3 + knob (1.5 at sigma 0.3, 0.5 at sigma 0.9)"
    by = json.loads(json.dumps(recipe(dit, made.settings[0], knob, made.guided[0])))
    assert by["guidance"] == {
        "name": "DetailKnob", "channels": CHANNELS, "block": [BLOCK, 2], "rho": [[0.3, 1.5], [0.9, 0.5]],
        "guidance_scale": S, "guidance_rescale": 0.0, "start": 0.0, "stop": 1.0, "enabled": True,
    }  # fmt: skip
    assert torch.equal(again(dit, by).latents, made.latents)


def test_it_is_saved_and_copied_as_it_is_now(tmp_path):
    knob = dg.DetailKnob(range(2), 1, 0.5, 3.0, start=0.25)
    knob.rho = ((0.9, 0.5), (0.3, 1.5))
    knob.save_pretrained(tmp_path)
    for other in (dg.DetailKnob.from_pretrained(tmp_path), knob.new(), copy.deepcopy(knob)):
        assert other.rho == SCHEDULE and other.disrupt == knob.disrupt and other.guidance_scale == 3.0
        assert (other.start, other.stop) == (0.25, 1.0)


# -- channels and block of the profile, and what is refused -----------------------------------------------------------


def test_channels_and_block_come_from_the_profile():
    dit = dg.load(tiny.sd3())
    knob = dg.DetailKnob(rho=1.5)
    handle = dit.blocks[0].module.register_forward_pre_hook(lambda *_: pytest.fail("a block ran before the error"))
    for wrong in (knob, dg.DetailKnob(CHANNELS, rho=1.5)):
        with pytest.raises(ValueError, match="names no channels with a block: pass them"):
            dg.generate(dit, "a", guidance=wrong, **QUICK)
        with pytest.raises(ValueError, match="names no channels with a block"), dg.detail_guidance(dit, wrong):
            pass
    handle.remove()
    dit.profile = {"channels": CHANNELS, "block": BLOCK}
    ours = dg.generate(dit, "a", guidance=knob, **QUICK).latents
    assert torch.equal(ours, dg.generate(dit, "a", guidance=KNOB, **QUICK).latents)
    assert knob.channels is None and knob.resolved(dit).disrupt == KNOB.disrupt
    assert dg.DetailKnob(block=2, rho=1.5).resolved(dit).disrupt == dg.Disrupt(CHANNELS, 2, "scale", rho=1.5)


def test_a_dose_acts_where_auto_has_put_it(monkeypatch, tmp_path, capsys):
    """The choice that `auto` made and kept for these weights comes before the model's own profile."""
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path)
    dit = dg.load(tiny.sd3())
    dit.profile = {"channels": CHANNELS, "block": BLOCK}
    chosen = {"channels": [5], "block": 2, "mode": "scale", "rho": 2.0, "verdict": "", "objective": "", "source": ""}
    write_profile(store.kept_at(dit), {"model": "tiny", **chosen})
    there = dg.Disrupt([5], 2, "scale", rho=1.5)
    assert dg.DetailKnob(rho=1.5).resolved(dit).disrupt == there == disruption(dit, [], None, 1.5)
    assert dg.DetailKnob(CHANNELS, BLOCK, 1.5).resolved(dit).disrupt == KNOB.disrupt
    assert disruption(dit, [], None) == dg.Disrupt([5], 2, "scale", rho=2.0)
    assert disruption(dit, CHANNELS, None) == dg.Disrupt(CHANNELS, 2) and disruption(dit, [], 1) == dg.Disrupt([5], 1)
    write_profile(store.kept_at(dit), {"model": "tiny", **chosen, "block": None, "rho": None})  # nothing lacks detail
    assert dg.DetailKnob(rho=1.5).resolved(dit).disrupt == KNOB.disrupt
    assert disruption(dit, [], None) == dg.Disrupt(CHANNELS, BLOCK)
    assert "knob: scale channels 3, 7 by 1.5 after block 1, image stream; of the profile: channels 3, 7 zeroed" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"rho": "much"}, TypeError, "rho="),
        ({"rho": float("nan")}, ValueError, "rho"),
        ({"rho": ()}, ValueError, "an empty schedule"),
        ({"channels": []}, ValueError, "channels is empty"),
        ({"channels": [3, 3]}, ValueError, "must be distinct"),
        ({"guidance_scale": 0.5}, ValueError, "is at least 1"),
        ({"start": 0.5, "stop": 0.5}, ValueError, "is empty"),
    ],
)
def test_settings_that_cannot_work(settings, kind, words):
    with pytest.raises(kind, match=words):
        dg.DetailKnob(**{"channels": CHANNELS, "block": BLOCK, "rho": 0.5, **settings})


@pytest.mark.parametrize(
    ("knob", "kind", "words"),
    [
        (dg.DetailKnob(CHANNELS, 9, 0.5), IndexError, "block 9 requested"),
        (dg.DetailKnob([99], BLOCK, 0.5), IndexError, "channel 99 requested"),
        (dg.DetailKnob(CHANNELS, BLOCK, 0.5, start=0.9), ValueError, "no step of 3 lies in the window"),
    ],
)
def test_what_a_model_does_not_have_is_an_error_before_the_first_forward(dits, knob, kind, words):
    handle = dits("sd3").blocks[0].module.register_forward_pre_hook(lambda *_: pytest.fail("a block ran"))
    try:
        with pytest.raises(kind, match=words):
            dg.generate(dits("sd3"), "a", guidance=knob, **QUICK)
    finally:
        handle.remove()


def test_a_dose_that_does_nothing_or_overflows_is_an_error(pipes):
    pipe = tiny.sd3().to(torch.float16)
    with pytest.raises(RuntimeError, match="the prediction is not finite in steps 0, 1, 2, 3: the hidden"):
        with dg.detail_guidance(pipe, dg.DetailKnob(CHANNELS, BLOCK, 1e6)):
            call(pipe, "sd3", 1.0)
    with pytest.raises(RuntimeError, match="the guidance changed nothing"):
        zeroed = dg.Disrupt(CHANNELS, BLOCK)
        with zeroed.on(pipes("sd3")), dg.detail_guidance(pipes("sd3"), KNOB):
            call(pipes("sd3"), "sd3")


def test_in_a_modular_pipeline(pipes):
    pipe = pipes("sd3")
    modular = StableDiffusion3AutoBlocks().init_pipeline()
    modular.update_components(**pipe.components)
    modular.set_progress_bar_config(disable=True)

    def sample(guider):
        modular.update_components(guider=guider)
        words = {"negative_prompt": "b"} if guider.guidance_scale > 1 else {}
        return modular(
            prompt="a", **words, **tiny.SIZE, num_inference_steps=STEPS, max_sequence_length=8, output="latents",
            generator=torch.Generator().manual_seed(3),
        )  # fmt: skip

    for s in (1.0, S):
        plain, price = block_rows(pipe, lambda s=s: sample(dg.CFG(s)))
        ours, paid = block_rows(pipe, lambda s=s: sample(KNOB.new(guidance_scale=s)))
        theirs, shares = by_hand(pipe, lambda s=s: call(pipe, "sd3", s), lambda step: 1.5)
        close(ours, theirs, plain)
        assert paid == price and list(modular.guider.report.at_block) == pytest.approx(shares, rel=1e-3)
        assert modular.guider.report.finished and modular.guider.report.guided == (0, 1, 2, 3)
        for off in ({"rho": 1.0}, {"enabled": False}):
            assert torch.equal(sample(KNOB.new(guidance_scale=s, **off)), plain)
    with pytest.raises(ValueError, match=r"channels and block are needed here: .*knob\.resolved\(dit\)"):
        sample(dg.DetailKnob(rho=0.5))
