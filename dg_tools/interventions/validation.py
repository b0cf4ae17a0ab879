"""Checks of an edit's settings: which go together, and which fit a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dg_tools.interventions.settings import MODES, EditSettings
from dg_tools.kinds import counted

ALLOWED = {"mode": MODES, "rows": ("all", "cond", "uncond"), "stream": ("image", "text"), "norms": ("own", "clean")}
ALLOWED["pictures"] = ("all", "own", "references")
WITH_RHO = ("scale", "steer", "shift", "shift_direction")
WITH_STRENGTH = ("shift", "shift_direction", "dc")  # those that add a token-constant vector
WITH_OTHERS = ("zero", "mean", "dc", "scale", "steer", "gate", "transport")


def check_settings(edit: EditSettings) -> None:
    """Raise ValueError for settings that are unknown, empty, or do not go together."""
    for name, allowed in ALLOWED.items():
        if getattr(edit, name) not in allowed:
            raise ValueError(f"{name}={getattr(edit, name)!r}; allowed: {', '.join(allowed)}")
    for name in ("channels", "tokens", "steps", "blocks"):
        choice = getattr(edit, name)
        if choice is not None and len(choice) == 0:
            raise ValueError(f"{name} is empty: this edit would touch nothing")
        if name != "blocks" and choice is not None and (len(set(choice)) != len(choice) or min(choice) < 0):
            raise ValueError(f"{name}={list(choice)}: indices must be distinct and not negative")
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


def check_elsewhere(edit: EditSettings) -> None:
    """Check the rules for edits of gates and LayerNorms, and for values from another run."""
    mode = edit.mode
    if mode == "gate" and edit.stream != "image":
        raise ValueError("mode='gate' works on the image stream only: family records name no text gates")
    if mode == "gate" and edit.tokens is not None:
        raise ValueError("mode='gate' takes no tokens: a gate is one number per row and channel, for all tokens")
    if edit.pictures != "all" and (edit.stream != "image" or edit.tokens or mode in ("gate", "transport")):
        raise ValueError(
            f"pictures={edit.pictures!r} chooses tokens of the image stream: it goes with stream 'image', without "
            "tokens=, and with other modes than 'gate' and 'transport'"
        )
    if edit.norms == "clean" and edit.stream != "image":
        raise ValueError("norms='clean' freezes LayerNorms of the image stream; stream is 'text'")
    if edit.norms == "clean" and mode == "rescale":
        raise ValueError(
            "norms='clean' undoes mode='rescale': use one of the two, norms='clean' with mode='zero' or "
            "mode='rescale' alone"
        )
    if (mode == "transport") != (edit.donor is not None):
        raise ValueError(
            "mode='transport' needs donor=, the values of another prompt's run: Disrupt.transport(dit, ...) makes both"
            if mode == "transport"
            else f"donor= goes with mode 'transport'; mode is {mode!r}"
        )
    if edit.donor is None:
        return
    if edit.rows != "cond":
        raise ValueError("mode='transport' acts on the conditional rows only: pass rows='cond'")
    if edit.blocks != (edit.donor.block,) or edit.stream != edit.donor.stream:
        raise ValueError(
            f"the donor's values are of block {edit.donor.block}, {edit.donor.stream} stream; the edit is at "
            f"block {', '.join(map(str, edit.blocks))}, {edit.stream} stream"
        )


# -- against a model --------------------------------------------------------------------------------------------------


def check_sizes(edit: EditSettings, tokens: int, width: int) -> None:
    """Raise IndexError for channels or tokens that do not exist in a stream of this size."""
    if max(edit.channels) >= width:
        raise IndexError(f"channel {max(edit.channels)} requested; there are 0 to {width - 1}")
    if edit.tokens is not None and max(edit.tokens) >= tokens:
        raise IndexError(f"token {max(edit.tokens)} requested; there are 0 to {tokens - 1} in the {edit.stream} stream")
    k = len(edit.channels)
    needs = k if edit.others or edit.mode in ("shift", "random") else edit.mode in ("shift_direction", "rescale")
    if k + needs > width:
        raise ValueError(f"{k} channels of {width}: too few others are left for {edit.mode!r}")


def check_blocks(edit: EditSettings, sites: Sequence[str]) -> None:
    """Raise IndexError for a block that does not exist; `sites` are the names of the blocks."""
    for block in edit.blocks:
        if not 0 <= block < len(sites):
            raise IndexError(
                f"block {block} requested; there are 0 to {len(sites) - 1} (sites {sites[0]!r} to {sites[-1]!r})"
            )


def check_donor(edit: EditSettings, steps: int | None, tokens: int, width: int) -> None:
    """Raise ValueError if the donor's run does not fit a run with this many steps, image tokens and channels."""
    if edit.donor is None:
        return
    count, _, donated, channels = edit.donor.values.shape
    if channels != width or (edit.stream == "image" and donated != tokens):
        raise ValueError(
            f"the donor {edit.donor!r} has {counted(donated, 'token')} and {counted(channels, 'channel')}; this "
            f"run has {tokens} and {width}: take the same model and size"
        )
    if steps is not None and count < (steps if edit.steps is None else len(edit.steps)):
        raise ValueError(
            f"the donor {edit.donor!r} has {counted(count, 'step')}; this run has {steps}: use the same number"
        )


def check_keys(settings: Any, cls: type) -> None:
    """Raise for what is not the mapping that `Disrupt.to_json` gives: TypeError, or ValueError for unknown keys."""
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings={settings!r}; the mapping that {cls.__name__}.to_json gives is needed")
    known = cls.__dataclass_fields__  # type: ignore[attr-defined]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"unknown keys {', '.join(unknown)}; a {cls.__name__} has {', '.join(sorted(known))}")
