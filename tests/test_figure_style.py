"""Every figure has this project's style: no legends, names beside what is drawn, a sentence as title, light axes."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny
import xarray as xr
from matplotlib.colors import to_hex

import dg_tools as dg
from dg_tools import palette, plots
from dg_tools.plots import explorers, frames, style
from dg_tools.plots.report_dose import choice_figure

ROOT = Path(__file__).parents[1]
PLACES = ("dg_tools", "evidence", "training", "tools", "benchmarks")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
IN_STYLE = {"styled", "quiet"}


def calls(tree: ast.AST) -> list[str]:
    """Names of the methods and functions that are called."""
    found = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in found]


def sources() -> dict[str, ast.Module]:
    files = [file for place in PLACES for file in (ROOT / place).rglob("*.py")]
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def cells(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def test_nothing_has_a_legend():
    with_legend = [name for name, tree in sources().items() if "legend" in calls(tree)]
    with_legend += [file.name for file in NOTEBOOKS if any(".legend(" in cell for cell in cells(file))]
    assert not with_legend, "names stand beside what is drawn: style.name_lines, style.name_clouds"


def test_every_figure_is_drawn_in_style():
    """Who makes a figure through pyplot has the decorator, or is called by one that has."""
    plain = []
    for name, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and {"subplots", "subplot_mosaic", "figure"} & set(calls(node)):
                made = re.search(r"\bplt\.(subplots|subplot_mosaic|figure)\(", ast.unparse(node))
                marks = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
                if made and not marks & IN_STYLE:
                    plain.append(f"{name}: {node.name}")
    assert not plain


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_tutorials_own_figures_are_in_style(file):
    """A notebook that draws for itself takes the style before its first figure."""
    code = "\n".join(cells(file))
    drawn = re.search(r"plt\.(subplots|figure)\(|\.plot\.\w+\(", code)
    taken = code.find("plots.STYLE")
    assert drawn is None or 0 <= taken < drawn.start()


@pytest.fixture(scope="module")
def drawn():
    """Figures of a tiny model, by name."""
    dit = dg.load(tiny.sd3())
    acts = dg.capture(dit, ["apple", "tree"], raw=[1], progress=False, **tiny.CALL)
    data = acts.data
    hidden = data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=0, raw_site=0).values
    rows = [
        {"block": b, "rho": r, "score": r - b, "score_low": b, "score_high": b + 3, "gain": r, "eligible": b == 1}
        for b in (0, 1)
        for r in (0.0, 0.5, 1.5, 2.0)
    ]
    return {
        "surface": plots.token_channel_surface(hidden, [3, 7, 9]),
        "by_block": plots.magnitude_by_block(data),
        "by_sigma": plots.magnitude_by_sigma(data, [3, 7, 9], block=2),
        "gates": plots.gates(data, [3, 7, 9], block=1),
        "map": plots.channel_map(hidden[:, 3], acts.grid, data["picture"].isel(prompt=0, seed=0).values),
        "headroom": plots.headroom(acts.headroom()),
        "two_faces": plots.two_faces(rows),
        "report": choice_figure(rows, None, 0.15),
    }, data


def title(figure):
    return figure.get_suptitle() or figure.axes[0].get_title()


def test_a_title_is_a_sentence(drawn):
    for name, figure in drawn[0].items():
        if name != "report":  # a report's title is its caption
            words = title(figure)
            assert (words[0].isupper() or words[0].isdigit()) and len(words.split()) > 5, (name, words)


def test_axes_have_names_and_are_light(drawn):
    for name, figure in drawn[0].items():
        for axis in (a for a in figure.axes if a.get_label() != "<colorbar>" and not a.images and name != "surface"):
            assert axis.get_xlabel() and axis.get_ylabel(), name
            assert not axis.spines["top"].get_visible() and not axis.spines["right"].get_visible(), name
            assert to_hex(axis.spines["left"].get_edgecolor()) == palette.QUIET, name


def test_titles_say_what_was_measured(drawn):
    figures, data = drawn
    holder = re.match(r"Channel (\d+) holds .* in (\d+) of (\d+) blocks", title(figures["by_block"]))
    part = data["top_channel"].sel(stream="image").isel(rank=0).transpose("site", ...).values
    most = [np.bincount(row.astype(int).ravel()).argmax() for row in part]
    assert int(holder[2]) == most.count(int(holder[1])) == max(map(most.count, most)) and int(holder[3]) == len(most)
    part = data["abs_mean"].sel(stream="image").isel(site=2).mean(["prompt", "seed", "branch"])
    ratio = part.isel(channel=[3, 7, 9]) / part.median("channel")
    at = int(ratio.mean("step").argmax())
    top, one = [3, 7, 9][at], ratio.isel(channel=at)
    said = f"channel {top} is {float(one.min()):.2g} to {float(one.max()):.2g} times the median channel"
    assert said in title(figures["by_sigma"])
    gate = np.abs(data["gate"].isel(part=0, site=1)).mean(["prompt", "seed", "branch", "step"]).values
    ranks = {c: 1 + int((gate > gate[c]).sum()) for c in (3, 7, 9)}
    best = min(ranks, key=ranks.get)
    assert f"channel {best}'s is number {ranks[best]} of {len(gate)}" in title(figures["gates"])
    assert title(figures["two_faces"]).startswith("4 of 8 settings")


def test_no_two_of_three_channels_have_one_colour(drawn):
    figures = drawn[0]
    bars = {to_hex(p.get_facecolor()) for p in figures["gates"].axes[0].patches} - {palette.QUIET}
    assert len(bars) == 3
    words = {to_hex(t.get_color()) for t in figures["surface"].axes[0].texts}
    assert len(words) == 3


def test_doses_have_their_own_colours():
    colours = style.of_doses([0.0, 0.5, 1.5, 2.0, 1.5])
    assert len(set(colours.values())) == 4 and colours[2.0] == palette.MASSIVE and colours[0.0] == palette.POINT


@pytest.mark.parametrize("far", [0, 9], ids=["around 0", "without 0"])
def test_names_of_clouds_cover_no_point_and_no_name(far):
    draws = np.random.default_rng(0)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    clouds = []
    for i, colour in enumerate(palette.SERIES[:4]):
        x, y = draws.normal(size=(2, 8)) * 0.3 + draws.normal(size=(2, 1)) + far
        axis.scatter(x, y, color=colour)
        clouds.append((x, y, f"cloud number {i}", colour))
    style.name_clouds(axis, clouds)
    figure.savefig(io.BytesIO())
    boxes = [t.get_window_extent() for t in axis.texts]
    points = axis.transData.transform(np.concatenate([np.column_stack(c[:2]) for c in clouds]))
    frame = axis.get_window_extent()
    for i, box in enumerate(boxes):
        assert not any(box.contains(*point) for point in points)
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    assert [t.get_color() for t in axis.texts] == [palette.READABLE.get(c[3], c[3]) for c in clouds]
    plt.close(figure)


def test_an_explorers_lines_are_named_where_they_end():
    lines = {"channel 3": np.arange(1.0, 5), "largest |x|": np.arange(2.0, 6), "median channel": np.ones(4)}
    figure = explorers.course(lines, 1, ticks=range(4))
    assert {t.get_text() for t in figure.axes[0].texts} == set(lines)
    powers = {"clean": np.ones(5), "control": np.full(5, 2.0)}
    figure = explorers.spectra(np.linspace(0, 0.5, 5), powers)
    assert {t.get_text() for t in figure.axes[0].texts} == set(powers)
    figure.savefig(io.BytesIO())
    assert all(t.get_window_extent().x1 <= figure.bbox.x1 for t in figure.axes[0].texts)


def test_a_map_over_a_picture_is_one_hue_over_grey():
    """Red and blue over a coloured picture cannot be read."""
    picture = np.zeros((8, 12, 3))
    picture[..., 0] = 1
    values = np.linspace(-1, 1, 96)
    figure = explorers.token_field(values, (8, 12), picture, title="a long title " * 12)
    under, over = figure.axes[0].images
    assert np.ndim(under.get_array()) == 2 and np.allclose(over.get_array(), values.reshape(8, 12))
    assert over.cmap.N == 1 and np.allclose(over.get_alpha(), 0.6 * np.abs(values.reshape(8, 12)))
    assert len(figure.axes[0].texts) == (values < 0).sum()
    figure.savefig(io.BytesIO())
    words = figure.axes[0].title.get_window_extent()
    assert 0 <= words.x0 and words.x1 <= figure.bbox.x1 and words.y1 <= figure.bbox.y1


def test_a_long_head_does_not_touch_the_title():
    figure = plots.image_grid([np.zeros((8, 8, 3))] * 2, columns=2, heads=["clean", "word " * 20], title="all of it")
    figure.savefig(io.BytesIO())
    above = figure._suptitle.get_window_extent()
    assert all(a.title.get_window_extent().y1 <= above.y0 - 5 for a in figure.axes)  # pixels, 100 per inch


def test_frames_say_where_activations_are_largest():
    sizes = np.ones((3, 12))
    sizes[:2, :6], sizes[2, 6:] = 5, 9
    dims = {"token_max": (("site", "token", "stream"), sizes[..., None])}
    coords = {"site": list("abc"), "stream": ["image"], "frame": ("token", np.repeat([0, 1], 6))}
    figure = frames.frames_by_block(xr.Dataset(dims, coords, attrs={"grid": (3, 2)}))
    assert title(figure) == "Activations are largest in the first frame after 2 of 3 blocks"


def test_a_channel_has_one_colour_in_all_figures():
    """In the order in which they are given, also where they are drawn by number."""
    figure, axis = plt.subplots()
    ranks = style.rank_channels(axis, np.array([1.0, 5.0, 3.0, 2.0]), [2, 0, 3], width=1)
    plt.close(figure)
    assert ranks == {0: 4, 2: 2, 3: 3}
    colours = {round(p.get_center()[0]): to_hex(p.get_facecolor()) for p in axis.patches if p.get_height() in (1, 2, 3)}
    assert colours == {2: palette.SERIES[0], 0: palette.SERIES[1], 3: palette.SERIES[2]}
