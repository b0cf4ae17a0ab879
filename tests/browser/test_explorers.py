"""Each explorer in JupyterLab: it shows, a control moves it, a click changes what is shown, an error is read in it.

What is right is tested without a browser; this proves that a reader can reach it, by mouse and by keys, in both themes
and at two widths, with no script error and nothing asked of another machine.
"""

from __future__ import annotations

import math
import re

import pytest
from conftest import SECONDS, Notebook, settled

CELLS = [
    "import dg_tools as dg\ndit = dg.load()",
    "acts = dg.widgets.ActivationExplorer(dit, steps=4)\nacts",
    "edits = dg.widgets.InterventionExplorer(dit, steps=2)\nedits",
    "guided = dg.widgets.GuidanceExplorer(dit, steps=2)\nguided",
    """settings = {"folder": "sweeps/emoji", "references": 4, "steps": 2, "guidance_scales": [1.0, 3.0]}
settings |= {"blocks": [0, 6], "detail_guidance_scales": [1.0, 3.0]}
swept = dg.sweep(settings, dit, progress=False)
compared = dg.widgets.ComparisonExplorer(swept)
compared""",
]
WIDE, HALF = {"width": 1280, "height": 1500}, {"width": 640, "height": 2600}
CUT_OFF = """(root) => [...root.querySelectorAll('.dg-stage, .dg-message, button, input, select, textarea, canvas')]
    .filter((x) => x.offsetParent && x.getBoundingClientRect().right > innerWidth + 1).map((x) => x.outerHTML)"""


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    address, folder = lab
    page = chromium.new_page(viewport=WIDE)
    made = Notebook(page, address, folder / "explore.ipynb", CELLS)
    made.run(0)
    yield made
    page.close()


@pytest.fixture(autouse=True)
def clean(notebook):
    yield
    notebook.check()


def stage(explorer, label: str):
    """A picture of an explorer, by the label that screen readers get."""
    return explorer.locator(f".dg-stage[aria-label*='{label}']")


def source(stage) -> str:
    return stage.locator("img").first.get_attribute("src")


def changed(notebook, stage, before: str) -> None:
    """Wait until a picture is another one."""
    node = stage.locator("img").first.element_handle()
    notebook.page.wait_for_function("([image, old]) => image.src !== old", arg=[node, before], timeout=SECONDS)


def drawn(explorer, view: str) -> int:
    """How often a view has been drawn."""
    node = explorer.locator(f".dg-area-{view} [data-drawn]").first
    return int(node.get_attribute("data-drawn"))


def drawn_again(notebook, explorer, view: str, before: int) -> None:
    """Wait until a view is drawn with other numbers."""
    root = explorer.element_handle()
    there = "([root, view, old]) => +root.querySelector(`.dg-area-${view} [data-drawn]`)?.dataset.drawn > old"
    notebook.page.wait_for_function(there, arg=[root, view, before], timeout=SECONDS)


def press_run(notebook, explorer, button: str, name: str) -> None:
    """Press the button, and wait until the run is over; what it says is not an error."""
    ended = int(notebook.ask(f"{name}.runner.ended"))
    explorer.get_by_role("button", name=re.compile(f"{button}$")).click()
    notebook.until(f"{name}.runner.ended", str(ended + 1))
    assert notebook.ask(f"{name}.messages.kind") != "'error'", notebook.ask(f"{name}.messages.text")


def shown_whole(notebook, explorer, name: str, most: dict[int, int] | None = None) -> None:
    """Both themes at 1280 pixels, and half a screen: nothing is cut off at the side; a picture of each is kept.

    `most`: pixels of height by width, at most.
    """
    for theme in ("Light", "Dark"):
        notebook.theme(f"JupyterLab {theme}")
        for size in (WIDE, HALF):
            notebook.page.set_viewport_size(size)
            notebook.page.wait_for_timeout(300)
            cut = explorer.evaluate(CUT_OFF)
            assert not cut, (theme, size, cut)
            assert explorer.locator("[title=null]").count() == 0
            height = explorer.bounding_box()["height"]
            assert height <= (most or {}).get(size["width"], math.inf), (theme, size, height)
            notebook.picture(f"{name}_{theme.lower()}_{size['width']}", explorer)
    notebook.page.set_viewport_size(WIDE)
    notebook.theme("JupyterLab Light")


def one_screen(notebook, explorer, name: str, tabs: tuple[str, ...]) -> None:
    """Every tab is at most 800 pixels high on a wide page and on half a screen; nothing is cut off at the side."""
    for size in (WIDE, HALF):
        notebook.page.set_viewport_size(size)
        for tab in tabs:
            button = explorer.get_by_role("button", name=tab, exact=True)
            if button.is_visible():  # on a wide page views may stand beside each other
                button.click()
                explorer.locator("button.mod-active", has_text=re.compile(f"^{tab}$")).wait_for(timeout=SECONDS)
            notebook.page.wait_for_timeout(300)
            cut = settled(lambda: explorer.evaluate(CUT_OFF), lambda names: not names)
            assert not cut, (size, tab, cut)
            height = settled(lambda: explorer.bounding_box()["height"], lambda pixels: pixels <= 800)
            assert height <= 800, (size, tab, height)
            notebook.picture(f"{name}_{tab.lower().replace(' ', '_')}_{size['width']}", explorer)
    notebook.page.set_viewport_size(WIDE)


def dimmed_and_said(explorer, view: str) -> None:
    """The note lies over the part of the page that is dimmed, so that who looks at the pictures reads it."""
    note = explorer.get_by_text("settings changed: press", exact=False).and_(explorer.locator(":visible")).first
    note.wait_for(timeout=SECONDS)
    inner, outer = note.bounding_box(), explorer.locator(view).bounding_box()
    assert outer["x"] <= inner["x"] and inner["x"] + inner["width"] <= outer["x"] + outer["width"]
    assert outer["y"] <= inner["y"] and inner["y"] + inner["height"] <= outer["y"] + outer["height"]


def test_activation_explorer(notebook):
    notebook.run(1)
    explorer = notebook.explorer("activation")
    explorer.get_by_label("words' attention", exact=True).check()
    notebook.until("acts.words_box.value", "True")
    press_run(notebook, explorer, "Capture", "acts")
    surface = explorer.locator(".dg-spikes .dg-stage")
    surface.locator("canvas").wait_for(timeout=SECONDS)
    tokens, channels = stage(explorer, "image tokens"), stage(explorer, "channels")

    before, block = drawn(explorer, "tokens"), int(notebook.ask("acts.block"))
    handle = explorer.locator(".widget-slider", has_text="Block").locator(".noUi-handle")
    handle.press("ArrowRight")  # a control, by key
    notebook.until("acts.block", str(block + 1))
    for view in ("tokens", "channels", "blocks", "steps", "surface"):
        drawn_again(notebook, explorer, view, before)
    explorer.get_by_text(f"channel 55 after block {block + 1}").first.wait_for(timeout=SECONDS)

    box, before = tokens.bounding_box(), drawn(explorer, "channels")
    tokens.click(position={"x": box["width"] * 2.5 / 8, "y": box["height"] * 1.5 / 8})  # row 1, column 2
    explorer.get_by_text(re.compile(r"^Token 10 \(row 1, column 2\)")).wait_for(timeout=SECONDS)
    assert notebook.ask("acts.token") == "10"
    drawn_again(notebook, explorer, "channels", before)
    tokens.press("ArrowDown")
    explorer.get_by_text(re.compile(r"^Token 18 \(row 2, column 2\)")).wait_for(timeout=SECONDS)

    box = channels.bounding_box()
    channels.click(position={"x": 52 + (box["width"] - 66) * 100.5 / 144, "y": box["height"] / 2})
    explorer.get_by_text("channel 100:").first.wait_for(timeout=SECONDS)
    box, head = surface.bounding_box(), explorer.locator(".dg-spikes .dg-head")
    before = head.inner_text()
    surface.hover(position={"x": 0.5 * box["width"], "y": 0.65 * box["height"]})
    notebook.page.wait_for_function("([n, old]) => n.innerText !== old", arg=[head.element_handle(), before])
    token, channel = re.match(r"token (\d+), channel (\d+)", head.inner_text()).groups()
    surface.click(position={"x": 0.5 * box["width"], "y": 0.65 * box["height"]})
    notebook.until("(acts.token, acts.channel)", f"({token}, {channel})")
    explorer.get_by_role("button", name="55", exact=True).click()  # a massive channel that is offered
    notebook.until("acts.channel", "55")
    explorer.get_by_label("Map", exact=True).select_option(label="attention to 'apple'")  # a word of the prompt
    explorer.get_by_text(re.compile(r"^attention to 'apple', block \d+, step \d+, mean of 4 heads$")).wait_for(
        timeout=SECONDS
    )
    explorer.get_by_label("Head", exact=True).select_option(label="2")
    notebook.until("(acts.word, acts.head)", "('apple', 2)")
    notebook.picture("activation_word", explorer)
    explorer.get_by_label("Map", exact=True).select_option(label="activations")
    notebook.until("acts.word", "''")
    shown_whole(notebook, explorer, "activation")
    explorer.get_by_label("Prompt", exact=True).fill("owl on teal")
    explorer.get_by_text("settings changed: press Capture").wait_for(timeout=SECONDS)
    assert explorer.locator(".dg-stale").count() == 1, "a capture of another prompt is dimmed"
    explorer.get_by_label("Prompt", exact=True).fill("red apple on blue")
    explorer.get_by_text("settings changed").wait_for(state="hidden", timeout=SECONDS)

    explorer.get_by_label("Seed", exact=True).fill("abc")
    explorer.get_by_role("button", name="Capture").click()
    explorer.get_by_role("alert").get_by_text("is not a whole number").wait_for(timeout=SECONDS)
    notebook.picture("activation_error", explorer)
    explorer.get_by_label("Seed", exact=True).fill("0")


def test_a_run_can_be_cancelled(notebook):
    if notebook.ask("'acts' in globals()") == "False":  # this test comes first
        notebook.run(1)
        press_run(notebook, notebook.explorer("activation"), "Capture", "acts")
    explorer = notebook.explorer("activation")
    explorer.get_by_label("Steps", exact=True).fill("100")
    explorer.get_by_label("Steps", exact=True).press("Tab")
    notebook.until("acts.run_fields.steps.value", "100")
    explorer.get_by_role("button", name="Capture").click()
    notebook.until("acts.runner.bar.value > 0")
    assert explorer.get_by_role("button", name="Capture").is_disabled()
    explorer.get_by_role("button", name="Cancel").click()
    explorer.get_by_text("Stopped after").wait_for(timeout=SECONDS)
    notebook.until("acts.runner.busy", "False")
    assert notebook.ask("acts.activations.data.sizes['step']") == "4", "what was there stays"


def turn_knob(notebook, explorer, name: str) -> None:
    """It stands where the profile says, its mark stands at 1 of 3, and the keyboard moves it."""
    explorer.get_by_text("The profile: channels 55 x 2 after block 3, w 1;").wait_for(timeout=SECONDS)
    knob = explorer.locator(".dg-knob")
    assert knob.locator(".widget-label").inner_text().startswith("Knob rho"), "the README's word"
    share = "(x) => parseFloat(getComputedStyle(x, '::after').left) / x.getBoundingClientRect().width"
    assert abs(knob.locator(".noUi-target").evaluate(share) - 1 / 3) < 0.01
    assert notebook.ask(f"{name}.rho") == "2.0"
    knob.locator(".noUi-handle").press("ArrowLeft")
    notebook.until(f"{name}.rho", "1.95")


def test_intervention_explorer(notebook):
    notebook.run(2)
    explorer = notebook.explorer("intervention")
    press_run(notebook, explorer, "Run", "edits")
    turn_knob(notebook, explorer, "edits")
    clean, code = stage(explorer, "clean picture"), explorer.get_by_label("Code", exact=True)
    assert "tokens" not in code.input_value()
    clean.scroll_into_view_if_needed()
    box = clean.bounding_box()
    notebook.page.mouse.move(box["x"] + 0.13 * box["width"], box["y"] + 0.13 * box["height"])
    notebook.page.mouse.down()
    notebook.page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"], steps=4)
    notebook.page.mouse.up()
    notebook.until("edits.tokens", "[9, 10, 11, 12, 17, 18, 19, 20]")
    explorer.get_by_text("Edit acts on 8 of 64 tokens").wait_for(timeout=SECONDS)
    explorer.get_by_text("settings changed: press Run").wait_for(timeout=SECONDS)
    dimmed_and_said(explorer, ".dg-stale")
    assert "tokens" not in code.input_value(), "the code is that of the pictures"
    press_run(notebook, explorer, "Run", "edits")
    explorer.get_by_text("settings changed").wait_for(state="hidden", timeout=SECONDS)
    assert "tokens=[9, 10, 11, 12, 17, 18, 19, 20]" in code.input_value()
    clean.click(position={"x": box["width"] * 3.5 / 8, "y": box["height"] * 0.5 / 8})
    notebook.until("edits.tokens", "[3]")  # a click takes that token alone
    clean.press("Shift+ArrowRight")
    notebook.until("edits.tokens", "[3, 4]")
    explorer.get_by_label("Mode", exact=True).select_option("mean")
    notebook.until("edits.mode", "'mean'")
    before = source(stage(explorer, "picture: disrupted"))
    press_run(notebook, explorer, "Run", "edits")
    changed(notebook, stage(explorer, "picture: disrupted"), before)
    shown_whole(notebook, explorer, "intervention", {1280: 800, 640: 800})
    one_screen(notebook, explorer, "intervention", ("Numbers", "Spectra", "Save"))
    explorer.get_by_label("Channels", exact=True).fill("55, 999")
    explorer.get_by_label("Channels", exact=True).press("Enter")
    explorer.get_by_role("alert").get_by_text("channel 999 requested").wait_for(timeout=SECONDS)


def test_guidance_explorer(notebook):
    notebook.run(3)
    explorer = notebook.explorer("guidance")
    press_run(notebook, explorer, "Run", "guided")
    explorer.locator(".widget-slider", has_text="DG weight").locator(".noUi-handle").press("ArrowRight")
    notebook.until("guided.weight", "1.1")
    dimmed_and_said(explorer, ".dg-stale >> nth=0")
    assert "dg.DetailGuidance(3, 1, " in explorer.get_by_label("Code", exact=True).input_value()
    press_run(notebook, explorer, "Run", "guided")
    assert "dg.DetailGuidance(3, 1.1" in explorer.get_by_label("Code", exact=True).input_value()
    explorer.locator(".widget-slider", has_text="DG weight").locator(".noUi-handle").press("ArrowLeft")
    notebook.until("guided.weight", "1.0")
    notebook.until("guided.shown.fresh")  # it was run before: its pictures are shown at once
    turn_knob(notebook, explorer, "guided")
    edge = stage(explorer, "arrow keys move the edge")
    edge.press("ArrowLeft")
    notebook.until("round(guided.slide.split, 2)", "0.48")
    box = edge.bounding_box()
    edge.click(position={"x": 0.25 * box["width"], "y": 20})
    notebook.until("abs(guided.slide.split - 0.25) < 0.02")
    stage(explorer, "picture: cond").click()
    notebook.until("guided.after", "'cond'")
    width = stage(explorer, "picture: cond").bounding_box()["width"]
    assert explorer.get_by_role("button", name="Run strip").is_hidden()
    explorer.get_by_role("button", name="Strip", exact=True).click()
    explorer.get_by_role("button", name="Run strip").click()
    notebook.until("len(guided.strip.images), guided.strip.runner.busy", "(6, False)")
    explorer.get_by_role("button", name="Zoom and save", exact=True).click()
    explorer.locator(".widget-slider", has_text="Zoom").locator(".noUi-handle").press("ArrowRight")
    notebook.until("guided.zoom.value", "210")
    notebook.page.wait_for_timeout(300)
    assert stage(explorer, "picture: cond").bounding_box()["width"] > width
    explorer.get_by_role("button", name="Numbers", exact=True).click()
    explorer.get_by_text("high-band power / cond").wait_for(timeout=SECONDS)
    shown_whole(notebook, explorer, "guidance", {1280: 800, 640: 800})
    one_screen(notebook, explorer, "guidance", ("Strip", "Zoom and save", "Numbers"))
    explorer.get_by_label("Prompt", exact=True).fill("red appel")
    press_run(notebook, explorer, "Run", "guided")
    explorer.get_by_text("This model never saw 'appel'").wait_for(timeout=SECONDS)
    explorer.get_by_label("Prompt", exact=True).fill(" ")
    explorer.get_by_role("button", name=re.compile("Run$")).click()
    explorer.get_by_role("alert").get_by_text("the prompt is empty").wait_for(timeout=SECONDS)


def cells_drawn(notebook, explorer, before: int) -> int:
    """Wait until the cells are drawn again; how often they were."""
    node = explorer.locator(".dg-cells[data-drawn]")
    there = "([cells, old]) => +cells.dataset.drawn > old"
    notebook.page.wait_for_function(there, arg=[node.element_handle(), before], timeout=SECONDS)
    return int(node.get_attribute("data-drawn"))


def test_comparison_explorer(notebook):
    notebook.run(4)
    explorer = notebook.explorer("comparison")
    grid, picture = stage(explorer, "cells of the sweep"), stage(explorer, "picture of the chosen cell")
    cell = lambda i: grid.locator(f".dg-cell[data-cell='{i}']")  # noqa: E731
    assert notebook.ask("(compared.rows, compared.columns, len(compared.grid.pictures))") == "('block', 'w', 4)"
    version = cells_drawn(notebook, explorer, 0)
    assert grid.locator(".dg-cell img").count() == 4

    explorer.get_by_label("Guidance scale s", exact=True).select_option("3")  # a control
    notebook.until("compared.at['s']", "3.0")
    version = cells_drawn(notebook, explorer, version)
    words = [text for line in eval(notebook.ask("compared.render().page.words")) for text in line]
    assert [text.removeprefix("★ ") for text in grid.locator(".dg-number").all_inner_texts()] == words

    before = source(picture)
    for i in (0, 3):
        cell(i).click()
        notebook.until("(compared.at['block'], compared.at['w'])", str(((0, 6)[i // 2], (1.0, 3.0)[i % 2])))
        assert grid.locator(".dg-current").get_attribute("data-cell") == str(i)
    changed(notebook, picture, before)
    explorer.get_by_text("CFG 3 + DG 3 at block 6").wait_for(timeout=SECONDS)
    head = explorer.locator(".dg-cells .dg-head")
    cell(2).hover()
    assert head.inner_text().startswith("Block 6, Detail scale w 1") and head.inner_text().endswith(words[2])
    head.hover()
    assert head.inner_text() == notebook.ask("compared.render().page.title").strip("'")
    grid.press("ArrowUp")
    explorer.get_by_text("CFG 3 + DG 3 at block 0").wait_for(timeout=SECONDS)
    assert grid.get_attribute("aria-valuetext").startswith("Block 0, Detail scale w 3")
    assert "dg.DetailGuidance(3.0, 3.0, off)" in explorer.get_by_label("Code", exact=True).input_value()
    assert int(explorer.locator(".dg-cells[data-drawn]").get_attribute("data-drawn")) == version, "cells stay"
    shown_whole(notebook, explorer, "comparison_blocks", {1280: 800, 640: 800})

    explorer.get_by_label("Rows", exact=True).select_option("Guidance")
    explorer.get_by_label("Columns", exact=True).select_option("Prompt")
    explorer.get_by_text("chosen settings only").click()
    notebook.until("compared.chosen")
    explorer.get_by_label("Split", exact=True).select_option("test")
    notebook.until("compared.at['split']", "'test'")
    cells_drawn(notebook, explorer, version)
    shown_whole(notebook, explorer, "comparison", {1280: 800, 640: 800})
    one_screen(notebook, explorer, "comparison", ("Numbers", "Cells"))
    tints = "(all) => all.map((x) => Number(x.style.getPropertyValue('--dg-share')))"
    shares = grid.locator(".dg-number").evaluate_all(tints)
    values = [v for line in eval(notebook.ask("compared.render().page.values")) for v in line]
    kept = [v for v in values if v is not None]
    assert min(kept) > 0, "one hue, from the smallest to the largest"
    want = [0 if v is None else 0.5 * (v - min(kept)) / (max(kept) - min(kept)) for v in values]
    assert shares == pytest.approx(want)

    explorer.get_by_label("Stored sweep", exact=True).fill("no/such/folder")
    explorer.get_by_role("button", name="Open").click()
    explorer.get_by_role("alert").get_by_text("no sweep in no/such/folder").wait_for(timeout=SECONDS)
    notebook.picture("comparison_error", explorer)
    assert grid.is_visible(), "what was there stays"
