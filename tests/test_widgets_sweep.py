"""The explorer of stored sweeps without a browser: every cell against the sweep's own table and pictures."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import traitlets
from PIL import Image

import dg_tools as dg
from dg_tools.sweeps import open_sweep, read_config
from dg_tools.sweeps.choose import best
from dg_tools.sweeps.config import COMPARED
from dg_tools.sweeps.settings import settings_of
from dg_tools.widgets import ComparisonExplorer
from dg_tools.widgets.sweep_code import guidance_code
from dg_tools.widgets.sweep_view import MOST_COLUMNS, thumbnail

WORDS = ("red apple", "owl", "a tree", "sun on blue", "fish")
SETTINGS = {
    "blocks": [0, 2], "channels": [3, 5], "guidance_scales": [1.0, 2.0], "detail_guidance_scales": [0.5, 1.5],
    "windows": [[0.5, 1.0]], "seeds": [0, 1], "batch": 16, "steps": 2, "call": {"max_sequence_length": 8},
    "baselines": ["CFG", "control"],
}  # fmt: skip


@pytest.fixture(scope="module")
def dit():
    """A tiny SD3, on one thread: two of them wait for each other more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield dg.load(tiny.sd3())
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A config with a reference picture for each prompt, 32 x 48, and a guard that holds."""
    folder, prompts = tmp_path_factory.mktemp("references"), []
    for i, word in enumerate(WORDS):
        noise = np.random.default_rng(i).integers(0, 250, (32, 48, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        prompts.append({"prompt": word, "picture": str(folder / f"{i}.png")})
    return {**SETTINGS, "prompts": prompts, "margin": 2.0}


@pytest.fixture(scope="module")
def made(asked, dit, tmp_path_factory):
    """A whole sweep: 8 settings of each guidance, 2 development and 3 test prompts; read-only."""
    return dg.sweep({**asked, "folder": str(tmp_path_factory.mktemp("sweep") / "s")}, dit, progress=False)


@pytest.fixture
def explorer(made):
    return ComparisonExplorer(made.folder)


def array(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def of_table(made, **place):
    """The one row of the sweep's table at a place."""
    rows = made.table
    for name, value in place.items():
        rows = rows[rows[name].map(lambda x, v=value: x == v)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_it_opens_on_the_chosen_setting(explorer, made):
    chosen = made.chosen["DG"]
    assert (explorer.rows, explorer.columns, explorer.measure) == ("block", "w", "amount_error")
    assert explorer.at["block"] == chosen.block and explorer.at["w"] == chosen.w and explorer.at["s"] == chosen.s
    view = explorer.render()
    y, x = divmod(view.cell, 2)
    assert view.page.marked == ((y, x),) and str(chosen) in view.title and "chosen" in view.title
    assert not explorer.messages.text and explorer.views.layout.display == ""


def test_each_cell_is_the_stored_picture_and_number(explorer, made):
    explorer.places["s"].value, explorer.places["seed"].value = 2.0, 1
    explorer.measure_field.value = "contrast"
    page = explorer.render().page
    assert (page.rows, page.columns) == (("0", "2"), ("0.5", "1.5"))
    for y, block in enumerate((0, 2)):
        for x, w in enumerate((0.5, 1.5)):
            row = of_table(made, guidance="DG", s=2.0, seed=1, prompt=explorer.at["prompt"], block=block, w=w)
            assert page.files[y][x] == made.folder / row["picture"]
            assert page.words[y][x] == f"{row['contrast']:.3g}"
            shown = explorer.grid.data
            assert explorer.grid.pictures[shown["files"][y][x]] == page.files[y][x].read_bytes(), "small: as it is"
            assert shown["words"][y][x] == page.words[y][x] and shown["values"][y][x] == row["contrast"]
    assert explorer.grid.data["aspect"] == 1.5 and explorer.grid.data["measure"] == "contrast (scale)"
    figure = page.draw()
    drawn = figure.axes[0].images[1].get_array()  # row 0, column 1; a thumbnail is never enlarged
    assert np.array_equal(drawn, np.asarray(Image.open(page.files[0][1]).convert("RGB")))
    explorer.mean_box.value = True
    rows = made.table.query("guidance == 'DG' and s == 2 and w == 1.5 and block == 0 and split == 'development'")
    assert explorer.render().page.words[0][1] == f"{rows['contrast'].mean():.3g}"


def test_a_click_shows_that_cell(explorer, made):
    shown, grid = explorer.picture.png, explorer.grid.data
    other = 3 - explorer.grid.cell
    explorer.grid.set_state({"cell": other, "clicks": 1})  # as the front end sends it
    block, w = (0, 2)[other // 2], (0.5, 1.5)[other % 2]
    assert (explorer.at["block"], explorer.at["w"]) == (block, w) == (
        explorer.places["block"].value, explorer.places["w"].value,
    )  # fmt: skip
    row = of_table(made, guidance="DG", **{a: explorer.at[a] for a in ("block", "w", "s", "prompt", "seed")})
    assert explorer.picture.png == (made.folder / row["picture"]).read_bytes() != shown
    plain = of_table(made, guidance="cond", prompt=explorer.at["prompt"], seed=explorer.at["seed"])
    assert explorer.unguided.png == (made.folder / plain["picture"]).read_bytes()
    assert explorer.grid.data is grid, "the grid is not drawn again"
    assert f"{row['amount_error']:.3g}</td><td>{plain['amount_error']:.3g}</td>" in explorer.numbers.value
    assert f"at block {block}" in explorer.title.value


def test_the_code_makes_that_picture(explorer, dit):
    for place in ({"guidance": "DG", "block": 2, "s": 2.0}, {"guidance": "CFG"}, {"guidance": "cond"}):
        explorer.move(seed=1, **place)
        names = {"dg": dg, "dit": dit}
        exec(explorer.code.value, names)
        own = np.asarray(names["made"].images[0]).astype(int)
        assert np.abs(own - array(explorer.picture.png)).max() <= 1, "another batch: equal but for the last bit"


def test_code_of_every_baseline(asked, dit):
    config = read_config({**asked, "folder": "unused", "baselines": list(COMPARED), "windows": [[0.0, 1.0], [0.5, 1]]})
    settings = settings_of(config, dit)
    assert {s.guidance for s in settings} == {"cond", "DG", *COMPARED}
    for setting in settings:
        names = {"dg": dg}
        exec("\n".join(guidance_code(setting)), names)
        assert repr(names["guidance"]) == repr(setting.guider())


def test_guidances_side_by_side_each_in_its_chosen_setting(explorer, made):
    explorer.move(rows="guidance", columns="prompt", split="test")
    explorer.chosen_box.value = True
    page = explorer.render().page
    assert page.rows == ("cond", "DG", "CFG", "control") and set(page.columns) == set(explorer.stored.prompts["test"])
    numbers = best(made.scores)
    for y, guidance in enumerate(page.rows):
        row = of_table(made, number=numbers[guidance], prompt=page.columns[0], seed=explorer.at["seed"])
        assert page.files[y][0] == made.folder / row["picture"]
    assert {y for y, _ in page.marked} == {1, 2, 3}, "cond is not a choice"
    explorer.chosen = False
    other = next(b for b in (0, 2) if b != made.chosen["DG"].block)
    explorer.move(guidance="DG", block=other)
    assert "test prompts: chosen settings only" in explorer.title.value


def test_a_guidance_without_an_axis_and_places_without_a_setting(explorer):
    explorer.columns = "guidance"
    page = explorer.render().page
    column = page.columns.index("cond")
    assert page.files[0][column] == page.files[1][column] is not None
    assert "cond, CFG without a block: the same picture for each block" in explorer.note.value
    explorer.move(guidance="CFG", s=1.0)
    assert (
        "Not in this sweep: CFG, block" in explorer.title.value and explorer.code.value == "" == explorer.numbers.value
    )
    assert explorer.picture.png == b"" and "not in this sweep" in explorer.render().page.words[0][2]
    explorer.columns = "w"  # the guidance is held again, at a scale that it was not tried at
    assert "CFG was not tried at guidance scale s 1, but at" in explorer.messages.text
    assert explorer.at["s"] in explorer.stored.values("s", explorer.state)


def test_axes_and_splits(explorer):
    explorer.rows = "w"
    assert (explorer.rows, explorer.columns) == ("w", "block"), "they change places"
    development, test = explorer.stored.prompts["development"], explorer.stored.prompts["test"]
    explorer.move(split="test")
    assert explorer.at["prompt"] == test[0] and [v for _, v in explorer.places["prompt"].options] == test
    explorer.move(prompt=development[1])
    assert explorer.at["split"] == "development", "a prompt lies in one split"
    explorer.move(rows="split", columns="seed")
    place = explorer.stored.find(explorer.state, split="test").at
    assert place["prompt"] == test[0], "each split with a prompt of its own"
    explorer.move(rows="split", columns="prompt")
    page = explorer.render().page
    assert page.words[0][len(development)] == "no development prompt"
    with pytest.raises(ValueError, match="both 'seed'"):
        explorer.move(rows="seed", columns="seed")


def test_out_of_range_is_an_error_and_nothing_moves(explorer):
    before = explorer.state
    for name, value, words in (
        ("rows", "sampler", "rows 'sampler' requested; this sweep has guidance, block"),
        ("at", {"block": 1}, "block 1 requested; this sweep has 0, 2"),
        ("at", {"depth": 1}, "axis 'depth' requested"),
        ("measure", "beauty", "this sweep has amount_error"),
    ):
        with pytest.raises(traitlets.TraitError, match=words):
            setattr(explorer, name, value)
    assert explorer.state == before


def test_more_values_than_a_page_holds(asked, dit, tmp_path):
    config = {**asked, "folder": str(tmp_path), "seeds": list(range(7)), "blocks": [0], "guidance_scales": [1.0]}
    explorer = ComparisonExplorer(dg.sweep({**config, "baselines": []}, dit, progress=False))
    explorer.move(rows="prompt", columns="seed")
    assert explorer.render().page.columns == tuple("01234"[:MOST_COLUMNS])
    assert "At most 5 of 7 are shown of seed" in explorer.note.value
    explorer.places["seed"].value = 6
    assert explorer.render().page.columns == ("5", "6") and explorer.grid.cell == 1
    assert explorer.grid.data["columns"] == ("5", "6") and len(explorer.grid.data["words"]) == 2


def test_a_sweep_on_its_way(made, tmp_path, caplog):
    folder = tmp_path / "half"
    shutil.copytree(made.folder, folder)
    cells = made.plan.cells("development")
    kept = {c.name: (folder / "cells" / f"{c.name}.json").read_text() for c in cells[len(cells) // 2 :]}
    for name in kept:
        (folder / "cells" / f"{name}.json").unlink()
    explorer = ComparisonExplorer(folder)
    assert f"Nothing is chosen yet: {len(kept)} of {len(cells)} development cells are missing" in explorer.note.value
    assert explorer.chosen_box.disabled and explorer.messages.kind != "error" and not explorer.render().page.marked
    with pytest.raises(traitlets.TraitError, match="has not chosen yet"):
        explorer.chosen = True
    explorer.move(columns="guidance")
    control = explorer.render().page.columns.index("control")
    assert explorer.render().page.words[0][control] == "not done yet"
    explorer.move(guidance="control")
    assert "not done yet" in explorer.title.value and explorer.code.value and explorer.unguided.png
    for name, text in kept.items():
        (folder / "cells" / f"{name}.json").write_text(text)
    explorer.opening.click()  # the same folder again: the reader stays where they are
    assert explorer.columns == "guidance" and explorer.at["guidance"] == "control" and explorer.picture.png
    assert not explorer.chosen_box.disabled
    explorer.chosen = True
    (folder / "cells" / f"{next(iter(kept))}.json").unlink()  # as after a config that grew
    explorer.opening.click()
    assert not explorer.chosen and explorer.messages.kind != "error" and "1 of 25" in explorer.note.value
    shutil.rmtree(folder / "cells")
    empty = ComparisonExplorer(str(folder))
    assert empty.messages.kind != "error" and empty.render().page.words[0][0] == "not done yet"


def test_without_pictures_and_with_damaged_ones(asked, made, dit, tmp_path):
    config = {**asked, "folder": str(tmp_path / "bare"), "pictures": False, "blocks": [2], "baselines": []}
    explorer = ComparisonExplorer(dg.sweep(config, dit, progress=False))
    page = explorer.render().page
    assert page.files[0][0] is None and page.words[0][0].startswith("no picture kept\n")
    assert "Nothing to see: no picture kept" in explorer.title.value and explorer.numbers.value
    assert len(explorer.sides.children) == 1, "no empty frame of an unguided picture"
    folder = tmp_path / "damaged"
    shutil.copytree(made.folder, folder)
    for file in (folder / "pictures").glob("*.png"):
        file.write_bytes(b"no picture")
    explorer = ComparisonExplorer(folder)
    assert "its file cannot be read" in explorer.title.value and explorer.messages.kind != "error"


def test_a_detail_sweep_whose_pictures_were_deleted(asked, dit, tmp_path):
    words = {**asked, "folder": str(tmp_path / "s"), "prompts": list(WORDS), "blocks": [2], "baselines": []}
    folder = dg.sweep({**words, "seeds": [0]}, dit, progress=False).folder
    shutil.rmtree(folder / "pictures")
    explorer = ComparisonExplorer(folder)
    assert explorer.messages.kind != "error" and "Nothing is chosen yet" in explorer.note.value
    assert "no picture kept" in explorer.render().page.words[0][0]


def test_folders_that_hold_no_sweep(explorer, made, tmp_path):
    shown, state = dict(explorer.grid.data, version=1), explorer.state
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text(json.dumps({"settings": 3}))
    for folder, words in ((" ", "no folder named"), (tmp_path / "gone", "no sweep in"), (tmp_path, "no sweep in"),
                          (tmp_path / "broken", "is damaged")):  # fmt: skip
        explorer.folder.value = str(folder)
        explorer.opening.click()
        assert words in explorer.messages.text and explorer.messages.kind == "error"
        assert 'role="alert"' in explorer.messages.value
        assert (dict(explorer.grid.data), explorer.state) == (shown, state), "nothing lost"
    empty = ComparisonExplorer()
    assert repr(empty) == "ComparisonExplorer(no sweep yet)" and "press Open" in empty.messages.text
    with pytest.raises(RuntimeError, match="no sweep is open"):
        empty.render()
    assert "an int cannot be compared" in ComparisonExplorer(3).messages.text
    empty.folder.value = str(made.folder)
    empty.opening.click()
    assert empty.state == explorer.state and empty.grid.data == shown


def test_a_number_that_is_none_and_a_large_picture(explorer, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer.stored, "value", lambda selection, content: math.nan)
    explorer.refresh()
    assert explorer.grid.data["values"] == ((None, None), (None, None)) and explorer.grid.data["words"][0][0] == "nan"
    noise = np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((900, 600)).save(tmp_path / "large.png")
    assert array(thumbnail(tmp_path / "large.png")).shape == (171, 256, 3)
    assert array(thumbnail(tmp_path / "large.png", 96)).shape == (64, 96, 3)
    wanted = np.asarray(Image.open(tmp_path / "large.png").resize((256, 171))).astype(int)
    assert np.abs(array(thumbnail(tmp_path / "large.png")) - wanted).mean() < 3, "of 255: a JPEG"
    assert thumbnail(tmp_path / "none.png") is None


def test_a_page_and_a_figure(explorer, made, tmp_path):
    explorer.move(measure="contrast", s=2.0)
    text = explorer.to_html(tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    kept = json.loads(re.search(r'id="dg-data">(.*?)</script>', text, re.S).group(1))["sweep"]
    assert len(kept["rows"]) == len(made.table) and set(kept["pictures"]) == set(made.table["picture"].str[9:])
    assert kept["measures"][kept["selection"]["measure"]] == "contrast (scale)"
    contrasts = [row["values"][kept["selection"]["measure"]] for row in kept["rows"]]
    assert contrasts == pytest.approx(made.table["contrast"].tolist())
    for row, file in zip(kept["rows"], made.table["picture"], strict=True):
        png = base64.b64decode(kept["pictures"][row["picture"]].split(",")[1])
        assert file == f"pictures/{row['picture']}" and png == (made.folder / file).read_bytes()
    with pytest.raises(ValueError, match=rf"{len(made.table)} pictures of this sweep are .* pass a larger most_mb"):
        explorer.to_html(tmp_path / "large.html", most_mb=1e-3)
    assert not (tmp_path / "large.html").exists()
    (figure,) = explorer.save(tmp_path / "grid.png")
    assert Image.open(figure).width > 2 * 256, "two columns, sharp"
    explorer.saving.field.value = str(tmp_path / "x.gif")
    explorer.saving.button.click()
    assert "ends in .html" in explorer.messages.text
    with pytest.raises(RuntimeError, match="no sweep is open"):
        ComparisonExplorer().to_html(tmp_path / "none.html")


def test_render_changes_nothing_and_reprs_are_short(explorer):
    state, shown = explorer.state, explorer.grid.data
    view = explorer.render(replace(state, rows="seed", columns="prompt"))
    assert explorer.state == state and explorer.grid.data is shown and view.page.names == ("Seed", "Prompt")
    bundle = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == repr(explorer) == "ComparisonExplorer(25 settings, block x w)"
    assert len(str(bundle)) < 1000 and open_sweep(explorer.stored.sweep.folder).plan == explorer.stored.plan
