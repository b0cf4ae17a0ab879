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
from dg_tools.interventions.validation import check_blocks, check_donor, check_settings, check_sizes
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import profile_of


@dataclass(frozen=True, repr=False)
class Disrupt(EditSettings):
    """One edit of the hidden states at a block's output, or at the outputs of several blocks.

    Args:
        channels: the channels that the edit is about.
        block: index into `dit.blocks`, or several: the edit acts at the output of each (k channels x n layers).
        mode:
            `zero`: the channels become 0 (the paper's disruption; rho = 0).
            `mean`: each becomes its mean over the tokens: what varies over the picture goes, the constant stays.
            `dc`: each loses its mean over the tokens: the constant goes, what varies stays.
            `scale`: each is multiplied by `rho` (EMA's form), in the stream's own dtype: in bfloat16 the product is
                rounded to 8 bits, as all that the block writes is. More than 1 makes the channels louder.
            `steer`: each becomes `rho` times its own value of the largest size over all image tokens of the row (STAS,
                for videos: the tokens of the first frame, or of where frames meet, brought to the largest there is).
            `rescale`: the channels stay, and every other channel is multiplied, token by token, by the ratio of the
                LayerNorm standard deviations with and without the channels, as zeroing them would rescale it in the
                next LayerNorm. Together with `norms="clean"` this takes the LayerNorm part of an effect apart.
                Approximate: the next LayerNorm divides by what it is given, with the scaled channels in it.
            `gate`: the AdaLN gates of the block are 0 at the channels, so that the block writes nothing there:
                attention, second attention, MLP; in FLUX's single blocks the one gate, which serves text tokens too.
            `transport`: activation patching; the channels take the values that they had in another prompt's run; made
                by `Disrupt.transport`.
            `shift`: control; as many *other* channels, drawn with `draw`, get a token-constant shift of the norm that
                zeroing `channels` would remove (scaling them by `rho`: |1 - rho| of it).
            `shift_direction`: control; the same shift along a random direction in all other channels.
            `random`: sanity row; as many other channels become 0.
        rho: retention for `scale` and its shifts: a number, or ((sigma, rho), ...), linear between the points.
        tokens: token indices (y * columns + x); None for all. Means and norms are over these tokens.
        steps: denoising steps; None for all.
        rows: `all`, or `cond` or `uncond` for one half of classifier-free guidance only.
        stream: `image` or `text`.
        draw: seed of what is random in a control.
        strength: factor on a token-constant change: of a shift (1: the norm that zeroing `channels` would remove), or
            of `dc` (1: the whole mean). A number, or ((sigma, strength), ...).
        control: this edit is a control of another one: experiments put it into the null distribution.
        norms: `own`, or `clean`: the LayerNorms of the image stream after the edit keep the statistics of a clean pass
            at the same z_t, on all image tokens of the edit's rows. It costs one more forward per call.
        others: act on as many other channels instead, drawn with `draw`.
        donor: the values that `transport` puts in.
        blocks: as a sequence, always; `block` is the first of them.
        grid: rows and columns of image tokens of the picture that `tokens` were made for; `dit.tokens` says it, and a
            call of another size is refused.
        pictures: where the image stream holds reference pictures after the picture's own tokens (FLUX.1 Kontext,
            FLUX.2 and Qwen-Image-Edit with pictures): `all` of them, the picture's `own` tokens, or the `references`
            alone. Means and norms are over these tokens.

    Raises:
        TypeError: something else than whole numbers as channels, block, tokens or steps (a mask among them: pass its
            indices), or than numbers as rho or strength.
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
        """The edit in words, every setting that is not the default among them."""
        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back. A donor's values are not in it: they travel as the donor's file."""
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
            ValueError: an unknown key, with the known ones; a donor whose values were not saved.
            FileNotFoundError: a donor's file that is not there.
        """
        known = set(cls.__dataclass_fields__)
        if set(settings) - known:
            raise ValueError(f"unknown keys {sorted(set(settings) - known)}; a Disrupt has {sorted(known)}")
        donor = settings.get("donor")
        return cls(**{**settings, "donor": Donor.from_json(donor) if isinstance(donor, dict) else donor})

    @classmethod
    def from_profile(cls, profile: Any) -> Disrupt:
        """The disruption that a profile describes: its channels at its block, with its dose; zero where it names none.

        Args:
            profile: `dit.profile`, a JSON file, a model folder, an embedded model's name, or a repository id.

        Raises:
            TypeError: something else, such as the None of a model without a profile.
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
        """Activation patching: the values of the channels, step by step, from another prompt's run (conditional rows).

        Args:
            donor: the other prompt, which is run once, from the same noise where `seed` is the receiver's; or a `Donor`
                that exists already (from a file, or read at the same z_t by `dg_tools.onestep.donor`).
            steps, height, width: of the donor's run; the receiver's must be the same.
            tokens, at, stream: as `tokens`, `steps` and `stream` of the edit.
            **kwargs: to the donor's pipeline call, such as `guidance_scale`.

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
        return edited(self, hidden, call)

    def edit(self, output: Any, record: BlockList, call: Call) -> Any | None:
        """A block's output with this edit made, or None where this call is not concerned.

        Raises:
            RuntimeError: the block has no output in this stream (SD3's last block has no text, PixArt's have none).
        """
        return edited_output(self, output, record, call)

    def must_edit(self, output: Any, record: BlockList, call: Call) -> Any:
        """`edit`, where a call that is not concerned is a mistake.

        Raises:
            RuntimeError: the edit touched nothing.
        """
        result = self.edit(output, record, call)
        if result is None:
            raise RuntimeError(f"this edit touched nothing: {self.sentence()}; check its steps and rows")
        return result

    # -- before the work --------------------------------------------------------------------------------------------

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any long work where block, stream, channels, tokens or steps do not exist in this run."""
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
        """Raise where block, stream or channels do not exist; tokens are checked against each call's own size."""
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
            What was done, as `.report`: how many block outputs were changed, and by how much (`Edited`).

        Raises:
            ValueError, IndexError: at the first forward, if a region or tokens do not fit its picture.
            RuntimeError: at the end, if the edit touched nothing, or made the hidden states overflow.
        """
        dit = load(pipeline)
        self.check_model(dit)
        clock = Clock(dit.pipeline, dit.family)
        with dit.running(), clock, attached(dit.transformer, dit.family, [self], clock.read) as attachment:
            yield attachment
        attachment.check_finite()
