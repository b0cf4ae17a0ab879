"""`dg-tools capture`: a store of activations, to look at or to search later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dg_tools.cli.app import at_work, command, emit, pairs, stop
from dg_tools.cli.options import (
    AsJson,
    Cfg,
    Device,
    Dtype,
    Height,
    Model,
    Offload,
    Seeds,
    Steps,
    Width,
    checked,
    loaded,
    warned,
)
from dg_tools.paths import free

if TYPE_CHECKING:  # commands load torch when they are called
    from dg_tools.activations.result import Activations


@command
def capture(
    prompts: list[str] = typer.Argument(help="one or several"),
    out: Path = typer.Option(Path("activations.zarr"), "--out", "-o", help="store to write"),
    model: str = Model,
    seed: list[str] = Seeds,
    steps: int = Steps,
    cfg: float = Cfg,
    height: int = Height,
    width: int = Width,
    raw: list[int] = typer.Option([], help="block whose hidden states are kept whole; may be repeated"),
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    force: bool = typer.Option(False, "--force", "-f", help="replace activations that are there"),
    as_json: bool = AsJson,
) -> None:
    """Activations of sampling runs, as statistics by block, step, token and channel.

    Stopped with Ctrl-C, the runs that were finished are written.

    Examples:
      dg-tools capture "red apple" "owl on teal" -o acts.zarr --steps 20
      dg-tools capture "red apple" --raw 5 --seed 0 --seed 1
      dg-tools find acts.zarr
    """
    import dg_tools as dg

    prompts, seeds = checked(prompts, seed)
    check_store(out, force)
    dit = loaded(model, device, dtype, offload, as_json=as_json)
    warnings = warned(dit, prompts)
    guidance = dg.CFG(cfg) if cfg > 1 else None
    try:
        with at_work(as_json):
            acts = dg.capture(
                dit, prompts, seeds=seeds, steps=steps, height=height, width=width, guidance=guidance, raw=raw
            )
    except KeyboardInterrupt as stopped:
        stop(write_finished(getattr(stopped, "kept", None), out))
    acts.save(out)
    shape = {str(k): int(v) for k, v in acts.data.sizes.items()}
    if as_json:
        emit({"store": out, "bytes": acts.data.nbytes, "sizes": shape, "warnings": warnings, **acts.data.attrs})
        return
    sizes = ", ".join(f"{k} {v}" for k, v in shape.items())
    pairs({"store": out, "size": f"{acts.data.nbytes / 2**20:.1f} MiB", "holds": sizes}, title="captured")


def check_store(out: Path, force: bool) -> None:
    """Raise before the run where the store could not be written, or would take the place of another one."""
    from dg_tools.activations.journal import check_target

    check_target(out)
    if out.exists() and any(out.iterdir()) and not force:
        raise FileExistsError(f"{out} holds activations already: pass another --out, or --force to replace them")


def write_finished(acts: Activations | None, out: Path) -> str:
    """Write the finished runs of a capture that was stopped, beside what is there; a sentence that says so."""
    if acts is None:
        return "no run was finished, so nothing is written" + (f"; {out} is as it was" if out.exists() else "")
    target = free(out)
    acts.save(target)
    return f"the finished runs are in {target} (marked unfinished)"
