"""Export: what a training has reached, as a stock pipeline folder.

The averaged weights; transformer and VAE in half precision in shards of at most 12 MB, text encoders in single
precision (a half-precision CLIP folder would reload as half precision beside a single-precision transformer). The
references, the training record and the logs travel along, so that the next training can start from the folder alone.

    python -m training.export --recipe cpu --run runs/cpu --to dg_tools/zoo/emoji-sd3
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from diffusers import AutoencoderKL

from training.dit import Training
from training.recipe import Recipe

LIMIT = 24 * 2**20
LOGS = ("vae.jsonl", "dit.jsonl", "validation.jsonl", "outliers.csv")


def put_in_place(
    partial: Path,
    to: Path,
    run: Path,
    logs: Sequence[str],
    record: dict[str, Any],
    settings: Recipe,
    call: dict[str, Any],
) -> float:
    """Add logs, training record and a card without figures to a new pipeline folder, and put it in the old one's place.

    Args:
        partial, to: the new folder, and where it belongs.
        run: the run folder, with its logs and hand-written notes.
        logs: names of the logs that travel along.
        record: what `training.json` says besides recipe and notes.
        settings: the recipe.
        call: what a pipeline call of the model needs.

    Returns:
        The folder's size in MiB.

    Raises:
        SystemExit: the folder is too large; the old one stays.
    """
    for log in logs:
        if (run / log).is_file():
            shutil.copy(run / log, partial / log)
    notes = run / "notes.txt"  # written by hand: what this training did otherwise than its recipe
    said = notes.read_text(encoding="utf-8").strip() if notes.is_file() else ""
    whole = {"recipe": settings.to_json(), **record, "notes": said}
    (partial / "training.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    lines = "".join(f"    {name}: {value}\n" for name, value in call.items())
    header = f"---\nlicense: mit\ndg_tools:\n  call:\n{lines}---\n"
    (partial / "README.md").write_text(header + f"\n# {to.name}\n\nNot evaluated yet.\n", encoding="utf-8")
    size = sum(p.stat().st_size for p in partial.rglob("*") if p.is_file())
    if size > LIMIT:
        raise SystemExit(f"{partial} takes {size / 2**20:.1f} MiB; the limit is {LIMIT / 2**20:.0f}")
    shutil.rmtree(to, ignore_errors=True)
    partial.rename(to)
    return size / 2**20


def main(
    recipe: str = typer.Option("cpu", help="cpu, gpu, toy, or a TOML file"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
    to: Path = typer.Option(..., help="folder to write, such as dg_tools/zoo/emoji-sd3"),
    references: Path = typer.Option(None, help="folder for the sprites (default: `emoji` beside --to)"),
) -> None:
    """Write the pipeline folder, replacing the old one only once the new one is whole."""
    settings = Recipe.load(recipe)
    run = run or Path("runs") / settings.name
    if not (run / "dit.pt").is_file():
        raise SystemExit(f"{run}/dit.pt is missing; run first: python -m training.dit --recipe {recipe}")
    training = Training(settings, run, "cpu")
    training.load()
    training.swap()  # the averaged weights
    vae = AutoencoderKL.from_pretrained(run / "vae").half()
    vae.register_to_config(_name_or_path="vae")  # not the folder on this machine
    pipeline = training.kind.pipeline(training.transformer.half(), training.text, vae)
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(partial, safe_serialization=True, max_shard_size="12MB")
    record = {"steps": training.step, "runs": training.history}
    size = put_in_place(partial, to, run, LOGS, record, settings, training.kind.call(settings))
    target = references or to.parent / "emoji"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run / "references", target)
    print(f"{to}: step {training.step}, {size:.1f} MiB; references in {target}")


if __name__ == "__main__":
    typer.run(main)
