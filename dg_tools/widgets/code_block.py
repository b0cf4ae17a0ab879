"""Code to copy: read-only text with a button that copies it."""

from __future__ import annotations

import anywidget
import traitlets as t

from dg_tools.widgets import front


class CodeBlock(anywidget.AnyWidget):
    """Code.

    Attributes:
        value: the code.
        rows: lines that are shown at once, at most.
        label: a description for screen readers.
    """

    _esm = front.module("code.js", "renderCode")
    _css = front.STYLE
    value = t.Unicode("").tag(sync=True)
    rows = t.Int(8).tag(sync=True)
    label = t.Unicode("Code").tag(sync=True)

    def __repr__(self) -> str:
        return f"CodeBlock({len(self.value.splitlines())} lines)"
