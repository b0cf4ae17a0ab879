"""The rendered documentation, on the pages themselves: every link leads somewhere, no other host is asked."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import dg_tools

ROOT = Path(__file__).parents[1]
LOADED = {  # tag -> attributes that a browser loads by itself; a link's depend on `rel`
    "script": ["src"], "img": ["src", "srcset"], "source": ["src", "srcset"], "iframe": ["src"], "embed": ["src"],
    "video": ["src", "poster"], "audio": ["src"], "object": ["data"], "track": ["src"], "use": ["href"],
}  # fmt: skip
UNLOADED = {"canonical", "next", "prev", "search", "index", "author", "copyright", "top", "up", "license", "alternate"}
OUTSIDE = re.compile(r"(?i)^(?:[a-z][a-z0-9+.-]*:)?//")
ASKS = re.compile(  # a script that loads something from another host
    r"""(?:\b(?:fetch|import|importScripts|require|from)|\bopen\([^)]{0,9},|\.src\s*=|paths["']?\s*:\s*\{[^}]*:)
        \s*\(?\s*\[?\s*["'`](?:https?:)?//""",
    re.X,
)
PLOTLY = "application/vnd.plotly.v1+json"
MAPS = "plotly.min.js"  # it asks for the icons and outlines of maps, and for nothing where a figure is none
MODULES = ("activations", "baselines", "experiments", "families", "interventions", "metrics", "plots", "sweeps")
MODULES += ("report", "widgets")


class Page(HTMLParser):
    """What a page names: `ids`, `links` to be followed, `loads` that follow by themselves, `styles`, `scripts`."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        self.inside = tag
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "meta" and given.get("http-equiv") == "refresh":
            self.links.append(given["content"].split("url=")[1])
        if tag == "link" and not set(given.get("rel", "").split()) <= UNLOADED:
            self.loads.append(given["href"])
        for name in LOADED.get(tag, ()):
            if name in given:
                self.loads += [x.split()[0] for x in given[name].split(",")] if name == "srcset" else [given[name]]
        self.styles.append(given.get("style", ""))
        self.scripts += [value for name, value in given.items() if name.startswith("on")]

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("style", "script"):
            (self.styles if self.inside == "style" else self.scripts).append(data)


def pages(root: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in sorted(root.rglob("*.html"))}


def broken_links(root: Path) -> list[str]:
    """Links to a page, file or anchor that is not there; links to other hosts are not followed."""
    every, found = pages(root), []
    for file, page in every.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or OUTSIDE.match(link):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchor = unquote(parts.fragment)
            known = every[target].ids if target in every else {anchor}
            if not target.is_file() or (anchor and anchor not in known):
                found.append(f"{file.relative_to(root)}: {link}")
    return found


def not_shipped(root: Path) -> list[str]:
    """What a browser would load that is not beside the pages, in HTML, CSS and scripts."""
    loads: list[tuple[Path, str]] = []
    found = []
    for file, page in pages(root).items():
        loads += [(file, x) for x in page.loads] + [(file, x) for css in page.styles for x in in_css(css)]
        found += [f"{file.relative_to(root)}: {m.group()}" for text in page.scripts for m in ASKS.finditer(text)]
    for file in root.rglob("*.css"):
        loads += [(file, x) for x in in_css(file.read_text(encoding="utf-8"))]
    for file in (x for x in root.rglob("*.js") if x.name != MAPS):
        found += [f"{file.relative_to(root)}: {m.group()}" for m in ASKS.finditer(file.read_text(encoding="utf-8"))]
    for file, address in loads:
        if address.startswith(("data:", "blob:")) or not address:
            continue
        path = unquote(urlsplit(address).path)
        if OUTSIDE.match(address) or (path and not (file.parent / path).is_file()):
            found.append(f"{file.relative_to(root)}: {address}")
    return found


def in_css(text: str) -> list[str]:
    """Addresses in a style sheet."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    named = re.findall(r"url\(\s*(\"[^\"]*\"|'[^']*'|[^)]*?)\s*\)", text)
    named += re.findall(r"@import\s+([\"'][^\"']+[\"'])", text)
    return [x for x in (y.strip("\"'") for y in named) if not x.startswith("#")]


def test_every_link_and_anchor_leads_somewhere(site):
    assert not broken_links(site)
    assert sum(len(p.links) for p in pages(site).values()) > 2000


def test_nothing_is_loaded_from_elsewhere(site):
    assert not not_shipped(site)


@pytest.mark.parametrize(
    "text, words",
    [
        ("<a href='two.html'>", "two.html"),
        ("<a href='#there'>", "#there"),
        ("<a href='one.html#there'>", "one.html#there"),
        ("<img src='picture.png'>", "picture.png"),
        ("<img src='https://example.org/badge.svg'>", "badge.svg"),
        ("<script src='//example.org/x.js'></script>", "x.js"),
        ("<script>require(['https://example.org/x.js'])</script>", "require"),
        ("<script>fetch('https://example.org')</script>", "fetch"),
        ("<link rel='stylesheet' href='https://example.org/x.css'>", "x.css"),
        ("<style>@import 'https://example.org/x.css';</style>", "x.css"),
        ("<p style='background: url(https://example.org/x.png)'>", "x.png"),
    ],
)
def test_a_broken_page_is_seen(tmp_path, text, words):
    """Each of these alone; and a page without any is whole."""
    whole = "<p id='here'><a href='one.html#here'>x</a><a href='https://example.org'>y</a><img src='data:,'>"
    (tmp_path / "one.html").write_text(whole + text, encoding="utf-8")
    (told,) = broken_links(tmp_path) + not_shipped(tmp_path)
    assert words in told
    (tmp_path / "one.html").write_text(whole, encoding="utf-8")
    assert not broken_links(tmp_path) + not_shipped(tmp_path)


def test_every_notebook_is_there_with_its_kept_outputs(site):
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = (site / "notebooks" / f"{file.stem}.html").read_text(encoding="utf-8")
        outputs = [o for c in json.loads(file.read_text(encoding="utf-8"))["cells"] for o in c.get("outputs", [])]
        kinds = [kind for output in outputs for kind in output.get("data", {})]
        assert page.count('<img alt="../_images/') >= kinds.count("image/png"), file.name
        figures = [o["data"][PLOTLY] for o in outputs if PLOTLY in o.get("data", {})]
        assert not [t for f in figures for t in f["data"] if re.search("map|geo", t["type"])], "see MAPS"
        assert page.count("Plotly.newPlot") == len(figures), file.name
        assert page.count(MAPS) == min(len(figures), 1), "once, before the first figure"
        assert "widget-view" not in page and page.count('class="cell ') > 3, file.name
    explorers = (site / "notebooks" / "08_explore.html").read_text(encoding="utf-8")
    assert "activation_explorer.png" in explorers and "ActivationExplorer(block" in explorers


def test_every_public_name_is_there(site):
    every = pages(site)
    ids = {x for page in every.values() for x in page.ids}
    named = "".join(every[site / "docs" / "api" / "index.html"].links)
    for name in dg_tools.__all__:
        full = f"dg_tools.{dg_tools._HOME[name]}.{name}"
        assert full in ids and f"#{full}" in named, full
    for module in MODULES:
        home = importlib.import_module(f"dg_tools.{dg_tools._MODULES.get(module, module)}")
        for name in home.__all__:
            if inspect.isclass(getattr(home, name)) or inspect.isfunction(getattr(home, name)):
                assert f"{home.__name__}.{name}" in ids, name
    assert set(dg_tools._MODULES) <= set(MODULES), "a module that is reached as dg.NAME has its page"


def test_the_other_pages_are_there(site):
    for name in ("README", "EVIDENCE", "CONTRIBUTING", "CHANGELOG", "training/README"):
        assert (site / f"{name}.html").is_file(), name
    cards = [p.relative_to(ROOT) for p in (ROOT / "dg_tools" / "zoo").glob("*/README.md")]
    assert cards and all((site / card.with_suffix(".html")).is_file() for card in cards)
    assert Page(site / "index.html").links[0] == "docs/index.html"
