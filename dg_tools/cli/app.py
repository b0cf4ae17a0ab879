"""What the commands share: options, tables, and how they speak.

Results go to stdout, as a table or with --json as one JSON object; everything else (bars, warnings, errors) to stderr.
Exit codes: 0 done; 1 an error, told in a sentence; 2 wrong usage, an empty prompt or a seed that is no number among it;
3 a picture that came out otherwise than the one it was made from; 130 interrupted, what is kept is said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Massive activations in diffusion transformers, and Detail Guidance: the library's calls from a shell.",
    epilog="Exit codes: 0 done, 1 an error, 2 wrong usage, 3 another picture than before, 130 interrupted.",
)
Model = typer.Option(None, "--model", "-m", help="embedded name, folder or Hub id; the embedded default if left out")
Steps = typer.Option(None, min=1, help="denoising steps; the pipeline's own default if left out")
Seeds = typer.Option(["0"], "--seed", "-s", help="whole number; may be repeated")
Cfg = typer.Option(1.0, "--cfg", min=1, help="CFG scale s; 1 is off")
Height = typer.Option(None, help="pixels; the pipeline's own default if left out")
Width = typer.Option(None, help="pixels; the pipeline's own default if left out")
Device = typer.Option(None, "--device", help="where to run, such as cuda")
AsJson = typer.Option(False, "--json", help="one JSON object on stdout instead of a table")


def say(words: str) -> None:
    """A line on stderr."""
    typer.echo(words, err=True)


def stop(words: str) -> NoReturn:
    """End an interrupted command, saying what is kept."""
    say(f"interrupted: {words}")
    raise typer.Exit(130)


@contextmanager
def at_work(as_json: bool) -> Iterator[None]:
    """While the library works; with --json, what it prints goes to stderr, so that stdout holds the object alone."""
    if as_json:
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def checked(prompts: Sequence[str], seeds: Sequence[str]) -> tuple[list[str], list[int]]:
    """Prompts and seeds as they can be used.

    Raises:
        typer.BadParameter: an empty prompt, or a seed that is no number.
    """
    from dg_tools.datasets.captions import check_prompt, check_seed

    try:
        return [check_prompt(p) for p in prompts], [check_seed(s) for s in seeds]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def usable(device: str | None) -> str | None:
    """The device, where it can be used.

    Raises:
        ValueError: it cannot, with torch's own words.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the second for a build without CUDA
        words = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here ({words}): pass another, --device cpu") from None
    return device


def warned(dit: Any, prompts: Sequence[str]) -> list[str]:
    """Says, and returns, what is to be said of words that the model never saw."""
    from dg_tools.datasets.captions import advice

    found = [words for p in prompts if (words := advice(dit, p))]
    for words in found:
        say(f"warning: {words}")
    return found


def table(rows: Sequence[dict[str, Any]], title: str | None = None) -> None:
    """Rows of one kind, as a table; numbers to the right."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        made.add_column(name, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        made.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    show(made)


def pairs(values: dict[str, Any], title: str | None = None) -> None:
    """Names and values, as a table of two columns."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in values.items():
        made.add_row(name, str(value))
    show(made)


def show(renderable: Any) -> None:
    """On stdout; wide where nobody looks, so that a pipe gets whole lines."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, markup=False)
    console.print(renderable)


def emit(value: dict[str, Any]) -> None:
    """The JSON object of --json."""
    print(json.dumps(value, indent=1, default=plain))


def plain(value: Any) -> Any:
    """What JSON does not know: paths, and numpy's numbers."""
    return str(value) if isinstance(value, Path) else value.item()
