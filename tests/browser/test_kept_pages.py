"""A page that an explorer wrote, from the file system: it shows, it answers by keys and pointer, and asks nobody."""

from __future__ import annotations

import base64
import re
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import SCREENSHOTS

import dg_tools as dg
from dg_tools.widgets import ActivationExplorer, ComparisonExplorer, GuidanceExplorer

NAMES = ("image tokens", "channels", "blocks")
WIDE, HALF = {"width": 1280, "height": 800}, {"width": 640, "height": 800}

OVER_TICKS = """() => [...document.querySelectorAll('.dg-chart svg')].flatMap((chart) => {
    const boxes = (name) => [...chart.querySelectorAll(name)].map((x) => [x.textContent, x.getBoundingClientRect()]);
    const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
    return boxes('.dg-value').flatMap(([name, a]) =>
        boxes('.dg-tick').filter(([, b]) => meet(a, b)).map(([tick]) => `${name} over ${tick}`));
})"""


@pytest.fixture(scope="module")
def explorer():
    """A capture of two steps with a picture at each and word maps, at block 6, step 1, token 36, channel 55."""
    made = ActivationExplorer(dg.load(), steps=2)
    made.words_box.value = True
    made.run()
    return made


@contextmanager
def opened(chromium, file, **context):
    """The page, offline; it has no script error and loads nothing but itself."""
    own = chromium.new_context(**context)
    own.set_offline(True)
    page, asked, problems = own.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda message: problems.append(message.text))
    try:
        page.goto(file.as_uri())
        yield page
        assert not problems, problems
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    finally:
        own.close()


def near(text: str, value: float) -> bool:
    """Whether the last number of a text is a kept value, to three digits."""
    return float(re.findall(r"-?[\d.]+(?:e-?\d+)?", text)[-1]) == pytest.approx(float(value), rel=0.01, abs=1e-3)


@pytest.mark.parametrize("scheme, size", [("light", WIDE), ("dark", HALF)])
def test_a_capture_answers_from_its_file(explorer, chromium, tmp_path, scheme, size):
    file = explorer.to_html(tmp_path / "kept.html")
    hidden = explorer.activations.data["hidden_states"].isel(prompt=0, seed=0, branch=0).values  # step, block
    means = explorer.activations.data["abs_mean"].isel(prompt=0, seed=0, branch=0).sel(stream="image").values
    with opened(chromium, file, viewport=size, color_scheme=scheme) as page:
        stages = {name: page.locator(f".dg-stage[aria-label^='{name}']") for name in NAMES}
        said = {name: stage.get_attribute("aria-valuetext") for name, stage in stages.items()}
        assert near(said["image tokens"], hidden[1, 6, 36, 55]) and near(said["channels"], hidden[1, 6, 36, 55])
        assert near(said["blocks"].split(",")[0], means[1, 6, 55])
        page.get_by_label("step", exact=True).press("ArrowLeft")
        page.get_by_label("block", exact=True).press("ArrowRight")
        stages["image tokens"].press("ArrowDown")
        assert near(stages["image tokens"].get_attribute("aria-valuetext"), hidden[0, 7, 44, 55])
        words = page.locator(".dg-numbers").inner_text()
        assert "Token 44 (row 5, column 4), channel 55: " in words
        assert near(words.split(". Channel")[0], hidden[0, 7, 44, 55])
        stages["channels"].press("ArrowRight")
        assert near(stages["image tokens"].get_attribute("aria-valuetext"), hidden[0, 7, 44, 56])
        page.get_by_text("Channel 56 by block, step 0").wait_for()  # its line lies close to the median channel's
        assert page.evaluate(OVER_TICKS) == [], "no name lies over the numbers of an axis"
        box = stages["image tokens"].bounding_box()
        page.mouse.move(box["x"] + box["width"] * 2.5 / 8, box["y"] + box["height"] * 1.5 / 8)
        assert near(page.locator(".dg-map .dg-head").inner_text(), hidden[0, 7, 10, 56]), "under the pointer"
        page.mouse.click(box["x"] + box["width"] * 2.5 / 8, box["y"] + box["height"] * 1.5 / 8)
        assert "Token 10 (row 1, column 2)" in page.locator(".dg-numbers").inner_text()
        page.get_by_role("button", name="55", exact=True).click()
        page.get_by_label("log scale").check()
        page.get_by_label("stream", exact=True).select_option("text")
        assert page.locator(".dg-stage[aria-label^='text tokens'] svg").is_visible()
        page.get_by_label("stream", exact=True).select_option("image")
        page.get_by_label("map", exact=True).select_option("attention to 'apple'")
        page.get_by_label("head", exact=True).select_option(label="1")
        own = explorer.activations.data["word_map"].isel(prompt=0, seed=0, branch=0, step=0, head=1)
        own = own.sel(word="apple", attention_site="7").values[1, 2]
        assert near(stages["image tokens"].get_attribute("aria-valuetext"), own)
        page.get_by_label("map", exact=True).select_option("activations")
        page.get_by_role("button", name="Play steps").click()
        page.get_by_text("by block, step 1").wait_for()
        page.get_by_role("button", name="Stop steps").click()
        edge = page.locator(".dg-stage[aria-label^='two pictures']")
        edge.press("ArrowLeft")
        assert edge.get_attribute("aria-valuenow") == "48"
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.locator(".dg-capture").evaluate("(x) => x.getBoundingClientRect().bottom") <= 800, "one screen"
        ink = page.locator(".dg-head").first.evaluate("(x) => getComputedStyle(x).fill + getComputedStyle(x).color")
        assert ("230" in ink) == (scheme == "dark"), "charts too"
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"kept_capture_{scheme}.png", full_page=True)


def test_one_cursor_in_all_views(explorer, chromium, tmp_path):
    file = explorer.to_html(tmp_path / "kept.html")
    with opened(chromium, file, viewport=WIDE) as page:
        canvas = page.locator(".dg-spikes canvas").bounding_box()
        seen = set()
        for share in np.linspace(0.2, 0.8, 13):
            page.mouse.move(canvas["x"] + share * canvas["width"], canvas["y"] + 0.62 * canvas["height"])
            found = re.match(r"token (\d+), channel (\d+)", page.locator(".dg-spikes .dg-head").inner_text())
            if found:
                assert page.locator(".dg-map .dg-head").inner_text().startswith(f"token {found.group(1)} (row")
                channel = page.locator(".dg-area-channels .dg-head").text_content()
                assert channel.startswith(f"channel {found.group(2)}:")
                seen.add(found.group())
        assert len(seen) > 2
        page.mouse.move(5, 5)
        assert page.locator(".dg-map .dg-head").inner_text().startswith("channel 55 after")


def test_pictures_and_their_code(chromium, tmp_path):
    made = GuidanceExplorer(dg.load(), steps=1)
    made.run()
    with opened(chromium, made.to_html(tmp_path / "guided.html"), viewport=HALF, color_scheme="dark") as page:
        edge = page.locator(".dg-stage[aria-label^='two pictures'] img")
        assert all(edge.evaluate_all("(all) => all.map((i) => i.complete && i.naturalWidth > 0)"))
        before = edge.first.get_attribute("src")
        page.get_by_label("left", exact=True).select_option("cond")
        assert edge.first.get_attribute("src") != before
        assert page.locator("figure").count() == 9 and page.locator("td").count() >= 30
        assert page.get_by_label("Code", exact=True).input_value() == made.code.value
        page.get_by_role("button", name="Copy code").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 640
        page.screenshot(path=SCREENSHOTS / "kept_pictures.png", full_page=True)


def same_view(page, made) -> None:
    """The page shows what the explorer says of the same place."""
    page.mouse.move(1, 1)  # away from the cells: the one under the pointer would be told
    view = made.render()
    words = [text for line in view.page.words for text in line]
    files = [file for line in view.page.files for file in line]
    cells = page.locator(".dg-cell")
    assert [t.removeprefix("\u2605 ") for t in cells.all_inner_texts()] == words
    assert page.locator(".dg-cell img").count() == len([f for f in files if f])
    assert page.locator(".dg-column").all_inner_texts() == list(view.page.columns)
    assert page.locator(".dg-line-name").all_inner_texts() == list(view.page.rows)
    assert page.locator(".dg-cells .dg-head").inner_text() == view.page.title
    starred = [y * len(view.page.columns) + x for y, x in view.page.marked]
    assert page.locator(".dg-starred").evaluate_all("(all) => all.map((x) => +x.dataset.cell)") == starred
    assert page.locator(".dg-current").get_attribute("data-cell") == str(view.cell)
    texts = page.locator(".dg-kept p.dg-text").all_inner_texts()
    assert view.note in texts and view.title in texts and made.messages.text in texts
    table = page.locator("table tr").evaluate_all("(all) => all.map((r) => [...r.children].map((c) => c.innerText))")
    assert table == view.numbers
    code = page.get_by_label("Code", exact=True)
    assert (code.input_value() if code.is_visible() else "") == view.code
    shown = [i for i in page.locator(".dg-details figure img").all() if i.is_visible()]
    for image, png in zip(shown, [p for p in (view.picture, view.unguided) if p], strict=True):
        assert base64.b64decode(image.get_attribute("src").split(",")[1]) == png, "small: as it is"


@pytest.mark.parametrize("scheme, size", [("light", WIDE), ("dark", HALF)])
def test_a_sweep_answers_from_its_file(chromium, swept, tmp_path, scheme, size):
    made = ComparisonExplorer(swept)
    with opened(chromium, made.to_html(tmp_path / "sweep.html"), viewport=size, color_scheme=scheme) as page:
        pick = lambda name, words: page.get_by_label(name, exact=True).select_option(words)  # noqa: E731
        page.screenshot(path=SCREENSHOTS / f"kept_sweep_{scheme}.png", full_page=True)
        show = page.get_by_role("button", name="Show code", exact=True)
        assert show.is_visible() == (size == HALF), "on a narrow page the code is folded"
        if size == HALF:
            show.click()
        same_view(page, made)
        page.locator(".dg-cell[data-cell='2']").click()
        made.grid.cell = 2
        same_view(page, made)
        page.locator(".dg-cells .dg-stage").press("ArrowDown")
        made.grid.cell = 5
        same_view(page, made)
        pick("Columns", "Prompt")
        pick("Split", "test")
        made.columns = "prompt"
        made.move(split="test")
        same_view(page, made)
        pick("Measure", "high correlation (-1..1)")
        page.get_by_label("mean of the split", exact=True).check()
        made.move(measure="high_correlation", mean=True)
        same_view(page, made)
        pick("Rows", "Guidance")
        page.get_by_label("chosen settings only", exact=True).check()
        made.rows = "guidance"
        made.chosen = True
        same_view(page, made)
        pick("Rows", "Prompt")  # the two change places
        made.rows = "prompt"
        same_view(page, made)
        page.get_by_label("chosen settings only", exact=True).uncheck()
        pick("Rows", "Block")
        pick("Columns", "Seed" if "seed" in made.stored.varying else "Split")
        pick("Guidance", "CFG")
        made.chosen = False
        made.rows = "block"
        made.columns = "seed" if "seed" in made.stored.varying else "split"
        made.move(guidance="CFG")
        same_view(page, made)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
