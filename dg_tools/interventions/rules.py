"""Which settings go together? Everything that can be said before a model is known, as a clear error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from dg_tools.interventions.disrupt import Disrupt

Mode = Literal[
    "zero", "mean", "dc", "scale", "rescale", "gate", "transport", "shift", "shift_direction", "random"
]  # fmt: skip
MODES: tuple[str, ...] = get_args(Mode)
ALLOWED = {"mode": MODES, "rows": ("all", "cond"), "stream": ("image", "text"), "norms": ("own", "clean")}
WITH_RHO = ("scale", "shift", "shift_direction")
WITH_STRENGTH = ("shift", "shift_direction", "dc")  # those that add a token-constant vector
WITH_OTHERS = ("zero", "mean", "dc", "scale", "gate", "transport")


def schedule(value: Any) -> float | tuple[tuple[float, float], ...]:
    """A number as it is; a schedule as (sigma, value) pairs in the order of sigma."""
    return value if isinstance(value, int | float) else tuple(sorted((float(s), float(v)) for s, v in value))


def check_settings(edit: Disrupt) -> None:
    """Raise ValueError for settings that are unknown, empty, or do not go together."""
    for name, allowed in ALLOWED.items():
        if getattr(edit, name) not in allowed:
            raise ValueError(f"{name}={getattr(edit, name)!r}; allowed: {', '.join(allowed)}")
    for name in ("channels", "tokens", "steps", "blocks"):
        chosen = getattr(edit, name)
        if chosen is not None and len(chosen) == 0:
            raise ValueError(f"{name} is empty: this edit would touch nothing")
        if name != "blocks" and chosen is not None and (len(set(chosen)) != len(chosen) or min(chosen) < 0):
            raise ValueError(f"{name}={list(chosen)}: indices must be distinct and not negative")
    if len(set(edit.blocks)) != len(edit.blocks):
        raise ValueError(f"block={list(edit.blocks)}: the blocks of one edit must be distinct")
    mode = edit.mode
    if edit.rho != 0 and mode not in WITH_RHO:
        raise ValueError(f"rho={edit.rho} goes with mode {', '.join(WITH_RHO)}; mode is {mode!r}")
    if edit.rho == () or edit.strength == ():
        raise ValueError("an empty schedule: pass a number, or ((sigma, value), ...)")
    if edit.strength != 1 and mode not in WITH_STRENGTH:
        raise ValueError(f"strength={edit.strength} goes with mode {', '.join(WITH_STRENGTH)}; mode is {mode!r}")
    sizes = [edit.strength] if isinstance(edit.strength, int | float) else [v for _, v in edit.strength]
    if not all(0 < s < float("inf") for s in sizes):
        raise ValueError(f"strength={edit.strength}; a factor above 0")
    if edit.others and mode not in WITH_OTHERS:
        raise ValueError(f"others=True goes with mode {', '.join(WITH_OTHERS)}; mode is {mode!r}")
    check_elsewhere(edit)


def check_elsewhere(edit: Disrupt) -> None:
    """The rules of what acts at gates and LayerNorms, or takes values from another run."""
    mode = edit.mode
    if mode == "gate" and edit.stream != "image":
        raise ValueError("mode='gate' is about the image stream's AdaLN: family records name no text gates")
    if mode == "gate" and edit.tokens is not None:
        raise ValueError("mode='gate' takes no tokens: a gate is one number a row and channel, the same for all tokens")
    if edit.norms == "clean" and edit.stream != "image":
        raise ValueError("norms='clean' freezes LayerNorms of the image stream; stream is 'text'")
    if edit.norms == "clean" and mode == "rescale":
        raise ValueError("norms='clean' takes away what mode='rescale' puts in: use one of them, beside mode='zero'")
    if (mode == "transport") != (edit.donor is not None):
        raise ValueError(
            "mode='transport' needs donor=, the values of another prompt's run: Disrupt.transport(dit, ...) makes both"
            if mode == "transport"
            else f"donor= goes with mode 'transport'; mode is {mode!r}"
        )
    if edit.donor is None:
        return
    if edit.rows != "cond":
        raise ValueError("mode='transport' acts on the rows that the prompt is in: pass rows='cond'")
    if edit.blocks != (edit.donor.block,) or edit.stream != edit.donor.stream:
        raise ValueError(
            f"the donor's values are of block {edit.donor.block}, {edit.donor.stream} stream; the edit is at "
            f"block {', '.join(map(str, edit.blocks))}, {edit.stream} stream"
        )
