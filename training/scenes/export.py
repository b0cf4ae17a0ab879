"""Export: what a training has reached, at any moment, as a stock pipeline folder.

    python -m training.scenes.export --recipe emoji128 --run runs/emoji128 --to runs/emoji128/export/emoji128

The averaged weights; transformer and VAE in half precision in shards of at most 12 MB, text encoders in single
precision. Reading the checkpoint does not disturb a training that runs. The sprites go into a
folder `scenes` beside the model.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import typer
from diffusers import AutoencoderKL

from training.architectures import SD3
from training.export import put_in_place
from training.scenes.recipe import SceneRecipe
from training.scenes.state import State

LOGS = ("vae.jsonl", "dit.jsonl", "validation.jsonl", "dose.csv")


def main(
    recipe: str = typer.Option("emoji128", help="emoji128, toy, or a TOML file"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
    to: Path = typer.Option(..., help="folder to write"),
    finished: bool = typer.Option(False, help="the checkpoint of --finish instead of the one that goes on"),
) -> None:
    """Write the pipeline folder; the old one is replaced once the new one is whole."""
    settings = SceneRecipe.load(recipe)
    run = run or Path("runs") / settings.name
    file = run / ("dit-finished.safetensors" if finished else "dit.safetensors")
    if not file.is_file():
        raise SystemExit(f"{file} is missing; run first: python -m training.scenes.dit --recipe {recipe}")
    state = State(settings, run)
    state.load(file)
    state.swap()  # the averaged weights
    vae = AutoencoderKL.from_pretrained(run / "vae").half()
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    SD3.pipeline(state.transformer.half(), state.text, vae).save_pretrained(
        partial, safe_serialization=True, max_shard_size="12MB"
    )
    hours = round(sum(r["cpu_seconds"] for r in state.history) / 3600, 3)
    record = {"start": state.start, "steps": state.step, "cpu_hours": hours, "runs": state.history}
    size = put_in_place(partial, to, run, LOGS, record, settings, SD3.call(settings))
    target = to.parent / "scenes"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run / "references", target)
    print(f"{to}: step {state.step}, {hours} h of CPU time, {size:.1f} MiB; sprites in {target}")


if __name__ == "__main__":
    typer.run(main)
