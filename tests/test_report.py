"""What a guided run says of itself, against numbers from a loop by hand; what it raises, and when."""

from __future__ import annotations

import copy
import itertools
import logging

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dg_tools as dg
from dg_tools.cli.compare import by_report
from dg_tools.forward.clock import Clock
from dg_tools.forward.replaced import replaced
from dg_tools.guidance.report import Log, Report, named

CHANNELS, BLOCK, W = [3, 7], 1, 0.8
OFF = dg.Disrupt(CHANNELS, BLOCK)
QUICK = {**tiny.CALL, "steps": 2, "progress": False}
GUIDER = dg.DetailGuidance(None, W, OFF)
SCALE = {"sd3": "guidance_scale", "flux": "true_cfg_scale"}


def call(pipe, name, s, steps=4, **changes):
    """The pipeline's own call; a negative prompt where it has CFG."""
    arguments = {"prompt": "a", "num_inference_steps": steps, SCALE[name]: s, "output_type": "latent", **tiny.SIZE}
    arguments |= {"max_sequence_length": 8, "generator": torch.Generator().manual_seed(3)}
    if s > 1:
        arguments["negative_prompt"] = "b"
    return pipe(**{**arguments, **changes})[0]


def by_hand(pipe, name, s, window, **changes):
    """Push and change by step, from a forward that runs the conditional call twice, in float64."""
    forward, numbers, count = pipe.transformer.forward, {}, [0]
    sequential = name == "flux" and s > 1

    def zero(module, args, output):
        return tiny.zero_second(output, CHANNELS, 0)

    def twice(**inputs):
        step, order = divmod(count[0], 2 if sequential else 1)
        count[0] += 1
        prediction = forward(**inputs)[0]
        if order or step not in window:
            return (prediction,)
        handle = pipe.transformer.transformer_blocks[BLOCK].register_forward_hook(zero)
        degraded = forward(**inputs)[0]
        handle.remove()
        rows = slice(len(prediction) // 2, None) if s > 1 and not sequential else slice(None)
        c, d = prediction[rows].double(), degraded[rows].double()
        numbers[step] = ((W * (c - d)).norm() / c.norm()).item(), ((d - c).norm() / c.norm()).item()
        guided = prediction.clone()
        guided[rows] += (W / s) * (prediction[rows] - degraded[rows])
        return (guided,)

    with replaced(pipe.transformer, "forward", twice):  # nnsight keeps one there, too
        call(pipe, name, s, **changes)
    return numbers


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("way", ["fork", "partial", "whole"])
def test_the_numbers_are_those_by_hand(dits, name, s, way):
    pipe = dits(name).pipeline
    guider = dg.DetailGuidance(None, W, OFF, detail_guidance_start=0.25)
    with dg.detail_guidance(pipe, guider, way=way) as run:
        assert run.report is None
        call(pipe, name, s)
    report = run.report
    numbers = by_hand(pipe, name, s, (1, 2, 3))
    assert (report.steps, report.planned, report.guided, report.finished) == (4, (1, 2, 3), (1, 2, 3), True)
    assert list(report.push) == pytest.approx([numbers[i][0] for i in (1, 2, 3)], rel=1e-4)
    assert list(report.change) == pytest.approx([numbers[i][1] for i in (1, 2, 3)], rel=1e-4)
    assert report.mean_push == pytest.approx(W * report.mean_change, rel=1e-5) and report.mean_push > 0.01
    assert str(report).startswith(f"guided 3 of 3 steps (4 run), push {report.mean_push:.3g}, change ")
    assert report.to_json()["mean_push"] == report.mean_push and report.to_json()["guided"] == (1, 2, 3)


def test_a_batch_is_one_norm_over_all_its_rows(dits):
    pipe = dits("sd3").pipeline
    prompts = {"prompt": ["a", "b c"], "negative_prompt": ["", "d"]}
    with dg.detail_guidance(pipe, dg.DetailGuidance(None, W, OFF)) as run:
        call(pipe, "sd3", 3.0, steps=2, **prompts)
    numbers = by_hand(pipe, "sd3", 3.0, (0, 1), steps=2, **prompts)
    assert list(run.report.push) == pytest.approx([numbers[i][0] for i in (0, 1)], rel=1e-4)


def test_each_run_has_its_report(dits):
    pipe = dits("sd3").pipeline
    with dg.detail_guidance(pipe, dg.DetailGuidance(None, W, OFF)) as run:
        call(pipe, "sd3", 3.0, steps=2)
        first = run.report
        call(pipe, "sd3", 1.0, steps=3)
    assert run.reports == [first, run.report] and [r.steps for r in run.reports] == [2, 3]


# -- what is an error -------------------------------------------------------------------------------------------------


def passed_by(transformer, missed):
    """Inside a guidance: some calls of the transformer pass it by, as a wrapper of the reader's own may do."""
    guided, own, count = vars(transformer)["forward"], type(transformer).forward, itertools.count()

    def forward(*args, **kwargs):
        return own(transformer, *args, **kwargs) if next(count) in missed else guided(*args, **kwargs)

    transformer.__dict__["forward"] = forward


@pytest.mark.parametrize("missed", [[0], [2], range(4)])
def test_a_planned_step_that_is_not_guided_is_named_at_that_step(missed):
    pipe = tiny.PIPELINES["sd3"]()
    seen = []
    pipe.transformer.register_forward_hook(lambda *_: seen.append(len(seen)))
    with pytest.raises(RuntimeError, match=rf"step {missed[0]} of 4 should have been guided and was not"):
        with dg.detail_guidance(pipe, dg.DetailGuidance(None, W, OFF)):
            passed_by(pipe.transformer, missed)
            call(pipe, "sd3", 3.0)
    assert seen == list(range(missed[0] + 1)), "no forward after that step"
    assert "forward" not in vars(pipe.transformer) and "step" not in vars(pipe.scheduler)


def test_a_second_run_that_is_passed_by_is_named_too():
    pipe = tiny.PIPELINES["sd3"]()
    with (
        pytest.raises(RuntimeError, match="step 0 of 3 should have been guided and was not"),
        dg.detail_guidance(pipe, GUIDER) as run,
    ):
        call(pipe, "sd3", 3.0, steps=2)
        passed_by(pipe.transformer, range(9))
        call(pipe, "sd3", 3.0, steps=3)
    assert [(r.guided, r.finished) for r in run.reports] == [((0, 1), True), ((), False)]


def test_a_pipeline_with_another_transformer_may_share_the_scheduler():
    pipe, other = tiny.PIPELINES["sd3"](), tiny.PIPELINES["sd3"](seed=1)
    other.scheduler = pipe.scheduler
    with dg.detail_guidance(pipe, GUIDER) as run:
        call(other, "sd3", 3.0)
        call(pipe, "sd3", 3.0)
    assert [r.guided for r in run.reports] == [(0, 1, 2, 3)]


def test_a_pass_by_an_unknown_name_is_not_passed_over():
    about = tiny.families()["wan"]
    pipe = about.pipeline()
    clocks_own = Clock._named
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "_named", lambda clock, name, **kwargs: clocks_own(clock, "another name", **kwargs))
        with pytest.raises(RuntimeError, match="step 0 of 2 should have been guided and was not"):
            with dg.detail_guidance(pipe, GUIDER):
                pipe("a", guidance_scale=3.0, num_inference_steps=2, height=64, width=64, num_frames=1,
                     max_sequence_length=8, output_type="latent")  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("s", [1.0, 3.0])
def test_nothing_changed_in_any_step_is_an_error(name, s, dtype):
    pipe = tiny.PIPELINES[name]().to(dtype)
    for edit in (dg.Disrupt(CHANNELS, BLOCK, "scale", rho=1.0), OFF):
        with pytest.raises(RuntimeError, match="the guidance changed nothing: in every planned step"):
            with OFF.on(pipe), dg.detail_guidance(pipe, dg.DetailGuidance(None, W, edit)):
                call(pipe, name, s, steps=2)  # the channels are zero already, or are kept as they are


def test_nothing_changed_in_some_steps_is_a_warning(dits, caplog):
    dit = dits("sd3")
    edit = dg.Disrupt(CHANNELS, BLOCK, "scale", rho=((0.7, 1.0), (0.72, 0.0)))  # nothing below sigma 0.7
    with caplog.at_level(logging.WARNING, "dg_tools"), dg.detail_guidance(dit, dg.DetailGuidance(None, W, edit)) as run:
        call(dit.pipeline, "sd3", 3.0, steps=5)
    low = tuple(i for i, sigma in enumerate(dit.pipeline.scheduler.sigmas[:-1].tolist()) if sigma < 0.7)
    assert run.report.nil == low and run.report.guided == (0, 1, 2, 3, 4) and 0 < len(low) < 5
    assert caplog.messages == [f"the guidance changed nothing in {named(low)}"]


def test_a_dose_that_overflows_is_an_error(dits):
    pipe = tiny.PIPELINES["sd3"]().to(torch.float16)
    edit = dg.Disrupt(CHANNELS, BLOCK, "scale", rho=1e6)
    with pytest.raises(RuntimeError, match="the degraded prediction is not finite in steps 0, 1"):
        with dg.detail_guidance(pipe, dg.DetailGuidance(None, W, edit)):
            call(pipe, "sd3", 1.0, steps=2)


# -- what is said, and never raised -----------------------------------------------------------------------------------


def test_weight_zero_is_reported(dits):
    with dg.detail_guidance(dits("sd3"), dg.DetailGuidance(None, 0.0, OFF)) as run:
        call(dits("sd3").pipeline, "sd3", 3.0)
    assert run.report == Report(4) and str(run.report) == "guided 0 of 0 steps (4 run)"
    with dg.detail_guidance(dits("sd3"), dg.DetailGuidance(None, W, OFF, enabled=False)) as run:
        call(dits("sd3").pipeline, "sd3", 3.0)
    assert run.report is None


def test_an_interrupted_run_is_reported(dits):
    pipe = dits("sd3").pipeline

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return tensors

    def crash(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    with dg.detail_guidance(pipe, dg.DetailGuidance(None, W, OFF)) as run:
        call(pipe, "sd3", 3.0, callback_on_step_end=stop)
        assert not run.report.finished and run.report.guided == (0, 1)
        call(pipe, "sd3", 3.0, steps=2)
    assert [(r.guided, r.finished) for r in run.reports] == [((0, 1), False), ((0, 1), True)]
    assert str(run.reports[0]).endswith(", interrupted")
    with pytest.raises(KeyboardInterrupt), dg.detail_guidance(pipe, dg.DetailGuidance(None, W, OFF)) as run:
        call(pipe, "sd3", 3.0, callback_on_step_end=crash)
    assert run.report.guided == (0,) and not run.report.finished


# -- the sums ---------------------------------------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device: reading a number, or copying off it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))

    @property
    def waits(self):
        return [name for name in self.names if "local_scalar" in name or "nonzero" in name or "is_nonzero" in name]


def test_sums_stay_on_the_device():
    log = Log(3, range(3), W)
    with Reads() as reads:
        for step in range(3):
            log.add(step, torch.ones(2, 4), torch.full((2, 4), 2.0))
            log.check(step)
    assert reads.names and not reads.waits
    with Reads() as reads:  # the same on a device that has no numbers at all
        log_of_shapes = Log(3, range(3), W)
        log_of_shapes.add(0, torch.ones(2, 4, device="meta"), torch.ones(2, 4, device="meta"))
    assert log.finish().push == pytest.approx((W, W, W)) and log.report().change == pytest.approx((1.0, 1.0, 1.0))


def test_several_calls_of_one_step_are_one_norm():
    log = Log(1, [0], 2.0)
    log.add(0, torch.tensor([3.0]), torch.tensor([0.0]))
    log.add(0, torch.tensor([4.0]), torch.tensor([4.0]), push=torch.tensor([8.0]))
    assert log.report().push == pytest.approx((10.0 / 5.0,)) and log.report().change == pytest.approx((3.0 / 5.0,))


def test_sums_do_not_overflow_in_half_precision():
    log = Log(1, [0], 0.5)
    log.add(0, torch.full((1000,), 6e4, dtype=torch.float16), torch.zeros(1000, dtype=torch.float16))
    assert log.finish().push == pytest.approx((0.5,))


def test_many_steps_are_not_all_named():
    assert named([3]) == "step 3" and named([3, 4]) == "steps 3, 4"
    assert named(range(28)) == "steps 0, 1, 2, 3, 4, 5, 6, 7 and 20 more"
    assert copy.deepcopy(Report(4, (1,), (1,), (0.5,), (1.0,))) == Report(4, (1,), (1,), (0.5,), (1.0,))


# -- what generate and compare say ------------------------------------------------------------------------------------


def test_generate_says_what_each_guidance_and_edit_did(dits):
    dit = dits("sd3")
    late = dg.DetailGuidance(3.0, W, OFF, detail_guidance_start=0.5)
    guidance = [None, dg.CFG(3.0), dg.CFG(3.0, stop=0.5), late, dg.baselines.PAG(3.0, 0.5, blocks=2)]
    pictures = dg.generate(dit, "a", guidance=guidance, progress=False, **{**tiny.CALL, "steps": 4})
    assert pictures.guided[:3] == [None] * 3 and pictures.edited == [None] * 5
    assert [(r.planned, r.guided) for r in pictures.guided[3:]] == [((2, 3), (2, 3)), ((0, 1, 2, 3), (0, 1, 2, 3))]
    assert pictures.guided[3].at_block[0] > 0.01 and pictures.guided[4].at_block == (None,) * 4
    assert repr(pictures).endswith("s, guided 6 of 6 steps)") and "guided" not in repr(dg.generate(dit, "a", **QUICK))
    both = dg.generate(dit, "a", guidance=late, edits=[None, dg.Disrupt([1], 2)], **QUICK)
    assert both.edited[0] is None and both.edited[1].calls[0] > 0 and len(both.guided) == 2


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_what_needs_no_degraded_prediction_is_reported_too(dits, name):
    dit = dits(name)
    plain, zero = dg.CFG(3.0), dg.baselines.CFGZeroStar(3.0, zero_steps=1)
    apg = dg.baselines.APG(3.0, eta=1.0, stop=0.5)  # nothing projected, bounded or remembered: CFG
    pictures = dg.generate(dit, "a", guidance=[plain, zero, apg], **{**QUICK, "steps": 4})
    assert pictures.guided[1].guided == (0, 1, 2, 3) and pictures.guided[1].push[0] == pytest.approx(1.0)
    report = pictures.guided[2]
    assert report.planned == report.guided == (0, 1)
    assert list(report.push) == pytest.approx([2 * change for change in report.change], rel=1e-3), "s - 1 times u - c"


def test_compare_keeps_the_reports(dits):
    result = dg.compare(dits("sd3"), ["a", "b"], {"plain": None, "DG": GUIDER}, **QUICK)
    assert [r is None for r in result.guided] == [True, False, True, False]
    assert by_report(result)["DG"].startswith("guided 4 of 4 steps, push 0.") and "plain" not in by_report(result)


def test_a_tiny_weight_is_not_nil(dits):
    """What is judged is what the disruption does, and not how much of it was asked for."""
    with dg.detail_guidance(dits("sd3"), dg.DetailGuidance(None, 1e-9, OFF)) as run:
        call(dits("sd3").pipeline, "sd3", 3.0)
    assert run.report.nil == () and max(run.report.push) < 1e-6 < min(run.report.change)
