"""What happens when massive channels are switched off, and what happens when something else is?

`Disrupt` is one edit of the residual stream: what (channels, mode), where (block, stream, tokens), when (steps), and
for which rows. The same object serves sampling, capture, the one-step experiment and Detail Guidance. `controls` gives
its matched controls: perturbations of the same size that leave the massive channels alone. Zeroing random channels is a
sanity row, not the control, because no other channel holds as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch

from dg_tools.families import BlockList, Family
from dg_tools.models import DiT, load
from dg_tools.steps import Call, Clock

Mode = Literal["zero", "mean", "scale", "shift", "shift_direction", "random"]
Control = Literal["shift", "shift_direction", "random", "variance"]
MODES: tuple[str, ...] = get_args(Mode)
CONTROLS: tuple[str, ...] = get_args(Control)


@dataclass(frozen=True, repr=False)
class Disrupt:
    """One edit of the hidden states at a block's output.

    Args:
        channels: the channels that the edit is about.
        block: index into `dit.blocks`; the edit acts once, at this block's output.
        mode:
            `zero`: the channels become 0 (the paper's disruption; rho = 0).
            `mean`: each becomes its mean over the tokens.
            `scale`: each is multiplied by `rho` (EMA's form).
            `shift`: control; as many *other* channels, drawn with `draw`, get a token-constant shift of the norm that
                zeroing `channels` would remove.
            `shift_direction`: control; the same shift along a random direction in all other channels.
            `random`: sanity row; as many other channels become 0.
        rho: retention for `scale`: a number, or ((sigma, rho), ...), linear between the points.
        tokens: token indices (y * columns + x); None for all.
        steps: denoising steps; None for all.
        rows: `all`, or `cond` for the conditional rows of classifier-free guidance only.
        stream: `image` or `text`.
        draw: seed of what is random in a control.
        strength: factor on the size of a shift (1: the norm that zeroing `channels` would remove).
        control: this edit is a control of another one: experiments put it into the null distribution.

    Raises:
        ValueError: an unknown mode, stream or rows, no channels, or an empty selection.
    """

    channels: Sequence[int]
    block: int
    mode: Mode = "zero"
    rho: float | Sequence[tuple[float, float]] = 0.0
    tokens: Sequence[int] | None = None
    steps: Sequence[int] | None = None
    rows: Literal["all", "cond"] = "all"
    stream: Literal["image", "text"] = "image"
    draw: int = 0
    strength: float = 1.0
    control: bool = False

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen)
        put("channels", tuple(int(c) for c in self.channels))
        for name in ("tokens", "steps"):
            if getattr(self, name) is not None:
                put(name, tuple(int(i) for i in getattr(self, name)))
        if not isinstance(self.rho, int | float):
            put("rho", tuple(sorted((float(s), float(r)) for s, r in self.rho)))
        for name, allowed in (("mode", MODES), ("rows", ("all", "cond")), ("stream", ("image", "text"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name in ("channels", "tokens", "steps"):
            chosen = getattr(self, name)
            if chosen is not None and len(chosen) == 0:
                raise ValueError(f"{name} is empty: this edit would touch nothing")
            if chosen is not None and (len(set(chosen)) != len(chosen) or min(chosen) < 0):
                raise ValueError(f"{name}={list(chosen)}: indices must be distinct and not negative")

    # -- words and JSON ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """The edit in words."""
        k = len(self.channels)
        named = ", ".join(map(str, self.channels[:6])) + (f", ... ({k} channels)" if k > 6 else "")
        what = {
            "zero": f"zero channels {named}",
            "mean": f"set channels {named} to their mean over tokens",
            "scale": f"scale channels {named} by {self.rho if isinstance(self.rho, float | int) else 'a schedule'}",
            "shift": f"shift {k} channels other than {named} by the norm of those",
            "shift_direction": f"shift along a random direction by the norm of {named}",
            "random": f"zero {k} channels other than {named}",
        }[self.mode]
        where = f" after block {self.block}, {self.stream} stream"
        tokens = "" if self.tokens is None else f", {len(self.tokens)} tokens"
        steps = "" if self.steps is None else f", steps {', '.join(map(str, self.steps))}"
        rows = "" if self.rows == "all" else ", conditional rows"
        drawn = f" (draw {self.draw})" if self.control else ""
        drawn += f", strength {self.strength:g}" if self.strength != 1 else ""
        return ("control: " if self.control else "") + what + where + tokens + steps + rows + drawn

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Disrupt:
        """An edit from `to_json`.

        Raises:
            ValueError: an unknown key, with the known ones.
        """
        known = set(cls.__dataclass_fields__)
        if set(settings) - known:
            raise ValueError(f"unknown keys {sorted(set(settings) - known)}; a Disrupt has {sorted(known)}")
        return cls(**settings)

    # -- controls ---------------------------------------------------------------------------------------------------

    def controls(self, n: int, kind: Control = "shift", *, seed: int = 0, like: Any = None) -> list[Disrupt]:
        """`n` matched controls of this edit, the same for the same seed.

        Args:
            n: how many draws; 20 or more give the effect a rank in a null distribution.
            kind: `shift`: a token-constant shift of the same norm on as many other channels; `shift_direction`: along a
                random direction of the other channels; `variance`: as many other channels, nearest in variance over
                tokens, edited in the same way (what is left of a massive channel after its mean); `random`: zeroing
                random channels, a sanity row only.
            seed: of the draws.
            like: for `variance`: the `Massive` that `find_massive` returned.

        Raises:
            ValueError: an unknown kind, n < 1, or `variance` without `like`.
        """
        if kind not in CONTROLS:
            raise ValueError(f"kind={kind!r}; allowed: {', '.join(CONTROLS)}")
        if n < 1:
            raise ValueError(f"n={n} controls asked for; at least 1")
        draws = [seed * 100_003 + i for i in range(n)]
        if kind == "variance":
            if like is None:
                raise ValueError("kind='variance' needs like=, the result of find_massive, for the variances")
            variance = torch.as_tensor(like.token_variance(self.block))
            picks = [variance_matched(variance, self.channels, d) for d in draws]
            return [replace(self, channels=c, draw=d, control=True) for c, d in zip(picks, draws, strict=True)]
        return [replace(self, mode=kind, draw=d, control=True) for d in draws]

    # -- action -----------------------------------------------------------------------------------------------------

    def retention(self, sigma: float) -> float:
        """Rho at a noise level."""
        if isinstance(self.rho, int | float):
            return float(self.rho)
        points = self.rho
        if sigma <= points[0][0]:
            return points[0][1]
        for (s0, r0), (s1, r1) in pairwise(points):
            if sigma <= s1:
                return r0 + (r1 - r0) * (sigma - s0) / max(s1 - s0, 1e-12)
        return points[-1][1]

    def __call__(self, hidden: torch.Tensor, call: Call) -> torch.Tensor | None:
        """Edited copy of hidden states (rows, tokens, channels), or None where this call is not concerned."""
        if self.steps is not None and call.step not in self.steps:
            return None
        rows = call.rows(self.rows)
        if hidden[rows].shape[0] == 0:
            return None
        self.check_sizes(hidden.shape[1], hidden.shape[2])
        part = hidden[rows] if self.tokens is None else hidden[rows][:, list(self.tokens)]
        changed = self.change(part.clone(), call.sigma)
        edited = hidden.clone()
        if self.tokens is None:
            edited[rows] = changed
        else:
            inner = edited[rows]
            inner[:, list(self.tokens)] = changed
            edited[rows] = inner
        return edited

    def edit(self, output: tuple, record: BlockList, call: Call) -> tuple | None:
        """A block's output with this edit made, or None where this call is not concerned.

        Raises:
            RuntimeError: the block has no output in this stream (SD3's last block has no text).
        """
        at = record.image if self.stream == "image" else record.text
        if output[at] is None:
            raise RuntimeError(f"{self.sentence()}: block {self.block} has no {self.stream} output")
        edited = self(output[at], call)
        return None if edited is None else tuple(edited if i == at else kept for i, kept in enumerate(output))

    def must_edit(self, output: tuple, record: BlockList, call: Call) -> tuple:
        """`edit`, where a call that is not concerned is a mistake.

        Raises:
            RuntimeError: the edit touched nothing.
        """
        edited = self.edit(output, record, call)
        if edited is None:
            raise RuntimeError(f"this edit touched nothing: {self.sentence()}; check its steps and rows")
        return edited

    def change(self, part: torch.Tensor, sigma: float) -> torch.Tensor:
        """The edit on the selected rows and tokens, in place."""
        channels = list(self.channels)
        if self.mode == "zero":
            part[..., channels] = 0
        elif self.mode == "mean":
            part[..., channels] = part[..., channels].mean(1, keepdim=True)
        elif self.mode == "scale":
            part[..., channels] *= self.retention(sigma)
        else:
            others, direction = self.drawn(part.shape[-1])
            if self.mode == "random":
                part[..., others] = 0
            else:
                norm = part[..., channels].float().square().sum(-1).mean(1).sqrt()  # per row, over tokens
                step = self.strength * norm[:, None] * direction.to(part.device)
                part[..., others] += step[:, None].to(part.dtype)
        return part

    def drawn(self, width: int) -> tuple[list[int], torch.Tensor]:
        """For the controls: the other channels, and a unit vector over them. Drawn on the CPU: same on every device."""
        generator = torch.Generator().manual_seed(self.draw)
        rest = [c for c in range(width) if c not in set(self.channels)]
        if self.mode != "shift_direction":
            rest = sorted(
                rest[i] for i in torch.randperm(len(rest), generator=generator)[: len(self.channels)].tolist()
            )
        vector = torch.randn(len(rest), generator=generator)
        return rest, vector / vector.norm()

    def check_sizes(self, tokens: int, width: int) -> None:
        """Raise IndexError for channels or tokens that there are not."""
        if max(self.channels) >= width:
            raise IndexError(f"channel {max(self.channels)} asked for; there are 0 to {width - 1}")
        if self.tokens is not None and max(self.tokens) >= tokens:
            raise IndexError(
                f"token {max(self.tokens)} asked for; there are 0 to {tokens - 1} in the {self.stream} stream"
            )
        if self.mode in ("shift", "random") and 2 * len(self.channels) > width:
            raise ValueError(f"{len(self.channels)} channels of {width}: too few others are left for a control")

    def check_blocks(self, sites: Sequence[str]) -> None:
        """Raise IndexError for a block that there is not; `sites` are the names of those that there are."""
        if not 0 <= self.block < len(sites):
            raise IndexError(
                f"block {self.block} asked for; there are 0 to {len(sites) - 1} (sites {sites[0]!r} to {sites[-1]!r})"
            )

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any long work where block, channels, tokens or steps do not exist in this run."""
        self.check_blocks(dit.sites)
        rows, columns = dit.grid(height, width)
        self.check_sizes(rows * columns if self.stream == "image" else 10**9, dit.width)
        if steps is not None and self.steps is not None and max(self.steps) >= steps:
            raise IndexError(f"step {max(self.steps)} asked for; there are 0 to {steps - 1}")

    @contextmanager
    def on(self, pipeline: Any) -> Iterator[None]:
        """Edit every call of a pipeline of your own: `with off.on(pipe): pipe("red apple")`.

        Raises:
            RuntimeError: at the end, if the edit touched nothing.
        """
        dit = load(pipeline)
        self.check(dit)
        with dit.running(), attached(dit.transformer, dit.family, [self], Clock(dit.pipeline, dit.family).read):
            yield


def variance_matched(variance: torch.Tensor, channels: Sequence[int], draw: int, pool: int = 5) -> tuple[int, ...]:
    """For each channel one of the `pool` others nearest in log variance, without repetition."""
    generator = torch.Generator().manual_seed(draw)
    free = set(range(len(variance))) - set(channels)
    log, chosen = variance.clamp_min(1e-12).log(), []
    for channel in channels:
        near = sorted(free, key=lambda c: abs((log[c] - log[channel]).item()))[:pool]
        pick = near[int(torch.randint(len(near), (), generator=generator))]
        free.discard(pick)
        chosen.append(pick)
    return tuple(sorted(chosen))


def bind(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's inputs by name, however they were passed."""
    import inspect

    return (
        {**kwargs, **inspect.signature(type(module).forward).bind_partial(module, *args).arguments} if args else kwargs
    )


@contextmanager
def attached(
    transformer: torch.nn.Module,
    family: Family,
    edits: Sequence[Disrupt],
    read: Call | Callable[[dict[str, Any]], Call],
) -> Iterator[None]:
    """Edits on a transformer through plain hooks, always taken off again.

    Args:
        transformer, family: the model and its record.
        edits: applied in order at each block.
        read: the `Call` that every forward inside belongs to, or what gives it from the transformer's inputs.

    Raises:
        RuntimeError: on a normal exit, for an edit that touched nothing.
    """
    touched = [0] * len(edits)
    now: list[Call | None] = [read if isinstance(read, Call) else None]
    blocks = [(record, module) for _, record, module in family.blocks(transformer)]

    def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        now[0] = read(bind(module, args, kwargs))  # type: ignore[operator]

    def after(block: int) -> Callable:
        record = blocks[block][0]

        def hook(module: torch.nn.Module, inputs: Any, output: tuple) -> tuple | None:
            if now[0] is None:
                return None
            for i, edit in enumerate(edits):
                if edit.block != block:
                    continue
                edited = edit.edit(output, record, now[0])
                if edited is not None:
                    touched[i] += 1
                    output = edited
            return output

        return hook

    with ExitStack() as stack:
        if edits and not isinstance(read, Call):
            stack.callback(transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
        for block in sorted({e.block for e in edits}):
            stack.callback(blocks[block][1].register_forward_hook(after(block)).remove)
        yield
    for edit, count in zip(edits, touched, strict=True):
        if count == 0:
            raise RuntimeError(
                f"this edit touched nothing: {edit.sentence()}; check its steps and rows against the run"
            )
