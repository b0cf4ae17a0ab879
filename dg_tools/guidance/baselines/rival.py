"""What the baselines share: they are made again from their settings, and work in classic pipelines only."""

from __future__ import annotations

from typing import Any

from dg_tools.guidance.base import Guidance


class Rival(Guidance):
    """A guidance that Detail Guidance is compared with."""

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **changes: Any) -> Any:
        """The guider of these settings, with changes; a second value (nothing is unused) where diffusers needs it.

        Diffusers' own reads the signature of one class only, and would miss the settings of subclasses.
        """
        guider = cls(**{**{k: v for k, v in config.items() if not k.startswith("_")}, **changes})
        return (guider, {}) if return_unused_kwargs else guider

    def prepare_models(self, *args: Any, **kwargs: Any) -> None:
        """Refuse a modular pipeline, whatever it calls first."""
        raise RuntimeError(
            f"{type(self).__name__} works in classic pipelines, through dg.generate or dg.detail_guidance; a "
            "modular pipeline takes dg.DetailGuidance and diffusers' own guiders"
        )

    set_state = prepare_inputs = prepare_inputs_from_block_state = prepare_models
