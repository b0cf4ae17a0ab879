"""`dg-tools sweep`: cells that survive a kill, a choice by a stated objective."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from dg_tools.cli.app import at_work, command, emit, say
from dg_tools.cli.options import AsJson, Device, Dtype, Offload, usable


@command
def sweep(
    config: Path = typer.Argument(help="YAML file: what to vary, on which prompts, by which objective"),
    folder: str = typer.Option(None, help="where the cells go, instead of the file's `folder`"),
    model: str = typer.Option(None, help="instead of the file's `model`"),
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    r"""Which block, scale and steps? Measures every setting, chooses one and reports it on other prompts.

    Started again, it goes on where it stopped.

    Example of a file:
      folder: sweeps/emoji
      blocks: [0, 4, 8]
      guidance_scales: [1.0, 3.0]
      detail_guidance_scales: [0.25, 1.0]
      windows: [[0.0, 1.0], [0.2, 0.8]]
      references: 32

    Examples; the second is for several processes or GPUs (on a CPU too):
      dg-tools sweep FILE.yaml
      accelerate launch --multi_gpu --num_processes 2 \
        -m dg_tools.cli sweep FILE.yaml

    Exit codes: 0 done, 1 an error (finished cells are kept), 2 wrong usage, 130 interrupted.
    """
    from dataclasses import replace

    from dg_tools.sweeps import read_config
    from dg_tools.sweeps import sweep as run_sweep

    settings = read_config(config)
    given: dict[str, Any] = {"folder": folder, "model": model, "device": usable(device)}
    given |= {"dtype": None if dtype == "auto" else dtype, "offload": None if offload == "none" else offload}
    try:
        with at_work(as_json):
            result = run_sweep(replace(settings, **{k: v for k, v in given.items() if v is not None}))
    except KeyboardInterrupt as stopped:
        say(str(stopped) or "interrupted: finished cells are kept")
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        emit({"folder": result.folder, "profile": result.profile, **result.to_json()})
        return
    print(f"recommended: {result.recommended}\n{result.verdict}")
    print(f"{result.report.round(4).T.to_string(header=False)}\n-> {result.folder}")
