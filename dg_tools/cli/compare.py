"""`dg-tools compare`: several guidances from the same noise, their pictures, costs and metrics side by side."""

from __future__ import annotations

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
    say,
    stop,
    table,
    usable,
    warned,
)
from dg_tools.cli.generate import disruption, name_of

COSTS = ("block_calls", "forwards", "seconds")


@app.command()
def compare(
    prompts: list[str] = typer.Argument(help="one or several"),
    out: Path = typer.Option(Path("comparison"), "--out", "-o", help="folder for pictures, grid and table"),
    model: str = Model,
    seed: list[str] = Seeds,
    seeds: int = typer.Option(None, "--seeds", min=1, help="so many seeds, from 0 up, instead of --seed"),
    steps: int = Steps,
    cfg: float = Cfg,
    dg: float = typer.Option(0.0, "--dg", min=0, help="DG weight w; 0 is off"),
    channel: list[int] = typer.Option([], help="channel that DG disrupts; may be repeated; the profile's if left out"),
    block: int = typer.Option(None, help="block that DG disrupts; the profile's if left out"),
    auto: bool = typer.Option(False, "--auto", help="have DG's channels and block detected and chosen"),
    rivals: list[str] = typer.Option([], "--with", help="one of dg.baselines, such as PAG; may be repeated"),
    weight: float = typer.Option(0.5, "--weight", min=0, help="w of those with a worse twin"),
    at: list[int] = typer.Option([], "--at", help="block that PAG, SLG, SEG perturb; may be repeated; the middle one"),
    height: int = Height,
    width: int = Width,
    device: str = Device,
    as_json: bool = AsJson,
) -> None:
    """No guidance, CFG, DG and others side by side: pictures, what they cost, what is measured.

    DG and the others are added to CFG where --cfg is above 1; no setting is searched. Each PNG carries its settings, so
    that `dg-tools generate --from` makes it again. Metrics against reference pictures need an embedded model and whole
    captions. No file is replaced. Stopped with Ctrl-C, the finished pictures are there.

    \\b
    Examples:
      dg-tools compare "red apple" "owl on teal" --cfg 3 --dg 0.5 --with PAG --with SLG --seeds 2 --steps 20 -o out/
      dg-tools compare "red apple, flat on blue" --cfg 3 --with APG --with CFGZeroStar --json
      dg-tools compare "red apple" --dg 1 --channel 676 --block 10 --with SEG --at 12 -m path/to/model
    """
    asked, numbers = checked(prompts, seed)
    if seeds is not None:
        if seed != ["0"]:
            raise typer.BadParameter("--seed names seeds and --seeds counts them: pass one of the two")
        numbers = list(range(seeds))
    wanted = known_rivals(rivals)
    if cfg == 1 and not dg and not wanted:
        raise typer.BadParameter("nothing to compare with the plain picture: pass --cfg 3, --dg 0.5 or --with PAG")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; pass a folder for the pictures")
    import dg_tools

    dit = dg_tools.load(model, device=usable(device))
    warnings = warned(dit, asked)
    guidances: list[Any] = [None, *([dg_tools.CFG(cfg)] if cfg > 1 else [])]
    if dg:
        what = "auto" if auto else disruption(dit, channel, block)
        with at_work(as_json):
            call = {"steps": steps, "height": height, "width": width}
            guidances.append(dg_tools.DetailGuidance(cfg, dg, what).resolved(dit, **call))
    guidances += [guider(name, cfg, weight, at or [len(dit.blocks) // 2]) for name in wanted]
    items, remark = with_references(dit, asked, (height, width))
    say(remark)
    try:
        with at_work(as_json):
            made = dg_tools.compare(dit, items, guidances, numbers, steps=steps, height=height, width=width)
    except KeyboardInterrupt as stopped:
        finished = getattr(stopped, "kept", None)
        files = [] if finished is None else written(dit, finished, guidances, out)
        names = ", ".join(map(str, files)) or "nothing"
        stop(f"kept {len(files)} of {len(asked) * len(numbers) * len(guidances)} pictures: {names}; no grid, no table")
    report = {**made.to_json(), **kept(dit, made, guidances, out), "note": remark, "warnings": warnings}
    if as_json:
        emit(report)
        return
    each = len(made.images) // len(guidances)
    over = f"mean over {each} pictures each" if each > 1 else "one picture each"
    table(by_guidance(made, report["units"]), title=f"{over}, from the same noise")
    print(f"side by side: {report['grid']}\npicture by picture: {report['table']}")


def known_rivals(asked: list[str]) -> list[str]:
    """Baselines by name, capital letters or not.

    Raises:
        typer.BadParameter: an unknown name, or one twice.
    """
    from dg_tools.generation.recipes import GUIDANCES

    known = {name.lower(): name for name in GUIDANCES if name not in ("CFG", "DetailGuidance")}
    for name in asked:
        if name.lower() not in known:
            raise typer.BadParameter(f"--with {name}: there is no such baseline; known: {', '.join(known.values())}")
    found = [known[name.lower()] for name in asked]
    if len(set(found)) < len(found):
        raise typer.BadParameter(f"--with {' --with '.join(asked)}: each baseline once")
    return found


def guider(name: str, cfg: float, weight: float, blocks: list[int]) -> Any:
    """One baseline: in blocks, with a weight, or another sum of CFG's two predictions."""
    from dg_tools.guidance import baselines
    from dg_tools.guidance.baselines.combined import Combined
    from dg_tools.guidance.baselines.perturbed import InBlocks

    kind = getattr(baselines, name)
    if issubclass(kind, Combined):
        return kind(cfg)
    return kind(cfg, weight, blocks=blocks) if issubclass(kind, InBlocks) else kind(cfg, weight)


def with_references(dit: Any, prompts: list[str], size: tuple[int | None, int | None]) -> tuple[list[Any], str]:
    """Each prompt with its reference picture where all have one; else as they are. And a sentence that says which."""
    from dg_tools.datasets.references import references

    plain = "metrics are of the pictures alone"
    try:
        known = references(dit)
    except FileNotFoundError:
        return list(prompts), f"note: this model has no reference pictures; {plain}"
    if any(side not in (None, known.size) for side in size):
        return list(prompts), f"note: reference pictures are {known.size} x {known.size} pixels; {plain}"
    found = [(prompt, known.named(prompt)) for prompt in prompts]
    if missing := [prompt for prompt, reference in found if reference is None]:
        return list(prompts), (
            f"note: no one picture is the truth for {', '.join(map(repr, missing))}, since name, style and background "
            f"are not all said (red apple, flat on blue); {plain}"
        )
    pairs = [(prompt, known.picture(reference)) for prompt, reference in found if reference is not None]
    return pairs, "note: metrics are against the reference picture of each caption"


def written(dit: Any, made: Any, guidances: list[Any], out: Path) -> list[Path]:
    """Write each picture with its settings; where they are."""
    from dg_tools.generation.recipes import recipe, write_picture

    out.mkdir(parents=True, exist_ok=True)
    files = []
    for i, (image, settings) in enumerate(zip(made.images, made.settings, strict=True)):
        by = recipe(dit, settings, guidances[i % len(guidances)])
        files.append(write_picture(image, out / f"{name_of(settings)}.png", by))
    return files


def kept(dit: Any, made: Any, guidances: list[Any], out: Path) -> dict[str, Any]:
    """Write pictures, grid and table; where they are, and the rows with each picture's file."""
    import pandas as pd

    from dg_tools.generation.recipes import free

    files = written(dit, made, guidances, out)
    rows = [{**row, "file": file.name} for row, file in zip(made.to_json()["rows"], files, strict=True)]
    grid, csv = free(out / "comparison.png"), free(out / "comparison.csv")
    made.grid(metric=None if made.references is None else "high_correlation").savefig(grid, dpi=150)
    pd.DataFrame(rows).to_csv(csv, index=False)
    return {"rows": rows, "grid": grid, "table": csv}


def by_guidance(made: Any, units: dict[str, str]) -> list[dict[str, Any]]:
    """A row a cost or metric, a column a guidance."""
    means = made.table.groupby("guidance", sort=False)[[*COSTS, *units]].mean()
    return [{"": name.replace("_", " "), "unit": units.get(name, ""), **means[name].to_dict()} for name in means]
