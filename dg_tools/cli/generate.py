"""`dg-tools generate`: pictures that carry their settings, and the same pictures again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dg_tools.cli.app import at_work, command, emit, pairs, say, stop, table
from dg_tools.cli.beside import Wanted
from dg_tools.cli.options import (
    AsJson,
    Auto,
    Block,
    Cfg,
    Channels,
    Device,
    Dg,
    DgRows,
    Dtype,
    Height,
    Model,
    Offload,
    Rho,
    Seeds,
    Steps,
    Width,
    checked,
    loaded,
    warned,
)
from dg_tools.paths import check_folder, free

if TYPE_CHECKING:  # commands load torch when they are called
    from PIL.Image import Image

    from dg_tools.models.dit import DiT

COLUMNS = ("file", "prompt", "seed", "in words", "forwards", "seconds")
NUMBERS = ("amt_c", "low band")
HEADS = {  # of the terminal's table; --json has the names above
    "in words": "guidance",
    "forwards": "forwards of the transformer",
    "amt_c": "detail against clean, doublings",
    "low band": "low band kept, correlation",
}
PLAIN = Wanted(1.0, 0.0, "cond", None, [], None, False, None, False, None)


@command
def generate(
    prompts: list[str] = typer.Argument(None, help="one or several"),
    out: Path = typer.Option(Path("pictures"), "--out", "-o", help="folder for the pictures"),
    model: str = Model,
    seed: list[str] = Seeds,
    steps: int = Steps,
    cfg: float = Cfg,
    dg: float = Dg,
    dg_rows: str = DgRows,
    rho: float = Rho,
    channel: list[int] = Channels,
    block: int = Block,
    auto: bool = Auto,
    beside: str = typer.Option(
        None, "--compare", help="beside it from the same noise: clean, gain (of the velocity), daemon; with commas"
    ),
    gain: float = typer.Option(None, help="for --compare gain; the guidance's own gain if left out"),
    alone: bool = typer.Option(False, "--alone", help="leave out the picture without DG from the same noise"),
    height: int = Height,
    width: int = Width,
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    again: Path = typer.Option(None, "--from", help="picture to make again, by the settings in it"),
    as_json: bool = AsJson,
) -> None:
    """Pictures, with Detail Guidance or a dose and without from the same noise; each PNG carries its settings.

    Against the clean picture two numbers are measured: detail at equal contrast, in doublings (amt_c in --json), and
    how the low band correlates (1: layout and colours stay).

    No file is replaced: a name that is taken gets a number. Stopped with Ctrl-C, the finished pictures are there.

    Examples:
      dg-tools generate "red apple" --dg
      dg-tools generate "red apple" --dg 0.5 --cfg 3 -o out/
      dg-tools generate "red apple" --rho 0.5 --compare clean,gain
      dg-tools generate "red apple" --cfg 3 --dg-rows uncond --rho 1.5
      dg-tools generate "owl on teal" "penguin" --seed 0 --seed 1 --steps 20
      dg-tools generate "red apple" --dg 1 --channel 676 --block 10 -m my/model
      dg-tools generate --from out/red-apple-seed-0-cfg-3-dg-0.5.png
    """
    if (again is None) == (not prompts):
        raise typer.BadParameter(
            'write what the picture should show, such as: dg-tools generate "red apple"; or --from PICTURE alone'
        )
    check_folder(out, "pass a folder for the pictures")
    wanted = Wanted(cfg, dg, dg_rows, rho, channel, block, auto, beside, alone, gain)
    wanted.check()
    if again is not None:
        if (wanted, seed, steps, height, width) != (PLAIN, ["0"], None, None, None):
            raise typer.BadParameter("--from makes the picture by the settings in it: leave all others out")
        repeat(again, out, model, (device, dtype, offload), as_json)
        return
    import dg_tools
    from dg_tools.generation.recipes import write_pictures

    prompts, seeds = checked(prompts, seed)
    dit = loaded(model, device, dtype, offload, as_json=as_json)
    warnings = warned(dit, prompts)
    call: dict[str, Any] = {"steps": steps, "height": height, "width": width}
    with at_work(as_json):
        guidances = wanted.guidances(dit, prompts[0], seeds[0], call)
    rows: list[dict[str, Any]] = []
    images: list[Image] = []
    done: list[str] = []  # what the guidance of each picture did
    stopped = False
    for prompt, number in [(p, s) for p in prompts for s in seeds]:
        try:
            with at_work(as_json):
                pictures = dg_tools.generate(dit, prompt, seed=number, guidance=guidances, **call)
        except KeyboardInterrupt as interrupted:
            pictures, stopped = getattr(interrupted, "kept", None), True
        if pictures is not None:
            files = write_pictures(dit, pictures, guidances, out)
            costs = zip(pictures.settings, pictures.forwards, pictures.seconds, wanted.measured(pictures), strict=False)
            for (file, made_by), (settings, forwards, seconds, numbers) in zip(files, costs, strict=False):
                cost = {"forwards": forwards, "seconds": round(seconds, 3), **numbers}
                rows.append({"file": file, **made_by, "in words": settings["guidance"], **cost})
            images += pictures.images[: len(files)]
            reports = zip(pictures.settings, pictures.guided, strict=False)
            done += [f"{s['guidance']}, seed {s['seed']}: {report}" for s, report in reports if report is not None]
        if stopped:
            names = ", ".join(str(row["file"]) for row in rows) or "nothing"
            stop(f"kept {len(rows)} of {len(prompts) * len(seeds) * len(guidances)} pictures: {names}")
    grid = grid_of(images, rows, len(guidances) if len(guidances) > 1 else len(seeds), out)
    if as_json:
        emit({"pictures": rows, "grid": grid, "warnings": warnings})
        return
    table([{name: row[name] for name in (*COLUMNS, *NUMBERS) if name in row} for row in rows], heads=HEADS)
    for line in done:
        print(line)
    if grid:
        print(f"side by side: {grid}")


def grid_of(images: list[Image], rows: list[dict[str, Any]], columns: int, out: Path) -> Path | None:
    """All pictures side by side in one file, where there are several."""
    if len(images) < 2:
        return None
    from dg_tools.generation.heads import heads
    from dg_tools.plots import image_grid

    named = heads([{**row, "guidance": row["in words"], "edit": "clean"} for row in rows], columns)
    file = free(out / "grid.png")
    words: dict[str, Any] = {"rows": named.rows, "heads": named.columns, "captions": named.captions}
    image_grid(images, columns=columns, title=named.title, **words).savefig(file, dpi=150)
    return file


def repeat(picture: Path, out: Path, model: str | None, placement: tuple[str | None, str, str], as_json: bool) -> None:
    """Make a picture again, write it, and say whether it is the same; exit code 3 where it is not."""
    import numpy as np

    from dg_tools.generation.recipes import GUIDED, again, completed, read_picture, write_picture

    before, made_by = read_picture(picture)
    dit = maker(picture, made_by, model, placement, as_json)
    try:
        with at_work(as_json):
            pictures = again(dit, made_by)
    except KeyboardInterrupt:
        stop(f"nothing was written; {picture} is as it was")
    out.mkdir(parents=True, exist_ok=True)
    made_by = completed(made_by, dit)
    if (report := pictures.guided[0]) is not None:
        made_by[GUIDED] = report.summary()
    file = write_picture(pictures.images[0], out / picture.name, made_by)
    old, new = (np.asarray(image.convert("RGB"), np.int16) for image in (before, pictures.images[0]))
    differ = int((old != new).any(-1).sum()) if old.shape == new.shape else int(new.shape[0] * new.shape[1])
    verdict = "the same, pixel by pixel" if not differ else f"{differ} of {new.shape[0] * new.shape[1]} pixels differ"
    if as_json:
        emit({"file": file, "from": picture, "same": not differ, "pixels_that_differ": differ, **made_by})
    else:
        words = {} if report is None else {"guidance": str(report)}
        pairs({"from": picture, "again": file, "picture": verdict, **words}, title=str(made_by["prompt"]))
    if differ:
        say(
            "the picture differs from the first one: other versions, another device or another number of threads "
            "can cause that"
        )
        raise typer.Exit(3)


def maker(
    picture: Path, made_by: dict[str, Any], model: str | None, placement: tuple[str | None, str, str], as_json: bool
) -> DiT:
    """The model of a recipe, loaded; with a warning where its versions are not those of the picture.

    Raises:
        FileNotFoundError: the recipe names a model that cannot be found by its name.
    """
    from dg_tools.models.provenance import PACKAGES, provenance

    device, dtype, offload = placement
    if device is None and offload == "none":
        device = made_by["device"]
    if dtype == "auto" and made_by["dtype"] is not None:
        dtype = made_by["dtype"]
    try:
        dit = loaded(model or made_by["model"], device, dtype, offload, as_json=as_json)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{picture} was made by {made_by['model']!r}, which cannot be loaded ({error}): pass its folder, "
            "--model FOLDER"
        ) from None
    if made_by["versions"] is None:
        say("warning: GuidanceExplorer wrote this picture without weights, precision and versions: it may differ")
        return dit
    now, before = provenance(dit)["versions"], made_by["versions"]
    other = [f"{p} {now[p]} (was {before.get(p)})" for p in PACKAGES if now[p] != before.get(p)]
    if other:
        say(f"warning: other versions than the picture's: {', '.join(other)}; its last bits may differ")
    return dit
