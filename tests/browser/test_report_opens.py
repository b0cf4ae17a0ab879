"""The page of a report in Chromium, without a network: it is whole, asks nobody, and can be read wide, narrow, dark."""

from __future__ import annotations

import json
import re

import hand_report
import pytest
import tiny
from conftest import SCREENSHOTS
from safetensors.torch import load_file

import dg_tools as dg
from dg_tools.report.cells import interval
from dg_tools.report.sections import KEYS

CONTRAST = """() => {
    const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((x) => {
            const c = x / 255;
            return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const ratio = (node, colour) => {
        const ink = light(getComputedStyle(node)[colour]);
        return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), node.outerHTML.slice(0, 90)];
    };
    const words = [...document.querySelectorAll('h1, h2, p, td, th, a, figcaption, li')];
    const drawn = [...document.querySelectorAll('.drawing text')];
    return [...words.map((n) => ratio(n, 'color')), ...drawn.map((n) => ratio(n, 'fill'))];
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report made by hand."""
    folder = tmp_path_factory.mktemp("report")
    hand_report.report().save(folder)
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A report on a tiny SD3 with planted channels that draws noise."""
    pipeline = tiny.sd3(seed=0)
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    dit = dg.load(pipeline)
    dit.call = {**tiny.SIZE, "max_sequence_length": 8}
    prompts = [f"{hand_report.EVIL} {i}" for i in range(6)]
    folder = tmp_path_factory.mktemp("measured") / "report"
    dg.report.measure(dit, prompts, out=folder, size="toy", batch=2, progress=False)
    return folder


@pytest.mark.parametrize(
    "made, scheme, width, height",
    [
        ("folder", "light", 1280, 800),
        ("folder", "dark", 1280, 800),
        ("folder", "light", 360, 740),
        ("measured", "light", 1280, 800),
    ],
)
def test_a_report_opens_offline(request, chromium, made, scheme, width, height):
    folder = request.getfixturevalue(made)
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_offline(True)
    page, asked, problems = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda message: problems.append(message.text))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    try:
        address = (folder / "index.html").as_uri()
        page.goto(address, wait_until="load")
        record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert "alert(1)" in page.locator("main").inner_text() and len(record["claims"]) > 6
        for section in record["sections"]:
            place = page.locator(f"section#{section['key']}")
            filled = place.locator(".drawing svg, tbody tr")
            if section["missing"]:
                assert section["missing"] in place.inner_text() and not filled.count()
            else:
                assert filled.count() and all(f.is_visible() for f in filled.all()), section["key"]
        for name, claim in record["claims"].items():
            row = page.locator(f"[id='claims/{name}']")
            verdict = row.locator("a.verdict")
            assert verdict.inner_text() == claim["status"]
            verdict.click()
            assert page.url == f"{address}#claims/{name}"
            assert row.evaluate("row => row.matches(':target')")
            assert row.locator(".source").get_attribute("href") == f"report.json#claims/{name}"
            if claim["number"] is not None:
                words = interval(tuple(claim["number"]), signed=claim["section"] in ("3", "4"))
                assert row.locator(".effect").inner_text() == words
        for key in KEYS:
            page.locator(f"nav a[href='#{key}']").click()
            assert 0 <= page.locator(f"section#{key} h2").bounding_box()["y"] < height
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{wide} pixels wide"
        small = page.evaluate(
            "[...document.querySelectorAll('.drawing text')].map(t => t.getBoundingClientRect().height)"
        )
        assert min(small) > 9, "words in a drawing that cannot be read"
        pale = [(round(ratio, 2), node) for ratio, node in page.evaluate(CONTRAST) if ratio < 3]
        assert not pale, pale
        assert asked == [a for a in asked if a.startswith(("file:", "data:"))] and not problems, (asked, problems)
        assert {a.split("#")[0] for a in asked if a.startswith("file:")} == {address}
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.goto(address)
        page.screenshot(path=SCREENSHOTS / f"report_{made}_{scheme}_{width}.png", full_page=True)
    finally:
        context.close()


def last_number(text):
    return float(re.findall(r"-?[\d.]+(?:e-?\d+)?", text)[-1])


@pytest.mark.parametrize("made, scheme, width", [("folder", "dark", 640), ("measured", "light", 1280)])
def test_figures_answer_from_the_file(request, chromium, made, scheme, width):
    """Keys and clicks move them, and what they say are the numbers beside the page."""
    folder = request.getfixturevalue(made)
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    run, arrays = told["run"], load_file(folder / "run.safetensors")
    at, (rows, columns) = run["opens_at"], run["grid"]
    own = run["kept_channels"].index(at["channel"])

    def near(text, value):
        assert last_number(text) == pytest.approx(float(value), rel=0.006, abs=1e-3), text  # shown with three digits

    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.set_offline(True)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda message: problems.append(message.text))
    try:
        page.goto((folder / "index.html").as_uri())
        live = page.locator("[data-live=run]")
        stages = {
            n: live.locator(f".dg-stage[aria-label^='{n}']") for n in ("image tokens", "channels", "blocks", "steps")
        }
        said = {name: stage.get_attribute("aria-valuetext") for name, stage in stages.items()}
        step, block, token = at["step"], at["block"], at["token"]
        near(said["image tokens"], arrays["hidden"][step, block, token, own])
        near(said["channels"], arrays["abs_mean"][step, block, at["channel"]])
        assert f"block {run['sites'][block]}" in live.locator(".dg-map .dg-head").inner_text()
        live.get_by_label("block", exact=True).press("Home")
        live.get_by_label("step", exact=True).press("End")
        assert f"block {run['sites'][0]}, step {run['steps'][-1]}" in live.locator(".dg-map .dg-head").inner_text()
        stages["image tokens"].press("ArrowUp")
        token -= columns if token >= columns else 0
        near(stages["image tokens"].get_attribute("aria-valuetext"), arrays["hidden"][-1, 0, token, own])
        near(live.locator(".dg-numbers").inner_text().split(". Channel")[0], arrays["hidden"][-1, 0, token, own])
        stages["blocks"].press("ArrowRight")
        near(stages["blocks"].get_attribute("aria-valuetext").split(",")[0], arrays["abs_mean"][-1, 1, at["channel"]])
        stages["channels"].press("ArrowRight")
        near(stages["channels"].get_attribute("aria-valuetext"), arrays["abs_mean"][-1, 1, at["channel"] + 1])
        box = stages["image tokens"].bounding_box()
        page.mouse.click(box["x"] + box["width"] * 1.5 / columns, box["y"] + box["height"] * 2.5 / rows)
        near(stages["image tokens"].get_attribute("aria-valuetext"), arrays["token_norm"][-1, 1, 2 * columns + 1])
        live.get_by_role("button", name=str(run["massive"][1]), exact=True).click()
        near(stages["image tokens"].get_attribute("aria-valuetext"), arrays["hidden"][-1, 1, 2 * columns + 1, 1])

        strip = next(s for s in told["sections"] if s["key"] == "strip")["figures"][0]["numbers"]
        edge = page.locator("[data-live=edge]")
        drawn = page.locator("#figure-strip image").evaluate_all("all => all.map(i => i.getAttribute('xlink:href'))")
        if len(strip["titles"]) < 2:
            assert not edge.is_visible()
        else:
            names = edge.get_by_label("right", exact=True).locator("option").all_inner_texts()
            assert names == strip["titles"] and len(drawn) == len(names)
            edge.get_by_label("right", exact=True).select_option(str(len(names) - 1))
            images = edge.locator("img").evaluate_all("all => all.map(i => [i.src, i.naturalWidth > 0])")
            assert images == [[drawn[0], True], [drawn[-1], True]]
            words = f"left: {names[0]}, {strip['notes'][0]}; right: {names[-1]}, {strip['notes'][-1]}"
            assert edge.locator(".dg-about").inner_text() == words
            stage = edge.locator(".dg-stage")
            stage.press("ArrowLeft")
            assert stage.get_attribute("aria-valuenow") == "48"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ink = live.locator(".dg-head").first.evaluate("x => getComputedStyle(x).color")
        paper = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')")
        assert ink == {"light": "rgb(34, 49, 63)", "dark": "rgb(223, 227, 232)"}[scheme], paper
        assert not problems, problems
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        live.screenshot(path=SCREENSHOTS / f"report_run_{made}_{scheme}_{width}.png")
    finally:
        context.close()


def test_without_a_script_the_drawings_are_there(folder, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    try:
        page.goto((folder / "index.html").as_uri())
        assert page.locator(".drawing svg").count() == 7
        assert page.locator(".dg-kept").count() == 2 and not page.locator(".dg-kept >> visible=true").count()
    finally:
        context.close()


def test_a_report_prints(folder, chromium):
    """On paper the whole of it, in dark ink, whatever the screen's colours."""
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    try:
        page.goto((folder / "index.html").as_uri())
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        hidden = "[...document.querySelectorAll('.sheet, .drawing')].filter(n => n.scrollHeight > n.clientHeight + 1)"
        assert page.evaluate(f"{hidden}.length") == 0
        assert page.locator(".dg-kept .dg-stage").count() and not page.locator(".dg-kept >> visible=true").count()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        paper = page.pdf(path=SCREENSHOTS / "report.pdf", format="A4")
        assert paper.startswith(b"%PDF") and len(paper) > 20_000
    finally:
        context.close()
