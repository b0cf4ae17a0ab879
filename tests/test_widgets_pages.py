"""What explorers write: a page that is whole in one file, and figures; what a page holds is what was captured."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import tiny

import dg_tools as dg
from dg_tools.widgets import ActivationExplorer, GuidanceExplorer, InterventionExplorer
from dg_tools.widgets.kept_page import halves


def data_of(file) -> dict:
    """The numbers of a page."""
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|["'])""", text.split("<body>")[0]), "nothing is loaded"
    assert "default-src 'none'" in text
    return json.loads(re.search(r'id="dg-data">(.*?)</script>', text, re.S).group(1))


def read(kept: str) -> np.ndarray:
    """Numbers of 16 bits as the browser reads them: the upper half of a float32."""
    upper = np.frombuffer(base64.b64decode(kept), "<u2").astype(np.uint32)
    return (upper << 16).view(np.float32)


def test_numbers_of_a_page_are_near_whatever_their_size():
    values = np.array([0, 1, -1.005, 3e38, -7e4, 65504.5, 1e-20, np.nan, np.inf], np.float32)
    kept = read(halves(values))
    assert np.isnan(kept[7]) and np.isinf(kept[8]) and np.isfinite(kept[:7]).all()
    assert np.allclose(kept[:7], values[:7], rtol=0.004, atol=0)


def test_a_page_holds_the_capture(dits, tmp_path):
    blocks = list(range(len(dits("sd3").blocks)))
    acts = dg.capture(dits("sd3"), ["ab", "</script><b>"], seeds=[0, 1], raw=blocks, progress=False, **tiny.CALL)
    made = ActivationExplorer(acts)
    made.move(block=2, step=1, token=17, channel=5)
    kept = data_of(made.to_html(tmp_path / "page.html"))["capture"]
    assert kept["prompts"] == ["ab", "</script><b>"] and kept["grid"] == [8, 12] and kept["hidden_whole"]
    assert kept["point"] | {"block": 2, "step": 1, "token": 17, "channel": 5} == kept["point"]
    run, data = kept["runs"]["1,1,0"], acts.data.isel(prompt=1, seed=1, branch=0)
    hidden = data["hidden_states"].isel(raw_step=1, raw_site=2).values
    assert np.allclose(read(run["hidden"]["1,2"]).reshape(96, -1), hidden, rtol=0.004, atol=1e-30)
    for stream in ("image", "text"):
        means = data["abs_mean"].sel(stream=stream).transpose("step", "site", "channel").values
        found = read(run["abs_mean"][stream]["values"]).reshape(means.shape)
        assert np.allclose(found, means, rtol=0.004, equal_nan=True)
    assert list(kept["edge"]["pictures"]) == [
        "ab, seed 0",
        "ab, seed 1",
        "</script><b>, seed 0",
        "</script><b>, seed 1",
    ]


def test_a_large_capture_keeps_its_massive_channels(tmp_path):
    pipeline = tiny.PIPELINES["sd3"]()
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    acts = dg.capture(dg.load(pipeline), "ab", raw=[1, 2], progress=False, **tiny.CALL)
    made = ActivationExplorer(acts)
    whole = 3 * 2 * 96 * tiny.WIDTH * 2 / 2**20
    assert data_of(made.to_html(tmp_path / "a.html", most_mb=1.01 * whole))["capture"]["hidden_whole"]
    kept = data_of(made.to_html(tmp_path / "b.html", most_mb=0.99 * whole))["capture"]
    assert not kept["hidden_whole"] and kept["hidden_channels"] == [5, 20]
    hidden = acts.data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=1, raw_site=0).values[:, [5, 20]]
    assert np.allclose(read(kept["runs"]["0,0,0"]["hidden"]["1,1"]).reshape(96, 2), hidden, rtol=0.004)
    with pytest.raises(ValueError, match="more than a page should hold"):
        made.to_html(tmp_path / "c.html", most_mb=1e-4)


def test_pages_and_figures_of_pictures(dits, tmp_path):
    edits = InterventionExplorer(dits("sd3"), massive=[3], steps=2, **tiny.SIZE)
    guided = GuidanceExplorer(dits("sd3"), channels=[3], block=1, steps=2, **tiny.SIZE)
    for made, names in (
        (edits, ["clean", "disrupted", "control"]),
        (guided, ["cond", "CFG", "DG", "DG + CFG", "gain"]),
    ):
        with pytest.raises(RuntimeError, match="nothing drawn yet"):
            made.to_html(tmp_path / "none.html")
        made.run()
        kept = data_of(made.save(tmp_path / "pictures.html")[0])["pictures"]
        assert list(kept["edge"]["pictures"]) == names and kept["code"] == made.code.value
        assert len(kept["shown"]) == 2 * len(names) - 1 and kept["rows"][0][1:] == names
        assert any(r[:2] == ["detail at equal contrast (doublings)", "+0.00"] for r in kept["rows"])
        for suffix, begins in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
            written = made.save(tmp_path / f"view{suffix}")
            assert written and all(file.read_bytes().startswith(begins) for file in written)
    assert "a shift of the same norm on as many other channels." in edits.to_html(tmp_path / "e.html").read_text()
    assert len(edits.save(tmp_path / "again.png")) == 4
    assert made.save(tmp_path / "view.png")[0].name == "view-2.png", "no figure is replaced"


def test_what_cannot_be_saved(dits, tmp_path):
    acts = dg.capture(dits("sd3"), "ab", progress=False, **tiny.CALL)
    made = ActivationExplorer(acts)
    for path, error, words in (
        (tmp_path / "x.gif", ValueError, "ends in .html, .png"),
        ("", ValueError, "name a file"),
        (tmp_path / "gone" / "x.png", FileNotFoundError, "make the folder first"),
        (tmp_path / "gone" / "x.html", FileNotFoundError, "make the folder first"),
    ):
        with pytest.raises(error, match=words):
            made.save(path)
    made.saving.field.value = str(tmp_path / "x.gif")
    made.saving.button.click()
    assert "ends in .html" in made.messages.text and made.messages.kind == "error"
    made.saving.field.value = str(tmp_path / "x.svg")
    made.saving.button.click()
    assert "x_map.svg" in made.messages.text and len(list(tmp_path.iterdir())) == 4
