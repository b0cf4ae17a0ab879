"""The page's pictures were made with some settings; when the fields change, they are dimmed and a note says why.

Results are kept by their settings, so that a move back to settings that were run shows their result at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from dg_tools.widgets.parts import set_text, text_block

MOST = 12  # results that are kept: five pictures of 1024 x 1024 each are 15 MB


class Shown:
    """The results of runs by their settings, and which of them is on the page.

    Args:
        places: what is dimmed.
        button: the button that the note names.

    Attributes:
        settings: of what is on the page; None before the first run.
        note: says that the settings have changed.
        fresh: what is on the page was made with the settings in the fields.
    """

    def __init__(self, places: Sequence[Any], button: str) -> None:
        self.places, self.button = places, button
        self.settings: Any = None
        self.note = text_block("")
        self.note.add_class("dg-over-note")
        self.note.layout.display = "none"
        self.fresh = True
        self._results: OrderedDict[Any, Any] = OrderedDict()

    def under_note(self, *parts: Any) -> Any:
        """The parts with the note over them: where the reader looks, and nothing moves when it comes."""
        box = widgets.VBox([*parts, self.note])
        box.add_class("dg-noted")
        return box

    def put(self, settings: Any, result: Any = None) -> None:
        """These settings are on the page now, with a result to keep."""
        self.settings = settings
        if result is not None:
            self._results[settings] = result
            self._results.move_to_end(settings)
            while len(self._results) > MOST:
                self._results.popitem(last=False)
        self.compare(settings)

    def kept(self, settings: Any) -> Any:
        """The result of settings that were run; None: there is none."""
        return self._results.get(settings)

    def compare(self, settings: Any) -> None:
        """Dim what was made with settings other than these; None: the fields hold nothing that could be run."""
        self.fresh = self.settings is None or settings == self.settings
        for place in self.places:
            (place.remove_class if self.fresh else place.add_class)("dg-stale")
        if not self.fresh:
            set_text(self.note, f"settings changed: press {self.button}", "stale-note")
        self.note.layout.display = "none" if self.fresh else ""
