"""`dg-tools compare`: several guidances from the same noise, their pictures, costs and metrics side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dg_tools.cli.app import at_work, command, emit, say, stop, table
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
from dg_tools.guidance.baselines.registry import BASELINES, IN_BLOCKS, ONE_PASS, RIVALS, beside
from dg_tools.paths import check_folder, free

if TYPE_CHECKING:  # commands load torch when they are called
    from diffusers.guiders import BaseGuidance

    from dg_tools.generation._compare import Comparison
    from dg_tools.models.dit import DiT

COSTS = ("block_calls", "forwards", "seconds")
IN_WORDS = {  # units of the terminal's table
    "block_calls": "calls of a block per picture",
    "forwards": "forwards of the transformer per picture",
    "seconds": "s per picture",
    "scale": "of pixel values, -1 to 1",
    "scale^2": "of pixel values squared",
    "-1..1": "correlation, -1 to 1",
    "0..1": "share, 0 to 1",
    "1": "no unit",
}


@command
def compare(
    prompts: list[str] = typer.Argument(help="one or several"),
    out: Path = typer.Option(Path("comparison"), "--out", "-o", help="folder for pictures, grid and table"),
    model: str = Model,
    seed: list[str] = Seeds,
    seeds: int = typer.Option(None, "--seeds", min=1, help="number of seeds, from 0 up, instead of --seed"),
    steps: int = Steps,
    cfg: float = Cfg,
    dg: float = Dg,
    dg_rows: str = DgRows,
    rho: float = Rho,
    channel: list[int] = Channels,
    block: int = Block,
    auto: bool = Auto,
    rivals: list[str] = typer.Option(
        [], "--with", help=f"one of dg.baselines, such as PAG; may be repeated; besides {' and '.join(ONE_PASS)}"
    ),
    weight: float = typer.Option(0.5, "--weight", min=0, help="w of the baselines that have one"),
    at: list[int] = typer.Option(
        [], "--at", help=f"block that {', '.join(IN_BLOCKS)} perturb; may be repeated; the middle one if left out"
    ),
    height: int = Height,
    width: int = Width,
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    """No guidance, CFG, DG or a dose, and others side by side: pictures, what they cost, what is measured.

    DG and the others are added to CFG where --cfg is above 1; no setting is searched. Each PNG carries its settings, so
    that `dg-tools generate --from` makes it again. Metrics against reference pictures need an embedded model and whole
    captions. No file is replaced. Stopped with Ctrl-C, the finished pictures are there.

    Examples:
      dg-tools compare "red apple" --dg
      dg-tools compare "red apple" "owl on teal" --cfg 3 --dg 0.5 --seeds 2
      dg-tools compare "red apple, flat on blue" --cfg 3 --with APG --with PAG
      dg-tools compare "red apple" --dg 1 --channel 676 --block 10 -m my/model
      dg-tools compare "red apple" --cfg 3 --dg-rows uncond --rho 1.5 --with Gain
      dg-tools compare "red apple" --with PAG --with SEG --at 5 --at 6 --json
    """
    prompts, numbers = checked(prompts, seed)
    if seeds is not None:
        if seed != ["0"]:
            raise typer.BadParameter("--seed names seeds and --seeds counts them: pass one of the two")
        numbers = list(range(seeds))
    names = known_rivals(rivals)
    wanted = Wanted(cfg, dg, dg_rows, rho, channel, block, auto, None, False, None)
    wanted.check()
    if dg is not None and dg < 0:
        raise typer.BadParameter(f"--dg {dg:g}: w is 0 or more")
    if cfg == 1 and dg == 0 and rho is None and not names:
        raise typer.BadParameter("nothing to compare with the plain picture: pass --cfg 3, --dg 0.5 or --with PAG")
    check_folder(out, "pass a folder for the pictures")
    import dg_tools
    from dg_tools.generation.recipes import write_pictures

    dit = loaded(model, device, dtype, offload, as_json=as_json)
    warnings = warned(dit, prompts)
    guidances: list[BaseGuidance | None] = [None, *([dg_tools.CFG(cfg)] if cfg > 1 else [])]
    with at_work(as_json):
        guider = wanted.guider(dit, {"steps": steps, "height": height, "width": width})
    guidances += [] if guider is None else [guider]
    guidances += [BASELINES[name].guider(cfg, weight, blocks=at or [len(dit.blocks) // 2]) for name in names]
    one_pass, notes = beside(dit, cfg, weight, steps)
    guidances += [guider for name, guider in one_pass.items() if name not in names]
    for note in notes:
        say(f"note: {note}")
    items, remark = with_references(dit, prompts, (height, width))
    say(remark)
    try:
        with at_work(as_json):
            comparison = dg_tools.compare(dit, items, guidances, numbers, steps=steps, height=height, width=width)
    except KeyboardInterrupt as stopped:
        finished = getattr(stopped, "kept", None)
        files = [] if finished is None else [file for file, _ in write_pictures(dit, finished, guidances, out)]
        words = ", ".join(map(str, files)) or "nothing"
        planned = len(prompts) * len(numbers) * len(guidances)
        stop(f"kept {len(files)} of {planned} pictures: {words}; no grid, no table")
    report = {**comparison.to_json(), **write_all(dit, comparison, guidances, out), "note": remark}
    report["guided"] = [None if r is None else r.summary() for r in comparison.guided]
    report["warnings"] = warnings
    if as_json:
        emit(report)
        return
    each = len(comparison.images) // len(guidances)
    over = f"mean over {each} pictures each" if each > 1 else "one picture each"
    table(by_guidance(comparison, report["units"]), title=f"{over}, from the same noise")
    for name, words in by_report(comparison).items():
        print(f"{name}: {words}")
    print(f"side by side: {report['grid']}\npicture by picture: {report['table']}")


def known_rivals(names: list[str]) -> list[str]:
    """Baselines by name, capital letters or not.

    Raises:
        typer.BadParameter: an unknown name, or one twice.
    """
    known = {name.lower(): name for name in RIVALS}
    for name in names:
        if name.lower() not in known:
            raise typer.BadParameter(f"--with {name} is unknown; there are {', '.join(RIVALS)}")
    rivals = [known[name.lower()] for name in names]
    if len(set(rivals)) < len(rivals):
        raise typer.BadParameter(f"--with {' --with '.join(names)}: name each baseline once")
    return rivals


def with_references(dit: DiT, prompts: list[str], size: tuple[int | None, int | None]) -> tuple[list[Any], str]:
    """Each prompt with its reference picture where all have one; else as they are. And a sentence that says which."""
    from dg_tools.datasets.references import references

    plain = "metrics are of the pictures alone"
    try:
        known = references(dit)
    except FileNotFoundError:
        return list(prompts), f"note: this model has no reference pictures; {plain}"
    if any(side not in (None, known.size) for side in size):
        return list(prompts), f"note: reference pictures are {known.size} x {known.size} pixels; {plain}"
    references_of = [(prompt, known.named(prompt)) for prompt in prompts]
    if missing := [prompt for prompt, reference in references_of if reference is None]:
        return list(prompts), (
            f"note: no one picture is the truth for {', '.join(map(repr, missing))}, since name, style and background "
            f"are not all said (red apple, flat on blue); {plain}"
        )
    pairs = [(prompt, known.picture(reference)) for prompt, reference in references_of if reference is not None]
    return pairs, "note: metrics are against the reference picture of each caption"


def write_all(dit: DiT, comparison: Comparison, guidances: list[BaseGuidance | None], out: Path) -> dict[str, Any]:
    """Write pictures, grid and table; where they are, and the rows with the file of each picture."""
    import pandas as pd

    from dg_tools.generation.recipes import write_pictures

    files = [file.name for file, _ in write_pictures(dit, comparison, guidances, out)]
    rows = [{**row, "file": file} for row, file in zip(comparison.to_json()["rows"], files, strict=True)]
    grid, csv = free(out / "comparison.png"), free(out / "comparison.csv")
    comparison.grid(metric=None if comparison.references is None else "high_correlation").savefig(grid, dpi=150)
    pd.DataFrame(rows).to_csv(csv, index=False)
    return {"rows": rows, "grid": grid, "table": csv}


def by_report(comparison: Comparison) -> dict[str, str]:
    """What each guidance did, over all its pictures."""
    words: dict[str, str] = {}
    for name in dict.fromkeys(comparison.table["guidance"]):
        own = zip(comparison.table["guidance"], comparison.guided, strict=True)
        if reports := [report for other, report in own if other == name and report is not None]:
            done, planned = (sum(len(getattr(r, k)) for r in reports) for k in ("guided", "planned"))
            words[name] = f"guided {done} of {planned} steps"
            if any(r.push for r in reports) or not done:  # a pass alone has none
                words[name] += f", push {sum(r.mean_push for r in reports) / len(reports):.3g}"
            if any(r.in_pass for r in reports):
                change = sum(r.mean_at_block for r in reports) / len(reports)
                words[name] += f", the edited block's output changed by {change:.3g}"
            words[name] = "; ".join([words[name], *dict.fromkeys(note for r in reports for note in r.notes)])
    return words


def by_guidance(comparison: Comparison, units: dict[str, str]) -> list[dict[str, Any]]:
    """One row per cost or metric, one column per guidance."""
    means = comparison.table.groupby("guidance", sort=False)[[*COSTS, *units]].mean()
    in_words = {name: IN_WORDS.get(units.get(name, name), units.get(name, "")) for name in means}
    return [{"measure": name.replace("_", " "), "unit": in_words[name], **means[name].to_dict()} for name in means]
