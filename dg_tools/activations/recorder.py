"""Reads every call of the transformer in one run, block by block, and keeps statistics in arrays laid out beforehand.

Its memory is steps x blocks x (channels + tokens). It reads the first call of each step and branch; a further call
(skip-layer guidance, a disrupted pass, a caller's own) passes unread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from dg_tools.activations.raw import RawSelection
from dg_tools.activations.reduce import CHANNEL, mean_size, statistics
from dg_tools.activations.store import RawStore
from dg_tools.forward.call import NOTHING
from dg_tools.interventions import Disrupt
from dg_tools.interventions.modes import targets
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.models.step import Step

INNER = {  # dimensions of each statistic after branch, step, site and stream or part
    **dict.fromkeys((*CHANNEL, "gate", "shift", "scale", "attn_write", "mlp_write"), ("channel",)),
    **dict.fromkeys(("token_norm", "token_max"), ("token",)),
    **dict.fromkeys(("top_value", "top_channel", "top_token"), ("rank",)),
    **dict.fromkeys(("median_abs_mean", "clipped"), ()),
    "quantile": ("q",),
}
MODULATION = ("gate", "shift", "scale")
WRITES = ("attn_write", "mlp_write")


class Recorder:
    """Reduces the hidden states of one run, and keeps the statistics until `dataset()`.

    Args:
        dit: the model; `edits` made at blocks' outputs while it runs.
        branches: `cond`, `uncond`, in the order of the result.
        raw: hidden states to keep whole; in `store` at `place` (prompt, seed) where a store is given.
        quantiles: of |x|, see `reduce.statistics`.
        steps: how many there are; None: as many as the first call says that run.
    """

    def __init__(
        self,
        dit: DiT,
        edits: Sequence[Disrupt],
        branches: Sequence[str],
        raw: RawSelection,
        quantiles: Sequence[float] = (),
        store: RawStore | None = None,
        place: tuple[int, int] = (0, 0),
        steps: int | None = None,
    ) -> None:
        self.dit = dit
        self.edits = list(edits)
        self.branches = list(branches)
        self.raw = raw
        self.quantiles = tuple(quantiles)
        self.store = store
        self.place = place
        self.steps = steps
        self.values: dict[tuple[str, str], torch.Tensor] = {}  # by variable and stream or part
        self.hidden: torch.Tensor | None = None
        self.sigmas: dict[int, float] = {}
        self.seen: set[tuple[int, str]] = set()
        self.touched = [0] * len(self.edits)
        self.store_error: OSError | None = None  # what stopped the store
        self._now: list[tuple[int, int]] = []  # (branch, row) of this call that are recorded, by row
        self._later: list[tuple[torch.Tensor, torch.Tensor]] = []  # (where, value) still on the device

    # -- one call of the transformer ----------------------------------------------------------------------------------

    def record(self, step: Step) -> None:
        """Follow one call through the blocks, inside a trace: edit, then record."""
        recording = self.begin(step)
        for block in self.dit.blocks:
            edits = [e for e in self.edits if e.mode != "gate" and block.index in e.blocks and e.concerns(step.call)]
            if not recording and not (edits and step.visits(block)):
                continue
            if recording:
                if block.index == 0 and self.dit.family.embedding:
                    self.embedding(step, block.conditioning)
                gates = self.modulation(step, block, block.modulation)
                if block.record.attn is not None and block.record.attn_gate is not None:
                    self.write(step, block, "attn_write", block.attn, gates[block.record.attn_gate])
                if block.record.mlp is not None:
                    self.write(step, block, "mlp_write", block.mlp, gates[block.record.mlp_gate])
            output = block.output
            edited = self.edit(step, block, output) if edits else None
            if edited is not None:
                block.output = edited
                output = edited
            if recording:
                self.streams(step, block, output)
        self.end(step)

    def begin(self, step: Step) -> bool:
        """Whether anything of this call is to be recorded."""
        if self.steps is None:
            self.steps = step.call.steps
        rows = {"cond": step.cond, "uncond": step.uncond}
        self._now = []
        for i, branch in enumerate(self.branches):
            fresh = step.branch != "other" and (int(step), branch) not in self.seen
            if fresh and rows[branch] != NOTHING:
                self._now.append((i, rows[branch].start or 0))
        self._now.sort(key=lambda pair: pair[1])
        return bool(self._now)

    def end(self, step: Step) -> None:
        """Fetch what is still on the device, in one transfer; the step counts as seen from here on."""
        if self._later:
            flat = torch.cat([value.reshape(-1) for _, value in self._later]).cpu()
            sizes = [value.numel() for _, value in self._later]
            for (target, _), value in zip(self._later, flat.split(sizes), strict=True):
                target.copy_(value.view_as(target))
            self._later = []
        if self._now:
            self.sigmas[int(step)] = step.sigma
            self.seen |= {(int(step), self.branches[i]) for i, _ in self._now}
        complete = all((int(step), branch) in self.seen for branch in self.branches)
        if self._now and complete and self.store is not None and int(step) in self.raw.steps:
            self.use_store(lambda store: store.step_done(self.place, int(step)))

    def recorded_rows(self, value: torch.Tensor) -> torch.Tensor:
        """The rows of a tensor that are recorded, as a view."""
        rows = [row for _, row in self._now]
        return value[rows[0] : rows[-1] + 1 : (rows[-1] - rows[0]) or 1]

    def put(self, variable: str, part: str, step: int, block: int, value: torch.Tensor) -> None:
        """Keep (rows, ...) of the rows that are recorded."""
        key = (variable, part)
        if key not in self.values:
            lead = (len(self.branches), self.steps or 0, len(self.dit.blocks))
            self.values[key] = torch.full((*lead, *value.shape[1:]), torch.nan)
        array, inner = self.values[key], value.shape[1:]
        if inner and inner[0] > array.shape[3]:  # a longer text: Qwen-Image pads prompts to no fixed length
            longer = torch.full((*array.shape[:3], *inner), torch.nan)
            longer[:, :, :, : array.shape[3]] = array
            array = self.values[key] = longer
        for (branch, _), row in zip(self._now, value.detach(), strict=True):
            target = array[branch, step, block]
            target = target[: inner[0]] if inner else target
            if value.device.type == "cpu":
                target.copy_(row)
            else:
                self._later.append((target, row.float().clone()))

    # -- what is recorded ---------------------------------------------------------------------------------------------

    def embedding(self, step: Step, temb: torch.Tensor) -> None:
        """The time-text embedding that every block's AdaLN reads."""
        if temb.ndim == 2:
            self.put("temb", "", int(step), 0, self.recorded_rows(temb))

    def modulation(self, step: Step, block: Block, chunks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """AdaLN chunks `gate_msa`, ... as variable `gate`, part `msa`; gates after the edits of mode `gate`."""
        values = {name: self.recorded_rows(value) for name, value in chunks.items()}
        for edit in self.edits:
            if edit.mode == "gate" and block.index in edit.blocks and edit.concerns(step.call):
                rows = set(range(len(next(iter(chunks.values())))))
                rows &= set(range(*step.call.rows(edit.rows).indices(len(rows))))
                concerned = [i for i, (_, row) in enumerate(self._now) if row in rows]
                for name in [n for n in values if n.startswith("gate")]:
                    values[name] = values[name].clone()
                    for i in concerned:
                        values[name][i, targets(edit, values[name].shape[-1])] = 0
        for name, value in values.items():
            kind, _, part = name.partition("_")
            self.put(kind, part or "all", int(step), block.index, value)
        return values

    def write(self, step: Step, block: Block, variable: str, output: torch.Tensor, gate: torch.Tensor) -> None:
        """What a branch adds to the stream: mean over tokens of |gate x output|."""
        self.put(variable, "", int(step), block.index, gate.float().abs() * mean_size(self.recorded_rows(output)))

    def edit(self, step: Step, block: Block, output: tuple) -> tuple | None:
        """The block's output after the edits, or None where no edit is concerned."""
        changed = None
        for i, edit in enumerate(self.edits):
            if edit.mode == "gate" or block.index not in edit.blocks:
                continue
            new = edit.edit(output, block.record, step.call)
            if new is not None:
                self.touched[i] += 1
                output = changed = new
        return changed

    def streams(self, step: Step, block: Block, output: tuple) -> None:
        """Statistics of both streams, and hidden states where they are kept whole."""
        for stream in ("image", "text"):
            hidden = block.record.get(output, stream, step.call.image_tokens)
            if hidden is None:
                continue
            for variable, value in statistics(self.recorded_rows(hidden), self.quantiles).items():
                self.put(variable, stream, int(step), block.index, value)
            if self.raw.includes(int(step), block.index, stream):
                for branch, row in self._now:
                    self.keep(branch, int(step), block.index, self.raw.part_of(hidden[row]))

    def keep(self, branch: int, step: int, block: int, hidden: torch.Tensor) -> None:
        """Hidden states, into the store or into memory."""
        at = (branch, self.raw.steps.index(step), self.raw.blocks.index(block))
        if self.store is not None:
            self.use_store(lambda store: store.write((*self.place, *at), hidden.cpu().numpy()))
            return
        if self.hidden is None:
            lead = (len(self.branches), len(self.raw.steps), len(self.raw.blocks))
            self.hidden = torch.full((*lead, *self.raw.shape), torch.nan)
        self.hidden[at].copy_(hidden)

    def use_store(self, action: Callable[[RawStore], None]) -> None:
        """Do something with the store; its error is kept, because the trace would rename it."""
        assert self.store is not None
        try:
            action(self.store)
        except OSError as error:
            self.store_error = error
            raise

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Raise RuntimeError where a step or branch is missing, or an edit touched nothing."""
        steps = self.steps or 0
        expected = {(s, b) for s in range(steps) for b in self.branches}
        if self.seen != expected:
            missing = sorted(expected - self.seen) or sorted(self.seen - expected)
            raise RuntimeError(
                f"the run gave steps {sorted(self.sigmas)} of {steps}, without {missing[:4]}: it ended early, or "
                "a callback ended its guidance (rows='cond' captures such a run)"
            )
        for edit, count in zip(self.edits, self.touched, strict=True):
            if count == 0 and edit.mode != "gate":
                raise RuntimeError(f"this edit touched nothing: {edit.sentence()}; check its steps and rows")

    def dataset(self) -> xr.Dataset:
        """Everything as labelled arrays; NaN where a value does not exist (no text after SD3's last block)."""
        parts: dict[str, dict[str, np.ndarray]] = {}
        for (variable, part), array in self.values.items():
            parts.setdefault(variable, {})[part] = array.numpy()
        lead = ("branch", "step", "site")
        variables: dict[str, Any] = {}
        for variable, arrays in parts.items():
            if variable == "temb":
                variables["temb"] = (("branch", "step", "embedding"), arrays[""][:, :, 0])
            elif variable in WRITES:
                variables[variable] = ((*lead, "channel"), arrays[""])
            else:
                axis = "part" if variable in MODULATION else "stream"
                variables[variable] = xr.DataArray(
                    stacked(list(arrays.values())), dims=(*lead, axis, *INNER[variable]), coords={axis: list(arrays)}
                )
        if self.hidden is not None:
            dims = ("branch", *self.raw.dims)
            variables["hidden_states"] = xr.DataArray(self.hidden.numpy(), dims=dims, coords=self.raw.coords(self.dit))
        steps = range(self.steps or 0)
        sigma = ("step", [self.sigmas.get(s, np.nan) for s in steps])
        data = xr.Dataset(variables).assign_coords(branch=self.branches, step=list(steps), site=self.dit.sites)
        data = data.assign_coords(sigma=sigma)
        return data.assign_coords(q=list(self.quantiles)) if self.quantiles else data


def stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays (branch, step, site, ...) along a new fourth axis, filled up with NaN to the longest."""
    longest = [max(sizes) for sizes in zip(*(a.shape[3:] for a in arrays), strict=True)]
    together = np.full((*arrays[0].shape[:3], len(arrays), *longest), np.nan, np.float32)
    for i, array in enumerate(arrays):
        together[(slice(None),) * 3 + (i, *(slice(0, n) for n in array.shape[3:]))] = array
    return together
