"""One JupyterLab and one Chromium for the session, and a notebook page with one kernel; built pages need no JupyterLab.

Needs Debian's `chromium` (or `CHROMIUM=path`); without it the tests are skipped with that reason, and fail where `CI`
is set. Playwright's own download is not used. Every address that the browser asks for is written down; every test fails
on a script error, and on a request that leaves this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("DG_SCREENSHOTS", ROOT / "build" / "screenshots"))
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --disable-extensions"
).split()
LOCAL = re.compile(r"^(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|^(blob|data|about):")
SECONDS = 240_000  # at most, for one thing to appear on a busy machine


def settled(measure, holds, seconds: float = 20):
    """A measured value as soon as it holds, since a layout needs a moment after a click; else the last one."""
    end = time.monotonic() + seconds
    while not holds(value := measure()) and time.monotonic() < end:
        time.sleep(0.1)
    return value


def browser_path() -> str | None:
    """Debian's browser, or the one that CHROMIUM names."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def executable():
    """The browser's path; where there is none, what asks for it is skipped, or fails with `CI` set."""
    if browser_path() is None:
        message = "no Chromium: on Debian `apt-get install chromium`, or set CHROMIUM to a browser"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return browser_path()


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """The folder of a small sweep of the embedded model: two blocks, three weights, CFG beside them."""
    import dg_tools as dg

    settings = {"folder": str(tmp_path_factory.mktemp("swept") / "emoji"), "references": 4, "steps": 2}
    settings |= {"blocks": [0, 6], "guidance_scales": [1.0, 3.0], "detail_guidance_scales": [1.0, 2.0, 3.0]}
    return dg.sweep({**settings, "baselines": ["CFG"]}, dg.load(), progress=False).folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory, executable):
    """A JupyterLab with settings, workspaces and notebooks of its own; gives (address, folder of notebooks)."""
    home = tmp_path_factory.mktemp("lab")
    notebooks = home / "notebooks"
    notebooks.mkdir()
    settings = home / "settings" / "@jupyterlab"
    quiet = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "apputils-extension/themes": {"theme": "JupyterLab Light", "adaptive-theme": False},
        "notebook-extension/tracker": {"windowingMode": "none"},  # cells stay on the page when scrolled away
    }
    for name, values in quiet.items():
        file = settings / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--ServerApp.root_dir={notebooks}",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        f"--LabApp.user_settings_dir={home / 'settings'}",
        f"--LabApp.workspaces_dir={home / 'workspaces'}",
        "--LabApp.expose_app_in_browser=True",
        "--ServerApp.disable_check_xsrf=True",
        "--LabApp.news_url=",
    ]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
    }
    log = (home / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=notebooks)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.2)
        else:
            pytest.fail(f"JupyterLab did not start:\n{(home / 'log').read_text()}")
        yield address, notebooks
    finally:
        server.terminate()
        server.wait(60)
        log.close()


@pytest.fixture(scope="session")
def chromium(executable):
    """A headless browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=FLAGS)
        yield browser
        browser.close()


class Notebook:
    """One notebook on one page: its cells are run one by one, its widgets found by their classes."""

    def __init__(self, page, address: str, path: Path, cells: list[str]) -> None:
        self.page, self.problems, self.asked = page, [], []
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        page.on("console", self._console)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(notebook, path)
        page.goto(f"{address}/doc/tree/{path.name}", timeout=SECONDS)
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=SECONDS,
        )

    def _console(self, message) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def run(self, index: int) -> None:
        """Run one cell and wait until the kernel has."""
        ran = self.page.evaluate(
            """async (index) => {
                const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
                notebook.deselectAll();
                notebook.activeCellIndex = index;
                await app.commands.execute('notebook:run-cell');
                return notebook.widgets[index].model.executionCount;
            }""",
            index,
        )
        assert ran, f"cell {index} did not run"
        errors = self.page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
        assert errors.count() == 0, errors.first.inner_text()

    def explorer(self, name: str):
        """An explorer on the page, by its class."""
        found = self.page.locator(f".dg-{name}-explorer").last
        found.wait_for(timeout=SECONDS)
        found.scroll_into_view_if_needed()
        return found

    def ask(self, code: str) -> str:
        """What an expression is in the kernel."""
        return self.page.evaluate(
            """async (code) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const future = kernel.requestExecute({ code: '0', user_expressions: { x: code } });
                const reply = await future.done;
                const x = reply.content.user_expressions.x;
                return x.status === 'ok' ? x.data['text/plain'] : `${x.ename}: ${x.evalue}`;
            }""",
            code,
        )

    def until(self, code: str, wanted: str = "True", seconds: float = SECONDS / 1000) -> None:
        """Wait until an expression in the kernel is what is wanted."""
        end = time.monotonic() + seconds
        while (found := self.ask(code)) != wanted:
            assert time.monotonic() < end, f"{code} is {found}, not {wanted}"
            self.page.wait_for_timeout(100)

    def picture(self, name: str, place=None) -> Path:
        """Keep a screenshot."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        (place or self.page).screenshot(path=str(path))
        return path

    def theme(self, name: str) -> None:
        """`JupyterLab Light` or `JupyterLab Dark`."""
        self.page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
        dark = "false" if "Dark" in name else "true"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{dark}']", state="attached", timeout=SECONDS)

    def check(self) -> None:
        """No script error so far, and nothing asked of another machine."""
        assert not self.problems, self.problems
        outside = [url for url in self.asked if not LOCAL.match(url)]
        assert not outside, outside
