"""`dg-tools propose`: a first draft of a family's record, from a model that is loaded and run."""

from __future__ import annotations

from pathlib import Path

import typer

from dg_tools.cli.app import at_work, command, emit, say
from dg_tools.cli.options import AsJson, Device, Dtype, Height, Offload, Width, usable


@command
def propose(
    model: str = typer.Argument(None, help="embedded name, folder or Hub id; the embedded default"),
    height: int = Height,
    width: int = Width,
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    """A family record for a model whose transformer has none, from some thirty of its forwards, as Python to paste.

    Loads the weights and runs the model for two steps at a time, at 256 x 384 pixels by default. After the record come
    the facts that a run cannot tell, and what was checked. Exit code 1 where a check failed.

    Examples:
      dg-tools propose path/to/model
      dg-tools propose path/to/model --device cuda --height 512 --width 768
    """
    from dg_tools.families import propose as proposed
    from dg_tools.models._load import load_pipeline
    from dg_tools.models.devices import check_offload
    from dg_tools.models.files import card_call

    check_offload(offload, usable(device))
    with at_work(as_json):
        pipeline, source = load_pipeline(model, device=device, dtype=dtype, offload=offload)
        call = card_call(source) if isinstance(source, Path) else {}
        found = proposed(pipeline, **{**call, **{k: v for k, v in (("height", height), ("width", width)) if v}})
    if as_json:
        emit(found.to_json())
    else:
        print(found)
    failed = sum(check.state == "failed" for check in found.checks)
    say(f"{failed or 'none'} of {len(found.checks)} checks failed; {len(found.unknown)} notes")
    if failed:
        raise typer.Exit(1)
