"""A button that runs the model: disabled meanwhile, with a bar, a way to stop, and a place where errors are shown.

The run has a thread of its own, because a kernel that computes in a callback cannot hear the Cancel button. Errors in a
callback are otherwise seen in JupyterLab's log only.
"""

from __future__ import annotations

import html
import logging
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import traitlets as t

from dg_tools.widgets.watch import Cancelled, Tick

logger = logging.getLogger("dg_tools")


class Messages(widgets.HTML):
    """One sentence to the reader: a note, a warning or an error."""

    text = t.Unicode("")
    kind = t.Enum(("note", "warning", "error"), "note")

    def __init__(self) -> None:
        super().__init__("", tooltip="")  # none would show as `null`

    def say(self, text: str, kind: str = "note") -> None:
        """Show a sentence; an empty one clears."""
        self.kind = kind
        self.text = text
        role = "alert" if kind == "error" else "status"
        escaped = html.escape(text).replace("\n", "<br>")
        self.value = f'<div role="{role}" class="dg-message dg-{kind}">{escaped}</div>' if text else ""

    def complain(self, error: BaseException) -> None:
        """Show an exception's own sentence; the log has where it came from."""
        logger.debug("shown in an explorer", exc_info=error)
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        self.say(text or type(error).__name__, "error")

    def __repr__(self) -> str:
        return f"Messages({self.kind}: {self.text!r})"


class Runner(widgets.HBox):
    """Run, cancel, bar.

    Attributes:
        busy: whether a run is in progress.
        ended: how many runs are over, finished or not.
    """

    busy = t.Bool(False)
    ended = t.Int(0)

    def __init__(self, label: str, work: Callable[[Tick], None], messages: Messages) -> None:
        self.work = work
        self.messages = messages
        self.button = widgets.Button(description=label, button_style="primary", icon="play", tooltip=label)
        self.button.layout.width = "auto"
        self.stop = widgets.Button(description="Cancel", icon="stop", disabled=True, tooltip="Stop after this step")
        self.stop.layout.width = "85px"
        self.bar = widgets.IntProgress(0, 0, 1, tooltip="steps done", layout={"width": "110px"})
        self.words = widgets.Label("", tooltip="")
        self.thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self.button.on_click(lambda _: self.start())
        self.stop.on_click(lambda _: self.cancel())
        children = [self.button, self.stop, self.bar, self.words]
        super().__init__(children, layout={"flex_flow": "row wrap", "align_items": "center"})
        self.add_class("dg-runner")

    def __repr__(self) -> str:
        return f"Runner({self.button.description!r}, {'running' if self.busy else 'idle'})"

    def tick(self, done: int, total: int) -> None:
        """Move the bar; raises `Cancelled` after `cancel()`."""
        self.bar.max, self.bar.value = max(total, 1), done
        self.words.value = f"computing: {done} of {total} steps"
        if self._cancel.is_set():
            raise Cancelled(f"cancelled after {done} of {total} steps")

    def cancel(self) -> None:
        """Ask the run to end at its next step."""
        self._cancel.set()
        self.words.value = "stopping ..." if self.busy else ""

    def run(self) -> None:
        """Work here and now; errors are raised.

        Raises:
            RuntimeError: another run is in progress.
        """
        self._begin()
        try:
            self.work(self.tick)
        finally:
            self._end()

    def start(self) -> threading.Thread | None:
        """Work in a thread; the messages show errors and a cancelled run. None: another run is in progress."""
        try:
            self._begin()
        except RuntimeError as error:
            self.messages.complain(error)
            return None
        self.thread = threading.Thread(target=self._run_in_thread, name="dg_tools explorer", daemon=True)
        self.thread.start()
        return self.thread

    def _run_in_thread(self) -> None:
        try:
            self.work(self.tick)
        except KeyboardInterrupt:
            done = f"{self.bar.value} of {self.bar.max} steps"
            self.messages.say(f"Stopped after {done}: what was finished or shown before stays.", "warning")
        except Exception as error:
            self.messages.complain(error)
        finally:
            self._end()

    def _begin(self) -> None:
        if self.busy:
            raise RuntimeError("a run is on: wait for it, or cancel it")
        self._cancel.clear()
        self.busy = True
        self.button.disabled = True
        self.stop.disabled = False
        self.bar.value = 0
        self.words.value = "computing ..."
        self.messages.say("")

    def _end(self) -> None:
        self.busy = False
        self.button.disabled = False
        self.stop.disabled = True
        self.words.value = ""
        self.ended += 1


def guarded(messages: Messages, act: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A callback that shows its errors to the reader; an error that was shown before is cleared."""

    def call(change: Any) -> None:
        if messages.kind == "error":
            messages.say("")
        try:
            act(change)
        except Exception as error:
            messages.complain(error)

    return call
