"""The base of all baselines: they can be rebuilt from their settings, and work in classic pipelines only."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dg_tools.guidance.base import Guidance
from dg_tools.kinds import nearest


class Rival(Guidance):
    """A guidance that Detail Guidance is compared with."""

    @classmethod
    def check_own(cls, own: Mapping[str, Any]) -> None:
        """Raise TypeError for a setting that no class of this guidance has: else it would do nothing."""
        makers = [kind.__init__ for kind in cls.__mro__ if issubclass(kind, Rival)]
        parameters = {p.name: p for maker in makers for p in inspect.signature(maker).parameters.values()}
        known = [name for name, p in parameters.items() if name != "self" and p.kind != p.VAR_KEYWORD]
        for name in own:
            if name not in known:
                near = nearest(name, known)
                meant = f": did you mean {near}=?" if near else f"; it takes {', '.join(known)}"
                raise TypeError(f"{cls.__name__} has no argument {name}={meant}")

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **changes: Any) -> Any:
        """The guider of these settings with changes; with `return_unused_kwargs` also an empty dict, for diffusers.

        Diffusers' own reads the signature of one class only, and would miss the settings of subclasses.
        """
        guider = cls(**{**{k: v for k, v in config.items() if not k.startswith("_")}, **changes})
        return (guider, {}) if return_unused_kwargs else guider

    def prepare_models(self, *args: Any, **kwargs: Any) -> None:
        """Raise for a modular pipeline, which calls this method."""
        raise RuntimeError(
            f"{type(self).__name__} works in classic pipelines, through dg.generate or dg.detail_guidance; a "
            "modular pipeline takes dg.DetailGuidance and diffusers' own guiders"
        )

    set_state = prepare_inputs = prepare_inputs_from_block_state = prepare_models


class WithoutWeakModel(Rival):
    """A baseline that needs no degraded prediction, only the passes that the run has anyway.

    Args:
        guidance_scale: the usual CFG scale s, 1 = off; None: 1, and in `dg.detail_guidance` the scale of the call.
        start, stop, enabled: as in `Guidance`.
        **own: further settings of the subclass, for the configuration.
    """

    def __init__(
        self,
        guidance_scale: float | None = None,
        *,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
        **own: Any,
    ) -> None:
        self.check_own(own)
        super().__init__(start, stop, enabled, guidance_scale=guidance_scale)
        self.register_to_config(guidance_scale=guidance_scale, start=start, stop=stop, enabled=enabled, **own)
