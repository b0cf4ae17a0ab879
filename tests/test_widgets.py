"""Explorers without a browser: state in traits, views from what was captured, clicks as their front end sends them."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
import traitlets
from PIL import Image

import dg_tools as dg
from dg_tools.activations import Attention, attention
from dg_tools.plots import explorers as explore
from dg_tools.widgets import ActivationExplorer
from dg_tools.widgets.capture_lookup import Point, hidden_at

KINDS = ["sd3", "flux"]


@pytest.fixture(scope="module")
def captured(dits):
    """A capture with hidden states of every block and step, by family; two seeds, 8 x 12 tokens."""
    made = {}

    def get(name: str):
        if name not in made:
            dit = dits(name)
            blocks = range(len(dit.blocks))
            made[name] = dg.capture(dit, ["ab", "cd"], seeds=[0, 1], raw=list(blocks), progress=False, **tiny.CALL)
        return made[name]

    return get


@pytest.fixture
def explorer(captured):
    return ActivationExplorer(captured("sd3"))


def numbers(packed) -> np.ndarray:
    """What the browser reads."""
    return np.frombuffer(packed, np.float32)


def drawn(chart) -> np.ndarray:
    """The first line of a chart in the browser."""
    return numbers(chart.data["series"][0]["values"])


def there(part) -> bool:
    return part.layout.display != "none"


@pytest.mark.parametrize("name", KINDS)
def test_every_control_moves_the_point_and_the_view_is_the_captured_value(captured, name):
    acts = captured(name)
    made = ActivationExplorer(acts)
    made.prompts.value, made.seeds.value, made.block_slider.value, made.step_slider.value = 1, 1, 2, 1
    made.token_field.value, made.channel_field.value, made.log_box.value = 17, 5, False
    assert made.state == Point(prompt=1, seed=1, block=2, step=1, token=17, channel=5, log=False)
    hidden = acts.data["hidden_states"].isel(prompt=1, seed=1, branch=0, raw_step=1, raw_site=2).values
    view = made.render()
    field = view.map.axes[0].images[-1].get_array()
    assert np.array_equal(field, hidden[:, 5].reshape(8, 12))
    assert np.allclose(view.surface.data[0].z, np.abs(hidden)) and f"{hidden[17, 5]:.3g}" in view.sentence
    assert "row 1, column 5" in view.sentence and "row 1, column 5" in made.numbers.value
    line = view.steps.axes[0].lines[0].get_ydata()
    expected = acts.data["abs_mean"].isel(prompt=1, seed=1, branch=0, site=2, channel=5).sel(stream="image").values
    assert np.allclose(line, expected)
    assert np.array_equal(numbers(made.map.data["values"]), hidden[:, 5]), "the browser draws the same numbers"
    assert np.array_equal(drawn(made.channels), hidden[17]) and np.array_equal(drawn(made.steps), expected)
    by_block = acts.data["abs_mean"].isel(prompt=1, seed=1, branch=0, step=1, channel=5).sel(stream="image").values
    assert np.array_equal(drawn(made.blocks), by_block)
    assert np.array_equal(numbers(made.spikes.data["values"]), np.abs(hidden).ravel()) and made.spikes.at == [17, 5]
    places = made.map.cell, made.channels.cell, made.blocks.cell, made.steps.cell
    assert places == (17, 5, 2, 1)


def test_render_changes_nothing(explorer):
    before, shown = explorer.state, explorer.map.data
    view = explorer.render(replace(before, block=0, token=3))
    assert explorer.state == before and explorer.map.data is shown
    assert view.map.axes[0].get_title() != explorer.render().map.axes[0].get_title()


def test_clicks(explorer):
    shown = explorer.map.data, drawn(explorer.channels)
    assert explorer.map.grid == [8, 12] and len(shown[1]) == tiny.WIDTH
    explorer.map.set_state({"cell": 31, "clicks": 1})  # as the front end sends it
    assert explorer.token == explorer.token_field.value == 31 and not np.array_equal(drawn(explorer.channels), shown[1])
    surface = explorer.spikes.data
    explorer.channels.set_state({"cell": 7})
    assert explorer.channel == 7 and explorer.map.data != shown[0]
    assert explorer.spikes.data is surface and explorer.spikes.at == [31, 7], "sent once for a block and step"
    explorer.blocks.set_state({"cell": 0})
    explorer.steps.set_state({"cell": 2})
    assert (explorer.block, explorer.step) == (0, 2) == (explorer.block_slider.value, explorer.step_slider.value)
    assert explorer.spikes.data is not surface
    explorer.spikes.set_state({"point": [9, 4], "clicks": 1})
    assert (explorer.channel, explorer.token) == (4, 9) and explorer.spikes.at == [9, 4]
    explorer.play.value = 1
    assert explorer.step == explorer.steps.cell == 1


def test_text_stream_and_its_end(explorer):
    explorer.token = 90
    explorer.stream_buttons.value = "text"
    assert explorer.token < 90 and "no token 90" in explorer.messages.text
    assert there(explorer.text) and not there(explorer.map) and not there(explorer.spikes)
    norms = explorer.activations.data["token_norm"].isel(prompt=0, seed=0, branch=0, step=explorer.step)
    norms = norms.isel(site=explorer.block).sel(stream="text").dropna("token").values
    assert np.array_equal(drawn(explorer.text), norms) and explorer.render().surface is None
    explorer.text.set_state({"cell": 3})
    assert explorer.token == 3
    explorer.block = 3  # SD3 drops the text there
    assert "no text stream" in explorer.numbers.value and explorer.messages.kind != "error"


def test_the_text_axis_has_the_words(dits):
    dit, prompt = dits("sd3"), "ab cd"
    acts = dg.capture(dit, prompt, progress=False, **tiny.CALL)
    made = ActivationExplorer(acts)
    made.stream = "text"
    names, pipe = made.text.data["names"], dit.pipeline
    length = pipe.tokenizer.model_max_length
    assert len(names) == len(drawn(made.text)) > length
    for tokenizer, part in ((pipe.tokenizer, names[:length]), (pipe.tokenizer_3, names[length:])):
        numbers = tokenizer(prompt)["input_ids"]
        pieces = [p.strip("\u2581").replace("</w>", "") for p in tokenizer.convert_ids_to_tokens(numbers)]
        assert part[: len(pieces)] == pieces and set(part[len(pieces) :]) <= {"·"}
    assert made.channels.data["names"] is None


def test_without_hidden_states_the_statistics_are_shown_and_what_to_capture(dits):
    acts = dg.capture(dits("sd3"), "ab", raw=[1], raw_steps=[2], progress=False, **tiny.CALL)
    made = ActivationExplorer(acts)
    assert (made.block, made.step) == (1, 2) and there(made.spikes), "it opens where something was kept"
    made.block = 2
    missing = made.panel.missing
    assert not there(made.spikes) and there(missing) and "raw=[2], raw_steps=[2]" in missing.value
    norms = acts.data["token_norm"].isel(prompt=0, seed=0, branch=0, step=2, site=2).sel(stream="image").values
    assert np.array_equal(made.render().map.axes[0].images[-1].get_array().ravel(), norms[:96])
    assert hidden_at(acts, made.state) is None


def test_some_tokens_and_channels_and_the_text_stream(dits):
    chosen = {"raw": [1], "raw_tokens": [3, 17, 90], "raw_channels": [5, 9]}
    acts = dg.capture(dits("sd3"), "ab", **chosen, progress=False, **tiny.CALL)
    made = ActivationExplorer(acts)
    made.move(channel=9, token=17, block=1)
    hidden = acts.data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=made.step, raw_site=0).values
    field = made.render().map.axes[0].images[-1].get_array()
    assert field[1, 5] == hidden[1, 1] and np.ma.masked_invalid(field).count() == 3
    assert made.spikes.data["channels"] == [5, 9] and made.spikes.data["tokens"] == [3, 17, 90]
    made.channel = 6  # not kept: norms instead, by name
    assert "norm of each token" in made.render().map.axes[0].get_title()
    text = dg.capture(dits("sd3"), "ab", raw=[1], raw_stream="text", progress=False, **tiny.CALL)
    made = ActivationExplorer(text)
    made.move(block=1, stream="text", token=2, channel=5)
    point = text.data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=made.step, raw_site=0).values[2, 5]
    assert f"{point:.3g}" in made.render().sentence and there(made.spikes)
    made.stream = "image"
    assert not there(made.spikes)


def test_out_of_range_is_an_error_and_nothing_moves(explorer):
    before = explorer.state
    with pytest.raises(traitlets.TraitError, match="block 9 requested; this capture has 0 to 3"):
        explorer.block = 9
    assert explorer.state == before


def test_massive_channels_are_offered(dits):
    pipeline = tiny.PIPELINES["sd3"]()
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    acts = dg.capture(dg.load(pipeline), "ab", raw=[2], progress=False, **tiny.CALL)
    made = ActivationExplorer(acts)
    assert sorted(made.massive) == [5, 20] and made.channel in (5, 20) and made.block == 2
    made.offered.value = 20
    assert made.channel == 20 and sorted(made.spikes.data["marked"]) == sorted(made.channels.data["marked"]) == [5, 20]


def test_a_saved_capture_and_what_is_none(captured, tmp_path, explorer):
    captured("sd3").save(tmp_path / "kept.zarr")
    made = ActivationExplorer(str(tmp_path / "kept.zarr"))
    assert made.render().sentence == explorer.render().sentence and made.massive == explorer.massive
    shown, state = made.map.data, made.state
    (tmp_path / "other").mkdir()
    for folder, words in (("", "no folder named"), (tmp_path / "gone", "there is no folder"),
                          (tmp_path / "other", "is not a capture")):  # fmt: skip
        made.folder.value = str(folder)
        made.opening.click()
        assert words in made.messages.text and made.messages.kind == "error" and 'role="alert"' in made.messages.value
        assert (made.map.data, made.state) == (shown, state), "nothing lost"
    empty = ActivationExplorer(tmp_path / "gone")
    assert repr(empty) == "ActivationExplorer(no capture yet)" and empty.messages.kind == "error"
    acts = dg.open_activations(tmp_path / "kept.zarr")
    acts.data = acts.data.drop_vars("token_norm")
    assert "it lacks token_norm" in ActivationExplorer(acts).messages.text
    assert "cannot be explored" in ActivationExplorer(3).messages.text


def test_a_stored_capture_waits_for_no_model_library(captured, tmp_path):
    """diffusers alone takes longer to load than the pictures take to draw."""
    captured("sd3").save(tmp_path / "kept.zarr")
    code = (
        f"import sys, dg_tools as dg; shown = dg.widgets.ActivationExplorer({str(tmp_path / 'kept.zarr')!r}); "
        "assert shown.map.data and not {'diffusers', 'transformers', 'nnsight', 'plotly'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_two_captures_stand_side_by_side(dits, tmp_path):
    dit = dits("sd3")
    raw = {"raw": [1, 2], "progress": False, **tiny.CALL}
    first, second = dg.capture(dit, "ab", **raw), dg.capture(dit, "ab", edits=dg.Disrupt([3], 1), **raw)
    made = ActivationExplorer(first, beside=second)
    made.move(block=1, step=2, channel=3, token=5)
    shown = [numbers(panel.map.data["values"]) for panel in (made.panel, made.beside_panel)]
    for acts, values in zip((first, second), shown, strict=True):
        hidden = acts.data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=2, raw_site=0).values
        assert np.array_equal(values, hidden[:, 3])
    assert not shown[1].any() and shown[0].any(), "the edit zeroes it"
    made.beside_panel.map.set_state({"cell": 9})
    assert made.token == made.map.cell == 9
    made.show_beside(None)
    assert len(made.both.children) == 1
    second.save(tmp_path / "second.zarr")
    made.folder.value = str(tmp_path / "second.zarr")
    made.opening_beside.click()
    assert len(made.both.children) == 2 and made.messages.text == ""
    other = dg.capture(dit, "ab", progress=False, **{**tiny.CALL, "height": 48})
    with pytest.raises(ValueError, match="the capture beside has .* pass two of one model"):
        made.show_beside(other)


def test_reprs_are_short(explorer):
    bundle = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == repr(explorer) and len(repr(explorer)) < 100
    assert "widget-view" in " ".join(bundle) and len(str(bundle)) < 1000
    for child in (explorer.map, explorer.messages):
        assert len(repr(child)) < 200


def test_a_chart_shows_itself_without_pyplot(explorer):
    assert Image.open(io.BytesIO(explorer.render().blocks._repr_png_())).size == (420, 250)


def test_charts_know_where_their_cells_are():
    values = np.arange(20.0) + 1
    figure, into = explore.profile(values, 3), io.BytesIO()
    figure.savefig(into, format="png", facecolor="white")
    picture = np.asarray(Image.open(into).convert("RGB")).astype(int)
    width = picture.shape[1]
    left, right = figure.axes[0].get_position().intervalx
    blue = np.argwhere((abs(picture - [0x1F, 0x6F, 0xB2]).sum(-1)) < 40)
    centre = (blue[:, 1].mean() / width - left) / (right - left) * 20
    assert 3 < centre < 4, "the marker of place 3 lies in cell 3"
    wide = explore.token_field(np.arange(96.0), (8, 12))
    wide.savefig(io.BytesIO(), format="png")  # an equal aspect shrinks the axes as they are drawn
    box = wide.axes[0].get_position()
    assert box.width * 4.3 / (box.height * 3.7) == pytest.approx(1.5, abs=0.02)


@pytest.fixture(scope="module", params=KINDS)
def attended(request, dits):
    """A capture and the attention of the same runs, by family: a prompt of two words, 8 x 12 tokens."""
    dit = dits(request.param)
    call = {"seeds": [0, 1], "progress": False, **tiny.CALL}
    return dg.capture(dit, "ab cd", **call), attention(dit, "ab cd", words=["ab", "cd"], **call)


def test_the_map_of_a_word_is_the_attention_to_it(attended):
    acts, found = attended
    made = ActivationExplorer(acts, attention=found)
    assert [value for _, value in made.words.options] == ["", "ab", "cd"] and there(made.heads)
    before = numbers(made.map.data["values"])
    made.words.value = "cd"
    for block, step, head, seed in ((1, 0, -1, 0), (0, 2, -1, 1), (0, 1, 0, 1)):
        made.move(block=block, step=step, head=head, seed=seed, token=17)
        own = found.data["word_map"].sel(word="cd").isel(prompt=0, seed=seed, branch=0, step=step)
        own = own.values[found.data["block"].values == block]
        assert own.shape[0] == 1 and own.shape[2:] == (8, 12)
        own = own[0].mean(0) if head < 0 else own[0, head]
        assert np.allclose(numbers(made.map.data["values"]), own.ravel()) and own.std() > 0
        assert (
            made.heads.value == head
            and f"Token 17 gives {own.ravel()[17]:.3g} of its attention to" in made.numbers.value
        )
        assert f"attention to 'cd', block {acts.data['site'].values[block]}" in made.map.data["title"]
        assert made.render().map.axes[0].get_title().startswith("attention to 'cd'")
    made.words.value = "ab"
    assert not np.allclose(numbers(made.map.data["values"]), own.ravel())
    made.move(word="", block=acts.data.sizes["site"] // 2, step=1, seed=0, head=-1)
    assert np.allclose(numbers(made.map.data["values"]), before) and "attention" not in made.numbers.value


def test_word_maps_are_saved_with_the_capture(attended, tmp_path):
    acts, found = attended
    made = ActivationExplorer(acts, attention=found)
    made.activations.save(tmp_path / "acts.zarr")
    again = ActivationExplorer(tmp_path / "acts.zarr")
    again.move(word="ab", block=1)
    made.move(word="ab", block=1)
    assert np.array_equal(numbers(again.map.data["values"]), numbers(made.map.data["values"]))
    again.show(acts)
    assert again.word == "" and not there(again.heads), "a capture without maps shows activations"


def test_without_word_maps_the_page_says_how_to_keep_them(attended):
    acts, found = attended
    made = ActivationExplorer(acts)
    made.words.value = made.words.options[-1][1]
    assert "no map of that word; it has none. Capture with" in made.messages.text
    assert "words=['apple']" in made.messages.text and made.word == "" == made.words.value
    with pytest.raises(ValueError, match="it has none"):
        made.word = "owl"
    kept = ActivationExplorer(acts, attention=found)
    with pytest.raises(ValueError, match="it has 'ab', 'cd'"):
        kept.word = "owl"
    with pytest.raises(ValueError, match="head 99 requested; this capture has 0 to"):
        kept.head = 99
    other = Attention(found.data.isel(seed=[0]))
    for wrong, words in (
        (other, "the attention is of seed"),
        (3, "pass what"),
        (Attention(found.data[["mass"]]), "words="),
    ):
        refused = ActivationExplorer(acts, attention=wrong)
        assert words in refused.messages.text and refused.activations is None
