"""`dg-tools explore`: the explorers on a page of this machine, without JupyterLab."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import typer

from dg_tools.cli.app import command, emit, say
from dg_tools.cli.options import AsJson, Device, Dtype, Height, Offload, Steps, Width, loaded


@command
def explore(
    what: str = typer.Argument(None, help="model, saved capture, sweep or report; the embedded model if left out"),
    port: int = typer.Option(0, min=0, max=65535, help="port on 127.0.0.1; a free one if left out"),
    browser: bool = typer.Option(True, "--browser/--no-browser", help="open the address in the browser"),
    steps: int = Steps,
    height: int = Height,
    width: int = Width,
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    """Explore a model, a saved capture, a sweep or a report in the browser, without JupyterLab.

    A model gives three tabs: an edit beside its control, with the knob; guidance; activations. Buttons run it. The page
    is for this machine alone: the server listens on 127.0.0.1, wants the token of the printed address, and stops 15
    seconds after the last page is closed. Ctrl-C stops it too. A report is a page already: it is opened as a file.

    Examples:
      dg-tools explore
      dg-tools explore path/to/model --steps 12
      dg-tools explore captures/apple.zarr
      dg-tools explore sweeps/emoji
      dg-tools explore report/
    """
    kind = source_of(what)
    call: dict[str, Any] = {"steps": steps, "height": height, "width": width}
    if kind == "report":
        open_page(Path(what) / "index.html", browser, as_json)
        return
    given = {**{f"--{k}": v for k, v in call.items()}, "--device": device}
    if kind != "model" and any(v is not None for v in given.values()):
        raise typer.BadParameter(
            f"a {kind} is shown as it is and nothing is run: leave out {', '.join(k for k in given if given[k])}"
        )
    say("loading the model ..." if kind == "model" else f"loading the {kind} ...")  # imports alone take seconds
    try:
        from dg_tools import widgets
        from dg_tools.widgets.local_server import LocalServer
    except ModuleNotFoundError as error:
        raise RuntimeError(f"dg-tools explore needs {error.name}: pip install 'dg-tools[lab]'") from error

    views: dict[str, Callable[[], Any]]
    if kind == "capture":
        views = {"Activations": partial(widgets.ActivationExplorer, what)}
    elif kind == "sweep":
        views = {"Sweep": partial(widgets.ComparisonExplorer, what)}
    else:
        dit = loaded(what, device, dtype, offload)
        views = {
            "Edits": partial(widgets.InterventionExplorer, dit, **call),
            "Guidance": partial(widgets.GuidanceExplorer, dit, **call),
            "Activations": partial(widgets.ActivationExplorer, dit, **call),
        }
    server = LocalServer(views, port)

    def ready() -> None:
        told(server.address, as_json)
        say("for this machine alone; Ctrl-C stops it")
        if browser:
            webbrowser.open(server.address)

    try:
        server.run(ready)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def source_of(what: str | None) -> str:
    """What a folder or a name holds: `capture`, `sweep`, `report` or `model`."""
    folder = Path(what or "")
    if what and folder.is_dir():
        for name, file in (("capture", "journal.jsonl"), ("sweep", "sweep.json"), ("report", "report.json")):
            if (folder / file).is_file():
                return name
    return "model"


def told(address: str, as_json: bool) -> None:
    """Say where the page is: on stderr, or as JSON on stdout at once, for the command goes on."""
    if as_json:
        emit({"address": address})
        sys.stdout.flush()
    else:
        say(address)


def open_page(page: Path, browser: bool, as_json: bool) -> None:
    """A report is a page already, which needs no server.

    Raises:
        FileNotFoundError: it was not finished.
    """
    if not page.is_file():
        raise FileNotFoundError(f"{page} is not there: `dg-tools report` writes it when it has finished")
    told(page.absolute().as_uri(), as_json)
    if browser:
        webbrowser.open(page.absolute().as_uri())
