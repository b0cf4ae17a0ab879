"""What people type first and what it is taken for: it works, or the error says what was meant."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.generation.recipes import file_name
from dg_tools.interventions import MaskTokens


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.PIPELINES["sd3"]())


def test_one_channel_is_a_set_of_one():
    assert dg.Disrupt(55, 0) == dg.Disrupt([55], 0)
    assert dg.DetailKnob(3, 1, rho=0.5).words(1.0) == ["knob 0.5"]


def test_a_model_is_no_capture(dit):
    with pytest.raises(TypeError, match=r"got a DiT: capture the model first, dg.find_massive\(dg.capture\(dit"):
        dg.find_massive(dit)


@pytest.mark.parametrize(
    "name", ["capture", "generate", "compare", "dose", "denoise_error", "features", "capture_image"]
)
@pytest.mark.parametrize("what", ["emoji-sd3", Path("a/folder"), None, "pipeline"])
def test_a_name_is_no_loaded_model(name, what, dit):
    """Before any work, with the line that loads it."""
    given = dit.pipeline if what == "pipeline" else what
    more = {"compare": [{}], "denoise_error": [[]]}.get(name, [])
    settings = {"features": {"block": 0, "sigma": 0.5}}.get(name, {})
    line = "dg.load(pipeline)" if what == "pipeline" else f"dg.load({str(what)!r})" if what else "dg.load()"
    with pytest.raises(TypeError, match=f"dg.{name} needs a loaded model.*{re.escape(line)}"):
        getattr(dg, name)(given, "red apple", *more, **settings)


def test_references_of_a_name():
    with pytest.raises(TypeError, match="dg.references needs a loaded model"):
        dg.references("emoji-sd3")


def test_a_misspelt_argument_is_named_with_the_right_one(dit):
    with pytest.raises(TypeError, match="have no argument step=: did you mean steps="):
        dg.capture(dit, step=5)
    with pytest.raises(TypeError, match="no argument seeds=: did you mean seed="):
        dg.generate(dit, "owl", seeds=[0])
    with pytest.raises(TypeError, match="no argument zzz=; capture itself takes prompts, seeds"):
        dg.capture(dit, "owl", zzz=1)
    with pytest.raises(TypeError, match="did you mean edits="):
        dg.compare(dit, "owl", [None], edit=dg.Disrupt([3], 0))


def test_no_prompt(dit):
    with pytest.raises(TypeError, match="no prompt: pass what to draw, such as dg.capture"):
        dg.capture(dit, steps=5)


@pytest.mark.parametrize(
    "owner, name, meant",
    [(dg, "Capture", "capture"), (dg.baselines, "PAGG", "PAG"), (dg, "detail_guidence", "detail_guidance")],
)
def test_a_misspelt_name_is_followed_by_the_right_one(owner, name, meant):
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'; did you mean {meant}[?]$"):
        getattr(owner, name)
    with pytest.raises(AttributeError, match="has no attribute 'zzz'$"):
        _ = owner.zzz


@pytest.mark.parametrize("device", ["gpu", "meta", "hpu", "mps:0", 2.5])
@pytest.mark.parametrize("offload", ["none", "model"])
def test_a_device_is_tried_before_anything_is_read(device, offload, monkeypatch):
    import diffusers

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lambda *a, **k: pytest.fail("weights read"))
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here .*: pass another, such as 'cpu'"):
        dg.load(device=device, offload=offload)


@pytest.mark.parametrize("steps", ["20", 2.5, True])
def test_steps_are_a_whole_number(dit, steps):
    for act in (dg.generate, dg.capture):
        with pytest.raises(TypeError, match=f"steps={steps!r}; a whole number is needed"):
            act(dit, "owl", steps=steps)
    with pytest.raises(TypeError, match=f"steps={steps!r}; a whole number is needed"):
        dit.arguments("owl", steps=steps)


def test_the_kind_of_what_was_given(dit):
    with pytest.raises(TypeError, match="guidance is the class CFG; pass None, dg.CFG"):
        dg.generate(dit, "owl", guidance=dg.CFG)
    with pytest.raises(TypeError, match="an edit is an int; pass None"):
        dg.generate(dit, "owl", edits=5)
    with pytest.raises(TypeError, match="the settings: a mapping of keys to values is needed, and this is a DiT"):
        dg.sweep(dit)
    with pytest.raises(TypeError, match="family='sd4'; a record is needed"):
        dg.load(dit.pipeline, family="sd4")
    for boxes in ("zebra", (0, 0, 8, 8), [(0, 0, 8)]):
        with pytest.raises(TypeError, match=r"boxes=.*; a list of \(left, top, right, bottom\) in pixels is needed"):
            dit.tokens(boxes)


def test_a_kind_has_its_article_long_lists_are_cut_and_one_is_singular():
    from dg_tools.kinds import counted, kind_of, some

    assert [kind_of(x) for x in (1, 1.5, "a", None, int)] == ["an int", "a float", "a str", "None", "the class int"]
    assert some(range(3), 3) == "0, 1, 2" and some(range(9), 3) == "0, 1, 2 and 6 more"
    assert [counted(n, "channel") for n in (0, 1, 2)] == ["0 channels", "1 channel", "2 channels"]
    assert counted(1, "pass", "passes") == "1 pass" and counted(2, "pass", "passes") == "2 passes"


def test_a_context_takes_a_pipeline_that_is_called_and_no_name():
    guider = dg.DetailGuidance(2.0, 0.5, disrupt=dg.Disrupt(3, 1))
    for context in (lambda name: dg.detail_guidance(name, guider), dg.Disrupt(3, 1).on, MaskTokens([0]).on):
        with pytest.raises(TypeError, match=r"acts on a pipeline .* got 'emoji-sd3': load it first, .*load\('emoji"):
            context("emoji-sd3").__enter__()
        with pytest.raises(TypeError, match=r"got None: load it first, dit = dg.load\(\), then pass dit.pipeline"):
            context(None).__enter__()


def test_unconditional_rows_without_cfg_are_refused_before_the_run(dit, monkeypatch):
    monkeypatch.setattr(dit.transformer, "forward", lambda *args, **kwargs: pytest.fail("a forward ran"))
    edit = dg.Disrupt(3, 1, rows="uncond")
    for act in (dg.generate, dg.capture):
        for guidance in (None, dg.CFG(1.0)):
            with pytest.raises(ValueError, match=r"without CFG there are no unconditional rows; pass guidance=dg.CFG"):
                act(dit, "owl", edits=edit, guidance=guidance, steps=2)


def test_values_of_another_kind(dit, tmp_path):
    from PIL import Image

    picture = Image.new("RGB", (48, 32))
    with pytest.raises(TypeError, match="sigma='a'; a number is needed"):
        dg.capture_image(dit, picture, sigma="a")
    with pytest.raises(TypeError, match="sigma='a'; a number is needed"):
        dg.features(dit, picture, block=1, sigma="a", recipe="raw")
    with pytest.raises(TypeError, match="an edit is a str; pass a list of Disrupts"):
        dg.denoise_error(dit, [], "zero")
    with pytest.raises(TypeError, match="sigmas=0.5; several numbers are needed"):
        dg.denoise_error(dit, [], [dg.Disrupt(3, 1)], sigmas=0.5)
    with pytest.raises(TypeError, match="settings='x'; the mapping that Disrupt.to_json gives is needed"):
        dg.Disrupt.from_json("x")
    with pytest.raises(TypeError, match="weak_model is a str; a SD3Transformer2DModel is needed"):
        dg.generate(dit, "owl", guidance=dg.baselines.AutoGuidance(2.0, 1.0, weak_model="emoji"), steps=2)
    with pytest.raises(ValueError, match="detail_guidance_scales='a'; a number is needed"):
        dg.sweep({"folder": "s", "detail_guidance_scales": ["a"], "references": 4})
    (tmp_path / "x").touch()
    with pytest.raises(FileExistsError, match="x is a file: pass a new or empty folder"):
        dg.capture(dit, "owl", steps=2, raw=[0], store=tmp_path / "x")


@pytest.mark.parametrize("name", [n for n in dg.baselines.__all__ if n != "Perturbed"])
def test_a_setting_that_a_baseline_does_not_have(name):
    """It was taken, and did nothing."""
    kind = getattr(dg.baselines, name)
    blocks = {"blocks": [1]} if "blocks" in inspect.signature(kind).parameters else {}
    kind(3.0, **blocks)
    with pytest.raises(TypeError, match="guidance_scal"):
        kind(guidance_scal=3.0, **blocks)


def test_a_baselines_misspelt_setting_is_named_with_the_right_one():
    with pytest.raises(TypeError, match=r"^PAG has no argument wieght=: did you mean weight=[?]$"):
        dg.baselines.PAG(3.0, wieght=2.0, blocks=[1])
    with pytest.raises(TypeError, match="^Gain has no argument gian=: did you mean gain="):
        dg.baselines.Gain(gian=1.2)
    with pytest.raises(TypeError, match="^APG has no argument zzz=; it takes guidance_scale, eta, norm, momentum"):
        dg.baselines.APG(3.0, zzz=1)


@pytest.mark.parametrize("name", ["PAG", "SLG", "SEG", "SoftPAG", "SLGUncond"])
def test_a_baseline_without_its_blocks(name):
    with pytest.raises(ValueError, match=r"^blocks=\(\); name at least one block, and each once, such as blocks="):
        getattr(dg.baselines, name)(3.0)


def test_arguments_that_loading_would_ignore(dit, tmp_path):
    """Diffusers warns of those that it does not know, and goes on: a model would not be offloaded, say."""
    dit.pipeline.save_pretrained(tmp_path)
    for wrong, meant in {
        "offlod": "did you mean offload=",
        "varient": "did you mean variant=",
        "zz": "leave it",
    }.items():
        with pytest.raises(
            TypeError, match=f"^dg.load and StableDiffusion3Pipeline have no argument {wrong}=: {meant}"
        ):
            dg.load(tmp_path, **{wrong: "model"})
    assert dg.load(tmp_path, variant=None, text_encoder_3=None).pipeline.text_encoder_3 is None
    for loaded in (dit, dit.pipeline):
        with pytest.raises(
            TypeError, match="^offlod= given with a pipeline that is already loaded, which takes device="
        ):
            dg.load(loaded, offlod="model")


def test_arguments_that_have_another_name_here(dit):
    with pytest.raises(TypeError, match="^generator= is called seed= here: pass seed=$"):  # it hid the seed
        dg.generate(dit, "owl", seed=3, generator=torch.Generator())
    with pytest.raises(TypeError, match="^generator= is called seeds= here: pass seeds=$"):
        dg.capture(dit, "owl", generator=torch.Generator())
    with pytest.raises(TypeError, match="^dg.generate sets output_type= itself: leave it out$"):
        dg.generate(dit, "owl", output_type="pil")
    with pytest.raises(TypeError, match="have no argument prompt=: did you mean prompts="):
        dg.capture(dit, ["owl"], prompt="owl")


def test_sizes_seeds_and_indices_of_another_kind(dit):
    for side in ("height", "width"):
        with pytest.raises(ValueError, match="both sides must be multiples"):  # 0 was the default size
            dg.generate(dit, "owl", **{side: 0})
        with pytest.raises(TypeError, match=f"^{side}='64'; a whole number is needed$"):
            dg.generate(dit, "owl", **{side: "64"})
    with pytest.raises(ValueError, match="^seed=1180591620717411303424; torch takes -2"):
        dg.generate(dit, "owl", seed=2**70)
    for name in ("raw", "raw_steps", "raw_tokens", "raw_channels"):
        for wrong in (True, 1.5):
            with pytest.raises(TypeError, match=f"^{name}={wrong}; whole numbers are needed"):
                dg.capture(dit, "owl", steps=2, **{"raw": [1], name: wrong})


@pytest.mark.parametrize("package", ["activations", "generation", "guidance", "models", "widgets"])
def test_the_public_names_of_a_package_are_offered_before_they_are_loaded(package):
    """`dg.widgets.` and the tabulator key offered no explorer."""
    code = f"import dg_tools.{package} as p; print(sorted(set(p.__all__) - set(dir(p))))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_files_of_opposite_weights_have_other_names():
    settings = {"prompt": "owl", "seed": 0}
    names = [file_name({**settings, "guidance": f"CFG 3 + DG {w}"}) for w in (0.5, -0.5)]
    assert names == ["owl-seed-0-cfg-3-dg-0.5", "owl-seed-0-cfg-3-dg-minus-0.5"]


def test_misspelt_arguments_of_experiments(dit, monkeypatch):
    """Diffusers' own words came late, and named only itself."""
    monkeypatch.setattr(type(dit), "arguments", lambda *a, **k: pytest.fail("the pipeline's call was made ready"))
    with pytest.raises(TypeError, match="^dg.dose and .* have no argument control=: did you mean controls="):
        dg.dose(dit, ["owl", "tiger"], control=5)
    with pytest.raises(TypeError, match="^dg.denoise_error and .* have no argument picture=: did you mean pictures="):
        dg.denoise_error(dit, [("owl", torch.zeros(3, 64, 64))], edits=[dg.Disrupt(1, 1)], picture=2)
