"""Every figure is returned, closed, titled, and draws what it was given."""

from __future__ import annotations

import importlib
import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny
from matplotlib.colors import to_hex
from skimage.color import rgb2lab

import dg_tools as dg
from dg_tools import palette, plots
from dg_tools.plots.activations import number_heights
from dg_tools.plots.explorers import course
from dg_tools.plots.surface import pooled, spike

EXPERIMENTS = "correspondence denoise denoise_error detail guidance lens origin rivals sinks timestep tokens".split()


@pytest.fixture(scope="module")
def acts():
    return dg.capture(dg.load(tiny.sd3()), ["apple", "tree"], raw=[1], progress=False, **tiny.CALL)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_figure_is_found_by_its_name(name):
    figure = getattr(plots, f"{name}_figure")
    assert figure is getattr(importlib.import_module(f"dg_tools.plots.{name}"), f"{name}_figure")
    assert plots.FIGURES.get(name, figure) is figure and name in dg.experiments.__all__


def test_figures_are_returned_closed_and_labelled(acts):
    data = acts.data
    hidden = data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=0, raw_site=0).values
    picture = data["picture"].isel(prompt=0, seed=0).values
    figures = [
        plots.token_channel_surface(hidden, [3]),
        plots.magnitude_by_block(data),
        plots.magnitude_by_block(data, step=1),
        plots.magnitude_by_sigma(data, [3, 7], block=2),
        plots.gates(data, [3], block=1),
        plots.channel_map(hidden[:, 3], acts.grid, picture),
        plots.channel_map(hidden[:, 3], acts.grid),
        plots.image_grid([picture] * 3, ["a", "b", "c"], columns=2),
    ]
    assert plt.get_fignums() == []
    for figure in figures:
        figure.savefig(io.BytesIO())
        assert figure.axes and (figure.axes[0].get_title() or figure.get_suptitle() or len(figure.axes) > 1)


def test_lines_hold_the_numbers(acts):
    figure = plots.magnitude_by_block(acts.data, step=1)
    drawn = figure.axes[0].lines[0].get_ydata()
    part = acts.data["top_value"].sel(stream="image", step=1).isel(rank=0)
    assert np.allclose(drawn, np.abs(part).mean(["prompt", "seed", "branch"]))
    figure = plots.magnitude_by_sigma(acts.data, [3], block=2)
    line = next(x for x in figure.axes[0].lines if x.get_label() == "channel 3")
    part = acts.data["abs_mean"].sel(stream="image").isel(site=2, channel=3).mean(["prompt", "seed", "branch"])
    assert np.allclose(line.get_ydata(), part) and np.allclose(line.get_xdata(), acts.data.sigma)


def test_names_of_many_blocks_do_not_overlap():
    """FLUX.1's blocks have long names."""
    acts = dg.capture(dg.load(tiny.flux(single=12)), "apple", progress=False, **tiny.CALL)
    sites = list(acts.data["site"].values)
    assert sites[0] == "double.0" and len(sites) == 14
    for figure in (plots.magnitude_by_block(acts.data), course({"channel 1": np.ones(14)}, 3, ticks=sites)):
        figure.savefig(io.BytesIO())
        labels = [x for x in figure.axes[0].get_xticklabels() if x.get_text()]
        boxes = [x.get_window_extent() for x in labels]
        assert len(labels) >= 5 and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_the_map_is_laid_out_as_the_picture():
    values = np.zeros(96)
    values[2 * 12 + 5] = 1  # row 2, column 5
    figure = plots.channel_map(values, (8, 12))
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (8, 12) and shown[2, 5] == 1


def test_plotly_surface_marks_the_channels(acts):
    hidden = acts.data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=0, raw_site=0).values
    figure = plots.token_channel_surface_plotly(hidden, [3, 7])
    assert [t.name for t in figure.data[1:]] == ["channel 3", "channel 7"]
    assert np.allclose(figure.data[0].z, np.abs(hidden))


def test_numbers_of_neighbouring_channels_stand_one_above_the_other():
    largest = np.ones(144)
    largest[[55, 58, 60, 120]] = 34, 35, 33, 34
    near, nearer, nearest, far = number_heights(largest, [55, 58, 60, 120])
    assert min(abs(near - nearer), abs(near - nearest), abs(nearer - nearest)) > 3.4
    assert far == 34 * 1.05


def test_pooling_keeps_every_spike():
    size = np.random.default_rng(0).random((4096, 1536), np.float32)
    size[4001, 1377] = 99.0
    small, rows, columns = pooled(size)
    assert small.shape == (128, 320) and small.max() == 99.0
    y, x = np.unravel_index(small.argmax(), small.shape)
    assert rows[y] <= 4001 < rows[y] + 32 and columns[x] <= 1377 < columns[x] + 5
    assert spike(size, int(rows[y]), int(columns[x])) == (4001, 1377)
    assert spike(size[:5, :7], 3, 2) == (3, 2)


def test_two_faces_draws_scores_gains_and_what_counts():
    rows = [
        {"block": b, "rho": r, "score": b + r, "score_low": b, "score_high": b + 3, "gain": r, "eligible": b == 1}
        for b in (0, 1)
        for r in (0.5, 2.0)
    ]
    figure = plots.two_faces({"one": rows, "two": {"scan": rows}})
    left, right = figure.axes[2:]
    assert len(figure.axes) == 4 and left.get_title() == "two: detail lacking beyond gain"
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    assert list(lines["rho 2"]) == [2.0, 3.0] and list(right.lines[-1].get_ydata()) == [2.0, 2.0]
    points = next(c for c in left.collections if len(c.get_offsets()) == 2)
    faces = points.get_facecolor()
    assert tuple(faces[0]) == (1.0, 1.0, 1.0, 1.0) != tuple(faces[1])
    assert plots.two_faces({"scan": rows}).axes[0].get_title() == "detail lacking beyond gain"


MACHADO = {  # how eyes without one kind of cones see linear sRGB (Machado, Oliveira and Fernandes 2009, severity 1)
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}


def seen(colour, missing):
    """A colour in CIELAB, as eyes see it in which one kind of cones is missing."""
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(MACHADO[missing]) @ linear, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("missing", MACHADO)
def test_colours_are_told_apart_by_every_eye(missing):
    """Ten in CIELAB is clear to see side by side; red and green of the same lightness are at 5."""
    places = {c: seen(c, missing) for c in (*palette.SERIES, palette.QUIET)}
    near = {(a, b): np.linalg.norm(places[a] - places[b]) for a, b in itertools.combinations(places, 2)}
    assert min(near.values()) > 20, min(near, key=near.get)


def test_red_and_green_would_not_pass():
    assert np.linalg.norm(seen("#c0392b", "green") - seen("#4f6f10", "green")) < 20


def test_names_stand_at_the_ends_of_lines_and_not_on_each_other():
    figure, axis = plt.subplots()
    for i, name in enumerate("abc"):
        axis.plot([0, 1], [0, 1 + 0.001 * i], label=name)
    axis.plot([0, 1], [1, 0])  # without a name
    plots.name_lines(axis, gap=0.1)
    places = {t.get_text(): t.xy for t in axis.texts}
    assert set(places) == set("abc") and all(x == 1 for x, _ in places.values())
    heights = [places[name][1] for name in "abc"]
    assert np.all(np.diff(heights) > 0.099) and abs(np.mean(heights) - 0.95) < 0.1
    assert [t.get_color() for t in axis.texts] == [to_hex(line.get_color()) for line in axis.lines[:3]]
    plt.close(figure)


def test_several_channels_have_several_colours(acts):
    figure = plots.magnitude_by_sigma(acts.data, [3, 7, 9], block=2)
    lines = [x for x in figure.axes[0].lines if x.get_label().startswith("channel")]
    assert len({x.get_color() for x in lines}) == 3 and not figure.axes[0].get_legend()
    assert {t.get_text() for t in figure.axes[0].texts} >= {"channel 3", "channel 7", "channel 9"}
    into = io.StringIO()
    figure.savefig(into, format="svg")
    assert ">channel 7</text>" in into.getvalue() or "<!-- channel 7 -->" in into.getvalue()


def test_the_largest_channel_is_named_where_it_takes_over(acts):
    figure = plots.magnitude_by_block(acts.data, step=1)
    part = acts.data["top_channel"].sel(stream="image", step=1).isel(rank=0).transpose("site", ...)
    most = [int(np.bincount(row.values.astype(int).ravel()).argmax()) for row in part]
    firsts = [str(c) for i, c in enumerate(most) if i == 0 or c != most[i - 1]]
    said = [t.get_text().removeprefix("channel ") for t in figure.axes[0].texts]
    assert said[: len(firsts)] == firsts


def test_a_grid_says_rows_and_columns_once():
    picture = np.zeros((4, 6, 3))
    figure = plots.image_grid([picture] * 4, columns=2, rows=["up", "down"], heads=["left", "right"], title="all")
    assert [a.get_title() for a in figure.axes] == ["left", "right", "", ""]
    assert [a.get_ylabel() for a in figure.axes] == ["up", "", "down", ""] and figure.get_suptitle() == "all"
