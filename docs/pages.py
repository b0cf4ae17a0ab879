"""What Sphinx needs to be told about our pages, as an extension.

Docstrings are plain text with Markdown's marks, so `docstring` turns them into reStructuredText. A plotly figure of a
notebook becomes one that can be turned, with the script that ships beside the pages; a widget, which needs a running
kernel, keeps its line of text. Links to folders, which are not pages, become text. `index.html` at the top leads to the
first page. `excerpts` and `explorer_page` write what the search and the page with an explorer need.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import excerpts
import explorer_page
import plotly.io
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from dg_tools import _HOME

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
ITEM = re.compile(r" {8,}`\w+`( \(\w+\))?[:,]")  # of a list of values under an argument
STRAY = re.compile(r"((?<![\w*])\*\w[^*]*\*(?![\w*]))|[*|]|(?<=\w)_(?!\w)")  # emphasis is none of these
START = "<!doctype html><meta charset='utf-8'><title>dg_tools</title><meta http-equiv='refresh' content='0; url={0}'>"
START += "<a href='{0}'>dg_tools</a>\n"


def docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """One docstring as reStructuredText, in place: code blocks, tables, marks; sections are napoleon's business."""
    made: list[str] = []
    code = item = None  # indentation of the code block, or of the list, that we are in
    said, blank, i = "", False, 0  # the last line that says something; whether an empty one came after it
    while i < len(lines):
        line = lines[i]
        indent = len(line) - len(line.lstrip())
        i += 1
        if not line.strip():
            made.append("")
            blank = True
            continue
        if line.startswith("|") and i < len(lines) and lines[i].startswith("|-"):
            end = next((j for j in range(i, len(lines)) if not lines[j].startswith("|")), len(lines))
            made += table(lines[i - 1 : end])
            i = end
            continue
        code = None if code and indent < code else code
        if code is None and blank and indent >= len(said) - len(said.lstrip()) + 4:
            code = indent
            made += [" " * (indent - 4) + ".. code-block:: text", ""]
        item = None if item and indent < item else item
        if code is None and ITEM.match(line) and said.endswith((".", ":")):
            made += ([] if item else [""]) + [f"{' ' * indent}- {marks(line.strip())}"]
            item = indent
        elif code is None:
            made.append(" " * (item + 2) + marks(line.strip()) if item and indent > item else marks(line))
        else:
            made.append(line)
        said, blank = line, False
    lines[:] = made


def skipped(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """A named tuple's fields stand in its signature, and have nothing else to say."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def marks(line: str) -> str:
    """Backticks as code, a link where they hold a name; stars and bars as they are."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", line)
    for i, part in enumerate(parts):
        if not part.startswith("`"):
            parts[i] = STRAY.sub(lambda m: m.group(0) if m.group(1) else "\\" + m.group(0), part)
        elif not part.startswith("``"):
            parts[i] = named(part[1:-1])
            if i and re.search(r"\w$", parts[i - 1]):
                parts[i] = "\\ " + parts[i]
            if re.match(r"\w", parts[i + 1]):
                parts[i] += "\\ "
    return "".join(parts)


def named(code: str) -> str:
    """Code, with a link where it is a name that has a page."""
    name = code.removeprefix("dg.")
    home = _HOME.get(name) if name != code or name[:1].isupper() else None
    if home:
        return f":py:obj:`{code} <dg_tools.{home}.{name}>`"
    return f":py:obj:`{code}`" if re.fullmatch(r"[A-Za-z_][\w.]*", code) else f"``{code}``"


def table(lines: list[str]) -> list[str]:
    """A Markdown table as a `list-table`."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    made = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in rows[:1] + rows[2:]:
        made += [f"   {'* ' if not i else '  '}- {marks(cell)}" for i, cell in enumerate(row)]
    return [*made, ""]


def notebook(app: Sphinx, name: str, source: list[str]) -> None:
    """Outputs of a notebook that a page cannot show as they stand."""
    if not name.startswith("notebooks/"):
        return
    given, script = json.loads(source[0]), "<script src='../_static/plotly.min.js'></script>"
    for i, cell in enumerate(given["cells"]):
        for j, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            if PLOTLY in data:
                figure = data.pop(PLOTLY)
                figure["layout"] |= {"width": None, "margin": {"l": 0, "r": 0, "t": 60, "b": 0}}  # the page's own width
                figure = plotly.io.to_html(
                    figure,
                    {"responsive": True},
                    include_plotlyjs=False,
                    full_html=False,
                    validate=False,
                    div_id=f"figure-{i}-{j}",
                )
                data["text/html"], script = f"{script}<div class='turning'>{figure}</div>", ""  # once: it is large
                data.pop("text/plain", None)
    source[0] = json.dumps(given)


class Folders(SphinxTransform):
    """A link to a folder of the repository, which is not a page, as plain text."""

    default_priority = 5  # before links are looked up

    def apply(self, **kwargs: Any) -> None:
        """In place."""
        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(lambda n: isinstance(n, nodes.Element) and "reftarget" in n)):
            if (here / str(link["reftarget"])).is_dir():
                link.replace_self(link.children)


def start(app: Sphinx, error: Exception | None) -> None:
    """A first page where one looks for it."""
    if error is None and app.builder.name == "html":
        target = app.builder.get_target_uri(app.config.root_doc)
        (Path(app.outdir) / "index.html").write_text(START.format(target), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skipped)
    app.connect("source-read", notebook)
    app.connect("build-finished", start)
    app.connect("build-finished", excerpts.written)
    app.connect("build-finished", explorer_page.written)
    app.add_transform(Folders)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
