"""The rendered documentation, opened from the file system: it shows, it asks nobody, and no script fails."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from conftest import SCREENSHOTS

SHOWS = {  # page -> what is to be seen on it
    "index.html": "article img",  # it leads to the first page
    "notebooks/02_find_massive.html": ".turning .main-svg >> nth=0",  # drawn by plotly's script
    "notebooks/08_explore.html": "img[src*='activation_explorer']",
    "docs/api/interventions.html": "[id='dg_tools.interventions.Disrupt']",
}


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 640)])
def test_pages_open_offline(site, chromium, scheme, width):
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, asked, problems = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    try:
        for name, seen in SHOWS.items():
            page.goto((site / name).as_uri(), wait_until="load")
            page.locator(seen).wait_for(state="visible")
            assert page.locator("article h1").first.is_visible(), name
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} wide"
            broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
            assert not broken, broken
        assert page.url.endswith("interventions.html") and len(asked) > 20
        assert not problems, problems
        assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    finally:
        context.close()


def test_a_word_is_found_with_an_excerpt(site, chromium):
    """The search works without a server: each page that is found shows where the word stands in it."""
    page, problems = chromium.new_page(), []
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    try:
        page.goto((site / "search.html").as_uri() + "?q=headroom")
        page.get_by_role("heading", name="Search Results").wait_for()
        excerpts = page.locator("#search-results li p.context")
        excerpts.first.wait_for(state="visible")
        assert page.locator("#search-results li.kind-text").count() > 2
        texts = page.locator("#search-results li.kind-text p.context")
        page.wait_for_function(
            "() => document.querySelectorAll('#search-results li.kind-text p.context').length"
            " === document.querySelectorAll('#search-results li.kind-text').length"
        )
        assert all("headroom" in words.lower() for words in texts.all_inner_texts())
        assert not problems, problems
    finally:
        page.close()


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 640)])
def test_the_explorer_in_the_pages_answers(site, chromium, scheme, width):
    """From the first page to it; its numbers are those of the capture in its script."""
    script = (site / "_static" / "explorer.js").read_text(encoding="utf-8")
    data = json.loads(re.search(r"^const DATA = (.*);$", script, re.MULTILINE).group(1))
    (run,) = data["runs"].values()
    steps, blocks, at = len(data["steps"]), len(data["sites"]), data["point"]

    def numbers(text):
        return (np.frombuffer(base64.b64decode(text), "<u2").astype(np.uint32) << 16).view(np.float32)

    def near(text, value):
        assert float(re.findall(r"-?[\d.]+(?:e-?\d+)?", text)[-1]) == pytest.approx(
            float(value), rel=0.006, abs=1e-3
        ), text

    means = numbers(run["abs_mean"]["image"]["values"]).reshape(steps, blocks, -1)
    hidden = numbers(run["hidden"][f"{steps - 1},0"]).reshape(-1, data["channels"])
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_offline(True)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    try:
        page.goto((site / "docs" / "index.html").as_uri())
        page.locator("article a[href='explore.html']").first.click()
        live = page.locator("#explorer")
        stages = {n: live.locator(f".dg-stage[aria-label^='{n}']") for n in ("image tokens", "channels", "blocks")}
        said = stages["blocks"].get_attribute("aria-valuetext").split(",")[0]
        near(said, means[at["step"], at["block"], at["channel"]])
        live.get_by_label("step", exact=True).press("End")
        live.get_by_label("block", exact=True).press("Home")
        near(stages["image tokens"].get_attribute("aria-valuetext"), hidden[at["token"], at["channel"]])
        stages["channels"].press("ArrowRight")
        near(stages["channels"].get_attribute("aria-valuetext"), hidden[at["token"], at["channel"] + 1])
        stages["image tokens"].press("ArrowRight")
        near(stages["image tokens"].get_attribute("aria-valuetext"), hidden[at["token"] + 1, at["channel"] + 1])
        edge = live.locator(".dg-stage[aria-label^='two pictures']")
        edge.press("ArrowLeft")
        assert edge.get_attribute("aria-valuenow") == "48"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("html").get_attribute("data-dg-theme") == scheme
        page.evaluate("document.body.dataset.theme = 'dark'")  # as the site's own button does
        page.locator("html[data-dg-theme=dark]").wait_for(state="attached")
        page.evaluate("document.body.dataset.theme = 'auto'")
        page.locator(f"html[data-dg-theme={scheme}]").wait_for(state="attached")
        assert not problems, problems
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"docs_explorer_{scheme}_{width}.png", full_page=True)
    finally:
        context.close()
