"""Widgets without a Jupyter kernel: their messages go to pages of this process, through ipywidgets' own comm.

The state of each widget is kept, so that a page that is opened later, or again, shows the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import comm
from comm.base_comm import BaseComm

logger = logging.getLogger("dg_tools")
Send = Callable[[bytes], None]


class Hub:
    """The widgets of this process and the pages that show them.

    Attributes:
        pages: the functions that send a frame to each page.
    """

    def __init__(self) -> None:
        self.pages: set[Send] = set()
        self._lock = RLock()
        self._states: dict[str, dict[str, tuple[Any, list, list]]] = {}  # widget -> name -> value, paths, buffers
        self._speaks: Send | None = None  # the page whose message is being handled: it need not hear its own change

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Widgets that are made inside speak to this hub."""
        hub, before = self, comm.create_comm

        class HubComm(BaseComm):
            def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None,
                            **keys: Any) -> None:  # fmt: skip
                hub.publish(self.comm_id, msg_type, data or {}, list(buffers or []))

        comm.create_comm = HubComm
        try:
            yield
        finally:
            comm.create_comm = before

    def publish(self, widget: str, kind: str, data: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """Keep a message of a widget, and send it to the pages."""
        with self._lock:
            if kind == "comm_close":
                self._states.pop(widget, None)
                return
            state, paths = data.get("state"), [list(path) for path in data.get("buffer_paths", [])]
            if state is None:
                return
            kept = self._states.setdefault(widget, {})
            for name in {*state, *(path[0] for path in paths)}:
                own = [i for i, path in enumerate(paths) if path[0] == name]
                kept[name] = (state.get(name), [paths[i] for i in own], [buffers[i] for i in own])
            echo = data.get("method") == "echo_update"
            sent = frame(widget, "open" if kind == "comm_open" else "update", state, paths, buffers)
            for page in list(self.pages):
                if not (echo and page is self._speaks):
                    page(sent)

    def join(self, page: Send) -> None:
        """A page opens: it gets the state of all widgets, and their messages from now on."""
        with self._lock:
            for widget, state in self._states.items():
                values = {name: value for name, (value, _, _) in state.items()}
                paths = [path for _, own, _ in state.values() for path in own]
                buffers = [buffer for _, _, own in state.values() for buffer in own]
                page(frame(widget, "open", values, paths, buffers))
            self.pages.add(page)

    def leave(self, page: Send) -> None:
        """A page is closed."""
        self.pages.discard(page)

    def hear(self, page: Send, text: str) -> None:
        """Handle a message of a page: values of a widget, or an event such as a click."""
        said = json.loads(text)
        widget = comm.get_comm_manager().comms.get(str(said.get("id")))
        if widget is None:
            return
        data = {"method": "update", "state": said["state"], "buffer_paths": []} if "state" in said else {
            "method": "custom", "content": said["content"]}  # fmt: skip
        self._speaks = page
        try:
            widget.handle_msg({"content": {"comm_id": said["id"], "data": data}, "buffers": []})
        except Exception:  # as in a kernel: the widget stays, the log has the error
            logger.exception("a message of the page failed")
        finally:
            self._speaks = None


def frame(widget: str, kind: str, state: Any, paths: Sequence[Any], buffers: Sequence[Any]) -> bytes:
    """One message: the length of its head, the head as JSON, the buffers."""
    parts = [memoryview(buffer).cast("B") for buffer in buffers]
    head = {"id": widget, "kind": kind, "state": state, "paths": paths, "sizes": [p.nbytes for p in parts]}
    text = json.dumps(head).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *parts])
