"""The page of `dg-tools explore` without a browser: who gets in, what is said over the socket, and when it stops."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import comm
import ipywidgets as widgets
import numpy as np
import pytest
import tiny
from test_cli import called
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

import dg_tools as dg
from dg_tools.cli.explore import source_of
from dg_tools.widgets.chart import Chart, Curves
from dg_tools.widgets.local_server import LocalServer


class View(widgets.VBox):
    """A slider and a chart of three times its value."""

    def __init__(self) -> None:
        self.slider, self.chart = widgets.IntSlider(0, 0, 9), Chart()
        super().__init__([self.slider, self.chart])
        self.slider.observe(
            lambda c: self.chart.draw(Curves({"x": np.full(2, 3.0 * c["new"])}), c["new"]), names="value"
        )


@contextmanager
def serving(**limits):
    """A server in a thread of its own, which ends with the block."""
    server, ready = LocalServer({"One": View}, **limits), threading.Event()
    thread = threading.Thread(target=server.run, args=(ready.set,), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield server
    finally:
        server.limits = (0.0, 0.0)
        server.hub.pages.clear()
        thread.join(60)
        assert not thread.is_alive()


def asked(server, path="/", host=None, cookie=None) -> tuple[int, str]:
    """Status and text of a request; redirects are not followed."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}")
    if host:
        request.add_header("Host", host)
    if cookie:
        request.add_header("Cookie", f"{server.cookie}={cookie}")

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args, **kwargs):
            return None

    try:
        with urllib.request.build_opener(Stay).open(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def unpacked(message: bytes) -> dict:
    """A frame as the page reads it."""
    size = int.from_bytes(message[:4], "big")
    head, at = json.loads(message[4 : 4 + size]), 4 + size
    for path, length in zip(head["paths"], head["sizes"], strict=True):
        place = head["state"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = message[at : at + length]
        at += length
    return head


def test_only_this_host_and_the_token_get_in():
    with serving() as server:
        token, own = server.token, f"127.0.0.1:{server.port}"
        status, text = asked(server, f"/?token={token}")
        assert status == 302, "the token leaves the address"
        status, text = asked(server, cookie=token)
        assert status == 200 and "openLive" in text and token not in text
        for refused in (
            asked(server),
            asked(server, "/?token=wrong"),
            asked(server, cookie="wrong"),
            asked(server, f"/?token={token}", host="evil.example"),
            asked(server, host=f"evil.example:{server.port}", cookie=token),
            asked(server, "/socket", cookie="wrong"),
        ):
            assert refused[0] == 403 and "with its token" in refused[1] and token not in refused[1]
        assert asked(server, host=f"localhost:{server.port}", cookie=token)[0] == 200

        async def connect(**headers):
            (await websocket_connect(HTTPRequest(f"ws://{own}/socket", headers=headers))).close()

        good = {"Cookie": f"{server.cookie}={token}", "Origin": f"http://{own}"}
        alone(connect(**good))
        for bad in ({"Cookie": good["Cookie"], "Origin": "http://evil.example"}, {"Origin": good["Origin"]}):
            with pytest.raises(HTTPClientError, match="403"):
                alone(connect(**bad))
        (address,) = {sock.getsockname()[0] for sock in server.sockets}
        assert address == "127.0.0.1"


def alone(coroutine):
    """What a coroutine gives, in a thread of its own: a browser test beside this one may have left a loop running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result(120)


async def talk(server) -> tuple[dict, dict]:
    """Open the page, move the slider, and what the page knows then; what a second page hears when it opens."""
    headers = {"Cookie": f"{server.cookie}={server.token}"}
    models: dict[str, dict] = {}
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{server.port}/socket", headers=headers))
    await socket.write_message("view One")

    async def until(there) -> dict:
        while True:
            head = unpacked(await asyncio.wait_for(socket.read_message(), 30))
            models.setdefault(head["id"], {}).update(head["state"])
            if there(head):
                return head

    await until(lambda head: head["kind"] == "view")
    (slider,) = [i for i, m in models.items() if m.get("_model_name") == "IntSliderModel"]
    await socket.write_message(json.dumps({"id": slider, "state": {"value": 4}}))
    await socket.write_message(json.dumps({"id": "nobody", "state": {"value": 4}}))
    await until(lambda head: "data" in head["state"])
    second = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{server.port}/socket", headers=headers))
    later: dict[str, dict] = {}
    while len(later) < len(models):
        head = unpacked(await asyncio.wait_for(second.read_message(), 30))
        later.setdefault(head["id"], {}).update(head["state"])
    socket.close()
    second.close()
    return models, later


def test_a_page_moves_a_widget_and_a_second_page_shows_the_same():
    before = comm.create_comm
    with serving() as server:
        models, later = alone(talk(server))
        assert server.view("One").slider.value == 4
        for known in (models, later):
            (chart,) = [m for m in known.values() if m.get("_model_name") == "AnyModel"]
            assert chart["cell"] == 4
            assert np.frombuffer(chart["data"]["series"][0]["values"], np.float32).tolist() == [12.0, 12.0]
        assert next(m["value"] for m in later.values() if m.get("_model_name") == "IntSliderModel") == 4
    assert comm.create_comm is before, "put back"


def test_it_stops_when_nobody_looks():
    server = LocalServer({"One": View}, unseen=0.1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "no page was opened"
    server = LocalServer({"One": View}, unseen=240.0, left=0.1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    alone(talk(server))
    thread.join(60)
    assert not thread.is_alive(), "the last page was closed"


def test_what_is_explored(dits, tmp_path, monkeypatch, capsys):
    dg.capture(dits("sd3"), "ab", progress=False, **tiny.CALL).save(tmp_path / "kept.zarr")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text("{}")
    kinds = [
        source_of(None if name is None else str(tmp_path / name))
        for name in ("kept.zarr", "sweep", "report", None, "x")
    ]
    assert kinds == ["capture", "sweep", "report", "model", "model"]
    code, _, error = called(monkeypatch, capsys, "explore", tmp_path / "report", "--no-browser")
    assert code == 1 and "index.html is not there" in error
    (tmp_path / "report" / "index.html").write_text("a page")
    code, _, error = called(monkeypatch, capsys, "explore", tmp_path / "report", "--no-browser")
    assert code == 0 and (tmp_path / "report" / "index.html").as_uri() in error
    code, printed, _ = called(monkeypatch, capsys, "explore", tmp_path / "report", "--no-browser", "--json")
    assert code == 0 and json.loads(printed) == {"address": (tmp_path / "report" / "index.html").as_uri()}
    code, _, error = called(monkeypatch, capsys, "explore", tmp_path / "kept.zarr", "--no-browser", "--steps", "3")
    assert code == 2 and "leave out --steps" in error
    code, _, error = called(monkeypatch, capsys, "explore", tmp_path / "nothing", "--no-browser")
    assert code == 1 and "nothing" in error


def test_it_says_that_it_loads_before_it_does():
    """torch and ipywidgets cannot be imported in this process: what is printed comes before them."""
    blocked = "import sys\nsys.modules.update(torch=None, ipywidgets=None)\nfrom dg_tools.cli import main\n"
    command = [sys.executable, "-c", f"{blocked}sys.argv = ['dg-tools', 'explore', '--no-browser']\nmain()"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert made.returncode == 1 and made.stderr.splitlines()[0] == "loading the model ..."
