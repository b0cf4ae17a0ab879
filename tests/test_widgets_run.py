"""Explorers that run the model: buttons, bars, cancelling, bad input, and code that gives the same pictures again."""

from __future__ import annotations

import io
import json
import re
import threading

import numpy as np
import pytest
import tiny
import torch
import traitlets
from diffusers import FluxImg2ImgPipeline
from PIL import Image
from test_cli import called

import dg_tools as dg
from dg_tools.activations import attention
from dg_tools.generation.recipes import read_picture
from dg_tools.models.profiles import read_profile
from dg_tools.widgets import ActivationExplorer, GuidanceExplorer, InterventionExplorer
from dg_tools.widgets.edit_settings import EDIT_MODES
from dg_tools.widgets.guidance_settings import STRIPS, profile_of
from dg_tools.widgets.watch import watched

SIZE = tiny.SIZE


@pytest.fixture(scope="module")
def dit():
    """A planted tiny SD3; its size stands in the call that its card would ask for."""
    pipeline = tiny.PIPELINES["sd3"]()
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    made = dg.load(pipeline)
    made.call = {"max_sequence_length": 8}
    made.profile = {"channels": [5, 20], "block": 2, "source": "planted"}
    return made


def same(a, b) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def assert_detail(rows, images) -> None:
    """The row of detail, by hand: more power above 1/4 cycle per latent cell of 2 pixels, than more below 1/8."""
    ratios = []
    for image in images.values():
        power = abs(np.fft.fft2(np.asarray(image, float).transpose(2, 0, 1))) ** 2
        cycles = np.hypot(np.fft.fftfreq(power.shape[1])[:, None], np.fft.fftfreq(power.shape[2]))
        low, high = power[:, (cycles > 0) & (cycles < 1 / 16)].sum(), power[:, cycles >= 1 / 8].sum()
        ratios.append(np.log2(high / low))
    shown = [float(number) for number in rows["detail at equal contrast (doublings)"]]
    assert shown == pytest.approx(np.array(ratios) - ratios[0], abs=6e-3) and max(map(abs, shown)) > 0.02


def stale(made) -> bool:
    """Whether what is shown is dimmed."""
    (dimmed,) = {"dg-stale" in place._dom_classes for place in made.shown.places}
    assert dimmed == (made.shown.note.layout.display != "none"), "it says so where it is dimmed"
    return dimmed


def press(runner) -> None:
    """As the reader does it, and wait."""
    runner.button.click()
    runner.thread.join(240)
    assert not runner.busy and runner.stop.disabled and not runner.button.disabled


def test_capture_from_the_button_is_the_capture_and_has_a_picture_at_every_step(dit):
    made = ActivationExplorer(dit, steps=3, **SIZE)
    assert "press Capture" in made.messages.text and not made.map.data
    press(made.runner)
    assert made.activations is not None and made.map.png and made.massive == dg.find_massive(made.activations).channels
    plain = dg.capture(dit, "red apple on blue", steps=3, **SIZE, progress=False)
    assert np.array_equal(plain.data["abs_mean"], made.activations.data["abs_mean"], equal_nan=True)
    pictures = made.activations.data["step_picture"]
    assert pictures.sizes["step"] == 3 and same(pictures[0, 0, -1], plain.data["picture"][0, 0]), (
        "the last is the result"
    )
    assert not same(pictures[0, 0, 0], pictures[0, 0, -1])
    assert made.runner.bar.value == made.runner.bar.max == 3
    assert "step" not in dit.pipeline.scheduler.__dict__, "nothing is left behind"


def test_a_capture_keeps_the_maps_of_all_words_where_it_is_told_to(dit):
    made = ActivationExplorer(dit, steps=2, **SIZE)
    made.words_box.value = True
    press(made.runner)
    assert [value for _, value in made.words.options] == ["", "red", "apple", "on", "blue"]
    found = attention(dit, "red apple on blue", steps=2, words="blue", progress=False, **SIZE).data["word_map"]
    made.move(word="blue", block=0, step=1)
    own = found.isel(prompt=0, seed=0, branch=0, step=1, site=0, word=0).mean("head").values
    assert np.allclose(np.frombuffer(made.map.data["values"], np.float32), own.ravel()) and own.std() > 0
    assert made.runner.bar.value == made.runner.bar.max == 4, "the run is made twice"


def test_a_large_capture_keeps_what_fits(dit):
    from dg_tools.widgets.live_capture import affordable

    one = 64 * dit.width * 4
    assert affordable(dit, 3, 64, 1, cap=one * 12) == ([0, 1, 2, 3], None)
    assert affordable(dit, 3, 64, 1, cap=one * 11) == ([1], None)
    assert affordable(dit, 3, 64, 1, cap=one) == ([1], [1]) and affordable(dit, 3, 64, 1, cap=one - 1) == ([], [])


def test_cancelling_keeps_what_was_there(dit):
    made = InterventionExplorer(dit, steps=3, **SIZE)
    made.run()
    before, code = dict(made.images), made.code.value
    made.run_fields.seed.value = "1"
    at_step, go_on = threading.Event(), threading.Event()
    tick = made.runner.tick

    def slow(done, total):
        at_step.set()
        go_on.wait(240)
        tick(done, total)

    made.runner.tick = slow
    made.runner.button.click()
    assert at_step.wait(240) and made.runner.busy and made.runner.button.disabled and not made.runner.stop.disabled
    assert made.runner.start() is None and "a run is on" in made.messages.text
    made.runner.stop.click()
    go_on.set()
    made.runner.thread.join(240)
    assert (
        not made.runner.busy and made.messages.kind == "warning" and "Stopped after 1 of 9 steps" in made.messages.text
    )
    assert made.images == before and made.code.value == code, "the code is that of the pictures"
    assert stale(made) and "settings changed: press Run" in made.shown.note.value
    assert "step" not in dit.pipeline.scheduler.__dict__
    del made.runner.tick
    press(made.runner)
    assert made.messages.kind == "note" and made.images != before and not stale(made) and "seed=1" in made.code.value


@pytest.mark.parametrize("kind", [InterventionExplorer, GuidanceExplorer])
def test_what_is_shown_is_of_the_settings_or_dimmed(dit, kind):
    made = kind(dit, steps=2, **SIZE)
    assert not stale(made), "nothing is shown yet"
    made.run()
    images, code, block = dict(made.images), made.code.value, made.block
    assert not stale(made)
    for change, back in (
        (lambda: setattr(made, "block", 1), lambda: setattr(made, "block", block)),
        (lambda: setattr(made.run_fields.seed, "value", "7"), lambda: setattr(made.run_fields.seed, "value", "0")),
        (lambda: setattr(made.run_fields.seed, "value", "abc"), lambda: setattr(made.run_fields.seed, "value", "0")),
        (lambda: setattr(made, "channels", [5, 9999]), lambda: setattr(made, "channels", [5, 20])),
    ):
        change()
        assert stale(made) and (made.images, made.code.value) == (images, code)
        back()
        assert not stale(made)
    made.block = 1
    made.run()
    assert not stale(made) and code != made.code.value
    made.block = block
    assert not stale(made) and made.code.value == code, "what was run before is shown at once"
    assert all(same(a, b) for a, b in zip(made.images.values(), images.values(), strict=True))


def test_a_capture_of_other_settings_is_dimmed(dit, tmp_path):
    made = ActivationExplorer(dit, steps=2, **SIZE)
    made.run()
    made.run_fields.text.value = "owl"
    assert stale(made) and "settings changed: press Capture" in made.shown.note.value
    made.run()
    assert not stale(made)
    made.activations.save(tmp_path / "owl.zarr")
    made.run_fields.text.value = "apple"
    made.show(tmp_path / "owl.zarr")
    assert not stale(made), "a capture that was opened says itself what it is of"


def test_steps_of_the_edit_follow_steps(dit):
    made = InterventionExplorer(dit, steps=3, **SIZE)
    made.run_fields.steps.value = 5
    assert made.step_range.value == (0, 4) and made.state.steps is None
    made.step_range.value = (1, 4)
    made.run_fields.steps.value = 3
    assert made.step_range.value == (1, 2) and made.state.steps == (1, 2)
    made.run_fields.steps.value = 6
    assert made.state.steps == (1, 2) and made.messages.text == ""


def test_the_reader_is_told_at_once_that_it_computes(dit):
    made = InterventionExplorer(dit, steps=2, **SIZE)
    at_work, go_on = threading.Event(), threading.Event()
    made.runner.work = lambda tick: (at_work.set(), go_on.wait(240))
    made.runner.button.click()
    assert "computing" in made.runner.words.value, "before the first step"
    go_on.set()
    made.runner.thread.join(240)
    assert made.runner.words.value == ""


def test_an_error_in_the_run_is_told_and_raised_headless(dit):
    made = ActivationExplorer(dit, steps=3, **SIZE)
    for field, value, words in (
        (made.run_fields.text, "   ", "the prompt is empty"),
        (made.run_fields.seed, "abc", "the seed 'abc' is not a whole number"),
    ):
        kept = field.value
        field.value = value
        press(made.runner)
        assert words in made.messages.text and made.messages.kind == "error"
        with pytest.raises(ValueError, match=words):
            made.run()
        assert not made.runner.busy
        field.value = kept
    made.run()
    assert made.messages.text == ""


def test_intervention_edit_is_what_the_controls_say(dit):
    made = InterventionExplorer(dit, steps=3, **SIZE)
    assert made.channels == [5, 20] and made.block == 2 and "zero channels 5, 20" in made.words.value
    made.channels_field.value, made.block_slider.value, made.mode_field.value = "5", 1, "scale"
    made.rho_field.value, made.step_range.value = 0.25, (1, 2)
    off, control = made.state.edits()
    assert off == dg.Disrupt([5], 1, "scale", rho=0.25, steps=[1, 2]) and control.control
    for mode in EDIT_MODES:
        made.mode = mode
        assert made.messages.text == "" and made.state.edits()[0].mode == mode
        assert made.rho_field.disabled == (mode != "scale")
        assert ("a shift of the same norm on" in made.words.value) == (mode in ("zero", "scale")), mode
        assert "a shift of the" in made.words.value, "of a control that is not as large, the norm is told"
    for kind, words in (("shift_direction", "the norm of zeroing along a random"), ("random", "whatever their norm")):
        made.kind = kind
        assert words in made.words.value
    made.mode, made.kind = "zero", "shift"
    made.step_range.value = (0, 2)
    assert made.state.edits()[0].steps is None
    for value, words in (("5, 99", "channel 99 requested"), ("five", "not a list of whole"), ("", "not a list")):
        made.channels_field.value = value
        assert words in made.messages.text and made.messages.kind == "error"
    made.channels_field.value = "7"
    assert made.messages.text == "" and made.channels == [7]
    made.offered.value = (20,)
    assert made.channels == [20] and made.channels_field.value == "20"


def test_a_value_that_no_control_can_show_is_an_error(dit):
    edits, guided = InterventionExplorer(dit, steps=3, **SIZE), GuidanceExplorer(dit, steps=3, **SIZE)
    for made, name, value in ((edits, "block", 9), (edits, "rho", 5.0), (guided, "weight", -1.0), (guided, "block", 4)):
        before = made.state
        with pytest.raises(traitlets.TraitError, match=f"{name} .* requested; this explorer has 0 to"):
            setattr(made, name, value)
        assert made.state == before


def test_box_and_click_choose_tokens(dit):
    made = InterventionExplorer(dit, steps=3, **SIZE)
    (height, width), (rows, columns) = (32, 48), (8, 12)
    clean = made.pictures["clean"]
    clean.set_state({"box": [0.0, 0.0, 0.5, 1 / rows]})
    assert made.tokens == dit.tokens([(0, 0, width // 2, height // rows)], **SIZE) and made.state.tokens == tuple(
        made.tokens
    )
    assert f"{len(made.tokens)} of {rows * columns}" in made.region.value and "tokens=" in made.code.value
    clean.set_state({"cell": columns + 1, "clicks": 1})
    assert made.tokens == [columns + 1]
    made.mode_field.value = "gate"
    assert "takes no tokens" in made.messages.text
    made.everywhere.click()
    assert made.tokens == [] and clean.box == [] and made.state.tokens is None and made.messages.text == ""


def test_intervention_pictures_numbers_and_code(dit):
    made = InterventionExplorer(dit, steps=3, **SIZE)
    press(made.runner)
    assert list(made.images) == ["clean", "disrupted", "control"] and made.messages.kind == "note"
    scope = {"dg": dg, "dit": dit}
    exec(made.code.value, scope)
    for image, own in zip(scope["made"].images, made.images.values(), strict=True):
        assert same(image, own), "the code gives the same pictures"
    view = made.render()
    change = np.asarray(made.images["disrupted"], float) / 255 - np.asarray(made.images["clean"], float) / 255
    assert np.allclose(view.differences[0].axes[0].images[0].get_array(), change.mean(-1), atol=1e-6)
    limits = [f.axes[0].images[0].get_clim() for f in view.differences]
    assert limits[0] == limits[1], "one scale for what is compared"
    shown = np.asarray(Image.open(io.BytesIO(made.differences[0].png)), float)
    assert np.allclose(shown, np.clip(0.5 + 5 * change, 0, 1) * 255, atol=1), "five times the difference, around grey"
    rows = {r[0]: r[1:] for r in view.rows}
    spectra = [np.fft.fft2(np.asarray(made.images[n], float).transpose(2, 0, 1)) for n in ("clean", "disrupted")]
    cycles = np.hypot(np.fft.fftfreq(spectra[0].shape[1])[:, None], np.fft.fftfreq(spectra[0].shape[2]))
    a, b = (s[:, (cycles > 0) & (cycles < 1 / 16)] for s in spectra)  # 1/8 cycle per latent cell of 2 pixels
    alike = (a * b.conj()).sum().real / np.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum())
    assert float(rows["correlation with clean, low band"][1]) == pytest.approx(alike, abs=6e-4)
    assert_detail(rows, made.images)
    rms = rows["root mean square change (0..1)"]
    assert rms[0] == "0.000" and float(rms[1]) == pytest.approx(np.sqrt((change**2).mean()), abs=6e-4)
    runs = made.runner.bar.max
    made.draw_field.value = 1
    made.run()
    assert (runs, made.runner.bar.max) == (9, 6), "the clean picture is drawn once"


def test_detect_offers_what_find_massive_finds():
    pipeline = tiny.PIPELINES["sd3"]()
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    made = InterventionExplorer(dg.load(pipeline), steps=3, **SIZE)
    assert "no channel chosen" in made.messages.text
    press(made.detector)
    assert sorted(made.channels) == [5, 20] and "Detected" in made.messages.text
    assert [v for _, v in made.offered.options] == made.channels


def test_guidance_pictures_code_and_exports(dit, tmp_path):
    made = GuidanceExplorer(dit, steps=3, **SIZE)
    made.window.value = (0.3, 1.0)
    press(made.runner)
    assert list(made.images) == ["cond", "CFG", "DG", "DG + CFG", "gain"]
    assert "CFG 3 + DG 0.5" in made.captions["DG + CFG"].value
    scope = {"dg": dg, "dit": dit}
    exec(made.code.value, scope)
    for image, own in zip(scope["made"].images + scope["louder"].images, made.images.values(), strict=True):
        assert same(image, own), "the code gives the same pictures"
    report = scope["made"].guided[2]
    gains = [1 + 0.5 * (1 - g) for g in report.gain]
    assert f"gain {min(gains):.4g} to {max(gains):.4g}" in made.captions["gain"].value and len(gains) == 2
    assert made.slide.png == made.pictures["CFG"].png and made.slide.after == made.pictures["DG + CFG"].png
    change = np.asarray(made.images["DG + CFG"], float) - np.asarray(made.images["CFG"], float)
    shown = np.asarray(Image.open(io.BytesIO(made.difference.png)), float)
    assert np.allclose(shown, np.clip(127.5 + 5 * change, 0, 255), atol=1)
    assert (
        f"<td>{scope['made'].forwards[3]}</td>" in made.numbers.value and "high-band power / cond" in made.numbers.value
    )
    numbers = re.findall("<tr><td>(.*?)</td>(.*?)</tr>", made.numbers.value)
    assert_detail({name: re.findall("<td>(.*?)</td>", line) for name, line in numbers}, made.images)
    made.pictures["cond"].set_state({"clicks": 1})
    assert made.after == made.after_field.value == "cond" and made.slide.after == made.pictures["cond"].png
    made.zoom.value = 400
    assert {p.width for p in made.pictures.values()} == {400}
    made.folder.value = str(tmp_path / "out")
    made.export_button.click()
    assert "Written to" in made.messages.text
    image, recipe = read_picture(tmp_path / "out" / "dg_cfg.png")
    guidance = recipe["guidance"]
    assert same(image, made.images["DG + CFG"]) and recipe["seed"] == 0 and guidance["name"] == "DetailGuidance"
    assert (guidance["guidance_scale"], guidance["detail_guidance_scale"]) == (3.0, 0.5)
    file = tmp_path / "out" / "profile.json"
    assert read_profile(file)["channels"] == [5, 20]
    assert dg.DetailGuidance(1.0, 0.5, disrupt=str(file)).disrupt == dg.Disrupt([5, 20], 2)


def test_one_view_of_several_is_open(dit):
    tabs = GuidanceExplorer(dit, steps=2, **SIZE).tabs
    opened = lambda: [n for n, view in tabs.views.items() if "dg-open" in view._dom_classes]  # noqa: E731
    assert opened() == ["Numbers"]
    tabs.choice.value = "Strip"
    assert opened() == ["Strip"]


@pytest.mark.parametrize("over, plain", [("weight", 0.0), ("rho", 1.0)])
def test_a_strip_is_the_guidance_at_each_value(dit, over, plain):
    made = GuidanceExplorer(dit, rho=2.0, steps=2, **SIZE)
    made.strip.over.value = over
    press(made.strip.runner)
    assert list(made.strip.images) == list(STRIPS[over]) and not made.messages.text
    arguments = {"weight": made.weight, "rho": made.rho, over: 3.0}
    off = dg.Disrupt([5, 20], 2, "scale", rho=arguments["rho"])
    call = {"seed": 0, "steps": 2, **SIZE, "progress": False}
    own = dg.generate(dit, "red apple on blue", **call, guidance=dg.DetailGuidance(3.0, arguments["weight"], off))
    cfg = dg.generate(dit, "red apple on blue", **call, guidance=dg.CFG(3.0))
    assert same(made.strip.images[3.0], own.images[0]) and same(made.strip.images[plain], cfg.images[0])
    made.strip.play.value = 2
    assert (
        made.strip.large.png == made.strip.pictures[2].png and f"{STRIPS[over][2]:g}" in made.strip.large_caption.value
    )
    made.strip.pictures[4].set_state({"clicks": 1})
    assert made.strip.index.value == 4
    other = "block" if over == "rho" else "rho"
    setattr(made, {"rho": "rho", "weight": "weight"}[over], 0.5)
    assert "dg-stale" not in made.strip.views._dom_classes, "it goes over that one"
    setattr(made, other, 1 if other == "block" else 1.5)
    assert "dg-stale" in made.strip.views._dom_classes


def test_an_exported_profile_gives_the_guidance_of_the_picture(dit, tmp_path):
    made = GuidanceExplorer(dit, steps=3, **SIZE)
    made.weight, made.window.value = 1.5, (0.35, 1.0)
    made.run()
    guider = dg.DetailGuidance.from_profile(made.export(tmp_path)[-1])
    assert guider.config == dg.DetailGuidance(3.0, 1.5, dg.Disrupt([5, 20], 2), 0.35, 1.0).config
    own = dg.generate(dit, "red apple on blue", steps=3, **SIZE, guidance=guider, progress=False)
    assert same(own.images[0], made.images["DG + CFG"])


def test_a_dose_in_the_guidance_explorer(dit):
    made = GuidanceExplorer(dit, rho=2.0, steps=3, **SIZE)
    assert made.rho_slider.value == 2.0
    made.rho_slider.value = 1.5
    settings, run = made.check()
    weak = dg.Disrupt([5, 20], 2, "scale", rho=1.5)
    assert settings.guider(3.0).disrupt == weak and "block=2, mode='scale', rho=1.5)" in made.code.value
    assert dg.DetailGuidance.from_profile(profile_of(dit, settings, run)).disrupt == weak
    made.rho_slider.value = 1.0
    assert "rho 1 is the model as it is" in made.messages.text
    made.rho = 0.0
    assert (
        made.messages.text == ""
        and made.state.guider(1.0).disrupt == dg.Disrupt([5, 20], 2)
        and "block=2)" in made.code.value
    )
    with pytest.raises(traitlets.TraitError):
        made.rho = -1.0


def test_the_knob_begins_where_the_profile_says(dit, monkeypatch):
    """From 0 to 3, with a mark at 1; w and window too; channels of the reader's own are zeroed."""
    dose = {"mode": "scale", "rho": 2.0, "detail_guidance_scale": 0.8, "window": [0.0, 0.7]}
    monkeypatch.setattr(dit, "profile", {**dit.profile, **dose})
    edits, guided = InterventionExplorer(dit, steps=3, **SIZE), GuidanceExplorer(dit, steps=3, **SIZE)
    weak = dg.Disrupt([5, 20], 2, "scale", rho=2.0)
    assert edits.state.edits()[0] == weak and not edits.rho_field.disabled
    assert guided.state.guider(1.0).config == dg.DetailGuidance(1.0, 0.8, weak, 0.0, 0.7).config
    for field in (edits.rho_field, guided.rho_slider):
        assert (field.min, field.max, field.value) == (0, 3, 2.0) and "1 clean" in field.description
        assert "dg-knob" in field._dom_classes
    for made in (edits, guided):
        assert "The profile: channels 5, 20 x 2 after block 2, w 0.8; from planted." in made.origin.value
    own = GuidanceExplorer(dit, channels=[7], steps=3, **SIZE)
    assert own.rho == 0.0 and own.weight == 0.5 and "profile" not in own.origin.value
    assert InterventionExplorer(dit, massive=[7], steps=3, **SIZE).mode == "zero"
    monkeypatch.setattr(dit, "profile", {**dit.profile, "rho": [[0.3, 1.0], [0.7, 2.0]]})
    assert GuidanceExplorer(dit, steps=3, **SIZE).rho == 1.5  # of a schedule, the dose in the middle


def test_a_dose_of_one_is_the_clean_picture(dit):
    made = InterventionExplorer(dit, steps=3, **SIZE)
    made.mode, made.rho = "scale", 1.0
    made.run()
    assert same(made.images["disrupted"], made.images["clean"])


def test_exported_pictures_are_made_again_by_the_command_line(tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    tiny.sd3().save_pretrained(model)
    made = GuidanceExplorer(dg.load(model), channels=[5], block=1, steps=2, **SIZE)
    made.run()
    *pictures, _ = made.export(tmp_path / "out")
    assert len(pictures) == 5
    for picture in pictures:
        order = ["generate", "--from", picture, "-m", model, "-o", tmp_path / "again", "--json"]
        code, printed, error = called(monkeypatch, capsys, *order)
        assert code == 0 and json.loads(printed)["same"], error
    assert [p.name for p in made.export(tmp_path / "out")][:2] == ["cond-2.png", "cfg-2.png"], "no file is replaced"
    said = [read_picture(picture)[1].get("guided") for picture in pictures]
    assert said[:2] == [None, None] and [(s["guided"], s["planned"]) for s in said[2:]] == [(2, 2)] * 3


def test_guidance_bad_input(dit, tmp_path):
    made = GuidanceExplorer(dit, steps=3, **SIZE)
    made.export_button.click()
    assert "nothing drawn yet" in made.messages.text
    made.window.value = (0.5, 0.5)
    assert "window [0.5, 0.5) is empty" in made.messages.text
    made.window.value = (0.0, 1.0)
    assert made.messages.text == ""
    made.channels_field.value = "99"
    press(made.runner)
    assert "channel 99 requested" in made.messages.text and made.images == {}
    made.channels_field.value = "5"
    made.run()
    (tmp_path / "file").write_text("")
    for folder, words in (("", "no folder named"), (str(tmp_path / "file"), "is a file")):
        made.folder.value = folder
        made.export_button.click()
        assert words in made.messages.text
    bare = GuidanceExplorer(dg.load(tiny.PIPELINES["sd3"]()), steps=3, **SIZE)
    assert "no channel to disrupt" in bare.messages.text


def test_cancelled_guidance_shows_the_pictures_that_were_finished(dit):
    made = GuidanceExplorer(dit, steps=3, **SIZE)
    tick = made.runner.tick

    def stopping(done, total):
        if done == 5:
            made.runner.cancel()
        tick(done, total)

    made.runner.tick = stopping
    press(made.runner)
    assert list(made.images) == ["cond"] and "Stopped" in made.messages.text
    assert "not drawn" in made.captions["DG"].value and made.slide.png == b""


@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_every_family_runs(dits, name):
    dit = dits(name)
    made = InterventionExplorer(dit, massive=[3], steps=2, **SIZE)
    made.run_fields.scale.value = 2.0
    made.run()
    assert not same(made.images["clean"], made.images["disrupted"])
    guided = GuidanceExplorer(dit, channels=[3], block=1, steps=2, **SIZE)
    guided.run()
    assert not same(guided.images["cond"], guided.images["DG"])


def test_watched_counts_steps_and_is_taken_off(dits):
    dit, seen = dits("flux"), []
    with watched(dit, lambda done, total: seen.append((done, total))):
        dg.generate(dit, "ab", progress=False, **tiny.CALL)
    assert seen == [(1, 3), (2, 3), (3, 3)] and "step" not in dit.pipeline.scheduler.__dict__


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_watched_counts_the_steps_that_run_in_any_precision(dtype):
    """img2img begins in the middle of the schedule; rounded timesteps tell no step."""
    pipe = FluxImg2ImgPipeline(**tiny.PIPELINES["flux"]().to(dtype).components)
    pipe.set_progress_bar_config(disable=True)
    dit, seen, estimates = dg.load(pipe), [], {}
    picture = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    call = {"image": picture, "strength": 0.5, "num_inference_steps": 28, "max_sequence_length": 8, **SIZE}
    with watched(dit, lambda done, total: seen.append((done, total)), estimates):
        for _ in range(2):
            pipe(prompt="a", output_type="latent", generator=torch.Generator().manual_seed(0), **call)
    assert seen == [(i, 14) for i in range(1, 15)] * 2 and list(estimates) == list(range(14))


def test_unknown_words_are_told_and_the_picture_is_drawn():
    made = GuidanceExplorer(dg.load(), steps=1)
    made.run_fields.text.value = "red appel"
    press(made.runner)
    assert made.messages.kind == "warning" and "'appel'" in made.messages.text and len(made.images) == 5
