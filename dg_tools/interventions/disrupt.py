"""`Disrupt`, one edit: its settings, its words and JSON, its controls, and what it does to a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from dg_tools.families import BlockList
from dg_tools.forward.call import Call
from dg_tools.forward.clock import Clock
from dg_tools.forward.region import check_grid
from dg_tools.interventions.controls import Control, controls_of
from dg_tools.interventions.description import sentence
from dg_tools.interventions.hooks import Attachment, attached
from dg_tools.interventions.modes import at_sigma, drawn, edited, edited_output
from dg_tools.interventions.patching import Donor, reading
from dg_tools.interventions.settings import EditSettings
from dg_tools.interventions.validation import check_blocks, check_donor, check_keys, check_settings, check_sizes
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_runs
from dg_tools.models.profiles import profile_of


@dataclass(frozen=True, repr=False)
class Disrupt(EditSettings):
    """One edit of the hidden states at a block's output, or at the outputs of several blocks.

    Args:
        channels: the channels to edit, one number or several.
        block: index into `dit.blocks`, or several: the edit acts at the output of each (k channels x n layers).
        mode:
            `zero`: the channels become 0 (the paper's disruption; rho = 0).
            `mean`: each becomes its mean over the tokens: the constant stays, the variation over the picture goes.
            `dc`: each loses its mean over the tokens: the constant goes, the variation stays.
            `scale`: each is multiplied by `rho` (EMA's form), in the stream's own dtype: in bfloat16 the product is
                rounded to 8 bits, like everything that the block writes. More than 1 makes the channels larger.
            `steer`: each becomes `rho` times its own largest value (by size) over all image tokens of the row. STAS
                does this for videos, at the tokens of the first frame or of frame boundaries.
            `rescale`: the channels stay, and every other channel is multiplied, token by token, by the ratio of the
                LayerNorm standard deviations with and without the channels. Zeroing the channels would rescale the
                others in this way in the next LayerNorm. Together with `norms="clean"` this separates the LayerNorm
                part of an effect. It is approximate: the next LayerNorm's statistics include the scaled channels.
            `gate`: the AdaLN gates of the block are 0 at the channels, so that the block writes nothing there:
                attention, second attention, MLP; in FLUX's single blocks the one gate, which serves text tokens too.
            `transport`: activation patching; the values come from another prompt's run; see `Disrupt.transport`.
            `shift`: control; as many *other* channels, drawn with `draw`, get a token-constant shift with the norm that
                zeroing `channels` would remove. With `rho`, the norm is |1 - rho| times that.
            `shift_direction`: control; the same shift along a random direction in all other channels.
            `random`: sanity check; as many other channels become 0.
        rho: factor of `scale` (1 is off; 0 to 3 in use), `steer` and the shifts: a number, or ((sigma, rho), ...),
            linear between points.
        tokens: token indices (y * columns + x in the image); None for all. Means and norms are over these tokens.
        steps: denoising steps; None for all.
        rows: `all`, or `cond` or `uncond` for one half of classifier-free guidance only.
        stream: `image` or `text`.
        draw: seed of what is random in a control.
        strength: factor on a token-constant change: on a shift (1: the norm that zeroing `channels` would remove), or
            on `dc` (1: the whole mean). A number, or ((sigma, strength), ...).
        control: whether this edit is a control of another one; experiments put controls into the null distribution.
        norms: `own`, or `clean`: the LayerNorms of the image stream after the edit use the statistics of a clean pass
            at the same z_t, on all image tokens of the edited rows. That costs one more forward per call.
        others: whether to act on as many other channels instead, drawn with `draw`.
        donor: the values that `transport` inserts.
        blocks: all blocks of the edit, always a sequence; `block` is the first of them.
        grid: (rows, columns) of image tokens for which `tokens` were computed; `dit.tokens` sets it, and a call of
            another size is refused.
        pictures: where the image stream also holds reference pictures (FLUX.1 Kontext, FLUX.2, Qwen-Image-Edit): edit
            `all` tokens, the picture's `own`, or those of the `references`. Means and norms are over these tokens.

    Raises:
        TypeError: channels, block, tokens or steps that are not whole numbers (instead of a mask, pass its indices), or
            a rho or strength that is not a number.
        ValueError: an unknown mode, stream, rows or norms, no channels, an empty selection, repeated indices, NaN or an
            infinity, or settings that do not go together (such as rho in a mode without one).

    Example:
        >>> dg.Disrupt([55, 58], block=5)
        zero channels 55, 58 after block 5, image stream
        >>> dg.Disrupt(55, 5, "scale", rho=1.5, steps=[0, 1])
        scale channels 55 by 1.5 after block 5, image stream, steps 0, 1
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self)

    # -- words and JSON ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """The edit in one sentence, with every setting that is not the default."""
        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, which `from_json` reads. A donor's values are not in it: `Donor.save` writes them to a file."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blocks"}
        settings["block"] = list(self.blocks) if len(self.blocks) > 1 else self.block
        settings["donor"] = None if self.donor is None else self.donor.to_json()
        for name in ("rho", "strength"):
            if isinstance(settings[name], tuple):
                settings[name] = [list(point) for point in settings[name]]
        if self.grid is None:
            del settings["grid"]
        if self.pictures == "all":
            del settings["pictures"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Disrupt:
        """An edit from `to_json`.

        Raises:
            TypeError, ValueError: not a mapping; an unknown key (the known ones are listed), or a donor not saved.
            FileNotFoundError: a donor's file that is not there.
        """
        check_keys(settings, cls)
        donor = settings.get("donor")
        return cls(**{**settings, "donor": Donor.from_json(donor) if isinstance(donor, dict) else donor})

    @classmethod
    def from_profile(cls, profile: Any) -> Disrupt:
        """The disruption that a profile describes: its channels at its block, with its dose (0 if it names none).

        Args:
            profile: `dit.profile`, a JSON file, a model folder, an embedded model's name, or a repository id.

        Raises:
            TypeError: anything else, such as the None of a model without a profile.
            ValueError: no such profile, or one without a block.

        Example:
            >>> Disrupt.from_profile({"channels": [3], "block": 1, "mode": "scale", "rho": 1.5, "source": "a test"})
            scale channels 3 by 1.5 after block 1, image stream
        """
        stated, name = profile_of(profile)
        if stated["block"] is None and "verdict" in stated:
            raise ValueError(f"the profile of {name!r} names no block: {stated['verdict']}")
        if stated["block"] is None:
            raise ValueError(
                f"the profile of {name!r} names channels {stated['channels']} and no block, since none is published "
                f"({stated['source']}): pass Disrupt(channels, block), or 'auto'"
            )
        return cls(stated["channels"], stated["block"], **{k: stated[k] for k in ("mode", "rho") if k in stated})

    # -- controls and activation patching ------------------------------------------------------------------------------

    def controls(self, n: int, kind: Control = "shift", *, seed: int = 0, like: Any = None) -> list[Disrupt]:
        """`n` matched controls of this edit, with its tokens, steps, rows, blocks and norms; a seed fixes them.

        Args:
            n: how many draws; 20 or more give the effect a rank in a null distribution.
            kind: the control; each kind answers one objection.
                `shift`, "any push of this size would do it": a shift of the same norm on as many other channels,
                    token-constant like a massive channel. No other channels are as large: a channel above sqrt(C) times
                    the rms of the rest holds more than all of them.
                `shift_direction`, "single channels are special": the same along a random direction. Both have the norm
                    of zeroing, whatever this edit's mode is (|1 - rho| of it for `scale`);
                    `output_matching.match_output` scales them to the same effect on the prediction.
                `variance`, "the channel tells tokens apart": as many other channels, nearest in variance over tokens
                    (what is left of a massive channel without its constant), edited in the same way.
                `dc`, "losing a spatial mean is what hurts": as many other channels lose their token mean.
                `gate`, "a block must write somewhere": the gates of as many other channels are zeroed.
                `transport`, "any channels of the other run would carry it": as many others from the same donor.
                `random`: as many other channels zeroed. A sanity check, not a control: they hold almost nothing.
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
        """Activation patching: the channels take their values, step by step, from another prompt's conditional rows.

        Args:
            dit: the model.
            channels, block: the channels that take other values, and the block at whose output they do.
            donor: the other prompt, which is run once now; or a `Donor` (from a file, or `dg_tools.onestep.donor`).
            seed: of the donor's noise; the receiver's seed gives both runs the same noise.
            steps, height, width: of the donor's run; the receiver's must be the same.
            tokens, at, stream: as `tokens`, `steps` and `stream` of the edit.
            **kwargs: passed to the donor's pipeline call, such as `guidance_scale`.

        Raises:
            IndexError, ValueError: before the run, for a block or channels that do not exist.
        """
        cls(channels, block, tokens=tokens, stream=stream).check(dit, None, height, width)
        if not isinstance(donor, Donor):
            arguments = dit.arguments(donor, seed=seed, steps=steps, height=height, width=width, **kwargs)
            clock = Clock(dit.pipeline, dit.family)
            with dit.running(), clock, reading(dit.transformer, dit.family, block, clock.read, stream) as values:
                dit.sample(**arguments, output_type="latent")
            donor = values.donor(str(donor), seed)
        return cls(channels, block, "transport", tokens=tokens, steps=at, rows="cond", stream=stream, donor=donor)

    # -- action -----------------------------------------------------------------------------------------------------

    def retention(self, sigma: float) -> float:
        """The value of rho at a noise level."""
        return at_sigma(self.rho, sigma)

    def drawn(self, width: int) -> tuple[list[int], torch.Tensor]:
        """The other channels of a control among `width`, and a unit vector over them."""
        return drawn(self, width)

    def __call__(self, hidden: torch.Tensor, call: Call) -> torch.Tensor | None:
        """Edited copy of hidden states (rows, tokens, channels), or None where this call is not concerned.

        Raises:
            ValueError: mode `gate`, which does not act on hidden states.
        """
        return edited(self, hidden, call)

    def edit(self, output: Any, record: BlockList, call: Call) -> Any | None:
        """A block's output with this edit applied, or None if the edit does not act in this call.

        Raises:
            RuntimeError: the block has no output in this stream (SD3's last block has no text, PixArt's have none).
        """
        return edited_output(self, output, record, call)

    def must_edit(self, output: Any, record: BlockList, call: Call) -> Any:
        """`edit`, but raise if it does not act in this call.

        Raises:
            RuntimeError: the edit touched nothing.
        """
        result = self.edit(output, record, call)
        if result is None:
            raise RuntimeError(f"this edit touched nothing: {self.sentence()}; check its steps and rows")
        return result

    # -- before the work --------------------------------------------------------------------------------------------

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise, before any long work, if block, stream, channels, tokens or steps do not exist in this run."""
        self.check_model(dit)
        rows, columns = dit.grid(height, width)
        check_grid(self.grid, (rows, columns))
        video = "num_frames" in dit.takes  # how many tokens there are is known when it runs
        check_sizes(self, rows * columns if self.stream == "image" and not video else 10**9, dit.width)
        if steps is not None and self.steps is not None and max(self.steps) >= steps:
            raise IndexError(f"step {max(self.steps)} requested; there are 0 to {steps - 1}")
        if not video:
            check_donor(self, steps, rows * columns, dit.width)

    def check_model(self, dit: DiT) -> None:
        """Raise if block, stream or channels do not exist; tokens are checked against the size of each call."""
        check_blocks(self, dit.sites)
        for block in self.blocks if self.stream == "text" else ():
            if dit.block(block).record.returns == "tensor":
                raise ValueError(
                    f"{self.sentence()}: family {dit.family.name!r} has no text stream, its blocks attend to the text"
                )
        check_sizes(self, 10**9, dit.width)
        if self.donor is not None:
            check_donor(self, None, self.donor.values.shape[2], dit.width)

    @contextmanager
    def on(self, pipeline: Any) -> Iterator[Attachment]:
        """Edit every call of a pipeline of your own: `with off.on(pipe) as run: pipe("red apple")`.

        Yields:
            An object whose `.report` (`Edited`) says how many block outputs were changed, and by how much.

        Raises:
            ValueError, IndexError: at the first forward, if a region or tokens do not fit its picture.
            RuntimeError: at the end, if the edit touched nothing, or made the hidden states overflow.
        """
        check_runs(pipeline, "Disrupt.on")
        dit = load(pipeline)
        self.check_model(dit)
        clock = Clock(dit.pipeline, dit.family)
        with dit.running(), clock, attached(dit.transformer, dit.family, [self], clock.read) as attachment:
            yield attachment
        attachment.check_finite()
