"""One edit, as settings: what, where, when, and for which rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from dg_tools.families import BlockList
from dg_tools.forward.call import Call
from dg_tools.forward.clock import Clock
from dg_tools.interventions.attach import attached
from dg_tools.interventions.changes import at_sigma, change, drawn, targets
from dg_tools.interventions.controls import Control, controls_of
from dg_tools.interventions.donors import Donor, reading
from dg_tools.interventions.rules import Mode, check_settings, schedule
from dg_tools.interventions.words import sentence
from dg_tools.models._load import load
from dg_tools.models.dit import DiT


@dataclass(frozen=True, repr=False)
class Disrupt:
    """One edit of the hidden states at a block's output, or at the outputs of several blocks.

    Args:
        channels: the channels that the edit is about.
        block: index into `dit.blocks`, or several: the edit acts at the output of each (k channels x n layers).
        mode:
            `zero`: the channels become 0 (the paper's disruption; rho = 0).
            `mean`: each becomes its mean over the tokens: what varies over the picture goes, the constant stays.
            `dc`: each loses its mean over the tokens: the constant goes, what varies stays.
            `scale`: each is multiplied by `rho` (EMA's form).
            `rescale`: the channels stay, and every other channel is multiplied, token by token, by the ratio of the
                LayerNorm standard deviations with and without the channels, as zeroing them would rescale it in the
                next LayerNorm. Together with `norms="clean"` this takes the LayerNorm part of an effect apart.
                Approximate: the next LayerNorm divides by what it is given, with the scaled channels in it.
            `gate`: the AdaLN gates of the block are 0 at the channels, so that the block writes nothing there:
                attention, second attention, MLP; in FLUX's single blocks the one gate, which serves text tokens too.
            `transport`: the channels take the values that they had in another prompt's run; made by `transport`.
            `shift`: control; as many *other* channels, drawn with `draw`, get a token-constant shift of the norm that
                zeroing `channels` would remove (scaling them by `rho`: |1 - rho| of it).
            `shift_direction`: control; the same shift along a random direction in all other channels.
            `random`: sanity row; as many other channels become 0.
        rho: retention for `scale` and its shifts: a number, or ((sigma, rho), ...), linear between the points.
        tokens: token indices (y * columns + x); None for all. Means and norms are over these tokens.
        steps: denoising steps; None for all.
        rows: `all`, or `cond` for the conditional rows of classifier-free guidance only.
        stream: `image` or `text`.
        draw: seed of what is random in a control.
        strength: factor on a token-constant change: of a shift (1: the norm that zeroing `channels` would remove), or
            of `dc` (1: the whole mean). A number, or ((sigma, strength), ...).
        control: this edit is a control of another one: experiments put it into the null distribution.
        norms: `own`, or `clean`: the LayerNorms of the image stream after the edit keep the statistics of a clean pass
            at the same z_t, on all image tokens of the edit's rows. One more forward a call.
        others: act on as many other channels instead, drawn with `draw`.
        donor: the values of `transport`.
        blocks: as a sequence, always; `block` is the first of them.

    Raises:
        ValueError: an unknown mode, stream, rows or norms, no channels, an empty selection, repeated indices, or
            settings that do not go together (such as rho in a mode without one, or transport without a donor).
    """

    channels: Sequence[int]
    block: Any  # an int or several; afterwards the first of `blocks`, an int
    mode: Mode = "zero"
    rho: float | Sequence[tuple[float, float]] = 0.0
    tokens: Sequence[int] | None = None
    steps: Sequence[int] | None = None
    rows: Literal["all", "cond"] = "all"
    stream: Literal["image", "text"] = "image"
    draw: int = 0
    strength: float | Sequence[tuple[float, float]] = 1.0
    control: bool = False
    norms: Literal["own", "clean"] = "own"
    others: bool = False
    donor: Donor | None = None
    blocks: Sequence[int] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen)
        put("channels", tuple(int(c) for c in self.channels))
        for name in ("tokens", "steps"):
            if getattr(self, name) is not None:
                put(name, tuple(int(i) for i in getattr(self, name)))
        put("rho", schedule(self.rho))
        put("strength", schedule(self.strength))
        put("blocks", self._blocks())
        if self.blocks:
            put("block", self.blocks[0])
        check_settings(self)

    def _blocks(self) -> tuple[int, ...]:
        """The blocks in execution order, from `block` and, in `dataclasses.replace`, the `blocks` of the original."""
        if not isinstance(self.block, int) and hasattr(self.block, "__iter__"):
            return tuple(sorted(int(b) for b in self.block))
        block, given = int(self.block), self.blocks
        if given is None or len(given) == 1:
            return (block,)
        ordered = tuple(sorted(int(b) for b in given))
        if ordered and ordered[0] != block:
            raise ValueError(f"block={block} and blocks={list(ordered)} disagree: pass block= as a sequence")
        return ordered

    # -- words and JSON ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """The edit in words, every setting that is not the default among them."""
        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back. A donor's values are not in it: they travel as the donor's file."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blocks"}
        given["block"] = list(self.blocks) if len(self.blocks) > 1 else self.block
        given["donor"] = None if self.donor is None else self.donor.to_json()
        for name in ("rho", "strength"):
            if isinstance(given[name], tuple):
                given[name] = [list(point) for point in given[name]]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Disrupt:
        """An edit from `to_json`.

        Raises:
            ValueError: an unknown key, with the known ones; a donor whose values were not saved.
            FileNotFoundError: a donor's file that is not there.
        """
        known = set(cls.__dataclass_fields__)
        if set(settings) - known:
            raise ValueError(f"unknown keys {sorted(set(settings) - known)}; a Disrupt has {sorted(known)}")
        donor = settings.get("donor")
        return cls(**{**settings, "donor": Donor.from_json(donor) if isinstance(donor, dict) else donor})

    # -- controls and transport -------------------------------------------------------------------------------------

    def controls(self, n: int, kind: Control = "shift", *, seed: int = 0, like: Any = None) -> list[Disrupt]:
        """`n` matched controls of this edit, the same for the same seed; tokens, steps, rows, blocks and norms as here.

        Args:
            n: how many draws; 20 or more give the effect a rank in a null distribution.
            kind: the objection that the control answers.
                `shift`, "any push of this size would do it": the same norm, token-constant as a massive channel is, on
                    as many other channels. Other channels as large as a massive one often do not exist (one channel
                    above sqrt(C) times the rms of the rest holds more than all of them), so one is made.
                `shift_direction`, "single channels are a special direction": the same along a random one. Both have the
                    norm of zeroing, whatever this edit's mode (a share of it for `scale`);
                    `output_matching.match_output` brings them to the same effect on the prediction.
                `variance`, "the channel tells tokens apart": what is left of a massive channel after its constant is
                    its variance over tokens; as many other channels, nearest in that, edited in the same way.
                `dc`, "losing a spatial mean is what hurts": as many other channels lose their token mean.
                `gate`, "a block must write somewhere": the gates of as many other channels are zeroed.
                `transport`, "any channels of the other run would carry it": as many others from the same donor.
                `random`: as many other channels zeroed. A sanity row, no control: they hold next to nothing.
            seed: of the draws.
            like: for `variance`: the `Massive` that `find_massive` returned.

        Raises:
            ValueError: an unknown kind, n < 1, `variance` without `like`, `transport` of an edit without a donor.
        """
        return controls_of(self, n, kind, seed, like)

    @classmethod
    def transport(
        cls,
        dit: DiT,
        channels: Sequence[int],
        block: int,
        donor: str | int | Donor,
        *,
        seed: int = 0,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        tokens: Sequence[int] | None = None,
        at: Sequence[int] | None = None,
        stream: Literal["image", "text"] = "image",
        **kwargs: Any,
    ) -> Disrupt:
        """The channels with the values that they had, step by step, in the conditional rows of another prompt's run.

        Args:
            donor: the other prompt, which is run once, from the same noise where `seed` is the receiver's; or a `Donor`
                that exists already (from a file, or read at the same z_t by `dg_tools.onestep.donor`).
            steps, height, width: of the donor's run; the receiver's must be the same.
            tokens, at, stream: as `tokens`, `steps` and `stream` of the edit.
            **kwargs: to the donor's pipeline call, such as `guidance_scale`.

        Raises:
            IndexError, ValueError: before the run, for a block or channels that there are not.
        """
        cls(channels, block, tokens=tokens, stream=stream).check(dit, None, height, width)
        if not isinstance(donor, Donor):
            made = dit.arguments(donor, seed=seed, steps=steps, height=height, width=width, **kwargs)
            clock = Clock(dit.pipeline, dit.family).read
            with dit.running(), reading(dit.transformer, dit.family, block, clock, stream) as found:
                dit.pipeline(**made, output_type="latent")
            donor = found.donor(str(donor), seed)
        return cls(channels, block, "transport", tokens=tokens, steps=at, rows="cond", stream=stream, donor=donor)

    # -- action -----------------------------------------------------------------------------------------------------

    @property
    def why_whole(self) -> str | None:
        """Why a disrupted pass cannot start from one block's clean output, in words; None where it can."""
        if len(self.blocks) > 1:
            return "the disruption acts at several blocks"
        if self.mode == "gate":
            return "the disruption acts inside its block"
        return "the disruption asks for LayerNorm statistics of a clean pass" if self.norms == "clean" else None

    def concerns(self, call: Call) -> bool:
        """Whether the edit acts in a call: one of its steps, with rows of its kind."""
        if self.steps is not None and call.step not in self.steps:
            return False
        rows = call.rows(self.rows)
        return rows.stop is None or rows.stop > (rows.start or 0)

    def retention(self, sigma: float) -> float:
        """Rho at a noise level."""
        return at_sigma(self.rho, sigma)

    def drawn(self, width: int) -> tuple[list[int], torch.Tensor]:
        """For the controls: the other channels of `width`, and a unit vector over them."""
        return drawn(self, width)

    def __call__(self, hidden: torch.Tensor, call: Call) -> torch.Tensor | None:
        """Edited copy of hidden states (rows, tokens, channels), or None where this call is not concerned.

        Raises:
            ValueError: mode `gate`, which does not act on hidden states.
        """
        if self.mode == "gate":
            raise ValueError(f"{self.sentence()}: it acts on a block's AdaLN, not on hidden states")
        rows = call.rows(self.rows)
        if not self.concerns(call) or hidden[rows].shape[0] == 0:
            return None
        self.check_sizes(hidden.shape[1], hidden.shape[2])
        part = hidden[rows] if self.tokens is None else hidden[rows][:, list(self.tokens)]
        changed = part.clone()
        if self.donor is not None:
            self.donor.give(changed, targets(self, changed.shape[-1]), self.tokens, call.sigma)
        else:
            change(self, changed, call.sigma)
        edited = hidden.clone()
        if self.tokens is None:
            edited[rows] = changed
        else:
            inner = edited[rows]
            inner[:, list(self.tokens)] = changed
            edited[rows] = inner
        return edited

    def edit(self, output: Any, record: BlockList, call: Call) -> Any | None:
        """A block's output with this edit made, or None where this call is not concerned.

        Raises:
            RuntimeError: the block has no output in this stream (SD3's last block has no text, PixArt's have none).
        """
        hidden = record.get(output, self.stream, call.image_tokens)
        if hidden is None:
            blocks = ", ".join(map(str, self.blocks))
            raise RuntimeError(f"{self.sentence()}: block {blocks} has no {self.stream} output")
        edited = self(hidden, call)
        return None if edited is None else record.put(output, self.stream, edited, call.image_tokens)

    def must_edit(self, output: Any, record: BlockList, call: Call) -> Any:
        """`edit`, where a call that is not concerned is a mistake.

        Raises:
            RuntimeError: the edit touched nothing.
        """
        edited = self.edit(output, record, call)
        if edited is None:
            raise RuntimeError(f"this edit touched nothing: {self.sentence()}; check its steps and rows")
        return edited

    # -- before the work --------------------------------------------------------------------------------------------

    def check_sizes(self, tokens: int, width: int) -> None:
        """Raise IndexError for channels or tokens that there are not."""
        if max(self.channels) >= width:
            raise IndexError(f"channel {max(self.channels)} asked for; there are 0 to {width - 1}")
        if self.tokens is not None and max(self.tokens) >= tokens:
            raise IndexError(
                f"token {max(self.tokens)} asked for; there are 0 to {tokens - 1} in the {self.stream} stream"
            )
        k = len(self.channels)
        needs = k if self.others or self.mode in ("shift", "random") else self.mode in ("shift_direction", "rescale")
        if k + needs > width:
            raise ValueError(f"{k} channels of {width}: too few others are left for {self.mode!r}")

    def check_blocks(self, sites: Sequence[str]) -> None:
        """Raise IndexError for a block that there is not; `sites` are the names of those that there are."""
        for block in self.blocks:
            if not 0 <= block < len(sites):
                raise IndexError(
                    f"block {block} asked for; there are 0 to {len(sites) - 1} (sites {sites[0]!r} to {sites[-1]!r})"
                )

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any long work where block, stream, channels, tokens or steps do not exist in this run."""
        self.check_blocks(dit.sites)
        for block in self.blocks if self.stream == "text" else ():
            if dit.block(block).record.returns == "tensor":
                raise ValueError(
                    f"{self.sentence()}: family {dit.family.name!r} has no text stream, its blocks attend to the text"
                )
        rows, columns = dit.grid(height, width)
        self.check_sizes(rows * columns if self.stream == "image" else 10**9, dit.width)
        if steps is not None and self.steps is not None and max(self.steps) >= steps:
            raise IndexError(f"step {max(self.steps)} asked for; there are 0 to {steps - 1}")
        if self.donor is not None:
            self.check_donor(dit, steps, rows * columns)

    def check_donor(self, dit: DiT, steps: int | None, tokens: int) -> None:
        """Raise ValueError where the donor's run does not fit this one."""
        assert self.donor is not None
        count, _, given, width = self.donor.values.shape
        if width != dit.width or (self.stream == "image" and given != tokens):
            raise ValueError(
                f"the donor {self.donor!r} has {given} tokens and {width} channels; this run has {tokens} and "
                f"{dit.width}: take the same model and size"
            )
        if steps is not None and count < (steps if self.steps is None else len(self.steps)):
            raise ValueError(f"the donor {self.donor!r} has {count} steps; this run has {steps}: take as many")

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
