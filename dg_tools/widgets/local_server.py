"""A page on 127.0.0.1 that shows widgets of this process, for its reader alone.

Only this machine can reach it, only under its own name and with the token of its address; it stops when no page is
open. The server is tornado, which every Jupyter server is built on.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import tornado.web
import tornado.websocket
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from dg_tools.widgets import front
from dg_tools.widgets.local_hub import Hub, frame

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
UNSEEN, LEFT = 300.0, 15.0  # seconds without a page: before the first one, and after the last one is closed
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>dg-tools explore</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><div class="dg-tabs" role="tablist" aria-label="Explorers"></div><main class="dg-live"></main>
<script type="module" nonce="{nonce}">{script}
openLive({names});
</script></body></html>
"""


class Guarded(tornado.web.RequestHandler):
    """A request under this server's own name and with its token, in the address or in the cookie that it has set."""

    def initialize(self, server: LocalServer) -> None:
        self.server = server

    def prepare(self) -> None:
        server = self.server
        if self.request.host not in {f"{name}:{server.port}" for name in NAMES}:
            raise tornado.web.HTTPError(403, "another host")
        given = self.get_argument("token", "") or self.get_cookie(server.cookie) or ""
        if not secrets.compare_digest(given.encode(), server.token.encode()):
            raise tornado.web.HTTPError(403, "a wrong token")

    def set_default_headers(self) -> None:
        self.set_header("Server", "dg-tools")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One sentence, without facts about this machine."""
        self.set_header("Content-Type", "text/plain")
        self.finish("refused: open the address that dg-tools explore has printed, with its token")


class PageHandler(Guarded):
    """The page; the token goes from the address into a cookie."""

    def get(self) -> None:
        server = self.server
        if self.get_query_argument("token", None) is not None:
            self.set_cookie(server.cookie, server.token, httponly=True, samesite="Strict")
            self.redirect("/")
            return
        nonce = secrets.token_urlsafe(16)
        rules = (
            f"default-src 'none'; script-src 'nonce-{nonce}' blob:; style-src 'unsafe-inline'; img-src blob: data:; "
        )
        rules += f"connect-src ws://{self.request.host}; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'"
        self.set_header("Content-Security-Policy", rules)
        names = tornado.escape.json_encode(list(server.views)).replace("<", "\\u003c")
        script = "\n".join(front.text(name) for name in ("scales.js", "controls.js", "live.js"))
        style = f"{front.text('page.css')}\n{front.STYLE}"
        self.write(PAGE.format(style=style, nonce=nonce, script=script, names=names))


class Socket(Guarded, tornado.websocket.WebSocketHandler):
    """The messages between the page and the widgets. tornado checks that the page comes from this server."""

    def open(self, *args: str, **kwargs: str) -> None:
        loop = IOLoop.current()
        self.send = lambda sent: loop.add_callback(self._write, sent)
        self.server.hub.join(self.send)
        self.server.seen = True

    def _write(self, sent: bytes) -> None:
        if self.ws_connection is not None:
            self.write_message(sent, binary=True)

    def on_message(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode()
        if text.startswith("view "):
            name = text.removeprefix("view ")
            if name in self.server.views:
                root = self.server.view(name)
                self.send(frame(root.model_id, "view", {"name": name}, [], []))
            return
        self.server.hub.hear(self.send, text)

    def on_close(self) -> None:
        self.server.hub.leave(self.send)


class LocalServer:
    """Widgets by name on a page of this machine.

    Args:
        views: name -> what makes the widget, when the reader first opens its tab.
        port: 0 for a free one.
        unseen, left: seconds after which it stops where no page was opened, and after the last one was closed.

    Attributes:
        address: with its token.
        token: what a request must know.
    """

    def __init__(
        self, views: Mapping[str, Callable[[], Any]], port: int = 0, unseen: float = UNSEEN, left: float = LEFT
    ) -> None:
        self.views = dict(views)
        self.limits = unseen, left
        self.hub = Hub()
        self.token = secrets.token_urlsafe(24)
        self.sockets = bind_sockets(port, HOST)
        self.port = self.sockets[0].getsockname()[1]
        self.cookie = f"dg-tools-{self.port}"  # cookies are shared by all ports of a host
        self.address = f"http://{HOST}:{self.port}/?token={self.token}"
        self.seen = False
        self._made: dict[str, Any] = {}

    def view(self, name: str) -> Any:
        """The widget of a view, made when it is first wanted."""
        if name not in self._made:
            self._made[name] = self.views[name]()
        return self._made[name]

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until no page has been open for a while, or Ctrl-C; `ready` is called once pages can be opened."""
        with self.hub.installed():
            asyncio.run(self._serve(ready))

    async def _serve(self, ready: Callable[[], None]) -> None:
        given = {"server": self}
        routes: list[Any] = [(r"/", PageHandler, given), (r"/socket", Socket, given), (r"/.*", Guarded, given)]
        application = tornado.web.Application(
            routes, websocket_ping_interval=20, websocket_max_message_size=2**22, log_function=lambda handler: None
        )
        server = tornado.httpserver.HTTPServer(application)
        server.add_sockets(self.sockets)
        ready()
        last = time.monotonic()
        while time.monotonic() - last < self.limits[self.seen]:
            await asyncio.sleep(0.5)
            if self.hub.pages or any(busy(widget) for widget in self._made.values()):
                last = time.monotonic()
        server.stop()
        await server.close_all_connections()


def busy(widget: Any) -> bool:
    """Whether an explorer runs its model."""
    return bool(getattr(getattr(widget, "runner", None), "busy", False))
