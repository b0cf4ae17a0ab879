"""`dg-tools demo`."""

from __future__ import annotations

from pathlib import Path

import typer

from dg_tools.cli.app import at_work, command, emit, stop
from dg_tools.cli.options import AsJson, Device, Dtype, Model, Offload, usable


@command
def demo(
    out: Path = typer.Option(Path("demo"), "--out", "-o", help="folder for pictures and summary.json"),
    model: str = Model,
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    """Detect, look, switch off, guide, measure: pictures and summary.json.

    Everything is written to the folder of --out; what was measured is printed too.

    Examples:
      dg-tools demo
      dg-tools demo -o out/ --model path/to/model
    """
    from dg_tools.demo import demo

    try:
        with at_work(as_json):
            summary = demo(out, model, device=usable(device), dtype=dtype, offload=offload)
    except KeyboardInterrupt:
        pictures = len(list(out.glob("*.png"))) if out.is_dir() else 0
        stop(f"{out} holds {pictures} pictures, and no new summary.json")
    if as_json:
        emit(summary)
