"""Excerpts under the results of a search, from the file system too, where a page may not read another one.

The words of every page are written to `_static/texts.js`; `static/excerpts.js` reads them there.
"""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

HIDDEN = nodes.raw | nodes.comment | nodes.system_message
BLOCKS = nodes.paragraph | nodes.title | nodes.term | nodes.literal_block  # in which nothing stands between words


def sections(document: nodes.document) -> list[tuple[str, str]]:
    """The words of a page by section: the section's id, and its own text without that of sections inside it."""
    words: dict[str, list[str]] = {}
    last: nodes.Node | None = None
    for text in document.findall(nodes.Text):
        above = ancestors(text)
        if any(isinstance(n, HIDDEN) or is_other_name(n) for n in above):
            continue
        section = next((n for n in above if isinstance(n, nodes.section)), None)
        block = next((n for n in above if isinstance(n, BLOCKS)), None)
        parts = words.setdefault(section["ids"][0] if section is not None and section["ids"] else "", [])
        parts += [text.astext()] if block is not None and block is last else [" ", text.astext()]
        last = block
    return [(anchor, " ".join("".join(parts).split())) for anchor, parts in words.items()]


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """All nodes around a node, the nearest first."""
    above: list[nodes.Node] = []
    while node.parent is not None:
        node = node.parent
        above.append(node)
    return above


def is_other_name(node: nodes.Node) -> bool:
    """Whether a node is the longer of two names for a link, of which a page shows one."""
    return isinstance(node, addnodes.pending_xref_condition) and node["condition"] == "*"


def written(app: Sphinx, error: Exception | None) -> None:
    """Write the words of all pages."""
    if error is None and app.builder.name == "html":
        texts = {name: sections(app.env.get_doctree(name)) for name in sorted(app.env.found_docs)}
        text = f"window.PAGE_TEXTS = {json.dumps(texts, ensure_ascii=False)};\n"
        (Path(app.outdir) / "_static" / "texts.js").write_text(text, encoding="utf-8")
