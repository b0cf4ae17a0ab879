"""`dg-tools verify`: does the toolkit act on this checkpoint as it says?"""

from __future__ import annotations

import typer

from dg_tools.cli.app import at_work, command, emit, say
from dg_tools.cli.options import AsJson, Device, Dtype, Height, Offload, Width, loaded


@command
def verify(
    model: str = typer.Argument(None, help="embedded name, folder or Hub id; the embedded default"),
    prompt: str = typer.Option(None, "--prompt", "-p", help="what to draw"),
    steps: int = typer.Option(2, min=2, help="denoising steps of each run"),
    height: int = Height,
    width: int = Width,
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    """Check that dg_tools acts on a checkpoint as documented, against plain hooks and a loop written by hand.

    Loads the weights and runs the model for a few steps: its record, a capture, guidance with w = 0, Detail Guidance,
    and what is put back. One line for each check. Exit code 1 where one failed.

    Examples:
      dg-tools verify
      dg-tools verify path/to/model --device cuda --height 512 --width 512
      dg-tools verify emoji-flux --json
    """
    from dg_tools.verification import verify as verified

    dit = loaded(model, device, dtype, offload, as_json=as_json)
    with at_work(as_json):
        found = verified(dit, prompt=prompt, steps=steps, height=height, width=width, progress=not as_json)
    if as_json:
        emit(found.to_json())
    say(f"{found.about['model']}: {found.verdict}")
    if not found.ok:
        raise typer.Exit(1)
