"""`dg-tools explore` in Chromium: a capture and a live model on a page of this machine, without JupyterLab."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import LOCAL, SCREENSHOTS, SECONDS, settled

import dg_tools as dg


@contextmanager
def explored(chromium, *arguments, **context):
    """The command in a process of its own, and its page."""
    command = [sys.executable, "-m", "dg_tools.cli", "explore", "--no-browser", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TQDM_DISABLE": "1"})
    own = chromium.new_context(**context)
    page, asked, problems = own.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    try:
        address = next(found.group() for line in process.stderr if (found := re.search(r"http://\S+", line)))
        page.goto(address)
        yield page, process
        assert "token" not in page.url
        assert not problems, problems
        assert not [url for url in asked if not LOCAL.match(url)]
    finally:
        own.close()
        process.terminate()
        process.wait(60)
        process.stderr.close()


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """A saved capture of two steps."""
    folder = tmp_path_factory.mktemp("local") / "kept.zarr"
    dit = dg.load()
    dg.capture(dit, "red apple on blue", steps=2, raw=range(len(dit.blocks)), progress=False).save(folder)
    return folder


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 640)])
def test_a_capture_without_a_kernel(chromium, capture, scheme, width):
    size = {"width": width, "height": 800}
    with explored(chromium, capture, viewport=size, color_scheme=scheme, device_scale_factor=2) as (page, _):
        page.locator(".dg-spikes canvas").wait_for(timeout=SECONDS)
        page.get_by_text("channel 55: ").first.wait_for(timeout=SECONDS)
        page.get_by_label("Block", exact=True).press("ArrowRight")
        page.get_by_text("after block 7, step 1").first.wait_for(timeout=SECONDS)
        page.locator(".dg-stage[aria-label^='image tokens']").press("ArrowRight")
        page.get_by_text(re.compile(r"^Token 37 \(row 4, column 5\)")).wait_for(timeout=SECONDS)
        page.get_by_role("button", name="text", exact=True).click()
        page.get_by_text("text tokens after block 7").first.wait_for(timeout=SECONDS)
        page.get_by_role("button", name="image", exact=True).click()
        page.get_by_text("channel 55 after block 7").first.wait_for(timeout=SECONDS)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        high = "document.documentElement.scrollHeight"
        assert settled(lambda: page.evaluate(high), lambda pixels: pixels <= 800) <= 800, "one screen"
        sharp = "(c) => c.width / c.getBoundingClientRect().width"
        assert page.locator(".dg-spikes canvas").evaluate(sharp) == pytest.approx(2, abs=0.02)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"local_capture_{scheme}.png")


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 640)])
def test_a_sweep_without_a_kernel(chromium, swept, tmp_path, scheme, width):
    size = {"width": width, "height": 800}
    with explored(chromium, swept, viewport=size, color_scheme=scheme, device_scale_factor=2) as (page, _):
        page.locator(".dg-cell img").nth(5).wait_for(timeout=SECONDS)
        page.locator(".dg-cell[data-cell='4']").click()
        page.get_by_text(re.compile(r"^DG 2 at block 6")).wait_for(timeout=SECONDS)
        page.locator(".dg-cells .dg-stage").press("ArrowLeft")
        page.get_by_text(re.compile(r"^DG 1 at block 6")).wait_for(timeout=SECONDS)
        page.get_by_label("Columns", exact=True).select_option("Prompt")
        page.locator(".dg-axis-name", has_text="Prompt").wait_for(timeout=SECONDS)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=SCREENSHOTS / f"local_sweep_{scheme}.png")
        page.get_by_label("Save as", exact=True).fill(str(tmp_path / "kept.html"))
        page.get_by_label("Save as", exact=True).press("Tab")
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text(re.compile("^Written: .*kept.html")).wait_for(timeout=SECONDS)
        assert (tmp_path / "kept.html").stat().st_size > 100_000


def test_a_live_model_without_a_kernel(chromium):
    with explored(chromium, "--steps", "2", viewport={"width": 1280, "height": 800}) as (page, process):
        page.get_by_label("Knob rho (1 clean)", exact=True).wait_for(timeout=SECONDS)  # the page opens on it
        page.get_by_role("tab", name="Activations", exact=True).click()
        page.get_by_role("button", name="Capture").click()
        page.locator(".dg-spikes canvas").wait_for(timeout=SECONDS)
        page.get_by_label("Prompt", exact=True).fill("owl on teal")
        page.get_by_text("settings changed: press Capture").wait_for(timeout=SECONDS)
        tabs = page.get_by_role("tablist").get_by_role("tab")
        assert tabs.all_inner_texts() == ["Edits", "Guidance", "Activations"]
        opened = lambda name: page.get_by_role("tabpanel", name=name, exact=True)  # noqa: E731
        chosen = lambda: [tab.get_attribute("aria-selected") for tab in tabs.all()]  # noqa: E731
        assert chosen() == ["false", "false", "true"]
        tabs.nth(2).press("Home")
        opened("Edits").get_by_label("Knob rho (1 clean)", exact=True).wait_for(timeout=SECONDS)
        assert chosen() == ["true", "false", "false"]
        page.keyboard.press("ArrowLeft")  # round the end
        opened("Activations").get_by_role("button", name="Capture").wait_for(timeout=SECONDS)
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        opened("Guidance").get_by_label("DG weight w", exact=True).wait_for(timeout=SECONDS)
        assert chosen() == ["false", "true", "false"] and tabs.nth(1).evaluate("(x) => x === document.activeElement")
        assert [tab.get_attribute("tabindex") for tab in tabs.all()] == ["-1", "0", "-1"]
        page.keyboard.press("Home")
        opened("Edits").get_by_label("Knob rho (1 clean)", exact=True).wait_for(timeout=SECONDS)
        page.get_by_role("button", name="Run", exact=True).click()
        page.locator(".dg-stage[aria-label='difference: control'] img[src]").first.wait_for(timeout=SECONDS)
        page.get_by_label("Draw", exact=True).fill("1")
        page.get_by_label("Draw", exact=True).press("Enter")
        note = page.get_by_text("settings changed: press Run", exact=True)
        note.wait_for(timeout=SECONDS)
        assert page.locator(".dg-stale").count() == 1
        page.get_by_role("button", name="Run", exact=True).click()
        note.wait_for(state="hidden", timeout=SECONDS)
        page.get_by_role("tab", name="Guidance", exact=True).click()
        page.get_by_label("DG weight w", exact=True).wait_for(timeout=SECONDS)
        page.get_by_label("Seed", exact=True).fill("x")
        page.get_by_role("alert").get_by_text("is not a whole number").wait_for(timeout=SECONDS)
        page.close()
        assert process.wait(90) == 0, "it stops when the last page is closed"
