"""The fields of every run: prompt, seed, steps and CFG scale, checked because people type them."""

from __future__ import annotations

from typing import Any, NamedTuple

import ipywidgets as widgets

from dg_tools.datasets.captions import advice, check_prompt, check_seed
from dg_tools.models.dit import DiT
from dg_tools.widgets.parts import control, row
from dg_tools.widgets.runner import Messages


class RunSettings(NamedTuple):
    """One run's settings; `scale` is the usual CFG scale s, 1 is off; `own_size`: not the model's default one."""

    prompt: str
    seed: int
    steps: int
    scale: float
    height: int
    width: int
    own_size: bool = False

    @property
    def call(self) -> dict[str, Any]:
        """The arguments of a run besides the prompt."""
        return {"seed": self.seed, "steps": self.steps, "height": self.height, "width": self.width}

    def code(self) -> str:
        """The same as arguments, without the default size."""
        size = f", height={self.height}, width={self.width}" if self.own_size else ""
        return f"dit, {self.prompt!r}, seed={self.seed}, steps={self.steps}{size}"


class RunFields:
    """The four fields of a run.

    Args:
        dit: the model; None where nothing can be run.
        steps: to begin with; 20, or the pipeline's own default where that is less.
        height, width: of every run, in pixels; the pipeline's default where None.
        scale: to begin with.

    Attributes:
        text, seed, steps, scale: the controls.
        size: height and width.
        row: all of them, for a page.
    """

    def __init__(
        self,
        dit: DiT | None,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        scale: float = 1.0,
    ) -> None:
        default = steps or (min(20, dit.default_steps) if dit else 20)
        self.dit = dit
        self.size = dit.size(height, width) if dit else (0, 0)
        self.own_size = dit is not None and self.size != dit.size()
        self.text = control(widgets.Text, "Prompt", "260px", value="red apple on blue")
        self.seed = control(widgets.Text, "Seed", "90px", value="0")
        self.steps = control(widgets.BoundedIntText, "Steps", "105px", min=1, max=200, value=default)
        self.scale = control(widgets.BoundedFloatText, "CFG scale s", "145px", min=1, max=30, step=0.5, value=scale)
        self.row = row(self.text, self.seed, self.steps, self.scale)

    def observe(self, act: Any) -> None:
        """Call `act(change)` when one of them changes."""
        for field in (self.text, self.seed, self.steps, self.scale):
            field.observe(act, names="value")

    def read(self) -> RunSettings:
        """The settings in the fields.

        Raises:
            ValueError: an empty prompt, or a seed that is not a whole number.
        """
        prompt, seed = check_prompt(self.text.value), check_seed(self.seed.value)
        return RunSettings(prompt, seed, self.steps.value, self.scale.value, *self.size, self.own_size)

    def warn(self, messages: Messages) -> None:
        """Warn where the prompt has words that the model never saw."""
        warning = advice(self.dit, self.text.value) if self.dit is not None else None
        if warning:
            messages.say(warning, "warning")
