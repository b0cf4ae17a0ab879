"""find_massive on planted channels and their unplanted twin, and each rule against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import xarray as xr

import dg_tools as dg


def captured(planted: bool):
    pipeline = tiny.sd3(seed=3)
    if planted:
        tiny.plant(pipeline, 1, [5, 20], 400.0)
    return dg.capture(dg.load(pipeline), ["apple", "tree"], seeds=[0, 1], progress=False, **tiny.CALL)


def test_planted_channels_are_found_exactly_and_nothing_in_the_twin():
    found = dg.find_massive(captured(True))
    assert sorted(found.channels) == [5, 20]
    assert found.onset == {5: 1, 20: 1} and found.at(0) == [] and sorted(found.at(3)) == [5, 20]
    rows = found.to_frame().query("channel in (5, 20) and massive")
    assert (rows["sign"] == 1).all() and (rows["coverage"] == 1).all() and (rows["variation"] < 0.5).all()
    assert (rows["dc_share"] > 0.9).all() and (rows["stability"] == 1).all()
    twin = dg.find_massive(captured(False))
    assert twin.channels == [] and not twin.to_frame()["massive"].any()
    assert "no massive channel" in repr(twin)


def dataset(x: np.ndarray) -> xr.Dataset:
    """A capture of one run, one step and two blocks with these hidden states (blocks, tokens, channels)."""
    size = np.abs(x)
    put = lambda a: (("prompt", "step", "stream", "site", "channel"), a[None, None, None])  # noqa: E731
    return xr.Dataset(
        {
            "mean": put(x.mean(1)),
            "abs_mean": put(size.mean(1)),
            "variance": put(x.var(1)),
            "positive": put((x > 0).mean(1)),
            "abs_max": put(size.max(1)),
        },
        coords={"stream": ["image"], "site": ["0", "1"], "prompt": ["p"], "step": [0]},
    )


def test_rules():
    x = np.random.default_rng(0).normal(size=(2, 64, 24)).astype(np.float32)
    x[:, :, 3] = -30 + 0.1 * x[:, :, 3]  # massive
    x[:, :32, 7] = 30  # an outlier on half of the tokens: it carries the picture
    x[:, :, 9] = 2000 + x[:, :, 9]
    x[:, :, 11], x[:, :6, 11] = 30, -1  # steady, but of the other sign on one token in ten
    data = dataset(x)
    assert sorted(dg.find_massive(data).channels) == [3, 9]
    assert sorted(dg.find_massive(data, rule="outlier").channels) == [3, 7, 9, 11]
    assert dg.find_massive(data, rule="sun").channels == [9]
    assert dg.find_massive(data, rule="top", k=2).channels[0] == 9
    assert len(dg.find_massive(data, rule="top", k=2).channels) == 2
    table = dg.find_massive(data).to_frame().query("block == 0").set_index("channel")
    assert table.loc[3, "sign"] == -1 and table.loc[3, "coverage"] == 1
    size = np.abs(x[0]).mean(0)
    assert table.loc[3, "ratio"] == pytest.approx(size[3] / np.median(size), rel=1e-5)
    half = x[0, :, 7].astype(float)
    assert table.loc[7, "dc_share"] == pytest.approx(half.mean() ** 2 / np.square(half).mean(), rel=1e-4)
    assert table.loc[11, "coverage"] == pytest.approx(58 / 64) and table.loc[11, "variation"] < 0.5
    energy = np.square(x[0]).mean(0)
    assert table.loc[9, "energy_share"] == pytest.approx(energy[9] / energy.sum(), rel=1e-4)
    with pytest.raises(ValueError, match="allowed: constant"):
        dg.find_massive(data, rule="largest")


def test_variance_matched_controls():
    found = dg.find_massive(captured(True))
    off = dg.Disrupt([5, 20], 2)
    controls = off.controls(4, kind="variance", like=found)
    variance = found.token_variance(2)
    assert len(controls) == 4 and controls == off.controls(4, kind="variance", like=found)
    for control in controls:
        assert control.control and control.mode == "zero" and not {5, 20} & set(control.channels)
        near = [np.argsort(np.abs(np.log(variance) - np.log(variance[c])))[:12] for c in (5, 20)]
        assert all(c in np.concatenate(near) for c in control.channels)
    with pytest.raises(ValueError, match="needs like="):
        off.controls(2, kind="variance")
