"""`dg-tools generate`: pictures that carry their settings, and the same pictures again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from dg_tools.cli.app import (
    AsJson,
    Cfg,
    Device,
    Height,
    Model,
    Seeds,
    Steps,
    Width,
    app,
    at_work,
    checked,
    emit,
    pairs,
    say,
    stop,
    table,
    usable,
    warned,
)


@app.command()
def generate(
    prompts: list[str] = typer.Argument(None, help="one or several"),
    out: Path = typer.Option(Path("pictures"), "--out", "-o", help="folder for the pictures"),
    model: str = Model,
    seed: list[str] = Seeds,
    steps: int = Steps,
    cfg: float = Cfg,
    dg: float = typer.Option(0.0, "--dg", help="DG weight w; 0 is off"),
    channel: list[int] = typer.Option([], help="channel to disrupt; may be repeated; the profile's if left out"),
    block: int = typer.Option(None, help="block to disrupt; the profile's if left out"),
    auto: bool = typer.Option(False, "--auto", help="have channels and block detected and chosen"),
    alone: bool = typer.Option(False, "--alone", help="without the picture that the same noise gives without DG"),
    height: int = Height,
    width: int = Width,
    device: str = Device,
    again: Path = typer.Option(None, "--from", help="picture to make again, by the settings in it"),
    as_json: bool = AsJson,
) -> None:
    """Pictures, with Detail Guidance and without from the same noise; each PNG carries its settings.

    No file is replaced: a name that is taken gets a number. Stopped with Ctrl-C, the finished pictures are there.

    \b
    Examples:
      dg-tools generate "red apple" --dg 2 --cfg 3 -o out/
      dg-tools generate "owl on teal" "penguin" --seed 0 --seed 1 --steps 20
      dg-tools generate "red apple" --dg 1 --channel 676 --block 10 -m path/to/model
      dg-tools generate --from out/red-apple-seed-0-cfg-3-dg-2.png
    """
    if (again is None) == (not prompts):
        raise typer.BadParameter(
            'write what the picture should show, such as: dg-tools generate "red apple"; or --from PICTURE alone'
        )
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; pass a folder for the pictures")
    if again is not None:
        repeat(again, out, model, device, as_json)
        return
    import dg_tools

    asked, seeds = checked(prompts, seed)
    dit = dg_tools.load(model, device=usable(device))
    warnings = warned(dit, asked)
    plain = dg_tools.CFG(cfg) if cfg > 1 else None
    variants: list[Any] = [] if dg and alone else [plain]
    call = {"steps": steps, "height": height, "width": width}
    if dg:
        what = "auto" if auto else disruption(dit, channel, block)
        with at_work(as_json):
            variants.append(dg_tools.DetailGuidance(cfg, dg, what).resolved(dit, **call))
    pictures, stopped = [], False
    for p, s in [(p, s) for p in asked for s in seeds]:
        try:
            with at_work(as_json):
                made = dg_tools.generate(dit, p, seed=s, guidance=variants, **call)
        except KeyboardInterrupt as interrupted:
            made, stopped = getattr(interrupted, "kept", None), True
        pictures += [] if made is None else written(dit, made, variants, out)
        if stopped:
            names = ", ".join(str(p["file"]) for p in pictures) or "nothing"
            stop(f"kept {len(pictures)} of {len(asked) * len(seeds) * len(variants)} pictures: {names}")
    grid = grid_of(pictures, len(variants) if len(variants) > 1 else len(seeds), out)
    for picture in pictures:
        del picture["image"]
    if as_json:
        emit({"pictures": pictures, "grid": grid, "warnings": warnings})
        return
    columns = ("file", "prompt", "seed", "in words", "forwards", "seconds")
    table([{name: picture[name] for name in columns} for picture in pictures])
    if grid:
        print(f"side by side: {grid}")


def disruption(dit: Any, channels: list[int], block: int | None) -> Any:
    """The `Disrupt` of --channel and --block, or of the model's profile.

    Raises:
        ValueError: neither names both.
    """
    import dg_tools

    profile = dit.profile or {"channels": [], "block": None}
    channels, block = channels or profile["channels"], profile["block"] if block is None else block
    if not channels or block is None:
        raise ValueError(
            "this model has no profile with channels and a block: pass --channel (may be repeated) and --block, or "
            "--auto to have them detected and chosen"
        )
    return dg_tools.Disrupt(channels, block)


def written(dit: Any, made: Any, variants: list[Any], out: Path) -> list[dict[str, Any]]:
    """Write the pictures of one prompt and seed; what each is."""
    from dg_tools.generation.recipes import recipe, write_picture

    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for image, settings, forwards, seconds, guidance in zip(
        made.images, made.settings, made.forwards, made.seconds, variants, strict=False
    ):
        by = recipe(dit, settings, guidance)
        file = write_picture(image, out / f"{name_of(settings)}.png", by)
        cost = {"forwards": forwards, "seconds": round(seconds, 3)}
        rows.append({"file": file, **by, "in words": settings["guidance"], **cost, "image": image})
    return rows


def name_of(settings: dict[str, Any]) -> str:
    """A file name from what the picture is of."""
    words = f"{str(settings['prompt'])[:60]} seed {settings['seed']} {settings['guidance']}"
    return re.sub(r"[^\w.]+", "-", words.lower()).strip("-.")


def grid_of(pictures: list[dict[str, Any]], columns: int, out: Path) -> Path | None:
    """All pictures side by side in one file, where there are several."""
    if len(pictures) < 2:
        return None
    from dg_tools.generation.recipes import free
    from dg_tools.plots import image_grid

    captions = [f"{p['prompt']}, seed {p['seed']}\n{p['in words']}" for p in pictures]
    file = free(out / "grid.png")
    image_grid([p["image"] for p in pictures], captions, columns=columns).savefig(file, dpi=150)
    return file


def repeat(picture: Path, out: Path, model: str | None, device: str | None, as_json: bool) -> None:
    """Make a picture again, write it, and say whether it is the same; exit code 3 where it is not."""
    import numpy as np

    from dg_tools.generation.recipes import read_picture

    before, by = read_picture(picture)
    import torch

    import dg_tools
    from dg_tools.generation.recipes import again, write_picture
    from dg_tools.models.provenance import PACKAGES, provenance

    device = usable(device or by["device"])
    try:
        dit = dg_tools.load(model or by["model"], dtype=getattr(torch, by["dtype"]), device=device)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{picture} was made by {by['model']!r}; where that is a folder, pass it: --model FOLDER ({error})"
        ) from None
    now = provenance(dit)["versions"]
    other = [f"{p} {now[p]} (was {by['versions'].get(p)})" for p in PACKAGES if now[p] != by["versions"].get(p)]
    if other:
        say(f"warning: other versions than the picture's: {', '.join(other)}; its last bits may differ")
    try:
        with at_work(as_json):
            made = again(dit, by)
    except KeyboardInterrupt:
        stop(f"nothing was written; {picture} is as it was")
    out.mkdir(parents=True, exist_ok=True)
    file = write_picture(made.images[0], out / picture.name, by)
    old, new = (np.asarray(image.convert("RGB"), np.int16) for image in (before, made.images[0]))
    differ = int((old != new).any(-1).sum()) if old.shape == new.shape else int(new.shape[0] * new.shape[1])
    verdict = "the same, pixel by pixel" if not differ else f"{differ} of {new.shape[0] * new.shape[1]} pixels differ"
    if as_json:
        emit({"file": file, "from": picture, "same": not differ, "pixels_that_differ": differ, **by})
    else:
        pairs({"from": picture, "again": file, "picture": verdict}, title=str(by["prompt"]))
    if differ:
        say("the picture came out otherwise: other versions, another device or number of threads can do that")
        raise typer.Exit(3)
