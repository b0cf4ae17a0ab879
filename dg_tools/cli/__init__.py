"""dg-tools: the toolkit's ways in from a shell; each command is one call of the library.

One file per command: it decorates a function with `command` of `app.py`, and imports what it needs inside of that, so
that `dg-tools --help` and `dg-tools info` stay quick. `options.py` holds the options that several of them share.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

from dg_tools.cli.app import app, say
from dg_tools.threads import wait_passively

__all__ = ["app", "main"]

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    if not _module.startswith("_"):
        import_module(f"{__name__}.{_module}")


def main() -> None:
    """Entry point: the errors that the library raises as a sentence and exit code 1, others as a traceback."""
    wait_passively()  # no command has imported torch yet
    try:
        app()
    except (ValueError, IndexError, KeyError, OSError, MemoryError, RuntimeError) as error:
        words = error if isinstance(error, OSError) or not error.args else error.args[0]  # an OSError's first: a number
        say(f"{type(error).__name__}: {words}")
        sys.exit(1)
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # no command has caught it
            say("interrupted before there was anything to keep; files are as they were")
        raise
