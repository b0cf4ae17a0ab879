"""dg-tools: the toolkit's ways in from a shell; each command is one call of the library."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Model = typer.Option(None, help="embedded name, folder or Hub id; the embedded default where left out")
Steps = typer.Option(None, help="denoising steps; the pipeline's own default where left out")


def disruption(dit: Any, channels: list[int], block: int | None) -> Any:
    """The `Disrupt` of --channel and --block, or of the model's profile."""
    import dg_tools as dg

    profile = dit.profile or {"channels": [], "block": None}
    channels, block = channels or profile["channels"], profile["block"] if block is None else block
    if not channels or block is None:
        raise ValueError(
            "this model has no profile with channels and a block: pass --channel (may be repeated), --block"
        )
    return dg.Disrupt(channels, block)


@app.command()
def demo(out: Path = typer.Option(Path("demo"), help="folder for pictures"), model: str = Model) -> None:
    """Detect, look, switch off, guide, measure: pictures and summary.json."""
    from dg_tools.demo import demo

    demo(out, model)


@app.command()
def generate(
    prompts: list[str] = typer.Argument(help="one or several"),
    out: Path = typer.Option(Path("pictures.png"), help="where to write the grid"),
    model: str = Model,
    seed: list[int] = typer.Option([0], help="may be repeated"),
    steps: int = Steps,
    guidance_scale: float = typer.Option(1.0, help="CFG scale s; 1 is off"),
    detail_guidance_scale: float = typer.Option(0.0, help="DG weight w; 0 is off"),
    channel: list[int] = typer.Option([], help="channel to disrupt; may be repeated"),
    block: int = typer.Option(None, help="block to disrupt"),
) -> None:
    """Pictures, without and with Detail Guidance from the same noise."""
    import dg_tools as dg

    dit = dg.load(model)
    base = dg.CFG(guidance_scale) if guidance_scale > 1 else None
    guidance = [base]
    if detail_guidance_scale:
        guidance.append(dg.DetailGuidance(guidance_scale, detail_guidance_scale, disruption(dit, channel, block)))
    made = dg.generate(dit, prompts, seed=seed, steps=steps, guidance=guidance)
    made.grid().savefig(out, dpi=150)
    print(f"{made!r} -> {out}")


@app.command()
def capture(
    prompts: list[str] = typer.Argument(help="one or several"),
    out: Path = typer.Option(Path("activations.zarr"), help="zarr store to write"),
    model: str = Model,
    seed: list[int] = typer.Option([0], help="may be repeated"),
    steps: int = Steps,
    raw: list[int] = typer.Option([], help="block whose hidden states are kept whole; may be repeated"),
) -> None:
    """Activations of sampling runs, as statistics by block, step, token and channel."""
    import dg_tools as dg

    acts = dg.capture(dg.load(model), prompts, seeds=seed, steps=steps, raw=raw)
    acts.save(out)
    print(f"{acts!r} -> {out}")


@app.command()
def find(
    activations: Path = typer.Argument(help="store that `dg-tools capture` wrote"),
    rule: str = typer.Option("constant", help="constant, outlier, sun or top"),
) -> None:
    """Massive channels of captured activations."""
    import dg_tools as dg

    found = dg.find_massive(dg.open_activations(activations), rule=cast(Any, rule))
    print(found)
    if len(found.to_frame()):
        print(found.to_frame().to_string(index=False))


@app.command()
def sweep(
    config: Path = typer.Argument(help="YAML file: what to vary, on which prompts, by which objective"),
    folder: str = typer.Option(None, help="where the cells go, instead of the file's `folder`"),
    model: str = typer.Option(None, help="instead of the file's `model`"),
) -> None:
    r"""Which block, scale and steps? Measures every setting, chooses one and tells it on other prompts.

    Started again, it goes on where it stopped.

    \b
    Example of a file:
      folder: sweeps/emoji
      blocks: [0, 4, 8]
      guidance_scales: [1.0, 3.0]
      detail_guidance_scales: [0.25, 1.0]
      windows: [[0.0, 1.0], [0.2, 0.8]]
      references: 32

    \b
    Several processes or GPUs (on a CPU too):
      accelerate launch --multi_gpu --num_processes 2 -m dg_tools.cli sweep FILE.yaml

    Exit codes: 0 done, 1 an error (finished cells are kept), 2 wrong usage, 130 interrupted.
    """
    from dataclasses import replace

    from dg_tools.sweeps import read_config
    from dg_tools.sweeps import sweep as run_sweep

    asked = read_config(config)
    try:
        made = run_sweep(replace(asked, folder=folder or asked.folder, model=model or asked.model))
    except KeyboardInterrupt as stopped:
        typer.echo(str(stopped) or "interrupted: finished cells are kept", err=True)
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") == "0":
        print(f"recommended: {made.told}\n{made.verdict}")
        print(f"{made.report.round(4).T.to_string(header=False)}\n-> {made.folder}")


@app.command()
def info(model: str = Model) -> None:
    """What a model is: family, blocks, sizes, profile; and the embedded models."""
    import dg_tools as dg
    from dg_tools.models import embedded

    print("embedded models:", ", ".join(embedded()))
    dit = dg.load(model)
    rows, columns = dit.grid()
    print(f"{dit}\nsites: {', '.join(dit.sites)}\nimage tokens at the default size: {rows} x {columns}")
    print("profile:", json.dumps(dit.profile, indent=1) if dit.profile else "none")


def main() -> None:
    """Entry point: errors of ours as one line, everything else as Python shows it."""
    try:
        app()
    except (ValueError, IndexError, KeyError, OSError, MemoryError) as error:
        words = error if isinstance(error, OSError) or not error.args else error.args[0]  # an OSError's first: a number
        typer.echo(f"{type(error).__name__}: {words}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
