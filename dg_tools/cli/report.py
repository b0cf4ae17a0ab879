"""`dg-tools report`: from a model, and perhaps a folder of pictures, to a page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dg_tools.cli.app import at_work, command, emit, pairs, stop, table
from dg_tools.cli.options import AsJson, Device, Dtype, Height, Offload, Steps, Width, loaded, one_of
from dg_tools.report.extent import SIZES

if TYPE_CHECKING:  # commands load torch when they are called
    from dg_tools.models.dit import DiT
    from dg_tools.report.sections import Report
    from dg_tools.report.verdict import Row


@command
def report(
    model: str = typer.Argument(None, help="embedded name, folder or Hub id; the embedded default if left out"),
    out: Path = typer.Option(Path("report"), "--out", "-o", help="folder for the page and its numbers"),
    pictures: Path = typer.Option(None, help="folder of pictures with captions: NAME.txt beside each, or metadata"),
    prompts: Path = typer.Option(None, help="file with one prompt per line; general prompts if left out"),
    size: str = typer.Option("standard", "--size", callback=one_of(*SIZES), help=f"{', '.join(SIZES)}"),
    plan: bool = typer.Option(False, "--plan", help="stop after the forecast"),
    height: int = Height,
    width: int = Width,
    steps: int = Steps,
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    r"""What massive activations do in a model, and what Detail Guidance buys: a page, and every number on it.

    The forecast comes first: forwards, decoded pictures, seconds, memory, disk. Started again, it goes on where it
    stopped. `index.html` opens offline; `report.json` holds the numbers; `profile.json` is what DetailGuidance takes.

    Examples; the last is for several processes or GPUs:
      dg-tools report path/to/model -o report/ --size quick
      dg-tools report path/to/model --pictures photographs/ --plan
      dg-tools report path/to/model --prompts prompts.txt --height 512 --width 768
      accelerate launch --multi_gpu --num_processes 2 \
        -m dg_tools.cli report path/to/model
    """
    if pictures is not None and prompts is not None:
        raise typer.BadParameter("--pictures holds its own captions, and --prompts is a file of prompts: pass one")
    check_out(out, model)
    lines = checked_prompts(prompts)
    if pictures is not None:
        check_pictures(pictures)
    from dg_tools.report import forecast, measure
    from dg_tools.sweeps.parallel import Workers

    own = Workers("report", "part").device  # of several processes each has its own
    dit = loaded(model, device if own is None else str(own), dtype, offload, as_json=as_json)
    items = lines if pictures is None else opened(dit, pictures, height, width)
    call: dict[str, Any] = {"size": size, "steps": steps, "height": height, "width": width}
    speaks = os.environ.get("RANK", "0") == "0"
    if plan:
        with at_work(as_json):
            expected = forecast(dit, items, **call)
        if speaks:
            emit(expected.to_json()) if as_json else print(expected)
        return
    try:
        with at_work(as_json):
            made = measure(dit, items, out=out, **call)
    except KeyboardInterrupt:
        stop(f"what is done is kept in {out}; the same command goes on from there")
    if speaks:
        show(made, out, as_json, dit.profile)


def check_out(out: Path, model: str | None) -> None:
    """Raise before the model is loaded where nothing could be written, or where a report on another model is.

    Raises:
        FileNotFoundError: there is no such model.
        NotADirectoryError, FileExistsError, OSError: a file has the folder's name; another model; not writable.
    """
    from dg_tools.models.files import adapter_folder, source_of
    from dg_tools.report.sections import check_target

    source = adapter_folder(model) or source_of(model)
    check_target(out, source.name if isinstance(source, Path) else source)
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise OSError(f"{out}: nothing can be written in {place} ({error.strerror}): pass another --out") from None


def checked_prompts(file: Path | None) -> list[str] | None:
    """The prompts of --prompts."""
    from dg_tools.datasets.prompts import read_prompts

    return None if file is None else read_prompts(file)


def check_pictures(folder: Path) -> None:
    """Raise before the model is loaded where a picture has no caption, or two."""
    from dg_tools.datasets.folder import captions_of, files_in

    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: pass one that holds pictures with captions")
    captions_of(folder, files_in(folder))


def opened(dit: DiT, folder: Path, height: int | None, width: int | None) -> Any:
    """The pictures of --pictures, of the size at which the model draws."""
    from dg_tools.datasets.folder import read_folder

    high, wide = dit.size(height, width)
    return read_folder(folder, height=high, width=wide)


def show(made: Report, out: Path, as_json: bool, profile: Mapping[str, Any] | None) -> None:
    """Print what holds, how the choice compares with the model's own profile, and where the page is."""
    page = out / "index.html"
    if as_json:
        emit({"page": page, **made.to_json()})
        return
    from dg_tools.models.profiles import agreement
    from dg_tools.report.verdict import tally

    if made.claims:
        counts = tally(row.status for row in made.claims)
        table([claim(row) for row in made.claims], f"{made.model}: of {len(made.claims)} claims, {counts}")
    guidance = out / "profile.json" if made.profile else "none"
    choice = agreement(made.profile, profile)
    pairs({"weak model": choice, "page": page, "numbers": out / "report.json", "guidance": guidance})


def claim(row: Row) -> dict[str, str]:
    """A claim as a row of the terminal's table, under the headings of the page."""
    from dg_tools.report.cells import in_words, interval

    effect = f"{interval(row.number)} {row.unit}".strip() if row.number else ""
    required = f"required: {in_words(row.bound)}" if row.bound else ""
    return {
        "verdict": row.status,
        "claim": "\n".join(filter(None, (row.text, in_words(row.why)))),
        "effect, 95% interval": "\n".join(filter(None, (effect, required))),
        "controls as extreme": f"{row.extreme} of {row.draws}" if row.draws else "",
    }
