"""The rendered documentation, opened from the file system: it shows, it asks nobody, and no script fails."""

from __future__ import annotations

import pytest

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


def test_a_word_is_found(site, chromium):
    """The search works without a server."""
    page = chromium.new_page()
    try:
        page.goto((site / "search.html").as_uri() + "?q=massive")
        page.locator("#search-results li a").first.wait_for(state="visible")
    finally:
        page.close()
