"""Check that the first argument of a public function is a loaded model."""

from __future__ import annotations

from pathlib import Path

from dg_tools.kinds import kind_of
from dg_tools.models.dit import DiT


def check_runs(pipeline: object, what: str) -> None:
    """Raise where a context that acts on a pipeline's calls is given the name of one, which nobody would call.

    Raises:
        TypeError: a name or a folder, with the line that loads it.
    """
    if isinstance(pipeline, str | Path | None):
        line = f"dg.load({'' if pipeline is None else repr(str(pipeline))})"
        raise TypeError(
            f"{what} acts on a pipeline that is called inside it, and got {pipeline!r}: load it first, dit = {line}, "
            "then pass dit.pipeline and call it inside"
        )


def check_loaded(dit: object, function: str) -> None:
    """Raise TypeError if a public function's first argument is not a `DiT`; `function` is its name.

    Raises:
        TypeError: anything else; the message has the line that loads a model.

    Example:
        >>> check_loaded("emoji-sd3", "capture")
        Traceback (most recent call last):
        TypeError: dg.capture needs a loaded model and got the name 'emoji-sd3': ...
    """
    if isinstance(dit, DiT):
        return
    if isinstance(dit, str | Path):
        what, how = f"the name {str(dit)!r}", f"dit = dg.load({str(dit)!r}) loads it once"
    elif hasattr(dit, "transformer"):
        what, how = f"{kind_of(dit)}", "dit = dg.load(pipeline) makes one of it"
    else:
        what, how = f"{kind_of(dit)}", "dit = dg.load() loads the embedded one"
    raise TypeError(f"dg.{function} needs a loaded model and got {what}: {how}, then dg.{function}(dit, ...)")
