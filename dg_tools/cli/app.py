"""What the commands share: how they are registered, their tables, and how they speak.

Results go to stdout, as a table or with --json as one JSON object; everything else (bars, warnings, errors) to stderr.
Exit codes: 0 done; 1 an error, in one sentence; 2 wrong usage, such as an empty prompt or a seed that is not a number;
3 a picture that differs from the one whose settings made it; 130 interrupted, with a line that says what is kept.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

PROFILE = "profile"  # the weight of a bare --dg
WEIGHT = re.compile(rf"[-+]?\.?\d|{PROFILE}$")  # what is a weight after --dg, and no prompt
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Massive activations in diffusion transformers, and Detail Guidance: the library's calls from a shell.",
    epilog="Exit codes: 0 done, 1 an error, 2 wrong usage, 3 another picture than before, 130 interrupted.",
)


def stated(wanted: bool) -> None:
    """Print the versions that a bug report needs, and end; nothing of them is imported."""
    if wanted:
        from importlib.metadata import version

        others = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "nnsight"))
        print(f"dg-tools {version('dg-tools')} ({others})")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=stated, is_eager=True, help="print versions and end"),
) -> None:
    """The options of dg-tools itself."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; its docstring is its help, see `page`."""
    return app.command(help=page(function.__doc__ or ""), cls=Command)(function)


class Command(TyperCommand):
    """A command whose --dg may stand without a weight: typer has no option with an optional value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, with the profile's own weight after a bare --dg."""
        end = args.index("--") if "--" in args else len(args)
        words: list[str] = []
        for i, argument in enumerate(args[:end]):
            bare = argument == "--dg" and not (i + 1 < end and WEIGHT.match(args[i + 1]))
            words += [argument, PROFILE] if bare else [argument]
        return super().parse_args(ctx, words + args[end:])


def page(text: str) -> str:
    """A help text whose paragraphs are one line each, so that they wrap at any width; indented lines stay."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if "\n " in p else " ".join(p.split("\n")) for p in paragraphs)


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


def table(rows: Sequence[dict[str, Any]], title: str | None = None, heads: Mapping[str, str] | None = None) -> None:
    """Rows with the same columns, as a table; numbers to the right. `heads` names columns in plain words."""
    from rich.table import Table

    grid = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        grid.add_column(
            (heads or {}).get(name, name),
            justify="right" if isinstance(value, int | float) else "left",
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    show(grid)


def pairs(values: dict[str, Any], title: str | None = None) -> None:
    """Names and values, as a table of two columns."""
    from rich.table import Table

    grid = Table(title=title, title_justify="left", show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, str(value))
    show(grid)


def show(renderable: Any) -> None:
    """On stdout; unwrapped when piped."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, markup=False)
    console.print(renderable)


def emit(value: dict[str, Any]) -> None:
    """The JSON object of --json."""
    print(json.dumps(value, indent=1, default=plain))


def plain(value: Any) -> Any:
    """What JSON does not know: paths, and numpy's numbers."""
    return str(value) if isinstance(value, Path) else value.item()
