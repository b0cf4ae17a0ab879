"""Keeps statistics of every block in one run, in arrays laid out beforehand.

Its memory is steps x blocks x (channels + tokens). It records the first call of each step and branch; a further call
(skip-layer guidance, a disrupted pass, a caller's own) passes unrecorded. `reading` gives it what a run computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from dg_tools.activations.arrays import frame_of_tokens, stacked
from dg_tools.activations.kept import Kept, Key
from dg_tools.activations.raw import RawSelection
from dg_tools.activations.reduce import CHANNEL, sizes, statistics
from dg_tools.activations.store import RawStore
from dg_tools.activations.together import Together
from dg_tools.forward.call import NOTHING, Call
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT

MODULATION = ("gate", "shift", "scale")
WRITES = ("attn_write", "mlp_write")
LARGEST = ("attn_max", "mlp_max")  # of what the same branches give, before their gates
INNER = {  # dimensions of each variable after branch, step, site and stream or part; in the order of a capture
    "temb": ("embedding",),
    **dict.fromkeys((*MODULATION, *CHANNEL, *WRITES), ("channel",)),
    **dict.fromkeys(("token_norm", "token_max"), ("token",)),
    **dict.fromkeys(("top_value", "top_channel", "top_token"), ("rank",)),
    **dict.fromkeys(("median_abs_mean", "clipped", *LARGEST), ()),
    "quantile": ("q",),
}


class Recorder:
    """Reduces the hidden states of one run, and keeps the statistics until `dataset()`.

    Args:
        dit: the model.
        branches: `cond`, `uncond`, in the order of the result.
        raw: hidden states to keep whole; in `store` at `place` (prompt, seed) where a store is given.
        quantiles: of |x|, see `reduce.statistics`.
        steps: how many there are; None: as many as the first call says that run.
    """

    def __init__(
        self,
        dit: DiT,
        branches: Sequence[str],
        raw: RawSelection,
        quantiles: Sequence[float] = (),
        store: RawStore | None = None,
        place: tuple[int, int] = (0, 0),
        steps: int | None = None,
    ) -> None:
        self.dit = dit
        self.branches = list(branches)
        self.raw = raw
        self.quantiles = tuple(quantiles)
        self.store = store
        self.place = place
        self.steps = steps
        self.hidden: torch.Tensor | None = None
        self.sigmas: dict[int, float] = {}
        self.seen: set[tuple[int, str]] = set()
        self.store_error: OSError | None = None  # what stopped the store
        self.frames = 1  # grids of tokens, one after the other
        self._depth = 0  # calls of the transformer within another: a disrupted pass
        self._call: Call | None = None  # the one that is recorded
        self._rows: list[tuple[int, int]] = []  # (branch, row) of it that are recorded, by row
        self._visits: set[tuple[int, str]] = set()  # (block, part) that this call has run
        self._names = [block.record.chunks(block.module) for block in dit.blocks]  # of AdaLN chunks, by block
        self._chunks: dict[int, torch.Tensor] = {}  # AdaLN chunks (rows, chunks, channels) by block
        self._together = Together(len(dit.blocks))  # hidden states to be reduced
        self._later: list[tuple[Key, list[int], torch.Tensor]] = []  # of this call: key, blocks, values on the device
        self._kept = Kept()

    # -- one call of the transformer ----------------------------------------------------------------------------------

    def begin(self, call: Call) -> None:
        """A call of the transformer begins: is anything of it to be recorded?"""
        self._depth += 1
        if self._depth > 1:
            return
        self._call = None
        self._visits = set()
        self._together.clear()
        if call.step is None or call.branch == "other":
            return
        if self.steps is None:
            self.steps = call.steps
        rows = {"cond": call.cond, "uncond": call.uncond}
        fresh = [
            (i, rows[branch].start or 0)
            for i, branch in enumerate(self.branches)
            if (call.step, branch) not in self.seen and rows[branch] != NOTHING
        ]
        self._rows = sorted(fresh, key=lambda pair: pair[1])
        if self._rows:
            self._call = call
            self.frames = call.frames

    def visit(self, block: int, part: str) -> Call | None:
        """The call that is recorded, where this is the first time that it runs a part of a block; else None."""
        if self._call is None or self._depth > 1 or (block, part) in self._visits:
            return None
        self._visits.add((block, part))
        return self._call

    def end(self, failed: bool = False) -> None:
        """Reduce and fetch what is left, in one transfer from the device; the step counts as seen from here on."""
        self._depth -= 1
        if self._depth or failed or self._call is None or self._call.step is None:
            return
        step = self._call.step
        for names, blocks in self.alike().items():
            chunks = torch.stack([self._chunks[b] for b in blocks])
            for i, name in enumerate(names):
                if name is not None:
                    kind, _, part = name.partition("_")
                    self.put(kind, part or "all", blocks, chunks[:, :, i])
        for batch in self._together.rest():
            self.reduce(*batch)
        self._chunks = {}
        self.fetch(step)
        self.sigmas[step] = self._call.sigma
        self.seen |= {(step, self.branches[i]) for i, _ in self._rows}
        self._call = None
        complete = all((step, branch) in self.seen for branch in self.branches)
        if complete and self.store is not None and step in self.raw.steps:
            self.use_store(lambda store: store.step_done(self.place, step))

    def recorded_rows(self, value: torch.Tensor) -> torch.Tensor:
        """The rows of a tensor that are recorded, as a view."""
        rows = [row for _, row in self._rows]
        return value if len(rows) == value.shape[0] else value[rows[0] : rows[-1] + 1 : (rows[-1] - rows[0]) or 1]

    def put(self, variable: str, part: str, blocks: list[int], value: torch.Tensor) -> None:
        """Keep (blocks, rows, ...) of the rows that are recorded, until the call ends."""
        self._later.append(((variable, part), blocks, value))

    def fetch(self, step: int) -> None:
        """Keep what the call gave, in one transfer from the device; it is laid out when the run is over."""
        values = [value.detach() for _, _, value in self._later]
        if values and values[0].device.type != "cpu":
            flat = torch.cat([value.reshape(-1).float() for value in values]).cpu()
            parts = flat.split([value.numel() for value in values])
            values = [part.view_as(value) for part, value in zip(parts, values, strict=True)]
        branches = [branch for branch, _ in self._rows]
        for (key, blocks, _), value in zip(self._later, values, strict=True):
            self._kept.add(key, blocks, branches, step, value)
        self._later = []

    # -- what is recorded ---------------------------------------------------------------------------------------------

    def embedding(self, temb: torch.Tensor) -> None:
        """The time-text embedding that every block's AdaLN reads."""
        if temb.ndim == 2:
            self.put("temb", "", [0], self.recorded_rows(temb)[None].clone())

    def modulation(self, block: Block, value: torch.Tensor) -> None:
        """AdaLN chunks `gate_msa`, ... as variable `gate`, part `msa`, from what gives them (see `BlockList`)."""
        rows = self.recorded_rows(value)
        self._chunks[block.index] = block.record.chunked(block.module, rows, self.dit.width)

    def alike(self) -> dict[tuple[str | None, ...], list[int]]:
        """Blocks whose chunks are kept, by the chunks' names."""
        groups: dict[tuple[str | None, ...], list[int]] = {}
        for block in self._chunks:
            groups.setdefault(self._names[block], []).append(block)
        return groups

    def write(self, block: Block, variable: str, output: torch.Tensor) -> None:
        """What a branch adds to the stream: mean over the picture's own tokens of |gate x output|."""
        own = None if self._call is None else self._call.own_tokens
        self.gather(variable, block.index, self.recorded_rows(output)[:, :own])

    def streams(self, block: Block, output: Any, call: Call) -> None:
        """Statistics of the streams, and hidden states where they are kept whole.

        Tokens of reference pictures, which come after the picture's own, are a stream of their own.
        """
        assert call.step is not None
        image, text = (block.record.get(output, stream, call.image_tokens) for stream in ("image", "text"))
        assert image is not None
        own = call.own_tokens or image.shape[1]
        streams = {"image": image[:, :own], "text": text, "reference": image[:, own:]}
        for stream, hidden in streams.items():
            if hidden is None or not hidden.shape[1]:
                continue
            self.gather(stream, block.index, self.recorded_rows(hidden))
            if self.raw.includes(call.step, block.index, stream):
                for branch, row in self._rows:
                    self.keep(branch, call.step, block.index, self.raw.part_of(hidden[row]))

    def gather(self, name: str, block: int, hidden: torch.Tensor) -> None:
        """A stream, or what a branch gives."""
        if batch := self._together.add(name, block, hidden):
            self.reduce(*batch)

    def reduce(self, name: str, blocks: list[int], hidden: torch.Tensor) -> None:
        """Statistics of hidden states (blocks x rows, tokens, channels)."""
        if name in WRITES:
            gates = [self._chunks[b][:, self.gate(name, b)] for b in blocks]
            size, largest = sizes(hidden)
            size = size.view(len(blocks), -1, hidden.shape[2])
            self.put(name, "", blocks, torch.stack(gates).float().abs() * size)
            self.put(LARGEST[WRITES.index(name)], "", blocks, largest.view(len(blocks), -1))
            return
        for variable, value in statistics(hidden, self.quantiles).items():
            self.put(variable, name, blocks, value.view(len(blocks), -1, *value.shape[1:]))

    def gate(self, variable: str, block: int) -> int:
        """Which chunk scales what a branch gives."""
        record = self.dit.blocks[block].record
        return self._names[block].index(record.mlp_gate if variable == "mlp_write" else record.attn_gate)

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
        """Do something with the store; its error is kept, so that it can be told from another."""
        assert self.store is not None
        try:
            action(self.store)
        except OSError as error:
            self.store_error = error
            raise

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Raise RuntimeError where a step or branch is missing."""
        steps = self.steps or 0
        expected = {(s, b) for s in range(steps) for b in self.branches}
        if self.seen != expected:
            missing = sorted(expected - self.seen) or sorted(self.seen - expected)
            raise RuntimeError(
                f"the run gave steps {sorted(self.sigmas)} of {steps}, without {missing[:4]}: it ended early, or "
                "a callback ended its guidance (rows='cond' captures such a run)"
            )

    def dataset(self) -> xr.Dataset:
        """Everything as labelled arrays; NaN where a value does not exist (no text after SD3's last block)."""
        steps = self.steps or 0
        parts: dict[str, dict[str, np.ndarray]] = {variable: {} for variable in INNER}  # so that their order is one
        for (variable, part), array in self._kept.arrays(len(self.branches), steps, len(self.dit.blocks)).items():
            parts[variable][part] = array
        lead = ("branch", "step", "site")
        coords: dict[str, Any] = {"branch": self.branches, "step": list(range(steps)), "site": self.dit.sites}
        coords["part"] = list(dict.fromkeys(part for variable in MODULATION for part in parts[variable]))
        coords["stream"] = [
            stream for stream in ("image", "text", "reference") if any(stream in arrays for arrays in parts.values())
        ]
        variables: dict[str, Any] = {}
        for variable, arrays in parts.items():
            axis = "part" if variable in MODULATION else "stream"
            if variable == "temb" and arrays:
                variables[variable] = (("branch", "step", *INNER[variable]), arrays[""][:, :, 0])
            elif "" in arrays:
                variables[variable] = ((*lead, *INNER[variable]), arrays[""])
            elif arrays:
                together = stacked([arrays.get(name) for name in coords[axis]])
                variables[variable] = ((*lead, axis, *INNER[variable]), together)
        if self.hidden is not None:
            dims = ("branch", *self.raw.dims)
            variables["hidden_states"] = xr.DataArray(self.hidden.numpy(), dims=dims, coords=self.raw.coords(self.dit))
        if self.frames > 1:
            coords["frame"] = ("token", frame_of_tokens(parts["token_norm"], self.frames))
        coords["sigma"] = ("step", [self.sigmas.get(s, np.nan) for s in range(steps)])
        coords |= {"q": list(self.quantiles)} if self.quantiles else {}
        return xr.Dataset(variables, {name: values for name, values in coords.items() if len(values)})
