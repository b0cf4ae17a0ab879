"""What objects show in a notebook: well-formed HTML with their facts, pictures that decode, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

import dg_tools as dg
from dg_tools.cards import apart, card, curves, picture_table, thumbnail, whisker, window_bars
from dg_tools.experiments.result import Outcome, Result
from dg_tools.generation.heads import heads

VOID = {"img", "br"}


class Page(HTMLParser):
    """Checks that tags close in order; collects words, pictures and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words = ""
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def shown(thing) -> Page:
    html = thing if isinstance(thing, str) else thing._repr_html_()
    page = Page(html)
    assert "script" not in page.tags and "http" not in html.replace("http-equiv", "")
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    return page


def decoded(page: Page) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2]))) for s in page.sources]


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.PIPELINES["sd3"]())


@pytest.fixture(scope="module")
def acts(dit):
    return dg.capture(dit, ["apple <b>", "owl"], seeds=[3, 4], steps=2, height=32, width=48, progress=False)


def test_a_model_names_its_blocks_sizes_and_profile(dit, monkeypatch):
    page = shown(dit)
    assert "StableDiffusion3Pipeline" in page.words and f"{dit.width} channels" in page.words
    assert page.tags.count("rect") == len(dit.blocks)
    profile = {"channels": [3], "block": 1, "source": "a <test>"}
    monkeypatch.setattr(dit, "profile", profile)
    page = shown(dit)
    assert "channels 3 zeroed after block 1; from a <test>" in page.words
    assert re.search(r"2 blocks; marked: 1|marked: 1", dit._repr_html_())


def test_a_capture_shows_its_pictures_and_its_curve(acts):
    page = shown(acts)
    assert len(page.sources) == 4 and page.tags.count("polyline") == 2
    assert "apple <b>; owl" in page.words and "prompt 2, seed 2" in page.words
    sizes = {image.size for image in decoded(page)}
    assert sizes == {(48, 32)}
    first = np.asarray(decoded(page)[0].convert("RGB"))
    kept = acts.data["picture"].isel(prompt=0, seed=0).transpose("y", "x", "rgb").values
    assert (first == kept).all()


def test_a_capture_without_statistics_is_shown_too(acts):
    page = shown(type(acts)(acts.data[["mean"]]))
    assert not page.sources and "polyline" not in page.tags


def test_found_channels_are_one_line_each(acts):
    found = dg.find_massive(acts, rule="top", k=2, blocks=1)
    lines = found.by_channel()
    assert lines["channel"].tolist() == found.channels and found.channels
    for line in lines.to_dict("records"):
        own = found.table[(found.table["channel"] == line["channel"]) & found.table["massive"].astype(bool)]
        assert line["ratio"] == own["ratio"].max() and line["blocks"] == len(own)
        assert (line["from_block"], line["to_block"]) == (own["block"].min(), own["block"].max())
        at = own[own["block"] == line["at_block"]].iloc[0]
        assert (at["ratio"], at["coverage"]) == (line["ratio"], line["coverage"])
        assert line["from_block"] == found.onset[line["channel"]]
    page = shown(found)
    assert all(f"channel {c}" in page.words for c in found.channels[:6])
    none = dg.find_massive(acts, ratio=1e9)
    assert "No massive channel" in shown(none).words and none.by_channel().empty


def test_pictures_have_heads_and_costs(dit):
    off = dg.Disrupt([3], block=0)
    call = {"steps": 1, "height": 32, "width": 48, "progress": False}
    made = dg.generate(dit, "owl", seed=[0, 1], edits=[None, off], **call)
    page = shown(made)
    assert len(page.sources) == 4 and page.tags.count("th") == 1 + 2 + 2
    assert all(words in page.words for words in ("owl", "seed 0", "seed 1", "clean", "zero channels 3", "1 forward, "))
    assert re.match(r"Generation\(4 pictures, 4 forwards, ", repr(made))
    assert (np.asarray(decoded(page)[0].convert("RGB")) == np.asarray(made.images[0])).all()
    figure = made.grid()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[2:] == ["", ""] and titles[0] == "clean" and "zero channels" in titles[1]
    assert [figure.axes[0].get_ylabel(), figure.axes[2].get_ylabel()] == ["seed 0", "seed 1"]
    assert figure.get_suptitle() == "owl"
    assert shown(dg.generate(dit, "owl", **call)).sources
    by_hand = type(made)()
    assert "0 pictures" in shown(by_hand).words


def test_heads_say_what_differs_once():
    def named(**more):
        return {"prompt": "owl", "seed": 0, "guidance": "cond", "edit": "clean", **more}

    four = [named(seed=s, guidance=g) for s in (0, 1) for g in ("cond", "CFG 3")]
    assert heads(four, 2)[:3] == (["seed 0", "seed 1"], ["no guidance", "CFG 3"], "owl")
    assert heads(four, 1).rows == ["seed 0, no guidance", "seed 0, CFG 3", "seed 1, no guidance", "seed 1, CFG 3"]
    mixed = heads(four, 3)  # a column holds unlike pictures: each says what it is
    assert not mixed.rows and mixed.captions == [
        "seed 0, no guidance",
        "seed 0, CFG 3",
        "seed 1, no guidance",
        "seed 1, CFG 3",
    ]
    assert heads([named()], 1)[:3] == ([""], [""], "owl, seed 0")
    both = [named(edit="zeroed", guidance=g) for g in ("DG 1", "CFG 3")]
    assert heads(both, 2)[:3] == ([""], ["DG 1", "CFG 3"], "owl, seed 0, zeroed")
    assert heads([], 1)[:3] == ([], [], "")


@pytest.mark.parametrize(
    "guider, words",
    [
        (lambda: dg.CFG(3.0), "CFG: CFG 3"),
        (lambda: dg.DetailGuidance(3.0, 0.5, dg.Disrupt([3], 1), 0.2, 0.8), "DetailGuidance: CFG 3 + DG 0.5"),
        (lambda: dg.DetailGuidance(3.0, disrupt=dg.Disrupt([3], 1), rows="uncond"), "DG uncond"),
        (lambda: dg.DetailKnob([3], 1, rho=0.5), "DetailKnob: knob 0.5"),
        (lambda: dg.baselines.PAG(3.0, 0.5, blocks=1), "PAG: CFG 3 + PAG 0.5"),
    ],
)
def test_a_guider_says_its_settings_and_windows(guider, words):
    made = guider()
    page = shown(made)
    assert words in page.words
    if getattr(made, "disrupt", None) is not None:
        assert str(made.disrupt) in page.words
    if made.weight and made.window == [0.2, 0.8]:
        assert "0.2 to 0.8" in page.words


def test_a_result_shows_each_outcome_beside_its_controls():
    about = {"unit": "doublings", "control": "draws"}
    first = Outcome("a", "it grows", 0.6, 0.5, 0.7, direction="above", margin=0.1, null=(0.0, 0.01), **about)
    second = Outcome("b", "it <stays>", 0.6, 0.5, 0.7, direction="within", margin=1, null=(), primary=True, **about)
    result = Result("tokens", "does it?", pd.DataFrame({"x": [1]}), [first, second], {}, notes=["one left out"])
    page = shown(result)
    assert page.words.index("it <stays> (primary)") < page.words.index("it grows")
    assert "0.6 (0.5 to 0.7) doublings" in page.words and "one left out" in page.words
    assert page.tags.count("svg") == 2 and result.verdict in page.words


def test_parts_hold_at_their_edges():
    assert curves({"a": [np.nan, -1.0]}, ["0", "1"], unit="x", axis="block") == ""
    assert "NaN" not in curves({"a": [1.0, np.nan, 3.0]}, ["0", "1", "2"], unit="x", axis="block").replace("nan", "NaN")
    assert "nan" not in whisker(float("nan"), 0.0, 1.0, 0.5, [float("nan")]).partition(">")[2]
    assert [y for y, *_ in apart([(5.0, "a", ""), (5.0, "b", ""), (40.0, "c", "")], 11)] == [5.0, 16.0, 40.0]
    assert "&lt;x&gt;" in card("<x>") and "&lt;x&gt;" in picture_table([["y"]], ["<x>"], ["z"])
    shown(window_bars({"all": (0.0, 1.0), "own": (0.25, 0.5)}))
    tall = thumbnail(np.zeros((400, 100, 3), np.uint8), "a 'quoted' \"word\"")
    (image,) = decoded(shown(tall))
    assert image.size == (36, 144) and 'width="18" height="72"' in tall
