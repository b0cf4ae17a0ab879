"""Records statistics of every block in one run, in preallocated arrays.

Its memory is steps x blocks x (channels + tokens). It records the first call of each step and branch; a further call
(skip-layer guidance, a disrupted pass, your own call) is not recorded. `reading` gives it what a run computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from dg_tools.activations.arrays import MODULATION, Parts, frame_of_tokens, gated, stacked, told_apart
from dg_tools.activations.kept import Kept, Key, Place, Where
from dg_tools.activations.raw import RawSelection
from dg_tools.activations.reduce import CHANNEL, sizes, statistics
from dg_tools.activations.store import RawStore
from dg_tools.activations.together import Together
from dg_tools.forward.call import NOTHING, Call
from dg_tools.kinds import some
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT

WRITES = ("attn_write", "mlp_write")
LARGEST = ("attn_max", "mlp_max")  # of what the same branches give, before their gates
CHUNKS = "chunks"  # of AdaLN, until they are told apart
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
        steps: the number of steps; None: as many as the first call reports.
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
        self._calls: list[Where | None] = []  # where each recorded call belongs
        self._rows: list[tuple[int, int]] = []  # (branch, row) of this one that are recorded, by row
        self._visits: set[tuple[int, str]] = set()  # (block, part) that this call has run
        self._names = [block.record.chunks(block.module) for block in dit.blocks]  # of AdaLN chunks, by block
        self._chunks: dict[int, torch.Tensor] = {}  # AdaLN chunks of each row, by block
        self._together = Together(len(dit.blocks))  # hidden states to be reduced, of this call or of several
        self._later: list[tuple[Key, torch.Tensor, torch.Tensor]] = []  # key, places, values on the device
        self._kept = Kept()

    # -- one call of the transformer ----------------------------------------------------------------------------------

    def begin(self, call: Call) -> None:
        """Begin a call of the transformer, and decide whether it is recorded."""
        self._depth += 1
        if self._depth > 1:
            return
        self._call = None
        self._visits = set()
        self._chunks = {}
        if call.step is None or call.branch == "other":
            return
        if self.steps is None:
            self.steps = call.steps
        self._together.most = len(self.dit.blocks) * (self.steps or 1)
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
            self._calls.append((call.step, [branch for branch, _ in self._rows]))

    def visit(self, block: int, part: str) -> Call | None:
        """The recorded call, if it runs this part of a block for the first time; else None."""
        if self._call is None or self._depth > 1 or (block, part) in self._visits:
            return None
        self._visits.add((block, part))
        return self._call

    def end(self, failed: bool = False) -> None:
        """Fetch what was reduced, in one transfer from the device; the step counts as seen from here on."""
        self._depth -= 1
        if self._depth or self._call is None or self._call.step is None:
            return
        step = self._call.step
        if failed:
            self._calls[-1] = self._call = None
            return
        for names, blocks in self.alike().items():
            chunks = torch.stack([self._chunks[b] for b in blocks])
            chunks = chunks.view(*chunks.shape[:2], -1, self.dit.width)[:, :, : len(names)]
            self.put(CHUNKS, names, torch.tensor([self.here(b) for b in blocks]), chunks)
        self.fetch()
        self.sigmas[step] = self._call.sigma
        self.seen |= {(step, self.branches[i]) for i, _ in self._rows}
        self._call = None
        complete = all((step, branch) in self.seen for branch in self.branches)
        if complete and self.store is not None and step in self.raw.steps:
            self.use_store(lambda store: store.step_done(self.place, step))

    def recorded_rows(self, value: torch.Tensor) -> torch.Tensor:
        """The rows of a tensor that are recorded, as a view."""
        rows = self._rows
        if len(rows) == value.shape[0]:
            return value
        first, last = rows[0][1], rows[-1][1]
        return value[first : last + 1 : (last - first) or 1]

    def here(self, block: int) -> Place:
        """A block of the call that is recorded."""
        return len(self._calls) - 1, block

    def put(self, variable: str, part: str | tuple[str | None, ...], places: torch.Tensor, value: torch.Tensor) -> None:
        """Keep (places, rows, ...) of the rows that are recorded, until the call ends; `places` are (places, 2)."""
        self._later.append(((variable, part), places, value))

    def fetch(self) -> None:
        """Keep what was reduced, in one transfer from the device; it is laid out when the run is over."""
        values = [value.detach() for _, _, value in self._later]
        if values and values[0].device.type != "cpu":
            flat = torch.cat([value.reshape(-1).float() for value in values]).cpu()
            parts = flat.split([value.numel() for value in values])
            values = [part.view_as(value) for part, value in zip(parts, values, strict=True)]
        for (key, places, _), value in zip(self._later, values, strict=True):
            self._kept.add(key, places, value)
        self._later = []

    # -- what is recorded ---------------------------------------------------------------------------------------------

    def embedding(self, temb: torch.Tensor) -> None:
        """The time-text embedding that every block's AdaLN reads."""
        if temb.ndim == 2:
            self.put("temb", "", torch.tensor([self.here(0)]), self.recorded_rows(temb)[None].clone())

    def modulation(self, block: Block, value: torch.Tensor) -> None:
        """AdaLN chunks `gate_msa`, ... as variable `gate`, part `msa`, from what gives them (see `BlockList`)."""
        rows, record = self.recorded_rows(value), block.record
        acting = bool(record.table or record.gate_is_tanh)  # else all blocks are chunked by one call
        self._chunks[block.index] = record.chunked(block.module, rows, self.dit.width) if acting else rows

    def alike(self) -> dict[tuple[str | None, ...], list[int]]:
        """Blocks whose chunks are kept, by the chunks' names."""
        groups: dict[tuple[str | None, ...], list[int]] = {}
        for block in self._chunks:
            groups.setdefault(self._names[block], []).append(block)
        return groups

    def write(self, block: Block, variable: str, output: torch.Tensor) -> None:
        """Record what a branch adds to the stream: mean |gate x output| over the picture's own tokens."""
        own = None if self._call is None else self._call.own_tokens
        rows = self.recorded_rows(output)
        self.gather(variable, block.index, rows if own in (None, rows.shape[1]) else rows[:, :own])

    def streams(self, block: Block, output: Any, call: Call) -> None:
        """Statistics of the streams, and hidden states where they are kept whole.

        Tokens of reference pictures, which come after the picture's own, are a stream of their own.
        """
        assert call.step is not None
        image, text = (block.record.get(output, stream, call.image_tokens) for stream in ("image", "text"))
        assert image is not None
        streams = {"image": image, "text": text}
        own = call.own_tokens or image.shape[1]
        if own < image.shape[1]:  # else without slices, each of which costs as much as a reduction of a small stream
            streams |= {"image": image[:, :own], "reference": image[:, own:]}
        for stream, hidden in streams.items():
            if hidden is None or not hidden.shape[1]:
                continue
            self.gather(stream, block.index, self.recorded_rows(hidden))
            if self.raw.includes(call.step, block.index, stream):
                for branch, row in self._rows:
                    self.keep(branch, call.step, block.index, self.raw.part_of(hidden[row]))

    def gather(self, name: str, block: int, hidden: torch.Tensor) -> None:
        """A stream, or what a branch gives."""
        if batch := self._together.add(name, self.here(block), hidden):
            self.reduce(*batch)

    def reduce(self, name: str, places: list[Place], hidden: torch.Tensor) -> None:
        """Statistics of hidden states (places x rows, tokens, channels)."""
        count, at = len(places), torch.tensor(places)
        if name in WRITES:
            size, largest = sizes(hidden)
            self.put(name, "", at, size.view(count, -1, hidden.shape[2]))
            self.put(LARGEST[WRITES.index(name)], "", at, largest.view(count, -1))
            return
        for variable, value in statistics(hidden, self.quantiles).items():
            self.put(variable, name, at, value.view(count, -1, *value.shape[1:]))

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
                f"the run gave {len(self.sigmas)} of {steps} steps, without {some(missing, 3)} (step, "
                "branch): it ended early, or a callback ended its guidance (rows='cond' captures such a run)"
            )

    def dataset(self) -> xr.Dataset:
        """Everything as labelled arrays; NaN where a value does not exist (no text after SD3's last block)."""
        steps = self.steps or 0
        for batch in self._together.rest():
            self.reduce(*batch)
        self.fetch()
        parts: Parts = {variable: {} for variable in INNER}  # so that their order is one
        arrays = self._kept.arrays(self._calls, len(self.branches), steps, len(self.dit.blocks))
        for (variable, part), array in arrays.items():
            if isinstance(part, str):
                parts[variable][part] = array
            else:
                told_apart(parts, part, array)
        gated(parts, self.dit.blocks)
        lead = ("branch", "step", "site")
        coords: dict[str, Any] = {"branch": self.branches, "step": list(range(steps)), "site": self.dit.sites}
        coords["part"] = list(dict.fromkeys(part for variable in MODULATION for part in parts[variable]))
        coords["stream"] = [
            stream for stream in ("image", "text", "reference") if any(stream in given for given in parts.values())
        ]
        variables: dict[str, Any] = {}
        for variable, given in parts.items():
            axis = "part" if variable in MODULATION else "stream"
            if variable == "temb" and given:
                variables[variable] = (("branch", "step", *INNER[variable]), given[""][:, :, 0])
            elif "" in given:
                variables[variable] = ((*lead, *INNER[variable]), given[""])
            elif given:
                together = stacked([given.get(name) for name in coords[axis]])
                variables[variable] = ((*lead, axis, *INNER[variable]), together)
        if self.hidden is not None:
            dims = ("branch", *self.raw.dims)
            variables["hidden_states"] = xr.DataArray(self.hidden.numpy(), dims=dims, coords=self.raw.coords(self.dit))
        if self.frames > 1:
            coords["frame"] = ("token", frame_of_tokens(parts["token_norm"], self.frames))
        coords["sigma"] = ("step", [self.sigmas.get(s, np.nan) for s in range(steps)])
        coords |= {"q": list(self.quantiles)} if self.quantiles else {}
        return xr.Dataset(variables, {name: values for name, values in coords.items() if len(values)})
