"""What `dg-tools generate` draws: a guidance, what stands beside it from the same noise, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import typer

from dg_tools.cli.app import say
from dg_tools.cli.options import NO_PROFILE, disruption

if TYPE_CHECKING:  # a command line is checked before torch is loaded
    from dg_tools.generation._generate import Generation
    from dg_tools.guidance.detail import DetailGuidance
    from dg_tools.models.dit import DiT

BESIDE = ("clean", "gain", "daemon")
DAEMON = 0.5  # amount of Detail Daemon, in the middle of its authors' range


@dataclass(frozen=True)
class Wanted:
    """The options of a guidance, as they were given.

    Attributes:
        cfg: s. dg: w, 0 = off, None: the profile's. rows: of DG. rho: the dose; None: not given.
        channels, block: empty and None: the profile's. auto: have them chosen.
        compare: what stands beside, separated by commas; None: not given. alone: nothing does.
        gain: of the velocity gain; None: the run's own.
    """

    cfg: float
    dg: float | None
    rows: str
    rho: float | None
    channels: list[int]
    block: int | None
    auto: bool
    compare: str | None
    alone: bool
    gain: float | None

    @property
    def guided(self) -> bool:
        """Whether there is Detail Guidance."""
        return self.dg is None or bool(self.dg) or self.rows == "uncond"

    @property
    def beside(self) -> list[str]:
        """What stands beside the guided picture, in order."""
        if self.compare is not None:
            return [name.strip() for name in self.compare.split(",")]
        return [] if self.alone and (self.guided or self.rho is not None) else ["clean"]

    def check(self) -> None:
        """Raise typer.BadParameter for options that do not go together; before anything is loaded."""
        unknown = [name for name in self.beside if name not in BESIDE]
        wrong = {
            f"--dg-rows {self.rows}: cond or uncond": self.rows not in ("cond", "uncond"),
            "--dg-rows uncond has no w, its strength is --rho: leave --dg out": self.rows == "uncond" and self.dg != 0,
            "--dg-rows uncond disrupts CFG's unconditional pass: it needs --cfg above 1": self.rows == "uncond"
            and not self.cfg > 1,
            "--auto chooses the dose too: leave --rho out": self.auto and self.rho is not None,
            "--dg alone takes the profile's w, which was chosen with its channels, block and dose: with --channel, "
            "--block or --rho pass --dg W": self.dg is None
            and (self.channels or self.block is not None or self.rho is not None),
            f"--compare {self.compare}: name some of {', '.join(BESIDE)}, separated by commas, each once": unknown
            or len(set(self.beside)) < len(self.beside),
            "--compare says what stands beside the picture, --alone that nothing does: one of them": self.compare
            is not None
            and self.alone,
            "--compare needs a guidance to compare with: --rho, --dg or --dg-rows uncond": self.compare is not None
            and not self.guided
            and self.rho is None,
            "--gain is of --compare gain": self.gain is not None and "gain" not in self.beside,
        }
        for words, is_wrong in wrong.items():
            if is_wrong:
                raise typer.BadParameter(words)
        if not self.guided and self.rho is None and (self.channels or self.block is not None or self.auto):
            say("note: --channel, --block and --auto do nothing here: they need --dg, --rho or --dg-rows uncond")

    def guider(self, dit: DiT, call: dict[str, Any]) -> Any:
        """Detail Guidance, or the knob, on one model; None where neither was given."""
        import dg_tools as dg

        if not self.guided and self.rho is None:
            return None
        if not self.guided:
            return dg.DetailKnob(self.channels or None, self.block, self.rho or 0.0, self.cfg).resolved(dit)
        if self.dg is None:
            return self.described(dit, call)
        off: Any = "auto" if self.auto else disruption(dit, self.channels, self.block, self.rho)
        weight = None if self.rows == "uncond" else self.dg
        return dg.DetailGuidance(self.cfg, weight, off, rows=cast(Any, self.rows)).resolved(dit, **call)

    def described(self, dit: DiT, call: dict[str, Any]) -> DetailGuidance:
        """The guidance of the default profile, or of `auto`, at the profile's own weight.

        Raises:
            ValueError: there is none, or one without block or weight.
        """
        from dg_tools.guidance.auto import auto_profile, default_profile
        from dg_tools.guidance.detail import DetailGuidance
        from dg_tools.models.profiles import profile_words

        profile = auto_profile(dit, **call) if self.auto else default_profile(dit)
        if profile is None:
            raise ValueError(f"{NO_PROFILE}, or --auto to have them detected and chosen")
        say(f"the profile: {profile_words(profile)}")
        return DetailGuidance.from_profile(profile, guidance_scale=self.cfg)

    def guidances(self, dit: DiT, prompt: str, seed: int, call: dict[str, Any]) -> list[Any]:
        """What is drawn: what stands beside, then the guidance."""
        import dg_tools as dg
        from dg_tools.guidance.baselines.registry import BASELINES

        guider = self.guider(dit, call)
        drawn: dict[str, Any] = {"clean": dg.CFG(self.cfg) if self.cfg > 1 else None}
        if "gain" in self.beside:
            gain = self.own_gain(dit, guider, prompt, seed, call) if self.gain is None else self.gain
            drawn["gain"] = dg.baselines.Gain(self.cfg, gain=gain)
        if "daemon" in self.beside:
            drawn["daemon"] = BASELINES["DetailDaemon"].guider(self.cfg, DAEMON)
        return [drawn[name] for name in self.beside] + ([] if guider is None else [guider])

    def own_gain(self, dit: DiT, guider: Any, prompt: str, seed: int, call: dict[str, Any]) -> float:
        """The gain that the guidance contains: g of the knob, 1 + w (1 - g) of DG, with s - 1 for w in CFG's own pass.

        The disrupted model's g is measured in single steps on the first prompt's clean picture.

        Raises:
            ValueError: the gain is not above 0.
        """
        import dg_tools as dg
        from dg_tools.onestep import gain_of

        plain = dg.generate(dit, prompt, seed=seed, guidance=dg.CFG(self.cfg) if self.cfg > 1 else None, **call)
        assert plain.latents is not None
        share = gain_of(dit, guider.disrupt, plain.latents, [prompt]) if guider.pushes else 1.0
        weight = self.cfg - 1 if self.rows == "uncond" else getattr(guider, "detail_guidance_scale", 0.0)
        gain = 1 + weight * (1 - share) if self.guided else share
        if not gain > 0:
            raise ValueError(f"this guidance's own gain is {gain:.3g}, and a gain is above 0: pass --gain")
        return round(gain, 4)

    def measured(self, made: Generation) -> list[dict[str, Any]]:
        """Of each picture against the clean one: amount of detail at equal contrast, and whether the low band stays."""
        from dg_tools.metrics import amount_change, low_correlation

        if (self.compare is None and self.rho is None) or "clean" not in self.beside or made.latents is None:
            return [{} for _ in made.images]
        at = self.beside.index("clean")
        if at >= len(made.latents):
            return [{} for _ in made.images]
        clean = made.latents[at : at + 1].expand_as(made.latents)
        numbers = zip(amount_change(made.latents, clean), low_correlation(made.latents, clean), strict=True)
        return [{"amt_c": round(amount.item(), 4), "low band": round(low.item(), 4)} for amount, low in numbers]
